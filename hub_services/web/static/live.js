// Takes over the middle of the page whenever the server sends another one, and keeps the focus.
import { clock, localTimes, say } from "../words.js";
import { openAct } from "./acts.js";

const SILENT_MS = 15000;
const by = (id) => document.getElementById(id);
const live = by("l-live"), away = by("l-away");
let heard = Date.now(), news = "";

function title() {
  const tab = live.firstElementChild?.dataset.tab;
  if (tab) document.title = `${tab} · DCloud`;
  const now = live.firstElementChild?.dataset.news ?? "";
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

function take(html) {
  const open = Boolean(live.querySelector("details[open]"));
  const scrolled = [...live.querySelectorAll(".table-responsive")].map((table) => table.scrollLeft);
  const back = remember();
  const fresh = new DOMParser().parseFromString(html, "text/html");
  live.replaceChildren(...document.importNode(fresh.body, true).childNodes);
  if (open) live.querySelector("details")?.setAttribute("open", "");
  live.querySelectorAll(".table-responsive").forEach((table, i) => { table.scrollLeft = scrolled[i] ?? 0; });
  localTimes(live);
  title();
  back();
}

function beat() {
  heard = Date.now();
  away.hidden = true;
}

function follow() {
  const events = new EventSource(document.getElementById("main").dataset.events);
  events.addEventListener("page", (event) => { beat(); take(JSON.parse(event.data)); });
  events.addEventListener("beat", beat);
}

setInterval(() => {
  if (Date.now() - heard < SILENT_MS) return;
  away.hidden = false;
  say(away.querySelector("span"), `Not live: the platform does not answer. This is how it was at ${clock(new Date(heard))}.`);
}, 1000);

live.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) openAct(button);
});

localTimes();
title();
follow();
