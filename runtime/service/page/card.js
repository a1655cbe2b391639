/** Shows the model's card. */

import { byId, openDialog, setText } from './dom.js';
import { elementsOf } from './markdown.js';

/**
 * Open the card when its button is pressed.
 * @param {import('./service.js').Service} service
 */
export function offerCard(service) {
  byId('open-card').addEventListener('click', async () => {
    const place = byId('card-text');
    setText(place, 'Asking for the card …');
    openDialog(byId('card-dialog'));
    try {
      place.replaceChildren(...elementsOf(await service.modelCard()));
    } catch (error) {
      setText(place, `No card: ${/** @type {Error} */ (error).message}`);
    }
  });
}
