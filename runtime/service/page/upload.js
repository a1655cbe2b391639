/** Sends rows' files to the service, some at a time, and waits when asked to. */

import { picturesOf } from './archive.js';
import { isAbort, NO_ANSWER, Refusal } from './service.js';

/**
 * @typedef {import('./rows.js').Row} Row
 * @typedef {import('./rows.js').Rows} Rows
 * @typedef {{file_bytes: number, request_files: number, request_bytes: number}} Limits
 * @typedef {{row: Row, file: File, isArchive: boolean}} Part
 */

const REQUESTS_AT_A_TIME = 3; // the browser opens six connections, and the page asks for other things as well
const FILES_A_REQUEST = 32; // answers come often enough to watch
const BYTES_A_REQUEST = 16 * 2 ** 20;
const HEAD_BYTES = 512; // of a part beside its file, on the safe side
const MOST_WAIT_S = 30;
const MOST_TRIES = 5; // for a service that does not answer
const TOO_MUCH = 413;
const SPLIT = [400, 408, TOO_MUCH, 415, 422]; // one file of several may be the cause
const OTHER_FILE = 'the service answered for another file'; // never to be shown as this one's
const UNPACK = 'unpack the archive and add its folder, which may be of any size';
const ARCHIVE_SIGNATURES = ['PK\x03\x04', 'PK\x05\x06'];

export class UploadQueue {
  /** @type {Row[]} */
  #waiting = [];
  #next = 0; // its first row that was not taken: removing from the front of a long list is slow
  #active = 0;
  #tries = 0;
  #resumeAt_ms = 0;
  #abort = new AbortController();

  /**
   * @param {import('./service.js').Service} service
   * @param {Rows} rows
   * @param {Limits} limits
   * @param {() => void} onChange called when rows were answered, and when `note` or `isStopped` changes
   */
  constructor(service, rows, limits, onChange) {
    this.service = service;
    this.rows = rows;
    this.limits = limits;
    this.onChange = onChange;
    this.isStopped = false;
    this.note = ''; // why nothing moves
  }

  /** Whether rows are being sent, or wait for it. */
  get isBusy() {
    return this.#active > 0 || this.left > 0;
  }

  /** How many rows were not sent yet. */
  get left() {
    return this.#waiting.length - this.#next;
  }

  /**
   * Send rows behind those that wait.
   * @param {Row[]} rows
   */
  add(rows) {
    for (const row of rows) this.#waiting.push(row);
    this.#sendMore();
  }

  /**
   * Send no more, and take back what is on the way.
   * @param {string} note
   */
  stop(note = '') {
    this.isStopped = true;
    this.note = note;
    this.#abort.abort();
    this.onChange();
  }

  /** Go on with what waits. */
  goOn() {
    this.isStopped = false;
    this.note = '';
    this.#tries = 0;
    this.#resumeAt_ms = 0;
    this.#abort = new AbortController();
    this.#sendMore();
    this.onChange();
  }

  /** Forget all rows. */
  clear() {
    this.stop();
    this.#waiting = [];
    this.#next = 0;
    this.goOn();
  }

