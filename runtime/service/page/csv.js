/** The results table and the roll-up as CSV, as runtime/files.py writes them. */

import { element } from './dom.js';

/** @typedef {import('./rows.js').Row} Row */

export const COLUMNS = ['path', 'label', 'p_all', 'status', 'reason', 'seconds'];
const P_ALL_DIGITS = 6;
const SECONDS_DIGITS = 6;

/**
 * Return the answered rows as a results table, in the order added, decided at the shown threshold.
 * @param {Row[]} rows
 * @returns {string}
 */
export function resultsCsv(rows) {
  return csvText(COLUMNS, rows.filter((row) => row.answer).map(resultsLine));
}

/** @param {Row} row */
function resultsLine(row) {
  const { label, status, reason } = row.decision;
  const p_all = row.answer?.p_all?.toFixed(P_ALL_DIGITS) ?? '';
  return [row.path, label, p_all, status, reason, (row.answer?.seconds ?? 0).toFixed(SECONDS_DIGITS)];
}

/**
 * Return a table as CSV text whose lines end in a line feed.
 * @param {string[]} header
 * @param {(string|number)[][]} lines
 * @returns {string}
 */
export function csvText(header, lines) {
  return [header, ...lines].map((line) => `${csvLine(line)}\n`).join('');
}

/** @param {(string|number)[]} values */
function csvLine(values) {
  const texts = values.map(String);
  // Readers split at a carriage return that stands unquoted; such a line is quoted as a whole.
  const quotesAll = texts.some((text) => text.includes('\r'));
  return texts.map((text) => (quotesAll || /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)).join(',');
}

/**
 * Let the browser save a text as a file.
 * @param {string} name
 * @param {string} text
 */
export function saveCsv(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: 'text/csv;charset=utf-8' }));
  element('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may still be reading it
}
