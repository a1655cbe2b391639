/** The table of cells, a page of it at a time: ten thousand rows at once would make every browser slow. */

import { badge } from './counts.js';
import { byId, element, nameElement, setText } from './dom.js';
import { Pictures } from './pictures.js';

/**
 * @typedef {import('./rows.js').Row} Row
 * @typedef {import('./rows.js').Order} Order
 */

const ROWS_A_PAGE = 100;
const DIGITS = 4;

export class CellTable {
  #body = byId('cells').tBodies[0];
  #pager = byId('pager');
  #pictures;
  /** @type {Map<number, RowView>} */
  #views = new Map();
  /** @type {Row[]} */
  #rows = [];
  #page = 0;
  #threshold = 0;
  #isPrinted = false;

  /**
   * @param {import('./service.js').Service} service
   * @param {(row: Row) => void} onOpen
   * @param {(key: string) => void} onSort
   */
  constructor(service, onOpen, onSort) {
    this.#pictures = new Pictures(service);
    this.onOpen = onOpen;
    for (const button of sortButtons()) button.addEventListener('click', () => onSort(button.dataset.sort ?? ''));
    this.#body.addEventListener('click', (/** @type {MouseEvent} */ event) => this.#openAt(event.target));
    this.#body.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => this.#moveFocus(event));
    this.#pager.addEventListener('click', (/** @type {MouseEvent} */ event) => this.#turnPage(event.target));
    window.addEventListener('beforeprint', () => this.#forPaper(true));
    window.addEventListener('afterprint', () => this.#forPaper(false));
  }

  /**
   * Show rows in the order given.
   * @param {Row[]} rows
   * @param {number} threshold
   * @param {Order} order
   */
  show(rows, threshold, order) {
    this.#rows = rows;
    this.#threshold = threshold;
    for (const button of sortButtons()) markSorted(button, order);
    this.#draw();
  }

  /**
   * Put the focus on a row, on whichever page it is.
   * @param {Row} row
   */
  focus(row) {
    const place = this.#rows.indexOf(row);
    if (place < 0) return;
    this.#page = Math.floor(place / ROWS_A_PAGE);
    this.#draw();
    this.#views.get(row.id)?.button.focus();
  }

  /** Get all rows and their pictures ready to be printed; the browser itself would not wait for pictures. */
  async prepareForPaper() {
    if (this.#body.offsetParent === null) return; // something else is shown
    this.#forPaper(true);
    await this.#pictures.loadAll();
  }

  /** @param {boolean} isPrinted paper has all rows, whichever page of them the window shows */
  #forPaper(isPrinted) {
    this.#isPrinted = isPrinted;
    this.#draw();
  }

  get #lastPage() {
    return Math.max(Math.ceil(this.#rows.length / ROWS_A_PAGE) - 1, 0);
  }

  #draw() {
    this.#page = Math.min(this.#page, this.#lastPage);
    const start = this.#page * ROWS_A_PAGE;
    const shown = this.#isPrinted ? this.#rows : this.#rows.slice(start, start + ROWS_A_PAGE);
    this.#drop(new Set(shown.map(({ id }) => id)));
    const focused = /** @type {HTMLElement|null} */ (document.activeElement);
    shown.forEach((row, place) => this.#drawRow(row, place));
    // A row that is moved to another place loses the focus on the way.
    if (focused && focused !== document.activeElement && this.#body.contains(focused)) focused.focus({ preventScroll: true });
    this.#drawPager(start, shown.length);
  }

  /** @param {Set<number>} kept */
  #drop(kept) {
    for (const [id, view] of this.#views) {
      if (kept.has(id)) continue;
      this.#pictures.release(view.thumbnail);
      view.line.remove();
      this.#views.delete(id);
    }
  }

  /**
   * @param {Row} row
   * @param {number} place
   */
  #drawRow(row, place) {
    let view = this.#views.get(row.id);
    if (!view) {
      view = new RowView(row, this.#pictures.thumbnail(row.picture, row.shownName));
      this.#views.set(row.id, view);
    }
    view.update(row, this.#threshold);
    if (this.#body.rows[place] !== view.line) this.#body.insertBefore(view.line, this.#body.rows[place] ?? null);
  }

  /**
   * @param {number} start
   * @param {number} count
   */
  #drawPager(start, count) {
    const total = this.#rows.length;
    this.#pager.hidden = total <= ROWS_A_PAGE;
    const text = `${(start + 1).toLocaleString('en')} to ${(start + count).toLocaleString('en')} of ${total.toLocaleString('en')}`;
    setText(byId('pager-text'), text);
    for (const button of this.#pager.querySelectorAll('button')) {
      const isBack = ['first', 'previous'].includes(button.dataset.page ?? '');
      // Not `disabled`, which would drop the focus of who is just pressing it.
      button.setAttribute('aria-disabled', String(this.#page === (isBack ? 0 : this.#lastPage)));
    }
  }

  /** @param {EventTarget|null} target */
  #turnPage(target) {
    const pages = { first: 0, previous: Math.max(this.#page - 1, 0), next: Math.min(this.#page + 1, this.#lastPage), last: this.#lastPage };
    const wanted = /** @type {HTMLElement} */ (target).dataset.page;
    if (!wanted) return;
    this.#page = pages[/** @type {keyof typeof pages} */ (wanted)];
    this.#draw();
    byId('cells').scrollIntoView({ block: 'start' });
  }

  /** @param {EventTarget|null} target */
  #openAt(target) {
    const line = /** @type {Element} */ (target).closest('tr');
    const row = this.#rows.find(({ id }) => String(id) === line?.dataset.id);
    if (row) this.onOpen(row);
  }

  /** @param {KeyboardEvent} event */
  #moveFocus(event) {
    const buttons = [...this.#body.querySelectorAll('button')];
    const place = buttons.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    const places = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: buttons.length - 1 };
    const wanted = buttons[places[/** @type {keyof typeof places} */ (event.key)]];
    if (place < 0 || !wanted) return;
    event.preventDefault();
    wanted.focus();
  }
}

/** One line of the table. */
class RowView {
  /**
   * @param {Row} row
   * @param {HTMLElement} thumbnail
   */
  constructor(row, thumbnail) {
    this.thumbnail = thumbnail;
    this.button = element('button', { type: 'button', className: 'open' }, nameElement(row.shownName));
    this.reasonBelow = element('span', { className: 'reason-below' });
    this.label = element('td', { className: 'label' });
    this.p = element('td', { className: 'p' });
    this.status = element('td', { className: 'status' });
    this.reason = element('td', { className: 'reason' });
    this.seconds = element('td', { className: 'seconds' });
    const file = element('th', { scope: 'row', className: 'file' }, this.button, this.reasonBelow);
    const picture = element('td', { className: 'picture' }, thumbnail);
    this.line = element('tr', {}, picture, file, this.label, this.p, this.status, this.reason, this.seconds);
    this.line.dataset.id = String(row.id);
    this.said = '';
  }

  /**
   * @param {Row} row
   * @param {number} threshold
   */
  update({ answer, decision }, threshold) {
    const said = JSON.stringify([answer !== null, decision, threshold]);
    if (said === this.said) return;
    this.said = said;
    this.line.className = decision.status;
    this.label.replaceChildren(badge(decision.label));
    this.status.replaceChildren(badge(decision.status));
    this.p.replaceChildren(...(answer && answer.p_all !== null ? probability(answer.p_all, threshold) : []));
    setText(this.reason, decision.reason);
    setText(this.reasonBelow, decision.reason);
    setText(this.seconds, answer ? answer.seconds.toFixed(3) : '');
  }
}

/**
 * Return a probability as a number and as a bar with a mark at the threshold.
 * @param {number} p_all
 * @param {number} threshold
 * @returns {HTMLElement[]}
 */
export function probability(p_all, threshold) {
  const bar = element('span', { className: p_all >= threshold ? 'bar leukemic' : 'bar healthy' });
  bar.style.setProperty('--p', String(p_all));
  bar.style.setProperty('--threshold', String(threshold));
  bar.setAttribute('aria-hidden', 'true');
  return [element('span', { className: 'number' }, p_all.toFixed(DIGITS)), bar];
}

/** @returns {NodeListOf<HTMLElement>} */
function sortButtons() {
  return document.querySelectorAll('#cells thead button');
}

/**
 * @param {HTMLElement} button
 * @param {Order} order
 */
function markSorted(button, { key, isDescending }) {
  const heading = button.closest('th');
  if (button.dataset.sort === key) heading?.setAttribute('aria-sort', isDescending ? 'descending' : 'ascending');
  else heading?.removeAttribute('aria-sort');
}
