/** Shows the model's card, as the text that it is. */

import { byId, openDialog, setText } from './dom.js';

/**
 * Open the card when its button is pressed.
 * @param {import('./service.js').Service} service
 */
export function offerCard(service) {
  byId('open-card').addEventListener('click', async () => {
    setText(byId('card-text'), 'Asking for the card …');
    openDialog(byId('card-dialog'));
    try {
      setText(byId('card-text'), await service.modelCard());
    } catch (error) {
      setText(byId('card-text'), `No card: ${/** @type {Error} */ (error).message}`);
    }
  });
}