  #sendMore() {
    while (!this.isStopped && this.#active < REQUESTS_AT_A_TIME && this.left) {
      this.#active += 1;
      this.#send(this.#take(), this.#abort.signal).finally(() => {
        this.#active -= 1;
        this.onChange();
        this.#sendMore();
      });
    }
  }

  /** Take rows for one request: one at least. */
  #take() {
    const most = Math.min(FILES_A_REQUEST, this.limits.request_files);
    const mostBytes = Math.min(BYTES_A_REQUEST, this.limits.request_bytes);
    const start = this.#next;
    let bytes = 0;
    while (this.left && this.#next - start < most) {
      bytes += (this.#waiting[this.#next].file?.size ?? 0) + HEAD_BYTES;
      if (bytes > mostBytes && this.#next > start) break;
      this.#next += 1;
    }
    const taken = this.#waiting.slice(start, this.#next);
    if (!this.left) {
      this.#waiting = [];
      this.#next = 0;
    }
    return taken;
  }

  /**
   * @param {Row[]} rows
   * @param {AbortSignal} signal
   */
  async #send(rows, signal) {
    const parts = (await Promise.all(rows.map((row) => this.#open(row)))).filter((part) => part !== null);
    const archives = parts.filter((part) => part.isArchive).map((part) => [part]);
    for (const some of [parts.filter((part) => !part.isArchive), ...archives]) {
      if (some.length) await this.#sendUntilAnswered(some, signal);
    }
  }

  /**
   * Look at a row's file; one that cannot be sent is answered here.
   * @param {Row} row
   * @returns {Promise<Part|null>}
   */
  async #open(row) {
    const { file } = row;
    if (!file) return null;
    let isArchive;
    try {
      isArchive = ARCHIVE_SIGNATURES.includes(await file.slice(0, 4).text());
    } catch {
      this.#fail(row, 'cannot be opened: it was moved or changed after it was added');
      return null;
    }
    const most = isArchive ? this.limits.request_bytes - HEAD_BYTES : this.limits.file_bytes;
    if (file.size <= most) return { row, file, isArchive };
    const advice = isArchive ? `; ${UNPACK}` : '';
    this.#fail(row, `expected at most ${inMegabytes(most)} MB, found ${inMegabytes(file.size)} MB${advice}`);
    return null;
  }

  /**
   * @param {Part[]} parts
   * @param {AbortSignal} signal
   */
  async #sendUntilAnswered(parts, signal) {
    for (;;) {
      await this.#rest(signal);
      if (signal.aborted) return this.#putBack(parts, signal);
      try {
        return await this.#classify(parts, signal);
      } catch (error) {
        if (isAbort(error)) return this.#putBack(parts, signal);
        if (!(error instanceof Refusal)) throw error;
        if (SPLIT.includes(error.status)) return this.#sendApart(parts, error, signal);
        if (!this.#mayTryAgain(error)) {
          this.#putBack(parts, signal);
          if (!signal.aborted) this.stop(`Stopped: ${error.message}`);
          return undefined;
        }
      }
    }
  }

  /**
   * @param {Part[]} parts
   * @param {AbortSignal} signal
   */
  async #classify(parts, signal) {
    const sent = parts.map(({ row, file }) => ({ name: sentName(row), file }));
    const { results: answers, appearances } = await this.service.classify(sent, signal);
    if (signal.aborted) throw new DOMException('stopped', 'AbortError');
    this.#tries = 0;
    this.rows.look(appearances); // before what may take a while, in which the rows may be removed
    if (parts[0].isArchive) {
      await this.#answerArchive(parts[0], sent[0].name, answers);
    } else {
      parts.forEach(({ row }, place) => this.#answer(row, sent[place].name, answers[place]));
    }
    if (!this.isStopped) this.note = '';
    this.onChange();
  }

  /**
   * @param {Part} part
   * @param {string} sentName
   * @param {import('./decision.js').Answer[]} answers
   */
  async #answerArchive({ row, file }, sentName, answers) {
    if (!answers.every(({ path }) => path.startsWith(`${sentName}/`))) return this.#fail(row, OTHER_FILE);
    const names = answers.map(({ path }) => path.slice(sentName.length + 1));
    const pictures = await picturesOf(file, names);
    return this.rows.answerArchive(row, answers.map((answer, place) => {
      // What the service could not read is not unpacked here either.
      const picture = answer.p_all === null ? null : pictures[place];
      const member = names[place].replaceAll('\\', '/'); // PowerShell 5 writes folders so
      return { path: `${row.path}/${member}`, answer, picture };
    }));
  }

  /**
   * @param {Row} row
   * @param {string} sentName
   * @param {import('./decision.js').Answer|undefined} answer
   */
  #answer(row, sentName, answer) {
    if (answer?.path === sentName) this.rows.answer(row, answer);
    else this.#fail(row, OTHER_FILE);
  }

  /**
   * Send each half alone, until the file that is refused stands alone.
   * @param {Part[]} parts
   * @param {Refusal} refusal
   * @param {AbortSignal} signal
   */
  async #sendApart(parts, refusal, signal) {
    if (parts.length === 1) {
      const [{ row, isArchive }] = parts;
      const message = refusal.message.replace(`'${sentName(row)}'`, () => `'${row.shownName.slice(0, 100)}'`);
      const advice = isArchive && refusal.status === TOO_MUCH ? `; ${UNPACK}` : '';
      this.#fail(row, `not taken: ${message}${advice}`);
      return;
    }
    const half = Math.ceil(parts.length / 2);
    await this.#sendUntilAnswered(parts.slice(0, half), signal);
    await this.#sendUntilAnswered(parts.slice(half), signal);
  }

  /**
   * Say whether to try again, and set when.
   * @param {Refusal} refusal
   */
  #mayTryAgain(refusal) {
    if (!refusal.isPassing) return false;
    this.#tries += 1;
    if (refusal.status === NO_ANSWER && this.#tries > MOST_TRIES) return false;
    const wait_s = Math.min(refusal.retryAfter_s * 2 ** Math.min(this.#tries - 1, 5), MOST_WAIT_S);
    // Not all at once: other pages were told the same.
    this.#resumeAt_ms = performance.now() + 1000 * wait_s * (1 + Math.random() / 4);
    this.note = `Waiting ${Math.ceil(wait_s)} s: ${refusal.message}`;
    this.onChange();
    return true;
  }

  /** @param {AbortSignal} signal */
  async #rest(signal) {
    for (;;) {
      const rest_ms = this.#resumeAt_ms - performance.now();
      if (rest_ms <= 0 || signal.aborted) return;
      await new Promise((resolve) => { setTimeout(resolve, Math.min(rest_ms, 250)); });
    }
  }

  /**
   * @param {Part[]} parts
   * @param {AbortSignal} signal
   */
  #putBack(parts, signal) {
    const known = new Set(this.rows.all); // after `clear` nothing is put back
    const rows = parts.map(({ row }) => row).filter((row) => !row.answer && known.has(row));
    this.#waiting = [...rows, ...this.#waiting.slice(this.#next)];
    this.#next = 0;
    if (signal !== this.#abort.signal) this.#sendMore();
  }

  /**
   * @param {Row} row
   * @param {string} reason
   */
  #fail(row, reason) {
    this.rows.answer(row, { path: row.path, label: '', p_all: null, status: 'error', reason, seconds: 0 });
    this.onChange();
  }
}

/**
 * Return the name under which a row's file is sent: its own stays in the browser.
 * @param {Row} row
 */
function sentName(row) {
  return `cell-${row.id}`;
}

/** @param {number} bytes */
function inMegabytes(bytes) {
  return Math.ceil(bytes / 2 ** 20);
}
