/** Asks for the service's token. */

import { byId, openDialog } from './dom.js';

/**
 * Return what the user types, null where the question is dismissed.
 * @param {string} refusal what was wrong with the last one, empty for the first question
 * @returns {Promise<string|null>}
 */
export function askToken(refusal) {
  const dialog = byId('token-dialog');
  const input = byId('token');
  byId('token-note').textContent = `${refusal} Whoever runs the service knows it. It is kept until this tab is closed.`.trim();
  input.value = '';
  openDialog(dialog);
  input.focus();
  return new Promise((resolve) => {
    /** @type {string|null} */
    let given = null;
    byId('token-form').onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      given = input.value.trim();
      dialog.close();
    };
    dialog.addEventListener('close', () => resolve(given), { once: true });
  });
}
