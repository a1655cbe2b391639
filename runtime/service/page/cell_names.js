/** What the name of a cell's file says, and how any file's name is shown: the rules of runtime/cell_names.py. */

// C-NMC 2019: UID_<subject>_<image>_<cell>_all.bmp, UID_H<subject>_..._hem.bmp, in upper or lower case.
// DRAWN_ stands for UID_ in the names of drawn cells. Digits are those of any script, as in Python.
const CELL_NAME = /^(?:UID|DRAWN)_(?<subject>H?\p{Nd}+)_\p{Nd}+_\p{Nd}+_(?<kind>all|hem)(?![a-z0-9])/iu;
const HIDDEN_CHARACTER = /(?! )[\p{C}\p{Z}]/u;
const NAMED_ESCAPES = { '\t': '\\t', '\n': '\\n', '\r': '\\r' };
export const UNKNOWN = ''; // the subject of a name that tells none

/**
 * Return the subject that a C-NMC file name tells, in upper case; empty where it tells none.
 * @param {string} path
 * @returns {string}
 */
export function subjectOf(path) {
  const found = CELL_NAME.exec(lastPart(path));
  return found?.groups ? found.groups.subject.toUpperCase() : UNKNOWN;
}

/**
 * Return the last name in a path.
 * @param {string} path
 * @returns {string}
 */
export function lastPart(path) {
  return path.split('/').filter((part) => part && part !== '.').pop() ?? '';
}

/**
 * Return a name as one line in which nothing hides: control characters, marks that reverse the writing and halves of
 * characters become escapes, as Python writes them.
 * @param {string} name
 * @returns {string}
 */
export function printable(name) {
  if (!HIDDEN_CHARACTER.test(name)) return name; // nearly all are
  return Array.from(name, (character) => (HIDDEN_CHARACTER.test(character) ? escaped(character) : character)).join('');
}

/** @param {string} character */
function escaped(character) {
  const code = character.codePointAt(0) ?? 0;
  if (character in NAMED_ESCAPES) return NAMED_ESCAPES[/** @type {'\t'} */ (character)];
  if (code <= 0xff) return `\\x${code.toString(16).padStart(2, '0')}`;
  if (code <= 0xffff) return `\\u${code.toString(16).padStart(4, '0')}`;
  return `\\U${code.toString(16).padStart(8, '0')}`;
}
