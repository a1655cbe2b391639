/** The page's rows: one for each file that was added, with its answer when it has come. */

import { lastPart, printable } from './cell_names.js';
import { decide } from './decision.js';
import { merged } from './shift.js';

/**
 * @typedef {import('./decision.js').Answer} Answer
 * @typedef {import('./decision.js').Decision} Decision
 * @typedef {import('./decision.js').Rule} Rule
 * @typedef {import('./shift.js').Appearances} Appearances
 *
 * @typedef {object} Row
 * @property {number} id in the order added
 * @property {string} path as the browser tells it; never sent
 * @property {string} shown the path as one line in which nothing hides
 * @property {string} shownName the last part of it
 * @property {File|null} file null for a member of an archive
 * @property {(() => Promise<Blob>)|null} picture opens what can be shown and explained; null where there is none
 * @property {Answer|null} answer null until it has come
 * @property {Row[]} members of an archive, in whose place they stand since it was answered
 * @property {Decision} decision at the shown threshold
 *
 * @typedef {{text: string, label: string, status: string}} Filter empty: any
 * @typedef {{key: string, isDescending: boolean}} Order
 */

/** @type {Decision} */
const WAITING = { label: '', status: 'waiting', reason: '' };
/** @type {Appearances} */
const NONE = { cells: 0, sums: {} };
const collator = new Intl.Collator('en', { numeric: true });

export class Rows {
  /** @param {Rule} rule */
  constructor(rule) {
    this.rule = rule;
    this.threshold = rule.threshold;
    /** @type {Row[]} */
    this.all = [];
    this.appearances = NONE;
    this.nextId = 1;
  }

  /**
   * Append a row for each file.
   * @param {{path: string, file: File|null}[]} files
   * @returns {Row[]}
   */
  add(files) {
    const added = files.map(({ path, file }) => this.#newRow(path, file, file && (async () => file)));
    for (const row of added) this.all.push(row);
    return added;
  }

  /**
   * Give a row its answer.
   * @param {Row} row
   * @param {Answer} answer
   */
  answer(row, answer) {
    row.answer = answer;
    row.decision = decide(answer, this.threshold, this.rule);
  }

  /**
   * Take in how answered cells look.
   * @param {Appearances} found
   */
  look(found) {
    this.appearances = merged(this.appearances, found);
  }

  /**
   * Put rows for the members of an archive into its row's place.
   * @param {Row} row
   * @param {{path: string, answer: Answer, picture: Row['picture']}[]} members
   */
  answerArchive(row, members) {
    const added = members.map(({ path, answer, picture }) => {
      const member = this.#newRow(path, null, picture);
      this.answer(member, answer);
      return member;
    });
    row.members = added;
    const place = this.all.indexOf(row);
    if (place >= 0) this.all = [...this.all.slice(0, place), ...added, ...this.all.slice(place + 1)];
  }

  /**
   * Decide all rows again.
   * @param {number} threshold
   */
  moveThreshold(threshold) {
    this.threshold = threshold;
    for (const row of this.all) {
      if (row.answer) row.decision = decide(row.answer, threshold, this.rule);
    }
  }

  clear() {
    this.all = [];
    this.appearances = NONE;
  }

  /**
   * Return the rows that pass a filter, in order.
   * @param {Filter} filter
   * @param {Order} order
   * @returns {Row[]}
   */
  chosen({ text, label, status }, order) {
    const sought = text.toLowerCase();
    const kept = this.all.filter(({ decision, shown }) => (
      (!label || decision.label === label) && (!status || decision.status === status)
      && (!sought || shown.toLowerCase().includes(sought))
    ));
    return sorted(kept, order);
  }

  /**
   * @param {string} path
   * @param {File|null} file
   * @param {Row['picture']} picture
   * @returns {Row}
   */
  #newRow(path, file, picture) {
    const id = this.nextId;
    this.nextId += 1;
    const shownName = printable(lastPart(path)) || '(no name)';
    const shown = printable(path);
    return { id, path, file, picture, shown, shownName, answer: null, members: [], decision: WAITING };
  }
}

/**
 * @param {Row[]} rows
 * @param {Order} order
 */
function sorted(rows, { key, isDescending }) {
  if (key === 'id') return isDescending ? rows.reverse() : rows; // they stand in that order
  const valueOf = VALUES[/** @type {keyof typeof VALUES} */ (key)];
  const keyed = rows.map((row) => ({ row, value: valueOf(row) }));
  return keyed.sort((one, other) => compared(one.value, other.value, isDescending)).map(({ row }) => row);
}

const VALUES = {
  path: (/** @type {Row} */ row) => row.shown,
  label: (/** @type {Row} */ row) => row.decision.label || null,
  p_all: (/** @type {Row} */ row) => row.answer?.p_all ?? null,
  status: (/** @type {Row} */ row) => row.decision.status,
  reason: (/** @type {Row} */ row) => row.decision.reason || null,
  seconds: (/** @type {Row} */ row) => row.answer?.seconds ?? null,
};

/**
 * Compare two values; what is missing comes last in both directions.
 * @param {string|number|null} one
 * @param {string|number|null} other
 * @param {boolean} isDescending
 */
function compared(one, other, isDescending) {
  if (one === null || other === null) return Number(one === null) - Number(other === null);
  const difference = typeof one === 'string' ? collator.compare(one, String(other)) : one - Number(other);
  return isDescending ? -difference : difference;
}
