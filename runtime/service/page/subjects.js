/** The table of subjects. */

import { byId, element, nameElement } from './dom.js';
import { groupsOf, notesOf, tableOf } from './groups.js';

/**
 * Show the roll-up of rows.
 * @param {import('./rows.js').Row[]} rows
 */
export function showSubjects(rows) {
  const groups = groupsOf(rows);
  byId('subjects').tBodies[0].replaceChildren(...tableOf(groups).map(subjectLine));
  byId('subject-notes').replaceChildren(...notesOf(groups).map((note) => element('li', {}, note)));
}

/** @param {(string|number)[]} values */
function subjectLine([name, ...values]) {
  const cells = values.map((value) => element('td', {}, typeof value === 'number' ? value.toLocaleString('en') : value));
  return element('tr', {}, element('th', { scope: 'row' }, nameElement(String(name))), ...cells);
}
