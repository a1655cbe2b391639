/** Small pictures of files; only those near the window are decoded. */

import { element } from './dom.js';

const AHEAD = '300px';

export class Pictures {
  /** @type {Map<Element, {file: Blob, url: string}>} */
  #pictures = new Map();
  #observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) this.#load(target);
    }
  }, { rootMargin: AHEAD });

  /**
   * Return a place for the picture of a file; it appears when it comes near the window.
   * @param {Blob|null} file
   * @param {string} name whose suffix stands there where the browser shows no picture
   * @returns {HTMLElement}
   */
  thumbnail(file, name) {
    const place = element('span', { className: 'thumbnail' }, placeholder(name));
    if (file) {
      this.#pictures.set(place, { file, url: '' });
      this.#observer.observe(place);
    }
    return place;
  }

  /**
   * Give back what a place holds.
   * @param {Element} place
   */
  release(place) {
    this.#observer.unobserve(place);
    const picture = this.#pictures.get(place);
    if (picture?.url) URL.revokeObjectURL(picture.url);
    this.#pictures.delete(place);
  }

  /** Load all that have a place, such as before printing. */
  loadAll() {
    for (const place of this.#pictures.keys()) this.#load(place);
  }

  /** @param {Element} place */
  #load(place) {
    this.#observer.unobserve(place);
    const picture = this.#pictures.get(place);
    if (!picture || picture.url) return;
    picture.url = URL.createObjectURL(picture.file);
    const image = element('img', { alt: '', decoding: 'async', src: picture.url });
    image.addEventListener('load', () => place.replaceChildren(image));
  }
}

/**
 * Return what stands where there is no picture.
 * @param {string} name
 * @returns {HTMLElement}
 */
export function placeholder(name) {
  const suffix = /\.([a-z0-9]{1,4})$/i.exec(name)?.[1] ?? '';
  return element('span', { className: 'placeholder' }, suffix.toUpperCase() || 'no picture');
}
