// Counts SHA-256 of files beside the page, one after the other, as they are read.
import { createSHA256 } from "../lib/sha256.js";

let last = Promise.resolve();

async function count({ id, file }) {
  try {
    const hash = await createSHA256();
    hash.init();
    const reader = file.stream().getReader();
    for (let got = await reader.read(); !got.done; got = await reader.read()) hash.update(got.value);
    postMessage({ id, sha256: hash.digest("hex") });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
}

addEventListener("message", ({ data }) => { last = last.then(() => count(data)); });
