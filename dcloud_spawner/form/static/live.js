// Follow the hub's server-sent events. Silence is loss: a proxy keeps our side open when the hub
// behind it has died, so a heartbeat comes every 5 seconds, and who misses it connects again.

import { localTimes } from "./words.js";

const SILENCE_MS = 12000;
const BACK_OFF_MS = [1000, 1000, 2000, 4000, 8000, 15000];

/** The bar's lines about budgets, as the server draws them. */
export function budgets(html) {
  const lines = document.getElementById("dc-budgets");
  if (!lines || lines.dataset.said === html) return;
  lines.dataset.said = html;
  lines.innerHTML = html;
  lines.hidden = !html.trim();
  localTimes(lines);
}

/** Call on[name](data) for each event, live() when one arrives, away() when the stream is lost.
 *  It connects again by itself. Returns { stop, start }. */
export function follow(url, on, { live = () => {}, away = () => {} } = {}) {
  let source = null, watch = 0, timer = 0, tries = 0;
  function alive() {
    tries = 0;
    clearTimeout(watch);
    watch = setTimeout(lost, SILENCE_MS);
    live();
  }
  function close() {
    clearTimeout(watch);
    clearTimeout(timer);
    source?.close();
    source = null;
  }
  function lost() {
    close();
    away();
    timer = setTimeout(start, BACK_OFF_MS[Math.min(tries, BACK_OFF_MS.length - 1)]);
    tries += 1;
  }
  function start() {
    close();
    source = new EventSource(url);
    watch = setTimeout(lost, SILENCE_MS);
    source.onerror = lost;
    source.addEventListener("beat", alive);
    source.addEventListener("budgets", (event) => { budgets(JSON.parse(event.data)); alive(); });
    for (const [name, take] of Object.entries(on)) {
      source.addEventListener(name, (event) => { take(JSON.parse(event.data)); alive(); });
    }
  }
  start();
  return { stop: close, start };
}
