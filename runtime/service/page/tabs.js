/** The tabs at the top: one is shown, and the arrow keys go from one to the next. */

import { byId } from './dom.js';

/**
 * Show the tabs, each with its panel; the address remembers which one is open.
 * @param {string[]} names of the panels
 * @param {(name: string) => void} onShow
 * @returns {(name: string) => void} shows another one
 */
export function offerTabs(names, onShow) {
  byId('tabs').hidden = false;
  for (const name of names) {
    const panel = byId(name);
    panel.setAttribute('role', 'tabpanel');
    panel.setAttribute('aria-labelledby', `${name}-tab`);
    byId(`${name}-tab`).addEventListener('click', () => show(name));
  }
  byId('tabs').addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => {
    const places = { ArrowRight: 1, ArrowLeft: -1 };
    const step = places[/** @type {keyof typeof places} */ (event.key)];
    if (!step) return;
    const open = names.findIndex((name) => !byId(name).hidden);
    const next = names[(open + step + names.length) % names.length];
    show(next);
    byId(`${next}-tab`).focus();
  });
  const wanted = location.hash.slice(1);
  show(names.includes(wanted) ? wanted : names[0]);
  return show;

  /** @param {string} shown */
  function show(shown) {
    for (const name of names) {
      byId(name).hidden = name !== shown;
      byId(`${name}-tab`).setAttribute('aria-selected', String(name === shown));
      byId(`${name}-tab`).tabIndex = name === shown ? 0 : -1;
    }
    history.replaceState(null, '', shown === names[0] ? location.pathname : `#${shown}`);
    onShow(shown);
  }
}
