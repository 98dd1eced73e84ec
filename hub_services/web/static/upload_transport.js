// Uppy sends parts straight to storage; the platform begins and completes each file. What a file is
// at is told to `changed(entry)`; states: waiting, sending, paused, checking, done, same, failed.
import { call as callOnce } from "./api.js";

const BATCH = 40, TOGETHER = 6, SIGNED_AHEAD = 16, SIGNED_MS = 45 * 60 * 1000;
const RETRIES = [0, 1000, 3000, 5000, 10000, 20000];

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

/** Every call here may be made again: what was begun or completed already is told so. */
async function call(...asked) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await callOnce(...asked);
    } catch (error) {
      const busy = error.status === 0 || error.status === 429 || error.status >= 502;
      if (!busy || attempt >= 6) throw error;
      await pause(error.after ? error.after * 1000 : Math.min(1000 * 2 ** attempt, 20000));
    }
  }
}

/** Calls of one kind that come within a moment go together, at most `most` in one. */
function together(most, send) {
  let waiting = [], timer = 0;
  const go = () => {
    clearTimeout(timer);
    timer = 0;
    const now = waiting.splice(0, most);
    if (waiting.length) timer = setTimeout(go, 0);
    send(now.map((each) => each.what)).then(
      (answers) => now.forEach((each, i) => each.done(answers[i])),
      (error) => now.forEach((each) => each.failed(error)),
    );
  };
  return (what) => new Promise((done, failed) => {
    waiting.push({ what, done, failed });
    if (waiting.length >= most) go();
    else timer ||= setTimeout(go, 60);
  });
}

const problem = ({ message, hint, code }) => Object.assign(new Error(`${message} ${hint}`.trim()), { code });

/** Checksums, counted in a worker while parts are sent. */
function hasher() {
  const worker = new Worker(new URL("hash_worker.js", import.meta.url), { type: "module" });
  const asked = new Map();
  let next = 0;
  worker.onmessage = ({ data }) => {
    const { done, failed } = asked.get(data.id);
    asked.delete(data.id);
    if (data.error) failed(new Error(`The file cannot be read any more: ${data.error}`));
    else done(data.sha256);
  };
  worker.onerror = () => {
    for (const { failed } of asked.values()) failed(new Error("The checksum could not be counted."));
    asked.clear();
  };
  return (file) => new Promise((done, failed) => {
    next += 1;
    asked.set(next, { done, failed });
    worker.postMessage({ id: next, file });
  });
}

