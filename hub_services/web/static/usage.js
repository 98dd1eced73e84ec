// Charts of the usage pages, and the parts that are drawn again while something runs. The last
// values stay when the platform does not answer, and the page says that they are not live.
import { charts } from "./charts.js";
import { clock, say } from "../words.js";

const by = (id) => document.getElementById(id);
const state = by("u-state"), live = document.querySelector("[data-live]");
let heard = new Date(), lively = state?.innerHTML ?? "";

/** Take the place of what is there, and keep the focus and what is open. */
function put(fresh) {
  for (const part of fresh.querySelectorAll("body > [id]")) {
    const old = by(part.id);
    if (!old) continue;
    if (part.dataset.chart) { old.dataset.chart = part.dataset.chart; old.setAttribute("aria-label", part.getAttribute("aria-label")); continue; }
    const key = old.contains(document.activeElement) ? document.activeElement.dataset.key : "";
    const left = old.querySelector(".table-responsive")?.scrollLeft ?? 0, next = document.importNode(part, true);
    old.replaceWith(next);
    if (key) next.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
    if (left) next.querySelector(".table-responsive").scrollLeft = left;
  }
  charts();
}

function away() {
  if (!state) return;
  state.textContent = `Not live: this is how it was at ${clock(heard)}.`;
}

function back() {
  heard = new Date();
  if (state && !state.querySelector(".dc-state")) state.innerHTML = lively;
}

async function look() {
  if (document.hidden) return true;
  const stop = new AbortController(), late = setTimeout(() => stop.abort(), 8000);
  try {
    const answer = await fetch(live.dataset.live, { signal: stop.signal, redirect: "error", headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    put(new DOMParser().parseFromString(await answer.text(), "text/html"));
    back();
    return !by("u-over");
  } catch {
    away();
    return true;
  } finally {
    clearTimeout(late);
  }
}

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

async function follow() {
  do {
    const asked = Date.now();
    while (Date.now() - asked < Number(live.dataset.seconds) * 1000) await pause(500);
  } while (await look());
  if (state) say(state, "It is over.");
}

if (!charts()) {
  for (const element of document.querySelectorAll("[data-chart], .u-read")) element.hidden = true;
  for (const details of document.querySelectorAll("details.dc-more")) details.open = true;
}
if (live) follow();
