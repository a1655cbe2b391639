/** Brings the parts of the page together. */

import { offerCamera } from './camera.js';
import { offerCard } from './card.js';
import { countsOf, showCounts } from './counts.js';
import { resultsCsv, saveCsv } from './csv.js';
import { answererText } from './decision.js';
import { CellDialog } from './detail.js';
import { atMostEvery, byId, onceAFrame, pause, setText } from './dom.js';
import { filesOfDrop, filesOfInput, filesOfPaste } from './files.js';
import { groupsCsv, groupsOf } from './groups.js';
import { Rows } from './rows.js';
import { Refusal, Service } from './service.js';
import { shiftWarning } from './shift.js';
import { showSubjects } from './subjects.js';
import { CellTable } from './table.js';
import { offerTabs } from './tabs.js';
import { shownThreshold, ThresholdControl } from './threshold.js';
import { askToken } from './token.js';
import { UploadQueue } from './upload.js';
import { Microscope } from './watch.js';

/** @typedef {import('./files.js').Found} Found */

const DRAW_EVERY_MS = 200;
const FILES_A_PAUSE = 500; // added before the browser may draw
const TELL_EVERY_MS = 1500; // what a screen reader is told while cells come in

class Page {
  #service = new Service(askToken);
  /** @type {import('./rows.js').Order} */
  #order = { key: 'id', isDescending: false };
  #showsSubjects = false;
  #isSaved = true; // whether the CSV has all that was added
  /** @type {(name: string) => void} */
  #showTab = () => {}; // without a microscope to follow there are no tabs
  #toldAt_ms = 0;
  #removals = 0; // of all rows: what was still being added is then not wanted any more

