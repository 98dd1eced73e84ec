// The upload panel of a dataset: files and folders are dropped or chosen; what is under way is
// listed with pause, retry and cancel; half-done files of an earlier visit are named.
import { confirmAct } from "./acts.js";
import { call } from "./api.js";
import { chosenOf, entriesOf, filesOf } from "./dropped.js";
import { openTransport } from "./upload_transport.js";
import { count, length, say } from "../words.js";

const panel = document.getElementById("d-upload");
const part = (name) => panel?.querySelector(`[data-part=${name}]`);
const list = part("files"), all = part("all"), sum = part("sum"), half = part("half"), wrong = part("wrong");
const LISTED = 60, ACTIVE = new Set(["waiting", "sending", "paused", "checking"]);
const DONE = `dcloud-upload-${panel?.dataset.dataset}`;
const rows = new Map(), changedEntries = new Set();
let transport = null, opening = null, drawing = 0, pausedAll = false, speed = null;

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let n = bytes, unit = 0;
  while (n >= 1000 && unit < units.length - 1) { n /= 1000; unit += 1; }
  return `${unit && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

const icon = (name) => `<svg class="i" aria-hidden="true"><use href="#i-${name}"/></svg>`;
const percent = (entry) => (entry.file.size ? Math.floor((100 * entry.sent) / entry.file.size) : 0);

const WORDS = {
  waiting: (entry) => `Waiting, ${size(entry.file.size)}`,
  sending: (entry) => `${percent(entry)} % of ${size(entry.file.size)}`,
  paused: (entry) => `Paused at ${percent(entry)} %`,
  checking: () => "Counting its checksum",
  done: (entry) => `Done, ${size(entry.file.size)}`,
  same: () => "Already there, checksum agrees",
  failed: (entry) => entry.problem,
};
const LOOKS = { done: "is-ok", same: "is-ok", failed: "is-bad" };

function button(name, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "btn btn-bare btn-sm";
  made.setAttribute("aria-label", label);
  made.title = label;
  made.innerHTML = icon(name);
  made.addEventListener("click", act);
  return made;
}

function buttonsOf(entry) {
  const made = [];
  if (entry.state === "sending") made.push(button("pause", `Pause ${entry.path}`, () => transport.pause(entry)));
  if (entry.state === "paused") made.push(button("now", `Resume ${entry.path}`, () => transport.resume(entry)));
  if (entry.state === "failed") made.push(button("retry", `Try ${entry.path} again`, () => transport.retry(entry)));
  if (["waiting", "sending", "paused", "failed"].includes(entry.state)) made.push(button("x", `Cancel ${entry.path}`, () => transport.cancel(entry)));
  return made;
}

function makeRow(entry) {
  const row = document.createElement("li"), grow = document.createElement("div"), name = document.createElement("b");
  const bar = document.createElement("span"), words = document.createElement("div"), acts = document.createElement("div");
  grow.className = "grow";
  name.textContent = entry.path;
  bar.className = "dc-bar wide";
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-label", entry.path);
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  acts.className = "dc-acts dc-nowrap";
  grow.append(name, bar, words);
  row.append(grow, acts);
  return { row, bar, words, acts, state: "" };
}

function forgetRow(path) {
  rows.get(path)?.row.remove();
  rows.delete(path);
}

/** Room for one that matters more: a row of what is done, else of what waits. */
function makeRoom() {
  for (const states of [["done", "same"], ["waiting"]]) {
    for (const [path, { state }] of rows) if (states.includes(state)) return forgetRow(path);
  }
}

function drawRow(entry) {
  let shown = rows.get(entry.path);
  const full = rows.size >= LISTED, over = ["done", "same"].includes(entry.state);
  if (entry.state === "cancelled" || (full && (over || (!shown && entry.state === "waiting")))) {
    forgetRow(entry.path);
    return;
  }
  if (full && !shown) makeRoom();
  if (!shown) {
    shown = makeRow(entry);
    rows.set(entry.path, shown);
    list.append(shown.row);
  }
  const running = ["sending", "paused", "checking"].includes(entry.state);
  shown.bar.hidden = !running;
  shown.bar.classList.toggle("is-ok", entry.state === "sending");
  shown.bar.style.setProperty("--v", percent(entry));
  shown.bar.setAttribute("aria-valuenow", percent(entry));
  shown.words.className = `small ${LOOKS[entry.state] ?? "soft"}`;
  say(shown.words, WORDS[entry.state](entry));
  if (shown.state !== entry.state) {
    const focused = shown.acts.contains(document.activeElement);
    shown.acts.replaceChildren(...buttonsOf(entry));
    if (focused) shown.acts.querySelector("button")?.focus();
    shown.state = entry.state;
    // What is under way or went wrong stands first, what is done last.
    if (!focused && ["sending", "failed"].includes(entry.state)) list.prepend(shown.row);
    if (["done", "same"].includes(entry.state)) list.append(shown.row);
  }
}

function totals() {
  const found = { files: 0, done: 0, failed: 0, active: 0, bytes: 0, sent: 0 };
  for (const entry of transport.entries.values()) {
    found.files += 1;
    found.bytes += entry.file.size;
    const finished = entry.state === "done" || entry.state === "same";
    found.sent += finished ? entry.file.size : Math.min(entry.sent, entry.file.size);
    if (finished) found.done += 1;
    else if (entry.state === "failed") found.failed += 1;
    else if (ACTIVE.has(entry.state)) found.active += 1;
  }
  return found;
}

/** Bytes a second, of the last few seconds. */
function pace(sent) {
  const now = performance.now();
  if (!speed || sent < speed.sent) speed = { sent, at: now, rate: 0 };
  else if (now - speed.at > 1000) {
    const rate = (1000 * (sent - speed.sent)) / (now - speed.at);
    speed = { sent, at: now, rate: speed.rate ? 0.6 * speed.rate + 0.4 * rate : rate };
  }
  return speed.rate;
}

/** While files arrive, the rest of the page counts them now and then. */
const SHOW_EVERY_MS = 4000;
let shownDone = 0, shownAt = Date.now();

function drawSum() {
  const found = totals();
  panel.classList.toggle("has-files", found.files > 0);
  part("work").hidden = !found.files;
  all.hidden = false;
  const share = found.bytes ? Math.floor((100 * found.sent) / found.bytes) : (found.done === found.files ? 100 : 0);
  all.style.setProperty("--v", share);
  all.setAttribute("aria-valuenow", share);
  const words = [`${found.done} of ${count(found.files, "file")}, ${size(found.sent)} of ${size(found.bytes)}`];
  if (found.failed) words.push(`${found.failed} not sent`);
  const rate = pace(found.sent);
  if (found.active && rate && !pausedAll) words.push(`${size(rate)}/s`, `${length((found.bytes - found.sent) / rate)} left`);
  if (pausedAll) words.push("paused");
  say(sum, words.join(", "));
  part("pause").hidden = !found.active;
  part("cancel").hidden = !found.active;
  part("retry").hidden = !found.failed;
  const over = found.files > 0 && !found.active;
  panel.toggleAttribute("data-uploading", !over && found.files > 0);
  panel.dataset.state = over ? (found.failed ? "failed" : "done") : found.active ? "busy" : "idle";
  part("over").hidden = !(over && !found.failed);
  if (over && panel.dataset.told !== String(found.done)) {
    panel.dataset.told = String(found.done);
    panel.dispatchEvent(new CustomEvent("dataset-changed", { bubbles: true, detail: found }));
    if (!found.failed) setTimeout(showDraft, 1500);
  }
  if (!over) delete panel.dataset.told;
  if (found.active && found.done !== shownDone && Date.now() - shownAt > SHOW_EVERY_MS) {
    [shownDone, shownAt] = [found.done, Date.now()];
    panel.dispatchEvent(new CustomEvent("dataset-changed", { bubbles: true, detail: found }));
  }
}

/** The page with the new files; what was done is said once more there. */
function showDraft() {
  if (panel.dataset.state !== "done") return;
  if (document.querySelector("dialog[open]")) { setTimeout(showDraft, 3000); return; }
  sessionStorage.setItem(DONE, sum.textContent);
  location.assign(`${location.pathname}?version=draft`);
}

function draw() {
  drawing = 0;
  for (const entry of changedEntries) drawRow(entry);
  changedEntries.clear();
  drawSum();
}

function changed(entry) {
  changedEntries.add(entry);
  // Not by animation frames: they stop in a tab that is not looked at.
  drawing ||= setTimeout(draw, 120);
}

function refuse(words) {
  wrong.hidden = !words;
  say(wrong.querySelector("span"), words);
}

const open = () => (opening ??= openTransport(panel.dataset.dataset, changed).then(
  (made) => (transport = made),
  () => { opening = null; throw new Error(`The uploader is not there. Use the command line: ${panel.dataset.command}`); },
));

async function add(files) {
  refuse("");
  if (!files.length) return;
  try {
    await open();
    const refused = await transport.add(files);
    if (refused) refuse(refused.message);
    showHalf();
  } catch (error) {
    refuse(error.message);
  }
}

async function showHalf() {
  let items = [];
  try { ({ items } = await call("GET", `datasets/${encodeURIComponent(panel.dataset.dataset)}/uploads`)); } catch { /* told elsewhere */ }
  items = items.filter((item) => !transport?.entries.has(item.path));
  half.hidden = !items.length;
  if (!items.length) return;
  const bytes = items.reduce((sent, item) => sent + item.size_bytes, 0);
  const names = items.slice(0, 3).map((item) => item.path).join(", ");
  say(half.querySelector("span"), `${count(items.length, "file")} (${size(bytes)}) half-way: ${names}${items.length > 3 ? " and others" : ""}. Add the same ${items.length === 1 ? "file" : "files"} again to go on.`);
  half.querySelector("button").onclick = () => confirmAct({
    ask: `Give up ${count(items.length, "upload")}?`,
    lost: `What was sent of ${items.length === 1 ? names : `these ${count(items.length, "file")}`} is removed. Files that are in the draft stay.`,
    sure: "Give up",
    look: "btn-stop",
    act: () => Promise.all(items.map((item) => call("DELETE", `datasets/${encodeURIComponent(panel.dataset.dataset)}/uploads/${item.id}`))),
    done: showHalf,
  });
}

function listen() {
  for (const name of ["files", "folder"]) {
    const input = part(`choose-${name}`);
    part(`add-${name}`).addEventListener("click", () => input.click());
    input.addEventListener("change", () => { const files = chosenOf(input); input.value = ""; add(files); });
  }
  const zone = document.documentElement;
  let inside = 0;
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  zone.addEventListener("dragenter", (event) => { if (carries(event)) { event.preventDefault(); inside += 1; panel.classList.add("is-over"); } });
  zone.addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  zone.addEventListener("dragleave", (event) => { if (carries(event) && (inside -= 1) <= 0) { inside = 0; panel.classList.remove("is-over"); } });
  zone.addEventListener("drop", async (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    inside = 0;
    panel.classList.remove("is-over");
    const { files, unread } = await filesOf(entriesOf(event.dataTransfer));
    await add(files);
    if (unread.length) refuse(`${count(unread.length, "file")} could not be read: ${unread.slice(0, 3).join(", ")}`);
  });
  part("pause").addEventListener("click", () => {
    pausedAll = !pausedAll;
    if (pausedAll) transport.hold();
    else transport.release();
    say(part("pause"), pausedAll ? "Resume all" : "Pause all");
    drawSum();
  });
  part("retry").addEventListener("click", () => add([...transport.entries.values()].filter(({ state }) => state === "failed")));
  part("cancel").addEventListener("click", () => {
    for (const entry of [...transport.entries.values()]) if (ACTIVE.has(entry.state)) transport.cancel(entry);
  });
  addEventListener("online", () => {
    for (const entry of [...(transport?.entries.values() ?? [])]) if (entry.state === "failed" && entry.lost) transport.retry(entry);
  });
  addEventListener("beforeunload", (event) => {
    if (panel.dataset.state === "busy") event.preventDefault();
  });
}

if (panel) {
  const done = sessionStorage.getItem(DONE);
  sessionStorage.removeItem(DONE);
  if (done) {
    part("work").hidden = part("over").hidden = false;
    all.hidden = true;
    say(sum, done);
  }
  listen();
  showHalf();
}
