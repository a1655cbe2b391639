/** Follows the database of a watched folder: a microscope's last cells. */

import { lastPart, printable } from './cell_names.js';
import { badge, showCounts } from './counts.js';
import { answererText } from './decision.js';
import { byId, element, nameElement, setText } from './dom.js';
import { drawHeat, removeHeat } from './heat.js';
import { placeholder } from './pictures.js';
import { UNAUTHORIZED } from './service.js';
import { probability } from './table.js';

/**
 * @typedef {import('./decision.js').Answer & {
 *   id: number, time: string, threshold: number, precision: string, backend: string, bundle: string, version: string,
 * }} WatchedRow
 */

const POLL_MS = 1000;
const CELLS_SHOWN = 24;
const WANTED = 'wanted'; // of a picture or a heat map that is to be asked for

export class Microscope {
  #last = 0;
  #database = '';
  /** @type {number|undefined} */
  #timer;
  #isOpen = false;
  #isAsking = false;
  #isExplaining = false;
  #toggle = byId('watch-heat-toggle');
  /** @type {Map<Element, string>} */
  #urls = new Map();

  /**
   * @param {import('./service.js').Service} service
   * @param {boolean} explains whether the service has heat maps
   */
  constructor(service, explains) {
    this.service = service;
    this.explains = explains;
    this.#toggle.addEventListener('change', () => this.#showHeat());
    document.addEventListener('visibilitychange', () => this.#pollSoon(0));
  }

  /** Follow the database as long as the tab is shown. */
  open() {
    this.#isOpen = true;
    this.#pollSoon(0);
  }

  close() {
    this.#isOpen = false;
    clearTimeout(this.#timer);
  }

  /** @param {number} wait_ms */
  #pollSoon(wait_ms) {
    clearTimeout(this.#timer);
    if (this.#isOpen && !document.hidden) this.#timer = setTimeout(() => this.#poll(), wait_ms);
  }

  async #poll() {
    if (this.#isAsking) return; // two answers to one question would show its rows twice; the first polls again
    this.#isAsking = true;
    try {
      this.#take(await this.service.watchRows(this.#last, CELLS_SHOWN));
    } catch (error) {
      const refusal = /** @type {import('./service.js').Refusal} */ (error);
      this.#tell(`No news: ${refusal.message}`, true);
      if (refusal.status === UNAUTHORIZED) this.close(); // else the question for the token would return every second
    } finally {
      this.#isAsking = false;
    }
    this.#pollSoon(POLL_MS);
  }

  /** @param {{results: WatchedRow[], last: number, database: string, warning: string, watching: boolean, counts: import('./counts.js').Counts, pictures: boolean}} news */
  #take({ results, last, database, warning, watching, counts, pictures }) {
    if (database !== this.#database && this.#database) this.#forget();
    const isOther = database !== this.#database && this.#last > 0;
    this.#database = database;
    this.#last = isOther ? 0 : last;
    if (isOther) return; // the question used row numbers of another database
    for (const row of results) byId('watch-cells').prepend(this.#card(row, pictures));
    const newest = results.at(-1);
    if (newest) setText(byId('watch-origin'), `The newest was answered by ${answererText(newest)}.`);
    this.#dropOld();
    setText(byId('watch-shift'), warning);
    showCounts(byId('watch-counts'), counts);
    byId('watch-heat').hidden = !this.explains || !pictures;
    this.#loadPictures();
    this.#explain();
    if (!watching) {
      this.#tell('runtime.watch is not running: new cells are not classified until it is started.', true);
      return;
    }
    const total = counts.ALL + counts.healthy + counts.error;
    this.#tell(total ? 'Following live, the newest first.' : 'Following live; no cell has come yet.', false);
  }

  #forget() {
    byId('watch-cells').replaceChildren();
    setText(byId('watch-origin'), '');
    this.#dropOld();
  }

  #dropOld() {
    const list = byId('watch-cells');
    while (list.children.length > CELLS_SHOWN) list.lastElementChild.remove();
    for (const [place, url] of this.#urls) {
      if (place.isConnected) continue;
      URL.revokeObjectURL(url);
      this.#urls.delete(place);
    }
  }

  /**
   * @param {string} text
   * @param {boolean} isAway
   */
  #tell(text, isAway) {
    byId('watch-state').classList.toggle('away', isAway);
    setText(byId('watch-state'), text);
  }

  /**
   * @param {WatchedRow} row
   * @param {boolean} hasPictures
   */
  #card(row, hasPictures) {
    const name = printable(lastPart(row.path));
    const picture = element('div', { className: 'watch-picture' }, placeholder(name));
    const card = element(
      'li',
      { className: `watch-cell ${row.status}` },
      picture,
      element('p', { className: 'watch-answer' }, row.label ? badge(row.label) : '', row.status === 'ok' ? '' : badge(row.status)),
      ...(row.p_all === null ? [] : [element('p', { className: 'p' }, ...probability(row.p_all, row.threshold))]),
      ...(row.reason ? [element('p', { className: 'why' }, row.reason)] : []),
      element('p', { className: 'watch-name' }, nameElement(name), element('time', { dateTime: row.time }, timeOfDay(row.time))),
    );
    if (hasPictures && row.status !== 'error') Object.assign(picture.dataset, { row: row.id, name, picture: WANTED });
    return card;
  }

