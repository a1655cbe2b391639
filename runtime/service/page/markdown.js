/**
 * Turns the Markdown of a model card into elements: headings, paragraphs, lists, tables, strong text and code.
 * Anything else stays as it is written; no text is ever read as HTML.
 */

import { element } from './dom.js';

const HEADING = /^(#{1,4}) +(.*)$/;
const ITEM = /^- +(.*)$/;
const TABLE_ROW = /^\|(.*)\|$/;
const RULE = /^\|(?: *:?-+:? *\|)+$/;
const MARKED = /\*\*([^*]+)\*\*|`([^`]+)`/g;
const HEADING_BELOW = 2; // levels: the dialog has a title of its own

/**
 * Return the elements of a text, in order.
 * @param {string} markdown
 * @returns {HTMLElement[]}
 */
export function elementsOf(markdown) {
  return markdown.split(/\n\s*\n/).map((block) => block.trim()).filter(Boolean).flatMap(elementsOfBlock);
}

/**
 * @param {string} block lines between two that are empty
 * @returns {HTMLElement[]}
 */
function elementsOfBlock(block) {
  const lines = block.split('\n').map((line) => line.trim());
  const heading = HEADING.exec(lines[0]);
  if (heading) {
    const title = element(`h${heading[1].length + HEADING_BELOW}`, {}, ...inline(heading[2]));
    return [title, ...(lines.length > 1 ? elementsOfBlock(lines.slice(1).join('\n')) : [])];
  }
  if (ITEM.test(lines[0])) return [listOf(lines)];
  if (lines.length > 2 && RULE.test(lines[1]) && lines.every((line) => TABLE_ROW.test(line))) return [tableOf(lines)];
  return [element('p', {}, ...inline(lines.join(' ')))];
}

/** @param {string[]} lines those without a dash continue the item before */
function listOf(lines) {
  /** @type {string[]} */
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item) items.push(item[1]);
    else items.push(`${items.pop()} ${line}`);
  }
  return element('ul', {}, ...items.map((item) => element('li', {}, ...inline(item))));
}

/** @param {string[]} lines the names of the columns, a rule, and the rows */
function tableOf([names, , ...rows]) {
  /** @type {(line: string, tag: string) => HTMLElement} */
  const row = (line, tag) => element('tr', {}, ...cellsOf(line).map((cell) => element(tag, {}, ...inline(cell))));
  return element(
    'table', {},
    element('thead', {}, row(names, 'th')),
    element('tbody', {}, ...rows.map((line) => row(line, 'td'))),
  );
}

/** @param {string} line */
function cellsOf(line) {
  return line.slice(1, -1).split('|').map((cell) => cell.trim());
}

/**
 * @param {string} text
 * @returns {(Node|string)[]}
 */
function inline(text) {
  /** @type {(Node|string)[]} */
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(MARKED)) {
    parts.push(text.slice(end, match.index), element(match[1] ? 'strong' : 'code', {}, match[1] ?? match[2]));
    end = match.index + match[0].length;
  }
  return [...parts, text.slice(end)];
}
