// Takes over the middle of the page whenever the server sends another one, and keeps the focus.
import { budgets } from "../live.js";
import { clock, localTimes, say } from "../words.js";
import { openAct } from "./acts.js";

const SILENT_MS = 12000, AGAIN_MS = 5000;
const by = (id) => document.getElementById(id);
const live = by("l-live"), away = by("l-away");
let heard = Date.now(), tried = 0, events = null, news = "";

function title() {
  const told = live.querySelector("[data-tab]")?.dataset, tab = told?.tab;
  if (tab) document.title = `${tab} · DCloud`;
  const now = told?.news ?? "";
  if (now !== news) say(by("l-news"), now);
  news = now;
}

/** What had the focus, so that it can have it again in the new middle. */
function remember() {
  const focused = document.activeElement;
  if (!live.contains(focused) || focused === live) return () => {};
  const row = focused.closest("[data-workload], [data-node], [data-gpu], [data-reservation]");
  const key = row && Object.entries(row.dataset).find(([name]) => ["workload", "node", "gpu", "reservation"].includes(name));
  const selector = key ? `[data-${key[0]}="${CSS.escape(key[1])}"] button` : focused.tagName === "SUMMARY" ? "summary" : "";
  return () => { if (selector) live.querySelector(selector)?.focus({ preventScroll: true }); };
}

/** A part in the place of the one of its name, or the whole middle where it has none. */
function put(fresh) {
  const part = fresh.firstElementChild?.dataset.part;
  const old = part && live.querySelector(`:scope > [data-part="${part}"]`);
  const nodes = [...document.importNode(fresh, true).childNodes];
  const next = old ? nodes.find((node) => node.dataset?.part === part) : live;
  if (old) old.replaceWith(next);
  else live.replaceChildren(...nodes);
  return next;
}

function take(html) {
  const back = remember();
  const fresh = new DOMParser().parseFromString(html, "text/html").body;
  const tables = [...live.querySelectorAll(".table-responsive")].map((table) => [table.getAttribute("aria-label"), table.scrollLeft]);
  const open = Boolean(live.querySelector("details[open]"));
  const next = put(fresh);
  if (open) next.querySelector("details")?.setAttribute("open", "");
  for (const [name, left] of tables) {
    const table = left && next.querySelector(`.table-responsive[aria-label="${CSS.escape(name)}"]`);
    if (table) table.scrollLeft = left;
  }
  localTimes(next);
  title();
  back();
}

function beat() {
  heard = Date.now();
  away.hidden = true;
}

function follow() {
  tried = Date.now();
  events?.close();
  events = new EventSource(document.getElementById("main").dataset.events);
  events.addEventListener("page", (event) => { beat(); take(JSON.parse(event.data)); });
  events.addEventListener("budgets", (event) => { beat(); budgets(JSON.parse(event.data)); });
  events.addEventListener("beat", beat);
}

// Silence is all that tells: the proxy keeps its side open when the service behind it is gone, and
// a browser gives up for good after an answer that is an error.
setInterval(() => {
  if (Date.now() - heard < SILENT_MS) return;
  away.hidden = false;
  say(away.querySelector("span"), `Not live: the platform does not answer, or you are signed out (then load the page again). This is how it was at ${clock(new Date(heard))}.`);
  if (Date.now() - tried > AGAIN_MS) follow();
}, 1000);

live.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) openAct(button);
});

localTimes();
title();
follow();