  async start() {
    offerCard(this.#service);
    const about = await this.#askUntilReady();
    if (!about) return;
    showOrigin(about);
    this.#build(about);
    this.#listen();
    byId('images').hidden = false; // its buttons would have done nothing before
    if (about.watch) this.#offerMicroscope(about);
    await offerCamera((found) => this.#add(found));
  }

  /** Ask what answers, until the model is loaded. */
  async #askUntilReady() {
    for (;;) {
      try {
        return await this.#service.about();
      } catch (error) {
        const refusal = /** @type {Refusal} */ (error);
        setText(byId('origin'), refusal.message);
        if (!refusal.isPassing) return offerToAskAgain();
        await new Promise((resolve) => { setTimeout(resolve, 1000 * refusal.retryAfter_s); });
      }
    }
  }

  /** @param {any} about */
  #build(about) {
    const rule = { threshold: about.threshold, bundleThreshold: about.bundle_threshold, bundleBand: about.bundle_review_band };
    this.rows = new Rows(rule);
    this.shiftRule = about.shift;
    this.drawSoon = atMostEvery(DRAW_EVERY_MS, () => this.#draw());
    this.drawNow = onceAFrame(() => this.#draw());
    this.queue = new UploadQueue(this.#service, this.rows, about.limits, this.drawSoon);
    this.table = new CellTable(this.#service, (row) => this.detail.open(row, this.#chosen()), (key) => this.#sortBy(key));
    this.detail = new CellDialog(this.#service, about, () => this.rows.threshold, (row) => this.table.focus(row));
    this.threshold = new ThresholdControl(about, (threshold) => {
      this.rows.moveThreshold(threshold);
      this.drawNow();
    });
  }

  #listen() {
    this.#listenToFiles();
    this.#listenToDrops();
    onClick('stop', () => this.queue.stop('Stopped.'));
    onClick('go-on', () => this.queue.goOn());
    onClick('clear', () => this.#clear());
    onClick('download', () => this.#download());
    onClick('print', () => this.#print());
    onClick('view-cells', () => this.#view(false));
    onClick('view-subjects', () => this.#view(true));
    onClick('sort-direction', () => this.#sortBy(this.#order.key));
    byId('sort-key').addEventListener('change', () => this.#sortBy(byId('sort-key').value, false));
    for (const id of ['filter-text', 'filter-label', 'filter-status']) byId(id).addEventListener('input', this.drawNow);
    document.addEventListener('keydown', (event) => {
      if (!isPrintKey(event)) return;
      event.preventDefault();
      this.#print();
    });
    window.addEventListener('beforeunload', (event) => {
      if (!this.#isSaved) event.preventDefault(); // the browser asks whether to leave
    });
  }

  #listenToFiles() {
    for (const name of ['files', 'folder']) {
      const input = byId(name);
      onClick(`choose-${name}`, () => input.click());
      input.addEventListener('change', () => {
        this.#add(filesOfInput(input.files));
        input.value = ''; // the same file may be chosen again
      });
    }
    document.addEventListener('paste', (event) => {
      const found = filesOfPaste(event.clipboardData);
      if (found.length) this.#showTab('images');
      this.#add(found);
    });
  }

  #listenToDrops() {
    let inside = 0; // how many nested elements the mouse has entered and not left
    /** @param {number} count */
    const mark = (count) => {
      inside = Math.max(count, 0);
      byId('drop').classList.toggle('over', inside > 0);
    };
    document.addEventListener('dragenter', () => mark(inside + 1));
    document.addEventListener('dragleave', () => mark(inside - 1));
    document.addEventListener('dragover', (event) => event.preventDefault());
    document.addEventListener('drop', async (event) => {
      event.preventDefault(); // else the browser leaves the page for the file
      mark(0);
      if (!event.dataTransfer) return;
      if (event.dataTransfer.files.length) this.#showTab('images');
      const removals = this.#removals;
      for await (const found of filesOfDrop(event.dataTransfer)) {
        if (removals !== this.#removals) break;
        await this.#add(found);
      }
    });
  }

  /** @param {Found[]} found */
  async #add(found) {
    const removals = this.#removals;
    for (let start = 0; start < found.length && removals === this.#removals; start += FILES_A_PAUSE) {
      this.#addSome(found.slice(start, start + FILES_A_PAUSE));
      await pause();
    }
  }

  /** @param {Found[]} found */
  #addSome(found) {
    const rows = this.rows.add(found);
    if (rows.length) this.#isSaved = false;
    rows.forEach((row, place) => {
      if (row.file) return;
      const reason = found[place].reason ?? 'cannot be opened';
      this.rows.answer(row, { path: row.path, label: '', p_all: null, status: 'error', reason, seconds: 0 });
    });
    this.queue.add(rows.filter((row) => row.file));
    if (rows.length) this.drawNow();
  }

  #clear() {
    this.#removals += 1;
    this.#isSaved = true;
    this.rows.clear();
    this.queue.clear();
    this.#draw();
    byId('choose-files').focus();
  }

  /** @param {any} about */
  #offerMicroscope(about) {
    const microscope = new Microscope(this.#service, Boolean(about.explain));
    this.#showTab = offerTabs(['images', 'microscope'], (name) => (name === 'microscope' ? microscope.open() : microscope.close()));
  }

  /**
   * Sort by a column; the same column again turns the order round.
   * @param {string} key
   * @param {boolean} [isDescending]
   */
  #sortBy(key, isDescending = key === this.#order.key ? !this.#order.isDescending : key === 'p_all') {
    this.#order = { key, isDescending };
    byId('sort-key').value = key;
    byId('sort-direction').setAttribute('aria-pressed', String(isDescending));
    this.drawNow();
  }

  /** @param {boolean} showsSubjects */
  #view(showsSubjects) {
    this.#showsSubjects = showsSubjects;
    byId('view-cells').setAttribute('aria-pressed', String(!showsSubjects));
    byId('view-subjects').setAttribute('aria-pressed', String(showsSubjects));
    byId('cells-view').hidden = showsSubjects;
    byId('subjects-view').hidden = !showsSubjects;
    byId('filters').hidden = showsSubjects; // the share among those that are labelled ALL would be 100 %
    this.drawNow();
  }

  #chosen() {
    const [text, label, status] = ['text', 'label', 'status'].map((name) => byId(`filter-${name}`).value);
    return this.rows.chosen({ text, label, status }, this.#order);
  }

  #draw() {
    const { all, threshold } = this.rows;
    const counts = countsOf(all);
    byId('answers').hidden = !all.length;
    byId('drop').classList.toggle('small', all.length > 0);
    showCounts(byId('counts'), counts);
    this.#drawShift();
    this.threshold.show(threshold, counts);
    this.#drawProgress(counts.waiting ?? 0);
    if (this.#showsSubjects) this.#drawSubjects();
    else this.#drawCells();
    this.detail.refresh();
  }

  #drawCells() {
    const chosen = this.#chosen();
    setText(byId('shown'), shownText(chosen.length, this.rows.all.length));
    this.table.show(chosen, this.rows.threshold, this.#order);
  }

  #drawSubjects() {
    const { all } = this.rows;
    setText(byId('shown'), `${answeredOf(all).toLocaleString('en')} counted, whatever is filtered.`);
    showSubjects(all);
  }

  /** Warn of what sets the cells apart as a whole: once while they come in, not with each new mean, and again at the end. */
  #drawShift() {
    const warning = shiftWarning(this.rows.appearances, this.shiftRule);
    const place = byId('shift');
    const isComing = this.queue.isBusy && !this.queue.isStopped;
    if (isComing && Boolean(warning) === Boolean(place.textContent)) return;
    setText(place, warning);
  }

  /** @param {number} waiting */
  #drawProgress(waiting) {
    const total = this.rows.all.length;
    const { queue } = this;
    byId('progress').hidden = !total;
    byId('progress').classList.toggle('busy', queue.isBusy);
    byId('progress-bar').max = Math.max(total, 1);
    byId('progress-bar').value = total - waiting;
    byId('stop').hidden = queue.isStopped || !queue.isBusy;
    byId('go-on').hidden = !queue.isStopped || !queue.left;
    const text = `${(total - waiting).toLocaleString('en')} of ${total.toLocaleString('en')} answered.`;
    setText(byId('progress-text'), text);
    this.#tellProgress(text);
    setText(byId('progress-note'), queue.note);
  }

  /** @param {string} text */
  #tellProgress(text) {
    const isBusy = this.queue.isBusy && !this.queue.isStopped;
    const wait_ms = this.#toldAt_ms + TELL_EVERY_MS - performance.now();
    if (isBusy && wait_ms > 0) {
      setTimeout(this.drawSoon, wait_ms);
      return;
    }
    this.#toldAt_ms = performance.now();
    setText(byId('progress-told'), text);
  }

  async #print() {
    setText(byId('print'), 'Loading pictures …');
    await this.table.prepareForPaper();
    setText(byId('print'), 'Print');
    window.print();
  }

  #download() {
    const { all, threshold } = this.rows;
    const name = `allnet-threshold-${shownThreshold(threshold)}`;
    if (this.#showsSubjects) saveCsv(`${name}.subjects.csv`, groupsCsv(groupsOf(all)));
    else {
      saveCsv(`${name}${partOf(all)}.csv`, resultsCsv(all));
      this.#isSaved = !this.queue.isBusy;
    }
  }
}

/**
 * @param {string} id
 * @param {() => void} act
 */
function onClick(id, act) {
  byId(id).addEventListener('click', act);
}

/**
 * Say in a file's name how many rows it lacks: a table of all cells without those that wait would look whole.
 * @param {import('./rows.js').Row[]} rows
 */
function partOf(rows) {
  const answered = answeredOf(rows);
  return answered < rows.length ? `.${answered}-of-${rows.length}` : '';
}

/** @param {import('./rows.js').Row[]} rows */
function answeredOf(rows) {
  return rows.filter((row) => row.answer).length;
}

/** @param {KeyboardEvent} event */
function isPrintKey({ ctrlKey, metaKey, shiftKey, altKey, key }) {
  return (ctrlKey || metaKey) && !shiftKey && !altKey && key.toLowerCase() === 'p';
}

/** Say how to continue where the service refuses to say what answers. */
function offerToAskAgain() {
  byId('origin').classList.add('away');
  byId('ask-again').hidden = false;
  onClick('ask-again', () => location.reload());
  return null;
}

/** @param {any} about */
function showOrigin(about) {
  setText(byId('origin'), `This service answers with ${answererText(about)}.`);
}

/**
 * @param {number} shown
 * @param {number} total
 */
function shownText(shown, total) {
  if (shown === total) return `All ${total.toLocaleString('en')} shown.`;
  return `${shown.toLocaleString('en')} of ${total.toLocaleString('en')} shown; the CSV has all.`;
}

new Page().start();
