/** Rolls rows up by subject: how many cells, which share of them ALL, how sure that share is; as runtime/groups.py. */

import { printable, subjectOf, UNKNOWN } from './cell_names.js';
import { csvText } from './csv.js';

/**
 * @typedef {import('./rows.js').Row} Row
 * @typedef {{value: number, low: number, high: number}} Interval
 * @typedef {{name: string, cells: number, leukemic: number, review: number, errors: number}} Group
 */

const MIN_CELLS = 20; // of fewer no share is claimed
const EXAMPLE = 'UID_11_2_3_all.bmp';
const COLUMNS = ['group', 'cells', 'all', 'share_all', 'share_low', 'share_high', 'review', 'error', 'status'];
const Z = 1.9599639845400536; // of 95 %

/**
 * Return the groups of the answered rows, ordered as people count; what is not known comes last.
 * @param {Row[]} rows
 * @returns {Group[]}
 */
export function groupsOf(rows) {
  /** @type {Map<string, Group>} */
  const groups = new Map();
  for (const row of rows) {
    if (!row.answer) continue;
    const name = subjectOf(row.path);
    const group = groups.get(name) ?? { name, cells: 0, leukemic: 0, review: 0, errors: 0 };
    groups.set(name, group);
    count(group, row);
  }
  return [...groups.values()].sort(byName);
}

/**
 * @param {Group} group
 * @param {Row} row
 */
function count(group, { decision }) {
  if (decision.status === 'error') {
    group.errors += 1;
    return;
  }
  group.cells += 1;
  group.leukemic += Number(decision.label === 'ALL');
  group.review += Number(decision.status === 'review');
}

/**
 * Say whether a share is claimed of a group.
 * @param {Group} group
 * @returns {'ok'|'insufficient'|'unknown'}
 */
function statusOf(group) {
  if (group.name === UNKNOWN) return 'unknown';
  return group.cells >= MIN_CELLS ? 'ok' : 'insufficient';
}

/**
 * Return the share of ALL among a group's cells, null where none is claimed.
 * @param {Group} group
 * @returns {Interval|null}
 */
function shareOf(group) {
  return statusOf(group) === 'ok' ? wilsonInterval(group.leukemic, group.cells) : null;
}

/**
 * Return a share with its score interval (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, 209-212).
 * @param {number} count
 * @param {number} total 1 or more
 * @returns {Interval}
 */
export function wilsonInterval(count, total) {
  const share = count / total;
  const scale = 1 + Z ** 2 / total;
  const center = (share + Z ** 2 / (2 * total)) / scale;
  const half = (Z * Math.sqrt((share * (1 - share)) / total + Z ** 2 / (4 * total ** 2))) / scale;
  return {
    value: share,
    low: count ? Math.max(center - half, 0) : 0,
    high: count < total ? Math.min(center + half, 1) : 1,
  };
}

/**
 * Return the roll-up for people: a list of texts for each group.
 * @param {Group[]} groups
 * @returns {(string|number)[][]}
 */
export function tableOf(groups) {
  return groups.map((group) => {
    const share = shareOf(group);
    return [
      printable(group.name) || '(unknown)',
      group.cells,
      group.leukemic,
      share ? percent(share.value) : statusOf(group),
      share ? `${percent(share.low)} to ${percent(share.high)}` : '',
      group.review,
      group.errors,
    ];
  });
}

/**
 * Return what must be said beside the table, a sentence each.
 * @param {Group[]} groups
 * @returns {string[]}
 */
export function notesOf(groups) {
  const notes = ['Intervals (Wilson) tell what so many cells leave open, not how often the model is wrong.'];
  if (groups.some((group) => statusOf(group) === 'insufficient')) {
    notes.push(`insufficient: fewer than ${MIN_CELLS} cells, so no share is claimed.`);
  }
  const unknown = groups.find((group) => group.name === UNKNOWN);
  if (unknown) {
    const rows = unknown.cells + unknown.errors;
    notes.push(`(unknown): ${rows} ${rows === 1 ? 'file' : 'files'} without a subject in the name, as ${EXAMPLE} has.`);
  }
  return notes;
}

/**
 * Return the roll-up as CSV.
 * @param {Group[]} groups
 * @returns {string}
 */
export function groupsCsv(groups) {
  return csvText(COLUMNS, groups.map((group) => {
    const share = shareOf(group);
    const shares = share ? [share.value, share.low, share.high].map((value) => value.toFixed(6)) : ['', '', ''];
    return [group.name, group.cells, group.leukemic, ...shares, group.review, group.errors, statusOf(group)];
  }));
}

/** @param {number} value */
function percent(value) {
  return `${(100 * value).toFixed(1)}%`;
}

/**
 * @param {Group} one
 * @param {Group} other
 */
function byName(one, other) {
  if ((one.name === UNKNOWN) !== (other.name === UNKNOWN)) return one.name === UNKNOWN ? 1 : -1;
  return naturalOrder(one.name, other.name);
}

/**
 * Compare names by the numbers in them: 2 before 10, and 7 before 07.
 * @param {string} one
 * @param {string} other
 * @returns {number}
 */
function naturalOrder(one, other) {
  const [ones, others] = [one, other].map((name) => name.split(/(\d+)/));
  for (let place = 0; place < Math.min(ones.length, others.length); place += 1) {
    const difference = place % 2 ? numberOrder(ones[place], others[place]) : textOrder(ones[place], others[place]);
    if (difference) return difference;
  }
  return ones.length - others.length || textOrder(one, other);
}

/**
 * @param {string} one
 * @param {string} other
 */
function numberOrder(one, other) {
  const difference = BigInt(one) - BigInt(other);
  return difference < 0n ? -1 : Number(difference > 0n);
}

/**
 * @param {string} one
 * @param {string} other
 */
function textOrder(one, other) {
  return one < other ? -1 : Number(one > other);
}
