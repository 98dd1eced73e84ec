// The waiting page: draws each progress event of the hub in the words of form/waiting.py, holds
// on through a hub restart, and opens the server when it is ready.
import { hub, sleep, stopServer } from "./hub.js";
import { count, gpus, length, listed, localTimes, say, setTime } from "./words.js";
import { copied, copying, drawMounts } from "./mounts.js";
import { ready, tellButton } from "./tell.js";

const STAGES = ["queue", "held", "image", "data", "container", "ready"];
const DOING = {
  held: "Taking what you asked for",
  image: "Fetching the image",
  data: "Preparing the datasets",
  container: "Starting the container",
  ready: "Waiting for the server",
};
const BACK_OFF_MS = [500, 1000, 2000, 4000, 8000, 15000];
const SILENCE_MS = 12000;
const RESUME_GRACE_MS = 45000;

const by = (id) => document.getElementById(id);
const main = by("main");
let view = JSON.parse(by("w-view").textContent) ?? {};
let stream = null, lostAt = 0, tries = 0, leaving = false, failed = false, spoken = null;

/* ---- Words ---- */
function asked(request = {}) {
  if (request.gpus) return gpus(request.gpus, request.gpu_model);
  return `${request.memory_gib ?? 0} GiB and ${count(request.cpus ?? 0, "core")}`;
}
const held = () => (view.gpus?.length ? count(view.gpus.length, "GPU") : asked(view.request));
const yours = () => (view.gpus?.length ? gpus(view.gpus.length, view.gpus[0].model) : asked(view.request));

function title(queued) {
  const request = view.request;
  if (!request) return queued ? "Waiting for your server" : "Starting your server";
  if (queued) return `Waiting for ${asked(request)}`;
  return request.gpus ? `Starting on ${yours()}` : `Starting ${request.title || "your server"}`;
}

function lede() {
  const parts = [main.dataset.server ? `Server “${main.dataset.server}”` : "Default server"], r = view.request;
  if (r) parts.push(r.title || r.profile, `${r.memory_gib ?? 0} GiB`, count(r.cpus ?? 0, "core"), count(r.hours ?? 0, "hour"));
  return parts.filter(Boolean).join(", ");
}

function where() {
  const indexes = (view.gpus ?? []).filter((g) => g.index !== undefined).map((g) => String(g.index));
  if (!indexes.length) return view.node ? `on ${view.node}` : "";
  return `${indexes.length === 1 ? "GPU" : "GPUs"} ${listed(indexes)}${view.node ? ` of ${view.node}` : ""}`;
}

function tab(queued) {
  if (queued) return view.place ? `Place ${view.place}` : view.held ? "On hold" : view.blocked ? "Blocked" : "Waiting";
  return view.progress ? `Starting, ${Math.floor(view.progress)} %` : "Starting";
}

const seconds = (from, to = Date.now()) => (new Date(to) - new Date(from)) / 1000;

function note(key, state) {
  const { since, until } = view.stages?.[key] ?? {};
  if (key === "held" && state === "done") return yours();
  if (key === "held" && state === "then") return "at once";
  if (key === "image" && state === "now" && view.image?.message) return view.image.message;
  if (key === "data") {
    const all = count(view.datasets?.length ?? 0, "dataset");
    return state === "now" ? copying(view.datasets) || all : all;
  }
  if (key === "ready" && state !== "done") return "opens by itself";
  if (state === "done" && since && until) return length(seconds(since, until));
  if (state === "now" && since) return `now, for ${length(seconds(since))}`;
  return "";
}

