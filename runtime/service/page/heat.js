/** Draws what speaks for which answer over a cell's picture. */

import { element } from './dom.js';

/** @typedef {import('./service.js').Explanation} Explanation */

// Orange and blue: told apart with every kind of color blindness, and not among the colors of a stained cell.
const LEUKEMIC = [255, 140, 0];
const HEALTHY = [0, 140, 255];
const MOST_OPAQUE = 0.65;
const SIDE = 480; // pixels of the layer

/**
 * Lay a heat map over the picture in a square place.
 * @param {HTMLElement} place
 * @param {Explanation} explanation
 * @returns {string} how to read it
 */
export function drawHeat(place, explanation) {
  const layer = heatLayer(explanation);
  layer.setAttribute('role', 'img');
  layer.setAttribute('aria-label', 'Heat map over the cell');
  removeHeat(place);
  place.append(layer);
  return `By ${explanation.method}. The strongest place of each cell has the full color; it shows what moved the model, not what is ill.`;
}

/**
 * Take the heat map away.
 * @param {HTMLElement} place
 */
export function removeHeat(place) {
  place.querySelector('canvas')?.remove();
}

/**
 * Return a half-transparent layer in the frame of the whole square picture.
 * @param {Explanation} explanation
 * @returns {HTMLCanvasElement}
 */
function heatLayer(explanation) {
  const { rows, columns } = explanation;
  const small = element('canvas', { width: columns, height: rows });
  small.getContext('2d').putImageData(new ImageData(heatPixels(explanation), columns, rows), 0, 0);
  const layer = element('canvas', { width: SIDE, height: SIDE });
  const drawn = layer.getContext('2d');
  drawn.imageSmoothingQuality = 'high';
  drawn.drawImage(small, 0, 0, SIDE, SIDE);
  return layer;
}

/**
 * Return RGBA pixels; the strongest place is the most opaque one.
 * @param {Explanation} explanation
 * @returns {Uint8ClampedArray}
 */
function heatPixels({ rows, columns, heat }) {
  const values = heat.flat();
  if (heat.length !== rows || values.length !== rows * columns || !values.every(Number.isFinite)) {
    throw new Error(`expected a heat map of ${rows} x ${columns} numbers, found another shape`);
  }
  const strongest = Math.max(...values.map(Math.abs), Number.MIN_VALUE);
  return Uint8ClampedArray.from(values.flatMap((value) => {
    const [red, green, blue] = value > 0 ? LEUKEMIC : HEALTHY;
    return [red, green, blue, 255 * MOST_OPAQUE * (Math.abs(value) / strongest)];
  }));
}
