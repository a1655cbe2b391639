/** Asks the service, with the token where it wants one. */

/**
 * @typedef {import('./decision.js').Answer} Answer
 * @typedef {{p_all: number, rows: number, columns: number, heat: number[][], method: string}} Explanation
 */

const TOKEN_KEY = 'allnet-edge-token';
export const NO_ANSWER = 0; // in the place of a status code
export const UNAUTHORIZED = 401;
const NEWS_MS = 10_000; // a connection that was cut without a word would be waited for for ever
const PASSING = [NO_ANSWER, 429, 502, 503, 504];

/** The service answered no, or not at all; the message is a line for people. */
export class Refusal extends Error {
  /**
   * @param {number} status the status code, NO_ANSWER for none
   * @param {string} detail
   * @param {number} retryAfter_s
   */
  constructor(status, detail, retryAfter_s = 1) {
    super(detail);
    this.status = status;
    this.retryAfter_s = retryAfter_s;
  }

  /** Whether the same question may be answered soon. */
  get isPassing() {
    return PASSING.includes(this.status);
  }
}

export class Service {
  #token = sessionStorage.getItem(TOKEN_KEY) ?? '';
  /** @type {Promise<void>|null} */
  #asking = null;
  #askToken;
  #identity = ''; // of the model and threshold that the page shows

  /** @param {(refusal: string) => Promise<string|null>} askToken asks the user; null: none is given */
  constructor(askToken) {
    this.#askToken = askToken;
  }

  /** Say what answers. */
  async about() {
    const about = await this.#json('about');
    this.#identity = about.identity;
    return about;
  }

  /** Return the model's card as text. */
  async modelCard() {
    return (await this.#request('model-card')).text();
  }

  /**
   * Classify files, which are sent under other names.
   * @param {{name: string, file: Blob}[]} files
   * @param {AbortSignal} signal
   * @returns {Promise<{results: Answer[], appearances: import('./shift.js').Appearances}>}
   */
  async classify(files, signal) {
    return this.#json('classify', { ...this.#post(files), signal });
  }

  /**
   * Return the heat map of one image.
   * @param {Blob} file
   * @returns {Promise<Explanation>}
   */
  async explain(file) {
    return this.#json('explain', this.#post([{ name: 'cell', file }]));
  }

  /**
   * Return an image in a format that every browser shows.
   * @param {Blob} file
   */
  async picture(file) {
    return (await this.#request('picture', this.#post([{ name: 'cell', file }]))).blob();
  }

  /**
   * Return a request with files, which is refused where another model or threshold would answer than the page shows.
   * @param {{name: string, file: Blob}[]} files
   */
  #post(files) {
    const body = new FormData();
    for (const { name, file } of files) body.append('files', file, name);
    return { method: 'POST', body, headers: { 'If-Match': `"${this.#identity}"` } };
  }

  /**
   * Return the watched folder's newest rows after the row `after`.
   * @param {number} after
   * @param {number} limit
   */
  async watchRows(after, limit) {
    return this.#json(`watch/rows?after=${after}&limit=${limit}`, { signal: AbortSignal.timeout(NEWS_MS) });
  }

  /**
   * Return the picture of a watched folder's row.
   * @param {number} id
   * @returns {Promise<Blob>}
   */
  async watchPicture(id) {
    return (await this.#request(`watch/pictures/${id}`)).blob();
  }

  /**
   * Return the heat map of a watched folder's row.
   * @param {number} id
   * @returns {Promise<Explanation>}
   */
  async watchExplanation(id) {
    return this.#json(`watch/explanations/${id}`);
  }

  /**
   * @param {string} path
   * @param {RequestInit} [options]
   */
  async #json(path, options) {
    const response = await this.#request(path, options);
    try {
      return await response.json();
    } catch (error) {
      if (isAbort(error)) throw error;
      throw new Refusal(NO_ANSWER, 'the answer was cut off');
    }
  }

  /**
   * @param {string} path relative, so that the page works below another address as well
   * @param {RequestInit} [options]
   */
  async #request(path, options = {}) {
    for (;;) {
      const token = this.#token;
      const response = await fetched(path, {
        ...options,
        headers: { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) },
      });
      if (response.ok) return response;
      const refusal = await refusalOf(response);
      if (refusal.status !== UNAUTHORIZED) throw refusal;
      // Several requests meet the same refusal: one question is enough.
      if (token === this.#token) await (this.#asking ??= this.#renewToken(refusal));
    }
  }

  /** @param {Refusal} refusal */
  async #renewToken(refusal) {
    try {
      const given = await this.#askToken(this.#token ? 'The service does not accept this token.' : '');
      if (!given) throw refusal;
      this.#token = given;
      sessionStorage.setItem(TOKEN_KEY, given);
    } finally {
      this.#asking = null;
    }
  }
}

/** @param {unknown} error */
export function isAbort(error) {
  return error instanceof DOMException && error.name === 'AbortError';
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function fetched(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Refusal(NO_ANSWER, 'the service does not answer; check that it is running');
  }
}

/** @param {Response} response */
async function refusalOf(response) {
  const text = await response.text().catch(() => '');
  return new Refusal(response.status, detailOf(text) || `status ${response.status}`, retryAfter_s(response));
}

/** @param {string} text */
function detailOf(text) {
  try {
    const { detail } = JSON.parse(text);
    return typeof detail === 'string' ? detail : '';
  } catch {
    return ''; // a server between here and the service answers in its own way
  }
}

/** @param {Response} response */
function retryAfter_s(response) {
  const seconds = Number(response.headers.get('Retry-After'));
  return seconds > 0 ? Math.min(seconds, 60) : 1;
}