/** Raises when the uploader is not there: it comes from npm when the platform starts. */
export async function openTransport(dataset, changed) {
  const { Uppy, AwsS3 } = await import("../lib/uploader.js");
  const root = `datasets/${encodeURIComponent(dataset)}/uploads`, origin = location.origin;
  let held = false, heldBack = [];
  const sum = hasher(), entries = new Map(), sizes = new WeakMap(), cancelled = new Set();

  const set = (entry, state, more = {}) => { Object.assign(entry, { problem: "", ...more, state }); changed(entry); };
  const fail = (entry, error) => set(entry, "failed", { problem: error.message, stale: true });

  const wish = ({ path, file, replace }) => ({ path, size_bytes: file.size, modified_ms: file.lastModified, replace: Boolean(replace) });

  /** Take over what the platform says of a file. */
  function adopt(entry, begun) {
    Object.assign(entry, { upload: begun.upload, stale: false, signedAt: Date.now() });
    entry.done = new Map(begun.done.map((part) => [part.number, part]));
    entry.urls = new Map(begun.urls.map((part) => [part.number, part.url]));
    sizes.set(entry.file, begun.upload.part_bytes);
    entry.sum ??= sum(entry.file);
    entry.sum.catch(() => {});
  }

  async function renew(entry) {
    const { items: [begun] } = await call("POST", root, { files: [wish(entry)], origin });
    if (begun.problem) throw problem(begun.problem);
    if (begun.outcome === "there") { entry.replace = true; return renew(entry); }
    if (begun.outcome === "open") adopt(entry, begun);
    return begun;
  }

  async function sign(entry, number) {
    if (Date.now() - entry.signedAt > SIGNED_MS) { entry.urls.clear(); entry.signedAt = Date.now(); }
    if (!entry.urls.has(number)) {
      const missing = [];
      for (let n = number; n <= entry.upload.parts && missing.length < SIGNED_AHEAD; n += 1) if (!entry.done.has(n)) missing.push(n);
      const { items } = await call("POST", `${root}/${entry.upload.id}/parts`, { numbers: missing, origin });
      for (const part of items) entry.urls.set(part.number, part.url);
    }
    return entry.urls.get(number);
  }

  /** Whether an answer got lost: the file was completed, and the draft has it. */
  async function isThere(entry, sha256) {
    const { items: [begun] } = await call("POST", root, { files: [{ ...wish(entry), replace: false }], origin });
    return begun.outcome === "there" && begun.sha256 === sha256;
  }

  const complete = together(BATCH, async (uploads) => (await call("POST", `${root}/complete`, { uploads })).items);

  const uppy = new Uppy({ autoProceed: false, allowMultipleUploadBatches: true, logger: { debug() {}, warn() {}, error() {} } });
  const entryOf = (file) => entries.get(file.meta.path);

  uppy.use(AwsS3, {
    shouldUseMultipart: true,
    limit: TOGETHER,
    retryDelays: RETRIES,
    getChunkSize: (data) => sizes.get(data),
    async createMultipartUpload(file) {
      const entry = entryOf(file);
      if (entry.stale) await renew(entry);
      return { uploadId: entry.upload.id, key: entry.path };
    },
    async listParts(file) {
      const entry = entryOf(file);
      const { done } = await call("GET", `${root}/${entry.upload.id}`);
      entry.done = new Map(done.map((part) => [part.number, part]));
      return done.map((part) => ({ PartNumber: part.number, Size: part.size_bytes, ETag: part.etag }));
    },
    async signPart(file, { partNumber }) {
      const entry = entryOf(file), sent = entry.done.get(partNumber);
      return sent ? { url: "sent", sent } : { method: "PUT", url: await sign(entry, partNumber), headers: {} };
    },
    async uploadPartBytes(asked) {
      const { signature, size, onProgress, onComplete } = asked;
      if (!signature.sent) return AwsS3.uploadPartBytes(asked);
      onProgress({ loaded: size ?? asked.body.size, lengthComputable: true });
      onComplete(signature.sent.etag);
      return { ETag: signature.sent.etag };
    },
    async completeMultipartUpload(file) {
      const entry = entryOf(file);
      set(entry, "checking");
      const sha256 = await entry.sum;
      const answer = await complete({ id: entry.upload.id, sha256 });
      if (answer.problem && !(answer.problem.code === "not_found" && await isThere(entry, sha256))) throw problem(answer.problem);
      return {};
    },
    async abortMultipartUpload(file, { uploadId }) {
      // Uppy gives a file up after an error, too; here its parts wait for the next try.
      if (cancelled.has(file.meta.path)) await call("DELETE", `${root}/${uploadId}`);
    },
  });

  uppy.on("upload-progress", (file, { bytesUploaded }) => {
    const entry = file && entryOf(file);
    if (!entry || entry.state === "paused" || entry.state === "checking") return;
    set(entry, "sending", { sent: bytesUploaded });
  });
  uppy.on("upload-success", (file) => {
    const entry = entryOf(file);
    set(entry, "done", { sent: entry.file.size });
    uppy.removeFile(file.id);
  });
  uppy.on("upload-error", (file, error) => {
    const entry = entryOf(file);
    if (!entry) return;
    const status = error?.source?.status, lost = status === 0 || status >= 500;
    if (lost) fail(entry, new Error("Connection lost. Nothing that was sent is lost."));
    else fail(entry, status ? new Error(`The storage refused a part (${status}). Try again.`) : error);
    entry.lost = lost;
  });

  /** A file that the draft has by path and size: the same one, if the checksum says so. */
  async function compare(entry, sha256) {
    set(entry, "checking");
    entry.sum ??= sum(entry.file);
    if (sha256 && (await entry.sum) === sha256) return set(entry, "same", { sent: entry.file.size });
    entry.replace = true;
    return resend(entry);
  }

  const resend = together(BATCH, async (several) => { await start(several); return several; });

  function send(ready) {
    if (held) { heldBack.push(...ready); return; }
    if (!ready.length) return;
    for (const entry of ready) {
      entry.id = uppy.addFile({ name: entry.file.name, type: "application/octet-stream", data: entry.file, meta: { path: entry.path, relativePath: entry.path } });
    }
    uppy.upload().catch(() => {});
  }

  /** Nobody wants it any more: it was cancelled while it was begun. */
  function forget({ upload }) {
    if (upload) call("DELETE", `${root}/${upload.id}`).catch(() => {});
  }

  async function batch(part, total) {
    let items;
    try {
      ({ items } = await call("POST", root, { files: part.map(wish), total_bytes: total, origin }));
    } catch (error) {
      return error;
    }
    const ready = [];
    part.forEach((entry, i) => {
      const begun = items[i];
      if (entries.get(entry.path) !== entry) forget(begun);
      else if (begun.problem) fail(entry, problem(begun.problem));
      else if (begun.outcome === "stored") set(entry, "done", { sent: 0 });
      else if (begun.outcome === "there") compare(entry, begun.sha256).catch((error) => fail(entry, error));
      else { adopt(entry, begun); ready.push(entry); }
    });
    send(ready);
    return null;
  }

  async function start(fresh) {
    let total = fresh.reduce((all, entry) => all + entry.file.size, 0);
    for (let at = 0; at < fresh.length; at += BATCH) {
      const part = fresh.slice(at, at + BATCH);
      const refused = await batch(part, total);
      if (refused) {  // no room, no right, no answer: the rest would hear the same
        const rest = fresh.slice(at);
        for (const entry of rest) fail(entry, rest.length > 1 ? new Error("Not sent; the reason is above") : refused);
        return refused;
      }
      total -= part.reduce((all, entry) => all + entry.file.size, 0);
    }
    return null;
  }

  return {
    entries,
    /** Add files; one that is at work already is left alone. Gives why all were refused, if they were. */
    async add(files) {
      const fresh = [];
      for (const { file, path } of files) {
        const old = entries.get(path);
        if (old && !["done", "same", "failed", "cancelled"].includes(old.state)) continue;
        if (old?.id && uppy.getFile(old.id)) uppy.removeFile(old.id);
        const entry = { file, path, sent: 0, state: "waiting", problem: "" };
        entries.set(path, entry);
        changed(entry);
        fresh.push(entry);
      }
      return start(fresh);
    },
    pause(entry) {
      if (!["waiting", "sending"].includes(entry.state) || !uppy.getFile(entry.id) || uppy.getFile(entry.id).isPaused) return;
      uppy.pauseResume(entry.id);
      set(entry, "paused");
    },
    resume(entry) {
      if (!entry.id || !uppy.getFile(entry.id)?.isPaused) return;
      set(entry, "sending");
      uppy.pauseResume(entry.id);
    },
    retry(entry) {
      set(entry, "waiting");
      if (entry.id && uppy.getFile(entry.id)) uppy.removeFile(entry.id);
      entry.id = "";
      start([entry]);
    },
    async cancel(entry) {
      cancelled.add(entry.path);
      const { upload, id } = entry;
      if (id && uppy.getFile(id)) uppy.removeFile(id);
      else if (upload && entry.state !== "done") await call("DELETE", `${root}/${upload.id}`).catch(() => {});
      entries.delete(entry.path);
      set(entry, "cancelled");
      setTimeout(() => cancelled.delete(entry.path), 5000);
    },
    hold() {
      held = true;
      for (const entry of entries.values()) this.pause(entry);
    },
    release() {
      held = false;
      for (const entry of entries.values()) if (entry.state === "paused") this.resume(entry);
      send(heldBack.splice(0).filter((entry) => entries.get(entry.path) === entry));
    },
  };
}
