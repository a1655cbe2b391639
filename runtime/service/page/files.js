/** From what is dropped, chosen or pasted to files with their paths. */

/**
 * `file` is null where the browser could not open it; `reason` says why.
 * @typedef {{path: string, file: File|null, reason?: string}} Found
 */

// Files that lie beside images without being meant as one, as runtime/inputs.py names them. Everything else in a
// folder gets a row: a cell in a format that is not known must show up as an error.
const COMPANION_SUFFIXES = [
  '.csv', '.db', '.html', '.ini', '.json', '.jsonl', '.lock', '.md', '.parquet', '.partial', '.sqlite', '.map.png',
];
const OPENED_AT_A_TIME = 200; // opening takes the browser a tenth of a millisecond each
let pasted = 0;

/**
 * Say whether a file, by its path inside a folder, is hidden or of a kind that lies beside images.
 * @param {string} path
 * @returns {boolean}
 */
export function isCompanion(path) {
  const isHidden = path.split('/').some((name) => name.startsWith('.') && name !== '.');
  return isHidden || COMPANION_SUFFIXES.some((suffix) => path.toLowerCase().endsWith(suffix));
}

/**
 * Yield the files of a drop, folder by folder, in the order of their names. To be called while the drop is handled.
 * @param {DataTransfer} transfer
 * @returns {AsyncGenerator<Found[]>}
 */
export function filesOfDrop(transfer) {
  // Both lists are empty once the event is over.
  const entries = [...transfer.items].filter((item) => item.kind === 'file').map((item) => item.webkitGetAsEntry?.());
  const files = [...transfer.files];
  return entries.every(Boolean) ? filesOfEntries(/** @type {FileSystemEntry[]} */ (entries)) : listed(files);
}

/**
 * Return the files that an input names; those of a folder without what lies beside images.
 * @param {Iterable<File>} files
 * @returns {Found[]}
 */
export function filesOfInput(files) {
  return [...files]
    .map((file) => ({ path: file.webkitRelativePath || file.name, file }))
    .filter(({ path, file }) => !file.webkitRelativePath || !isCompanion(path.slice(path.indexOf('/') + 1)));
}

/**
 * Return the images of the clipboard, under names of their own: the browser names them all alike.
 * @param {DataTransfer|null} transfer
 * @returns {Found[]}
 */
export function filesOfPaste(transfer) {
  return [...(transfer?.files ?? [])].map((file) => {
    pasted += 1;
    return { path: file.name === 'image.png' ? `pasted-${pasted}.png` : file.name, file };
  });
}

/** @param {File[]} files */
async function* listed(files) {
  yield files.map((file) => ({ path: file.name, file }));
}

/**
 * @param {FileSystemEntry[]} entries
 * @returns {AsyncGenerator<Found[]>}
 */
async function* filesOfEntries(entries) {
  for (const entry of entries) {
    if (entry.isDirectory) yield* filesOfFolder(/** @type {FileSystemDirectoryEntry} */ (entry), '');
    else yield [await opened(/** @type {FileSystemFileEntry} */ (entry), entry.name)];
  }
}

/**
 * @param {FileSystemDirectoryEntry} folder
 * @param {string} inside the folder's path inside the one that was dropped
 * @returns {AsyncGenerator<Found[]>}
 */
async function* filesOfFolder(folder, inside) {
  const { found, reason } = await entriesOf(folder);
  if (reason) yield [{ path: folder.fullPath.replace(/^\//, ''), file: null, reason }];
  const entries = found.filter(({ name }) => !isCompanion(`${inside}${name}`));
  entries.sort((one, other) => (one.name < other.name ? -1 : 1));
  const files = /** @type {FileSystemFileEntry[]} */ (entries.filter((entry) => entry.isFile));
  for (let start = 0; start < files.length; start += OPENED_AT_A_TIME) {
    const some = files.slice(start, start + OPENED_AT_A_TIME);
    yield await Promise.all(some.map((entry) => opened(entry, entry.fullPath.replace(/^\//, ''))));
  }
  for (const entry of entries) {
    if (!entry.isDirectory) continue;
    yield* filesOfFolder(/** @type {FileSystemDirectoryEntry} */ (entry), `${inside}${entry.name}/`);
  }
}

/**
 * Return what a folder holds, and why that may not be all.
 * @param {FileSystemDirectoryEntry} folder
 * @returns {Promise<{found: FileSystemEntry[], reason: string}>}
 */
async function entriesOf(folder) {
  const reader = folder.createReader();
  /** @type {FileSystemEntry[]} */
  const found = [];
  try {
    for (;;) { // it gives a hundred at a time
      const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
      if (!some.length) return { found, reason: '' };
      found.push(...some);
    }
  } catch (error) {
    return { found, reason: `the folder cannot be read: ${/** @type {Error} */ (error).message}` };
  }
}

/**
 * @param {FileSystemFileEntry} entry
 * @param {string} path
 * @returns {Promise<Found>}
 */
function opened(entry, path) {
  return new Promise((resolve) => {
    entry.file(
      (file) => resolve({ path, file }),
      (error) => resolve({ path, file: null, reason: `cannot be opened: ${error.message}` }),
    );
  });
}
