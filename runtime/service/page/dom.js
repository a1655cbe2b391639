/** Small helpers for the page's elements; no text is ever read as HTML. */

/**
 * Return the page's element with this id.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Return a new element with properties and children.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node|string)} children
 * @returns {any}
 */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const MOST_BROKEN = 200; // characters of a name; ten thousand underscores are no reason for as many elements

/**
 * Return a name of any origin, isolated so that its writing direction changes nothing around it; where space is narrow
 * it breaks behind an underscore, which cells' names have.
 * @param {string} shown what `printable` returned
 * @returns {HTMLElement}
 */
export function nameElement(shown) {
  const parts = shown.length > MOST_BROKEN ? [shown] : shown.match(/[^_]*_|[^_]+/g) ?? [];
  return element('bdi', {}, ...parts.flatMap((part) => [part, element('wbr')]));
}

/**
 * Give an element a text, only where that changes something: screen readers read it again otherwise.
 * @param {HTMLElement} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * Return a function that asks for `work` to be done at the next frame, however often it is called.
 * @param {() => void} work
 * @returns {() => void}
 */
export function onceAFrame(work) {
  return onceADelay(requestAnimationFrame, work);
}

/**
 * Return a function that asks for `work` to be done soon, and at most once in `interval_ms`.
 * @param {number} interval_ms
 * @param {() => void} work
 * @returns {() => void}
 */
export function atMostEvery(interval_ms, work) {
  return onceADelay((act) => setTimeout(act, interval_ms), work);
}

/**
 * @param {(act: () => void) => void} delay
 * @param {() => void} work
 */
function onceADelay(delay, work) {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    delay(() => {
      isAsked = false;
      work();
    });
  };
}

/** Let the browser draw and answer the user before the work continues. */
export function pause() {
  return new Promise((resolve) => { setTimeout(resolve); });
}

/**
 * Show a dialog; its buttons marked data-close, Escape and a click beside it close it.
 * @param {HTMLDialogElement} dialog
 */
export function openDialog(dialog) {
  if (!dialog.dataset.closes) {
    dialog.dataset.closes = 'yes';
    dialog.addEventListener('click', (event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      if (target === dialog || target.closest('[data-close]')) dialog.close();
    });
  }
  if (!dialog.open) dialog.showModal();
}
