/** Small pictures of cells; only those near the window are decoded. */

import { element } from './dom.js';

const AHEAD = '300px';
const MOST_AT_ONCE = 2000; // a gigabyte of BMP files

export class Pictures {
  /** @type {Map<Element, {open: () => Promise<Blob>, url: string, loaded: Promise<void>|null}>} */
  #pictures = new Map();
  #observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) this.#load(target);
    }
  }, { rootMargin: AHEAD });

  /**
   * Return a place for a picture; it appears when it comes near the window.
   * @param {(() => Promise<Blob>)|null} open
   * @param {string} name whose suffix stands there where the browser shows no picture
   * @returns {HTMLElement}
   */
  thumbnail(open, name) {
    const place = element('span', { className: 'thumbnail' }, placeholder(name));
    if (open) {
      this.#pictures.set(place, { open, url: '', loaded: null });
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

  /** Load what has a place, as much as a browser holds, and wait until each stands there or cannot be shown. */
  async loadAll() {
    const places = [...this.#pictures.keys()].slice(0, MOST_AT_ONCE);
    await Promise.all(places.map((place) => this.#load(place)));
  }

  /** @param {Element} place */
  #load(place) {
    this.#observer.unobserve(place);
    const picture = this.#pictures.get(place);
    if (picture) picture.loaded ??= this.#show(place, picture);
    return picture?.loaded;
  }

  /**
   * @param {Element} place
   * @param {{open: () => Promise<Blob>, url: string}} picture
   */
  async #show(place, picture) {
    const blob = await picture.open().catch(() => null); // else the placeholder stays
    if (!blob || !this.#pictures.has(place)) return;
    picture.url = URL.createObjectURL(blob);
    await loaded(place, picture.url);
  }
}

/**
 * Put a picture into its place, and return when it is there or cannot be shown.
 * @param {Element} place
 * @param {string} url
 * @returns {Promise<void>}
 */
function loaded(place, url) {
  const image = element('img', { alt: '', decoding: 'async' });
  return new Promise((resolve) => {
    image.addEventListener('error', () => resolve());
    image.addEventListener('load', () => {
      place.replaceChildren(image);
      resolve();
    });
    image.src = url;
  });
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