/* ---- Drawing ---- */
function draw() {
  const queued = view.stage === "queue";
  document.title = `${failed ? "Failed" : tab(queued)} · DCloud`;
  say(by("w-title"), failed ? "The start failed" : title(queued));
  say(by("w-lede"), lede());
  by("w-failed").hidden = !failed;
  by("w-acts").hidden = failed;
  by("w-queue").hidden = failed || !queued;
  by("w-start").hidden = failed || queued;
  const offers = drawOffers();
  by("w-asides").hidden = failed || !queued || !(view.reasons?.length || offers);
  by("w-asides").classList.toggle("dc-half", Boolean(offers && view.reasons?.length));
  const leave = queued ? "Leave the queue" : "Cancel the start";
  say(by("w-leave").querySelector("span"), leave);
  say(by("h-steps"), queued ? "Then" : "Progress");
  drawQueue();
  drawMounts(by("w-data"), view.datasets);
  drawStart();
  drawSteps();
  drawLog(queued);
  speak(queued);
}

function drawQueue() {
  by("w-place-box").hidden = !view.place;
  say(by("w-place"), String(view.place ?? ""));
  say(by("w-of"), view.place ? `of ${Math.max(view.queue_length ?? 0, view.place)} in the queue` : "");
  const since = view.stages?.queue?.since;
  setTime(by("w-since").querySelector("time"), since);
  say(by("w-waited"), since ? `for ${length(seconds(since))}` : "");
  by("w-hold-box").hidden = !view.held;
  by("w-blocked-box").hidden = by("w-next").hidden = !view.blocked;
  say(by("w-blocked"), view.blocked?.code === "budget" ? "by its budget" : "by your limit");
  say(by("w-kept"), `You may close this page. Your ${view.blocked ? "request" : "place"} is kept.`);
  drawExpected();
  const booked = view.reservation, later = booked?.from && new Date(booked.from) > new Date();
  const on = booked?.title ? `n the reservation “${booked.title}”` : "";
  say(by("w-booked"), !on ? "" : later ? `May start o${on} once that begins` : `O${on}`);
  by("w-booked").hidden = !on;
  const { inside = 0, of = 0 } = view.record ?? {};
  say(by("w-record"), of === 1 ? `The last such range ${inside ? "held" : "did not hold"}.` : of ? `Of the last ${of} such ranges, ${inside} held.` : "");
  by("w-record").hidden = !of;
  by("w-reasons").hidden = !view.reasons?.length;
  const reasons = view.reasons ?? [], list = by("w-list");
  if ([...list.children].map((item) => item.textContent).join("\n") !== reasons.join("\n")) {
    list.replaceChildren(...reasons.map((reason) => {
      const item = document.createElement("li"), text = document.createElement("span");
      text.className = "grow";
      text.textContent = reason;
      item.append(text);
      return item;
    }));
  }
}

function drawExpected() {
  const { from, to } = view.expected ?? {}, known = Boolean(from && to);
  by("w-expected-box").hidden = !known;
  by("w-since-box").hidden = known;
  by("w-latest-box").hidden = known || !view.latest_start;
  by("w-late").hidden = !view.latest_start;
  for (const id of ["w-latest", "w-latest-short"]) setTime(by(id).querySelector("time"), view.latest_start);
  if (!known) return;
  const shown = by("w-expected");
  if (shown.children.length !== 2) {
    shown.replaceChildren(document.createElement("time"), "–", document.createElement("time"));
    for (const time of shown.querySelectorAll("time")) time.dataset.show = "hour";
  }
  const [one, two] = shown.querySelectorAll("time");
  setTime(one, from);
  setTime(two, to);
  if (new Date(from).toDateString() === new Date(to).toDateString()) say(two, two.textContent.split(", ").at(-1));
  const soon = -seconds(from), late = -seconds(to);
  say(by("w-when"), late <= 0 ? "any moment now" : soon <= 0 ? `within ${length(late)}` : `in ${span(soon, late)}`);
}

/** 29 to 59 min, and each with its own unit where they differ. */
function span(from, to) {
  const one = length(from), two = length(to), unit = one.split(" ").at(-1);
  const alike = one.split(" ").length === 2 && two.split(" ").length === 2 && two.endsWith(` ${unit}`);
  return `${alike ? one.split(" ")[0] : one} to ${two}`;
}

