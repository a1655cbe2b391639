/** Tells when many cells, taken together, look unlike those that the model was fitted on: the rule of runtime/shift.py. */

/**
 * How cells look: sums over them, of each measure.
 * @typedef {{cells: number, sums: Record<string, number>}} Appearances
 *
 * @typedef {{measure: string, low: number, high: number, is_share: boolean, text: string}} ExpectedMean
 * @typedef {{fewest_cells: number, means: ExpectedMean[], text: string}} ShiftRule as the service hands it over
 */

/**
 * Return how two lots of cells look together.
 * @param {Appearances} one
 * @param {Appearances} other
 * @returns {Appearances}
 */
export function merged(one, other) {
  const sums = { ...one.sums };
  for (const [measure, sum] of Object.entries(other.sums)) sums[measure] = (sums[measure] ?? 0) + sum;
  return { cells: one.cells + other.cells, sums };
}

/**
 * Return what sets cells apart as a whole, empty where nothing does.
 * @param {Appearances} found
 * @param {ShiftRule|null} rule null: the bundle has nothing to compare with
 * @returns {string}
 */
export function shiftWarning({ cells, sums }, rule) {
  if (!rule || cells < rule.fewest_cells) return '';
  const unusual = rule.means.flatMap(({ measure, low, high, is_share, text }) => {
    const mean = sums[measure] / cells;
    return low <= mean && mean <= high ? [] : [text.replace('{mean}', is_share ? `${(100 * mean).toFixed(2)}%` : mean.toFixed(1))];
  });
  return unusual.length ? rule.text.replace('{cells}', String(cells)).replace('{unusual}', unusual.join('; ')) : '';
}
