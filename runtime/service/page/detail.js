/** One cell in full: its picture, what was answered, and what speaks for which answer. */

import { subjectOf } from './cell_names.js';
import { badge } from './counts.js';
import { answererText } from './decision.js';
import { byId, element, nameElement, openDialog, setText } from './dom.js';
import { drawHeat, removeHeat } from './heat.js';
import { imageOf, placeholder } from './pictures.js';
import { probability } from './table.js';
import { shownThreshold } from './threshold.js';

/** @typedef {import('./rows.js').Row} Row */

const NOT_FOUND = 'not found in its archive by this page; add the unpacked image to see it and its heat map';

export class CellDialog {
  #dialog = byId('cell-dialog');
  #picture = byId('cell-picture');
  #toggle = byId('heat-toggle');
  /** @type {Row[]} */
  #rows = [];
  /** @type {Row|null} */
  #row = null;
  /** @type {Row['answer']} */
  #shownAnswer = null;
  #url = '';
  /** @type {WeakMap<Row, Promise<import('./service.js').Explanation>>} */
  #explanations = new WeakMap();

  /**
   * @param {import('./service.js').Service} service
   * @param {any} about
   * @param {() => number} threshold the one shown
   * @param {(row: Row) => void} onClose
   */
  constructor(service, about, threshold, onClose) {
    this.service = service;
    this.about = about;
    this.threshold = threshold;
    byId('cell-previous').addEventListener('click', () => this.#move(-1));
    byId('cell-next').addEventListener('click', () => this.#move(1));
    this.#toggle.addEventListener('change', () => this.#showHeat());
    this.#dialog.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => this.#moveByKey(event));
    this.#dialog.addEventListener('close', () => {
      this.#forgetPicture();
      if (this.#row) onClose(this.#row);
    });
  }

  /**
   * Open the dialog at a row.
   * @param {Row} row
   * @param {Row[]} rows to move among
   */
  open(row, rows) {
    this.#rows = rows;
    this.#show(row);
    openDialog(this.#dialog);
  }

  /** Show what has become known of the cell since it was opened. */
  refresh() {
    if (!this.#dialog.open || !this.#row) return;
    this.#rows = this.#rows.flatMap((row) => (row.members.length ? row.members : [row]));
    if (this.#row.members.length) this.#show(this.#row.members[0]);
    else if (this.#row.answer !== this.#shownAnswer) this.#showAnswer(this.#row);
  }

  /** @param {Row} row */
  #show(row) {
    this.#row = row;
    const place = this.#rows.indexOf(row);
    setText(byId('cell-place'), `${(place + 1).toLocaleString('en')} of ${this.#rows.length.toLocaleString('en')}`);
    byId('cell-previous').setAttribute('aria-disabled', String(place <= 0));
    byId('cell-next').setAttribute('aria-disabled', String(place >= this.#rows.length - 1));
    this.#showPicture(row);
    this.#showAnswer(row);
  }

  /** @param {Row} row */
  #showAnswer(row) {
    this.#shownAnswer = row.answer;
    byId('cell-facts').replaceChildren(...this.#facts(row));
    byId('cell-heat').hidden = !this.about.explain || !row.picture || row.answer?.p_all == null;
    this.#showHeat();
  }

  /** @param {Row} row */
  async #showPicture({ picture, shownName }) {
    this.#forgetPicture();
    const place = placeholder(shownName); // where nothing can be shown, it stays
    this.#picture.replaceChildren(place);
    const image = picture && await imageOf(picture, this.service, `Cell ${shownName.slice(0, 100)}`);
    if (!image) return;
    if (!place.isConnected || !this.#dialog.open) { // another cell, or this one again, has been opened since
      URL.revokeObjectURL(image.src);
      return;
    }
    this.#url = image.src;
    place.replaceWith(image);
  }

  #forgetPicture() {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = '';
  }

  /** @param {Row} row */
  #facts({ path, shown, file, picture, answer, decision }) {
    const subject = subjectOf(path);
    const isAnswered = answer !== null && answer.p_all !== null;
    return [
      fact('File', nameElement(shown)),
      fact('Label', badge(decision.label)),
      ...(isAnswered ? [fact('p_all', ...probability(answer.p_all, this.threshold()))] : []),
      fact('Threshold', this.#thresholdText()),
      fact('Status', badge(decision.status)),
      ...(decision.reason ? [fact('Reason', decision.reason)] : []),
      ...(subject ? [fact('Subject', nameElement(subject))] : []),
      ...(file ? [fact('Size', `${file.size.toLocaleString('en')} bytes`)] : []),
      ...(isAnswered && !picture ? [fact('Picture', NOT_FOUND)] : []),
      ...(answer ? [fact('Seconds', answer.seconds.toFixed(6))] : []),
      ...(isAnswered ? [fact('Answered by', answererText(this.about))] : []),
    ];
  }

  #thresholdText() {
    const shown = shownThreshold(this.threshold());
    const bundles = shownThreshold(this.about.bundle_threshold);
    return shown === bundles ? `${shown}, the bundle's` : `${shown}, not the bundle's (${bundles})`;
  }

  async #showHeat() {
    const row = this.#row;
    const isWanted = this.#toggle.checked && !byId('cell-heat').hidden;
    removeHeat(this.#picture);
    byId('heat-legend').hidden = !isWanted;
    setText(byId('heat-note'), isWanted ? 'Asking for the heat map …' : '');
    if (!isWanted || !row) return;
    try {
      const explanation = await this.#explanationOf(row);
      if (row === this.#row && this.#toggle.checked) setText(byId('heat-note'), drawHeat(this.#picture, explanation));
    } catch (error) {
      this.#explanations.delete(row); // the next time may go well
      if (row === this.#row) setText(byId('heat-note'), `No heat map: ${/** @type {Error} */ (error).message}`);
    }
  }

  /** @param {Row} row */
  #explanationOf(row) {
    const known = this.#explanations.get(row);
    if (known) return known;
    const asked = /** @type {() => Promise<Blob>} */ (row.picture)().then((blob) => this.service.explain(blob));
    this.#explanations.set(row, asked);
    return asked;
  }

  /** @param {number} step */
  #move(step) {
    const row = this.#row && this.#rows[this.#rows.indexOf(this.#row) + step];
    if (row) this.#show(row);
  }

  /** @param {KeyboardEvent} event */
  #moveByKey(event) {
    if (event.key === 'ArrowLeft') this.#move(-1);
    if (event.key === 'ArrowRight') this.#move(1);
  }
}

/**
 * @param {string} name
 * @param {...(Node|string)} value
 */
function fact(name, ...value) {
  return element('div', {}, element('dt', {}, name), element('dd', {}, ...value));
}
