// The list of servers: stops them after asking, and draws the list anew while something changes.
import { hub, stopServer } from "./hub.js";
import { follow } from "./live.js";
import { localTimes, say } from "./words.js";

const BUSY_MS = 3000, QUIET_MS = 20000;
const WORDS = {
  stop: ["Stop", "Stop server", "Its GPUs, memory and cores are given back. Unsaved work and running programs end; files in your home stay."],
  leave: ["Leave the queue with", "Leave the queue", "Its place in the queue is given up. Your files are not touched."],
  cancel: ["Cancel the start of", "Cancel the start", "What is held for it is given back. Your files are not touched."],
  remove: ["Remove", "Remove server", "Its name and its last choice are forgotten. Your home and the files in it stay."],
};

const by = (id) => document.getElementById(id);
const main = by("main"), dialog = by("h-dialog"), live = by("h-live");
let ending = null, busy = false, last = live.innerHTML; // as the server wrote it

const apiOf = (name) => `${main.dataset.api}/${name ? `servers/${encodeURIComponent(name)}` : "server"}`;

live.addEventListener("click", (event) => {
  const button = event.target.closest("[data-end]");
  if (!button) return;
  const item = button.closest("[data-server]");
  ending = { kind: button.dataset.end, name: item.dataset.server };
  const [verb, sure, lost] = WORDS[ending.kind];
  say(by("h-ask"), `${verb} ${ending.name ? `“${ending.name}”` : "the default server"}?`);
  say(by("h-sure"), sure);
  say(by("h-lost"), lost);
  by("h-sure").disabled = false;
  dialog.showModal();
});

by("h-sure").addEventListener("click", async (event) => {
  event.preventDefault();
  busy = true;
  by("h-sure").disabled = true;
  say(by("h-sure"), "One moment…");
  try {
    await stopServer(apiOf(ending.name), ending.kind === "remove" ? { remove: true } : undefined);
    dialog.close();
    busy = false;
    say(by("h-news"), ending.kind === "remove" ? "Removed." : "Stopped.");
    location.reload();
  } catch (error) {
    busy = false;
    by("h-sure").disabled = false;
    say(by("h-sure"), "Try again");
    say(by("h-lost"), error.message);
  }
});

/** The server draws the list; the page takes it over where it differs, and keeps the focus. */
let timer = 0;
async function refresh() {
  clearTimeout(timer);
  if (!document.hidden && !dialog.open && !busy) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok && !answer.redirected) take(await answer.text());
    } catch { /* the hub is away: the last list stays */ }
  }
  const changing = live.querySelector("[data-end=leave], [data-end=cancel]") || live.textContent.includes("Stopping");
  timer = setTimeout(refresh, changing ? BUSY_MS : QUIET_MS);
}

function take(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("h-live");
  if (!fresh || fresh.innerHTML === last || dialog.open) return;
  last = fresh.innerHTML;
  const focused = live.contains(document.activeElement) ? document.activeElement : null;
  const server = focused?.closest("[data-server]")?.dataset.server;
  live.replaceChildren(...document.importNode(fresh, true).childNodes);
  localTimes(live);
  if (focused) live.querySelector(`[data-server="${server}"] .btn`)?.focus();
}

follow(main.dataset.events, {
  server() {
    clearTimeout(timer);
    timer = setTimeout(refresh, 100);
  },
});

localTimes();
refresh();