/* What would start at once instead. A button stays itself while its words stay the same. */
let offered = "";
function drawOffers() {
  const found = view.alternatives ?? [], words = JSON.stringify(found.map((one) => [one.what, one.gpus]));
  if (words !== offered) {
    offered = words;
    by("w-instead").replaceChildren(...found.map((one) => {
      const item = document.createElement("li"), text = document.createElement("span"), name = document.createElement("b");
      const button = document.createElement("button");
      text.className = "grow";
      name.textContent = one.what;
      text.append(name);
      button.className = "btn btn-quiet";
      button.type = "button";
      button.textContent = one.gpus ? `Start ${count(one.gpus, "GPU")}` : "Start this";
      button.setAttribute("aria-label", `${button.textContent}: ${one.what}`);
      button.addEventListener("click", () => ask({ instead: view.alternatives.find((now) => now.what === one.what) ?? one }));
      item.append(text, button);
      return item;
    }));
  }
  const meanwhile = view.meanwhile, cpu = Boolean(view.on_cpu) && !meanwhile;
  by("w-gives-up").hidden = !found.length;
  say(by("h-alt"), found.length || cpu ? "Starts at once instead" : "Meanwhile");
  by("w-cpu").hidden = !cpu;
  by("w-on-cpu").hidden = !meanwhile;
  if (meanwhile) {
    say(by("w-on-cpu-name"), meanwhile.server ? `Server “${meanwhile.server}”` : "Your place is kept");
    by("w-on-cpu-open").href = `${main.dataset.pending}/${encodeURIComponent(meanwhile.server)}`;
  }
  const any = Boolean(found.length || cpu || meanwhile);
  by("w-offers").hidden = !any;
  return any;
}

by("w-cpu-go").addEventListener("click", async () => {
  const button = by("w-cpu-go"), refused = by("w-refused");
  button.disabled = true;
  refused.hidden = true;
  try {
    const answer = await hub("POST", main.dataset.meanwhile);
    location.assign(answer?.url ?? main.dataset.home);
  } catch (error) {
    button.disabled = false;
    say(refused, error.message);
    refused.hidden = false;
  }
});

function drawStart() {
  say(by("w-doing"), DOING[view.stage] ?? "Getting ready");
  const message = view.stage === "data" ? copying(view.datasets) : (view.stage === "image" && view.image?.message) || view.message || "";
  say(by("w-message"), message.replace(/\.$/, "") === DOING[view.stage] ? "" : message);
  const since = view.stages?.held?.since;
  by("w-yours-box").hidden = !since;
  say(by("w-yours"), held());
  say(by("w-where"), where());
  setTime(by("w-held").querySelector("time"), since);
}

function drawSteps() {
  const at = STAGES.indexOf(view.stage);
  STAGES.forEach((key, index) => {
    const step = by("w-steps").querySelector(`[data-step="${key}"]`);
    const state = index < at ? "done" : index > at ? "then" : failed ? "bad" : "now";
    step.className = state;
    if (state === "now") step.setAttribute("aria-current", "step"); else step.removeAttribute("aria-current");
    const name = step.querySelector("b");
    name.className = { done: "is-ok", bad: "is-bad" }[state] ?? "";
    if (key === "held") say(name.querySelector("span"), view.request?.gpus === 0 || !view.request ? "Resources held" : "GPUs held");
    const icon = name.querySelector("svg");
    icon.toggleAttribute("hidden", state === "then");
    icon.querySelector("use").setAttribute("href", `#i-${{ done: "check", bad: "fault" }[state] ?? "clock"}`);
    step.hidden = key === "data" && !view.datasets?.length;
    const progress = state !== "now" ? null : key === "data" ? copied(view.datasets) : key === "image" ? view.image?.progress : null;
    const bar = step.querySelector(".dc-bar"), percent = Math.round((progress ?? 0) * 100);
    bar.hidden = progress === null || progress === undefined;
    bar.style.setProperty("--v", percent);
    bar.setAttribute("aria-valuenow", percent);
    say(step.querySelector("[data-note]"), state === "bad" ? "failed here" : note(key, state));
  });
}

