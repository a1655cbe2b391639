/** Small pictures of cells; only those near the window are decoded. */

import { element } from './dom.js';

const AHEAD = '300px';
const MOST_AT_ONCE = 2000; // a gigabyte of BMP files
const TIFF_SIGNATURES = ['II*\0', 'MM\0*'];

export class Pictures {
  /** @type {Map<Element, {open: () => Promise<Blob>, url: string, loaded: Promise<void>|null}>} */
  #pictures = new Map();
  #observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) this.#load(target);
    }
  }, { rootMargin: AHEAD });

  /** @param {import('./service.js').Service} service */
  constructor(service) {
    this.service = service;
  }

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
    const image = await imageOf(picture.open, this.service, '');
    if (!image) return; // the placeholder stays
    if (this.#pictures.get(place) !== picture) {
      URL.revokeObjectURL(image.src);
      return;
    }
    picture.url = image.src;
    place.replaceChildren(image);
  }
}

/**
 * Return a file as an image that is loaded, null where it cannot be shown. Whoever takes it revokes its `src`.
 * @param {() => Promise<Blob>} open
 * @param {import('./service.js').Service} service draws what most browsers do not show
 * @param {string} alt
 * @returns {Promise<HTMLImageElement|null>}
 */
export async function imageOf(open, service, alt) {
  try {
    const file = await open();
    const image = await loaded(file, alt);
    return image || !(await isTiff(file)) ? image : await loaded(await service.picture(file), alt);
  } catch {
    return null; // it was moved away, or the service does not read it either
  }
}

/** @param {Blob} file */
async function isTiff(file) {
  return TIFF_SIGNATURES.includes(await file.slice(0, 4).text());
}

/**
 * @param {Blob} file
 * @param {string} alt
 * @returns {Promise<HTMLImageElement|null>}
 */
function loaded(file, alt) {
  const image = element('img', { alt, decoding: 'async', src: URL.createObjectURL(file) });
  return new Promise((resolve) => {
    image.addEventListener('load', () => resolve(image));
    image.addEventListener('error', () => {
      URL.revokeObjectURL(image.src);
      resolve(null);
    });
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
