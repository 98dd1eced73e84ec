// Files that somebody dropped or chose, folders with all below them: [{ file, path }].

/** Entries of a drop; must be asked for while the event is handled. */
export function entriesOf(transfer) {
  return [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
}

const fileOf = (entry) => new Promise((done, failed) => { entry.file(done, failed); });
const some = (reader) => new Promise((done, failed) => { reader.readEntries(done, failed); });

/** Read what was dropped; what cannot be read is in `unread`. */
export async function filesOf(entries) {
  const files = [], unread = [];
  async function walk(entry, path) {
    try {
      if (entry instanceof File) files.push({ file: entry, path });
      else if (entry.isFile) files.push({ file: await fileOf(entry), path });
      else {
        const reader = entry.createReader();
        // A reader gives at most a hundred at a time, and none at the end.
        for (let part = await some(reader); part.length; part = await some(reader)) {
          for (const each of part) await walk(each, `${path}/${each.name}`);
        }
      }
    } catch {
      unread.push(path);
    }
  }
  for (const entry of entries) if (entry) await walk(entry, entry.name);
  return { files, unread };
}

/** Files of an input; with a folder's path where a folder was chosen. */
export const chosenOf = (input) => [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