  #loadPictures() {
    for (const place of placesWith('picture', WANTED)) this.#loadPicture(place);
  }

  /** @param {HTMLElement} place */
  async #loadPicture(place) {
    place.dataset.picture = 'asked for';
    try {
      const url = URL.createObjectURL(await this.service.watchPicture(Number(place.dataset.row)));
      this.#urls.set(place, url);
      place.replaceChildren(element('img', { alt: `Cell ${(place.dataset.name ?? '').slice(0, 100)}`, src: url }));
      place.dataset.heat = WANTED;
      this.#explain();
    } catch (error) {
      // Else the placeholder stays: the file may have been moved away, as a lab does.
      if (/** @type {import('./service.js').Refusal} */ (error).isPassing) place.dataset.picture = WANTED;
    }
  }

  #showHeat() {
    byId('watch-heat-legend').hidden = !this.#toggle.checked;
    setText(byId('watch-heat-note'), '');
    for (const told of byId('watch-cells').querySelectorAll('.no-heat')) told.remove();
    for (const place of placesWith('heat')) {
      removeHeat(place);
      place.dataset.heat = WANTED;
    }
    this.#explain();
  }

  /** Ask for one heat map after the other, the newest cell's first, as long as they are wanted. */
  async #explain() {
    if (this.#isExplaining) return;
    this.#isExplaining = true;
    try {
      for (;;) {
        const [place] = this.#toggle.checked ? placesWith('heat', WANTED) : [];
        if (!place) break;
        await this.#explainOne(place);
      }
    } catch (error) {
      setText(byId('watch-heat-note'), `Heat maps wait: ${/** @type {Error} */ (error).message}`); // for the next poll
    } finally {
      this.#isExplaining = false;
    }
  }

  /**
   * Show the map of one cell, or why there is none; throw where it may be available soon.
   * @param {HTMLElement} place
   */
  async #explainOne(place) {
    let explanation;
    try {
      explanation = await this.service.watchExplanation(Number(place.dataset.row));
    } catch (error) {
      const refusal = /** @type {import('./service.js').Refusal} */ (error);
      if (refusal.isPassing) throw refusal;
      place.dataset.heat = 'none';
      if (this.#toggle.checked) place.after(element('p', { className: 'why no-heat' }, `No heat map: ${refusal.message}`));
      return;
    }
    place.dataset.heat = 'shown';
    if (this.#toggle.checked) setText(byId('watch-heat-note'), drawHeat(place, explanation));
  }
}

/**
 * Return the places of pictures in such a state, the newest first.
 * @param {'picture'|'heat'} what
 * @param {string} [state] any by default
 * @returns {HTMLElement[]}
 */
function placesWith(what, state) {
  return [...byId('watch-cells').querySelectorAll(`.watch-picture[data-${what}${state ? `="${state}"` : ''}]`)];
}

/** @param {string} time ISO 8601 */
function timeOfDay(time) {
  const read = new Date(time);
  return Number.isNaN(read.valueOf()) ? '' : read.toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' });
}