let logged = -1, opened = !by("w-more").hidden && by("w-more").open;
function drawLog(queued) {
  const lines = view.log ?? [];
  by("w-more").hidden = !lines.length;
  if (view.stage && !queued && !opened && lines.length) {
    by("w-more").open = true; // once, when the start begins; whoever closes it keeps it closed
    opened = true;
  }
  if (lines.length === logged) return;
  logged = lines.length;
  by("w-log").replaceChildren(...lines.flatMap((line) => {
    const at = document.createElement("span"), time = document.createElement("time");
    at.className = "t";
    time.dataset.show = "clock";
    setTime(time, line.at);
    at.append(time);
    return [at, `${line.text ?? ""}\n`];
  }));
}

/** One quiet line for screen readers, only when the place, the range or the stage changes. */
function speak(queued) {
  const range = view.expected ? ` Expected start ${by("w-expected").textContent.replace("–", " to ")}.` : "";
  const place = view.place
    ? `Place ${view.place} of ${Math.max(view.queue_length ?? 0, view.place)}.${range}`
    : view.held ? "On hold." : view.blocked ? `Blocked. ${view.blocked.reason}` : "In the queue.";
  const news = failed ? "" : queued ? place : `${DOING[view.stage] ?? "Starting"}.`;
  if (spoken !== null && spoken !== news) say(by("w-news"), news);
  spoken = news;
}

function drawLive(state, at = new Date()) {
  const [look, icon, word] = {
    live: ["is-free", "busy", "Live"],
    away: ["is-wait", "clock", "Not live, as of"],
    over: ["is-off", "free", "Ended"],
  }[state];
  const mark = by("w-live").querySelector(".dc-state"), time = by("w-live").querySelector("time");
  mark.className = `dc-state ${look}`;
  mark.querySelector("use").setAttribute("href", `#i-${icon}`);
  say(mark.querySelector("span"), word);
  // When the stream is lost, the time of the last event stays: that is how old the page is.
  if (state !== "away" || !time.textContent) setTime(time, at.toISOString());
}

function tick() {
  if (failed) return;
  drawQueue();
  drawSteps();
  if (stream?.open) drawLive("live");
}

/* ---- The stream ---- */

/** Read the hub's event stream. Not by EventSource: that does not show the empty lines the hub
 *  sends every 8 seconds, and a proxy keeps our side open when the hub behind it has died. */
async function connect() {
  stream?.end();
  const control = new AbortController();
  const mine = { open: false, end: () => { mine.open = false; clearTimeout(mine.watch); control.abort(); } };
  stream = mine;
  const alive = () => {
    clearTimeout(mine.watch);
    mine.watch = setTimeout(() => control.abort(), SILENCE_MS);
  };
  try {
    alive();
    const answer = await fetch(main.dataset.progress, { signal: control.signal, headers: { Accept: "text/event-stream" } });
    if (!answer.ok) throw new Error(String(answer.status));
    mine.open = true;
    lostAt = 0;
    tries = 0;
    drawLive("live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) break;
      alive();
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.trim().startsWith("data:")) take(JSON.parse(part.trim().slice(5)));
    }
  } catch { /* ended below */ }
  const current = stream === mine; // else it was ended on purpose
  mine.end();
  if (current) lose();
}

function disconnect() {
  const ended = stream;
  stream = null;
  ended?.end();
}

function take(event) {
  if (leaving) return;
  if (event.ready) {
    disconnect();
    document.title = "Ready · DCloud";
    say(by("w-news"), "Ready. It opens now.");
    ready(title(true).replace(/^Waiting for /, ""));
    location.reload(); // the hub sends this address on to the server, with ?next= kept
    return;
  }
  if (event.failed) {
    disconnect();
    fail(event);
    return;
  }
  failed = false;
  view = { ...view, ...event };
  drawLive("live");
  draw();
}

