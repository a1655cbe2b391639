/** The threshold that the page shows, and what it does on the bundle's validation cells. */

import { operatingPoint } from './decision.js';
import { byId, element, setText } from './dom.js';

/** @typedef {import('./counts.js').Counts} Counts */

const SAME = 1e-9;

export class ThresholdControl {
  #slider = byId('threshold-slider');
  #number = byId('threshold-number');
  #reset = byId('threshold-reset');
  #shown = 0;

  /**
   * @param {any} about
   * @param {(threshold: number) => void} onMove
   */
  constructor(about, onMove) {
    this.about = about;
    /** @param {number} threshold */
    const move = (threshold) => {
      this.#shown = threshold; // from the next frame on
      onMove(threshold);
    };
    this.#slider.addEventListener('input', () => move(Number(this.#slider.value)));
    this.#number.addEventListener('change', () => {
      const typed = this.#number.valueAsNumber;
      if (typed >= 0 && typed <= 1) move(typed);
      else this.#number.value = shownThreshold(this.#shown);
    });
    this.#reset.addEventListener('click', () => {
      move(about.bundle_threshold);
      this.#slider.focus(); // the button goes away
    });
    setText(this.#reset, `Back to the bundle's ${shownThreshold(about.bundle_threshold)}`);
  }

  /**
   * Show a threshold, and what follows from it.
   * @param {number} threshold
   * @param {Counts} counts
   */
  show(threshold, counts) {
    this.#shown = threshold;
    this.#slider.value = String(threshold);
    this.#slider.setAttribute('aria-valuetext', `${shownThreshold(threshold)}: ${counts.ALL} ALL, ${counts.healthy} healthy`);
    if (document.activeElement !== this.#number) this.#number.value = shownThreshold(threshold); // else it is being typed
    const isBundles = Math.abs(threshold - this.about.bundle_threshold) < SAME;
    this.#reset.hidden = isBundles;
    byId('threshold-note').classList.toggle('other', !isBundles);
    setText(byId('threshold-note'), this.#note(threshold, isBundles));
    this.#showPoint(threshold);
  }

  /**
   * @param {number} threshold
   * @param {boolean} isBundles
   */
  #note(threshold, isBundles) {
    const [shown, bundles] = [threshold, this.about.bundle_threshold].map(shownThreshold);
    if (isBundles) return `This is the bundle's threshold, ${bundles}.`;
    const isServices = Math.abs(threshold - this.about.threshold) < SAME;
    const why = isServices ? ' The service was started with it.' : ' Labels, review and the CSV follow it, on this page only.';
    return `Not the bundle's threshold: ${shown} is shown, the bundle's is ${bundles}.${why}`;
  }

  /** @param {number} threshold */
  #showPoint(threshold) {
    const point = operatingPoint(this.about.curve ?? [], threshold);
    if (!point) {
      byId('operating-point').replaceChildren(
        element('p', { className: 'quiet' }, 'This bundle does not say which sensitivity and specificity a threshold has.'),
      );
      return;
    }
    const figures = element('dl', { className: 'figures' }, ...figure('Sensitivity', point.sensitivity), ...figure('Specificity', point.specificity));
    const where = `Measured on the bundle's validation cells at ${shownThreshold(point.threshold)}, not on yours; on other subjects and microscopes they can be much lower.`;
    byId('operating-point').replaceChildren(figures, element('p', { className: 'quiet' }, where));
  }
}

/**
 * Return a threshold as people and file names show it.
 * @param {number} threshold
 * @returns {string}
 */
export function shownThreshold(threshold) {
  return String(Number(threshold.toFixed(6)));
}

/**
 * @param {string} name
 * @param {number} value
 */
function figure(name, value) {
  return [element('div', {}, element('dt', {}, name), element('dd', {}, `${(100 * value).toFixed(1)} %`))];
}
