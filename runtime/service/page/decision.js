/** Which label and status a cell has at a threshold: the rules of runtime/classifier.py. */

/**
 * A row of the results table, as the service answers it.
 * @typedef {{path: string, label: string, p_all: number|null, status: string, reason: string, seconds: number}} Answer
 *
 * How the service decides: its threshold, and the bundle's with the band round it in which a person should look.
 * @typedef {{threshold: number, bundleThreshold: number, bundleBand: [number, number]}} Rule
 *
 * @typedef {{label: string, status: string, reason: string}} Decision
 *
 * @typedef {{threshold: number, sensitivity: number, specificity: number}} OperatingPoint
 */

const HASH_DIGITS = 12;
const NEAR = /(?:^|; )near the threshold: p_all is between \d\.\d+ and \d\.\d+$/;

/**
 * Return what answers, as people are told.
 * @param {{model?: string, precision: string, backend: string, bundle: string, version: string}} answerer
 * @returns {string}
 */
export function answererText({ model = '', precision, backend, bundle, version }) {
  return `${model} ${precision} on ${backend}; bundle ${bundle.slice(0, HASH_DIGITS)}, version ${version}`.trim();
}

/**
 * Return the label, status and reason of an answer at a threshold; at the service's own, what the service said.
 * @param {Answer} answer
 * @param {number} threshold
 * @param {Rule} rule
 * @returns {Decision}
 */
export function decide(answer, threshold, rule) {
  const { label, p_all, status, reason } = answer;
  if (p_all === null || threshold === rule.threshold) return { label, status, reason };
  const concern = [reason.replace(NEAR, ''), nearThreshold(p_all, threshold, rule)].filter(Boolean).join('; ');
  return { label: p_all >= threshold ? 'ALL' : 'healthy', status: concern ? 'review' : 'ok', reason: concern };
}

/**
 * Return from where to where p_all is near a threshold: the bundle's band, moved along with it in log-odds.
 * @param {number} threshold
 * @param {Rule} rule
 * @returns {[number, number]}
 */
export function reviewBand(threshold, rule) {
  const [low, high] = rule.bundleBand;
  if (threshold === rule.bundleThreshold) return [low, high];
  return [moved(low, rule.bundleThreshold, threshold), moved(high, rule.bundleThreshold, threshold)];
}

/**
 * Return p_all with its log-odds moved as far as those of `end` lie from those of `start`.
 * @param {number} p_all
 * @param {number} start
 * @param {number} end
 */
function moved(p_all, start, end) {
  const leukemic = p_all * (1 - start) * end;
  const healthy = (1 - p_all) * start * (1 - end);
  return leukemic + healthy ? leukemic / (leukemic + healthy) : end;
}

/**
 * @param {number} p_all
 * @param {number} threshold
 * @param {Rule} rule
 */
function nearThreshold(p_all, threshold, rule) {
  const [low, high] = reviewBand(threshold, rule);
  const isNear = low <= p_all && p_all <= high;
  return isNear ? `near the threshold: p_all is between ${low.toFixed(3)} and ${high.toFixed(3)}` : '';
}

/**
 * Return the measured point nearest to a threshold, null where nothing was measured.
 * @param {OperatingPoint[]} curve
 * @param {number} threshold
 * @returns {OperatingPoint|null}
 */
export function operatingPoint(curve, threshold) {
  /** @param {OperatingPoint} point */
  const distance = (point) => Math.abs(point.threshold - threshold);
  return curve.reduce((best, point) => (!best || distance(point) < distance(best) ? point : best), /** @type {any} */ (null));
}
