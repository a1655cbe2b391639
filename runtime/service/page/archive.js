/** Finds the members of a zip archive where they lie in its file, and unpacks one when it is looked at. */

/** @typedef {{name: string, method: number, packed: number, unpacked: number, head: number}} Entry sizes and place in bytes */

const END = 0x06054b50; // signatures of the records, as ZIP's APPNOTE.TXT gives them
const ENTRY = 0x02014b50;
const END_BYTES = 22;
const ENTRY_BYTES = 46;
const HEAD_BYTES = 30; // of a member, before its name
const MOST_COMMENT_BYTES = 65_535;
const MOST_DIRECTORY_BYTES = 4 * 2 ** 20; // a thousand members take some 100 kB
const STORED = 0;
const MOST_UNPACKED_BYTES = 16 * 2 ** 20; // a hundred are shown at a time; a C-NMC cell has 0.6 MB

/**
 * Return what unpacks each of the named members, in their order; null where the archive is not understood.
 * @param {File} archive
 * @param {string[]} names as the service reports them: in the archive's order, and not all of them
 * @returns {Promise<((() => Promise<Blob>)|null)[]>}
 */
export async function picturesOf(archive, names) {
  const entries = await entriesOf(archive).catch(() => []); // the file may have been moved since
  let next = 0;
  return names.map((name) => {
    const sought = comparable(name);
    const place = entries.findIndex((entry, at) => at >= next && entry.name === sought);
    if (place < 0) return null;
    next = place + 1;
    return () => unpacked(archive, entries[place]);
  });
}

/**
 * @param {File} archive
 * @returns {Promise<Entry[]>}
 */
async function entriesOf(archive) {
  const tail = await viewOf(archive.slice(-END_BYTES - MOST_COMMENT_BYTES));
  let at = tail.byteLength - END_BYTES;
  while (at >= 0 && tail.getUint32(at, true) !== END) at -= 1;
  const size = tail.getUint32(at + 12, true);
  const end = archive.size - tail.byteLength + at;
  const start = tail.getUint32(at + 16, true);
  // Behind something else, such as another archive, places are counted from there, and would lead to other members.
  if (start + size !== end || size > MOST_DIRECTORY_BYTES) return [];
  return entriesIn(await viewOf(archive.slice(start, end)));
}

/**
 * @param {DataView<ArrayBuffer>} directory
 * @returns {Entry[]}
 */
function entriesIn(directory) {
  const entries = [];
  for (let at = 0; at < directory.byteLength && directory.getUint32(at, true) === ENTRY;) {
    const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((place) => directory.getUint16(at + place, true));
    const [packed, whole, head] = [20, 24, 42].map((place) => directory.getUint32(at + place, true));
    const name = comparable(new TextDecoder('latin1').decode(new Uint8Array(directory.buffer, at + ENTRY_BYTES, nameBytes)));
    entries.push({ name, method: directory.getUint16(at + 10, true), packed, unpacked: whole, head });
    at += ENTRY_BYTES + nameBytes + extraBytes + commentBytes;
  }
  return entries;
}

/**
 * Return a name in which runs of characters beyond ASCII are alike: archives do not always say how these are written.
 * Only their order tells such names apart.
 * @param {string} name
 */
function comparable(name) {
  return name.replace(/[^\0-\x7f]+/g, '\u{fffd}');
}

/**
 * @param {File} archive
 * @param {Entry} entry
 * @returns {Promise<Blob>}
 */
async function unpacked(archive, { method, packed, unpacked: whole, head }) {
  if (whole > MOST_UNPACKED_BYTES) throw new Error('the page does not unpack what is so large');
  const view = await viewOf(archive.slice(head, head + HEAD_BYTES));
  const start = head + HEAD_BYTES + view.getUint16(26, true) + view.getUint16(28, true);
  const data = archive.slice(start, start + packed);
  if (method === STORED) return data;
  const reader = data.stream().pipeThrough(new DecompressionStream('deflate-raw')).getReader();
  const parts = [];
  for (let left = whole; ;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts);
    left -= value.length;
    if (left < 0) throw new Error('the member is larger than its archive says');
    parts.push(value);
  }
}

/** @param {Blob} blob */
async function viewOf(blob) {
  return new DataView(await blob.arrayBuffer());
}
