// How far the datasets of a start are, in the words of form/datasets.py.
import { count, say, size } from "./words.js";

const PENDING = ["waiting", "preparing", "away"];
const STATES = {
  waiting: ["soft", "Not begun"],
  preparing: ["soft", "Being prepared"],
  ready: ["is-ok", "Ready, over the network"],
  away: ["is-wait", "Away; it comes back by itself"],
  failed: ["is-bad", "Cannot be mounted"],
  revoked: ["is-bad", "No longer shared with you"],
  gone: ["soft", "Unmounted"],
};

/** 12 of 138 GB */
function done(bytes, total) {
  const [one, unit] = size(bytes).split(" "), all = size(total);
  return `${all.endsWith(` ${unit}`) ? one : `${one} ${unit}`} of ${all}`;
}

const sum = (list, of) => list.reduce((total, one) => total + (of(one) ?? 0), 0);

/** What a start waits for. */
export function copying(list = []) {
  const pending = list.filter((one) => PENDING.includes(one.state));
  const copies = pending.filter((one) => one.mode === "cached" && one.state !== "away" && one.done_bytes);
  const away = pending.find((one) => one.state === "away");
  if (away && !copies.length) return `${away.name} is away`;
  if (pending.length === 1 && copies.length) return `Copying ${copies[0].name}: ${done(copies[0].done_bytes, copies[0].total_bytes)}`;
  if (copies.length) return `Copying ${count(pending.length, "dataset")}: ${done(sum(copies, (one) => one.done_bytes), sum(pending, (one) => one.total_bytes))}`;
  return pending.length ? `Preparing ${count(pending.length, "dataset")}` : "";
}

/** How far all copies together are, 0 to 1; null where none is being made. */
export function copied(list = []) {
  const copies = list.filter((one) => one.mode === "cached"), total = sum(copies, (one) => one.total_bytes);
  if (!total || !copies.some((one) => PENDING.includes(one.state))) return null;
  return sum(copies, (one) => (one.state === "ready" ? one.total_bytes : one.done_bytes)) / total;
}

function words(one) {
  const copy = one.state === "preparing" && one.mode === "cached" && one.total_bytes > 0;
  let [look, said] = STATES[one.state] ?? ["soft", one.state];
  if (copy) said = `Copying: ${done(one.done_bytes, one.total_bytes)}`;
  else if (one.state === "ready" && one.mode === "cached") said = "Ready, from a copy on the host";
  if (one.state === "away" && one.message) return { look, said: one.message.replace(/\.+$/, ""), percent: null };
  return { look, said: one.message ? `${said}. ${one.message}`.replace(/[. ]+$/, "") : said, percent: copy ? Math.min(100, Math.floor((100 * one.done_bytes) / one.total_bytes)) : null };
}

function line(one, title) {
  const item = document.createElement("li"), text = document.createElement("div"), name = document.createElement("b");
  const said = document.createElement("div"), bar = document.createElement("span");
  item.dataset.mount = one.name;
  text.className = "grow";
  name.textContent = title;
  said.dataset.said = "";
  bar.className = "dc-bar wide is-ok";
  for (const [key, value] of Object.entries({ role: "progressbar", "aria-label": title, "aria-valuemin": 0, "aria-valuemax": 100 })) bar.setAttribute(key, value);
  text.append(name, said, bar);
  item.append(text);
  return item;
}

/** Draw the section; what is there already keeps its place. */
export function drawMounts(section, list = []) {
  section.hidden = !list.length;
  const items = section.querySelector("ul");
  for (const item of [...items.children]) if (!list.some((one) => one.name === item.dataset.mount)) item.remove();
  list.forEach((one, index) => {
    const title = one.version ? `${one.name} v${one.version}` : one.name;
    let item = [...items.children].find((found) => found.dataset.mount === one.name);
    if (!item) {
      item = line(one, title);
      items.insertBefore(item, items.children[index] ?? null);
    }
    const { look, said, percent } = words(one), text = item.querySelector("[data-said]"), bar = item.querySelector(".dc-bar");
    text.className = `small ${look}`;
    say(text, said);
    bar.hidden = percent === null;
    bar.style.setProperty("--v", percent ?? 0);
    bar.setAttribute("aria-valuenow", percent ?? 0);
  });
}