function words(event) {
  const plain = event.message || new DOMParser().parseFromString(event.html_message ?? "", "text/html").body.textContent;
  const text = plain.replace(/^Spawn failed:?\s*/, "");
  if (text === "Spawn cancelled") return "The start was cancelled.";
  return text || "The platform gave no reason. An administrator finds it in the log of the hub.";
}

/** Show why it failed. It may still go on: a hub that stops cancels what it was waiting for. */
async function fail(event) {
  failed = true;
  by("w-dialog").close();
  say(by("w-why"), words(event));
  drawLive("over");
  draw();
  by("w-failed").focus();
  const until = Date.now() + RESUME_GRACE_MS;
  while (failed && Date.now() < until) {
    await sleep(3000);
    const state = await look();
    if (state === "spawn") { failed = false; draw(); connect(); return; }
    if (state === "ready") { location.reload(); return; }
  }
}

/** What the hub says about this server: spawn, stop, ready, none, gone, signed-out or away. */
async function look() {
  try {
    const model = await hub("GET", main.dataset.api);
    return model.ready ? "ready" : model.pending || "none";
  } catch (error) {
    if (error.status === 404) return "gone";
    return error.status === 401 || error.status === 403 ? "signed-out" : "away";
  }
}

/** The stream broke: keep the last value, say so, and look again with growing pauses. */
async function lose() {
  if (leaving || failed) return;
  lostAt ||= Date.now();
  drawLive("away");
  await sleep(BACK_OFF_MS[Math.min(tries++, BACK_OFF_MS.length - 1)]);
  if (leaving) return;
  const state = await look();
  if (state === "away") { lose(); return; }
  if (state === "spawn") { connect(); return; }
  // After a restart the hub takes up what waits by itself, but not in its first second.
  if (state === "none" && Date.now() - lostAt < RESUME_GRACE_MS) { tries = Math.min(tries, 2); lose(); return; }
  location.reload();
}

/* ---- Leaving ---- */
const dialog = by("w-dialog");
let wanted = null; // what the dialog is about: { instead } starts something else, { change } the form
function ask({ change = false, instead = null } = {}) {
  wanted = { change, instead };
  const queued = view.stage === "queue", place = view.place ? `place ${view.place}` : "your place";
  const leave = queued ? "Leave the queue" : "Cancel the start";
  say(by("w-ask"), instead ? `Start with ${instead.what}?` : change ? "Change the request?" : `${leave}?`);
  const lost = queued ? `You give up ${place} in the queue.` : "What is held for you is given back.";
  const then = instead ? "It starts at once if nobody is quicker." : change ? "A new request gets a place of its own." : "Your files are not touched.";
  say(by("w-lost"), `${lost} ${then}`);
  say(by("w-sure"), instead ? "Give up the place and start" : change ? `${leave} and change` : leave);
  by("w-sure").disabled = false;
  dialog.returnValue = "";
  dialog.showModal();
}
by("w-leave").addEventListener("click", () => ask());
by("w-change").addEventListener("click", () => ask({ change: true }));
by("w-sure").addEventListener("click", async (event) => {
  event.preventDefault();
  leaving = true;
  by("w-sure").disabled = true;
  say(by("w-sure"), "Leaving…");
  try {
    await stopServer(main.dataset.api);
    if (wanted.instead) {
      await hub("POST", main.dataset.api, wanted.instead.choice);
      location.reload();
    } else {
      location.assign(wanted.change ? main.dataset.spawn : main.dataset.home);
    }
  } catch (error) {
    leaving = false;
    by("w-sure").disabled = false;
    say(by("w-sure"), "Try again");
    say(by("w-lost"), error.message);
    if (!stream?.open) lose();
  }
});

localTimes();
tellButton(by("w-tell"), by("w-kept"));
draw();
tick();
setInterval(tick, 1000);
connect();
