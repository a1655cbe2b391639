/** How many cells have which answer. */

import { element, setText } from './dom.js';

/**
 * @typedef {{ALL: number, healthy: number, review: number, error: number, waiting?: number}} Counts
 */

const KINDS = [
  { key: 'ALL', name: 'ALL', mark: '▲', kind: 'leukemic' },
  { key: 'healthy', name: 'healthy', mark: '○', kind: 'healthy' },
  { key: 'review', name: 'of them for review', mark: '?', kind: 'review' },
  { key: 'error', name: 'not readable', mark: '×', kind: 'error' },
  { key: 'waiting', name: 'waiting', mark: '…', kind: 'waiting' },
];

/**
 * Count rows by label and status; a cell under review counts as what it is labelled as well.
 * @param {import('./rows.js').Row[]} rows
 * @returns {Counts}
 */
export function countsOf(rows) {
  const counts = { ALL: 0, healthy: 0, review: 0, error: 0, waiting: 0 };
  for (const { decision } of rows) {
    if (decision.label) counts[/** @type {'ALL'} */ (decision.label)] += 1;
    if (decision.status !== 'ok') counts[/** @type {'review'} */ (decision.status)] += 1;
  }
  return counts;
}

/**
 * Show counts in a description list.
 * @param {HTMLElement} list
 * @param {Counts} counts
 */
export function showCounts(list, counts) {
  const cells = counts.ALL + counts.healthy;
  for (const kind of KINDS) {
    const count = counts[/** @type {keyof Counts} */ (kind.key)];
    if (count === undefined) continue;
    const tile = list.querySelector(`[data-kind="${kind.key}"]`) ?? newTile(list, kind);
    /** @type {HTMLElement} */ (tile).hidden = kind.key === 'waiting' && !count;
    const share = cells && ['ALL', 'healthy'].includes(kind.key) ? percent(count, cells) : '';
    setText(/** @type {HTMLElement} */ (tile.querySelector('span:not(.mark)')), count.toLocaleString('en'));
    setText(/** @type {HTMLElement} */ (tile.querySelector('small')), share && ` (${share})`);
  }
}

/**
 * Return a share; only none is 0 %, and only all are 100 %.
 * @param {number} count
 * @param {number} total 1 or more
 * @returns {string}
 */
export function percent(count, total) {
  const share = (100 * count) / total;
  if (count && share < 0.1) return '<0.1 %';
  if (count < total && share > 99.9) return '>99.9 %';
  return `${share.toFixed(count % total ? 1 : 0)} %`;
}

/**
 * @param {HTMLElement} list
 * @param {{key: string, name: string, mark: string, kind: string}} kind
 */
function newTile(list, { key, name, mark, kind }) {
  const value = element('dd', {}, element('span'), element('small'));
  const tile = element('div', { className: `count ${kind}` }, element('dt', {}, markElement(mark), name), value);
  tile.dataset.kind = key;
  list.append(tile);
  return tile;
}

/**
 * Return a sign that stands beside a word, for those who look.
 * @param {string} mark
 * @returns {HTMLElement}
 */
function markElement(mark) {
  const made = element('span', { className: 'mark' }, mark);
  made.setAttribute('aria-hidden', 'true');
  return made;
}

/**
 * Return the sign and the word of a label or status.
 * @param {string} key
 * @returns {HTMLElement}
 */
export function badge(key) {
  const kind = KINDS.find((each) => each.key === key) ?? { mark: key === 'ok' ? '✓' : '', kind: key || 'none' };
  return element('span', { className: `badge ${kind.kind}` }, ...(kind.mark ? [markElement(kind.mark), ' '] : []), key || '–');
}
