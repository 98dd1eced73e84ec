// The start page: the summary follows the form, and what is free follows the hub's events. Where
// those do not come through, it is asked for every few seconds.
import { follow } from "./live.js";
import { figure, lasts, leftOf, noteOf, parts, priceOf, short, span } from "./price.js";
import { bring, chosenDatasets, followDatasets } from "./spawn_datasets.js";
import { hour, length, listed, localTimes, range, say, setTime } from "./words.js";

const POLL_MS = 5000;
const HIDDEN_MS = 20000;
const UNITS = { gpus: "GPUs", memory_gib: "GiB", cpus: "cores" };
const NOT_TOGETHER = "No single node has the GPUs, the memory and the cores free together.";
const NOTE = {
  now: ["ok", "now"], waits: ["warn", "clock"], mine: ["warn", "clock"], aside: ["warn", "clock"], image: ["warn", "down"],
  short: ["bad", "no"], no: ["bad", "no"],
};

const form = document.querySelector("#spawn_form");
const by = (id) => document.getElementById(id);
let live = JSON.parse(by("dc-data").textContent);
let mine = JSON.parse(by("dc-mine").textContent); // null where nothing is charged

const chosen = () => form.querySelector("[name=profile]:checked");
const panelOf = (name) => form.querySelector(`.dc-res[data-profile="${name}"]`);
const field = (panel, name) => panel.querySelector(`[data-field="${name}"]`);

function checked(panel, name) {
  const group = field(panel, name);
  if (!group) return null;
  return group.matches("input") ? group.value : group.querySelector("input:checked")?.value ?? null;
}

/** Draw what each choice of a group means; returns a sentence when a choice had to be changed. */
function drawGroup(panel, name, fits, hint, always) {
  const group = field(panel, name);
  if (!group?.matches(".dc-seg")) return "";
  for (const input of group.querySelectorAll("input")) {
    if (!fits[input.value]) continue;
    const fit = forMe(panel, name, input.value, beside(panel, name, input.value, fits[input.value]));
    let mark = input.parentElement.querySelector("[data-mark]");
    if (!mark && fit.state !== "now") {
      mark = document.createElement("small");
      mark.dataset.mark = "";
      input.parentElement.append(mark);
    }
    if (mark) {
      say(mark, always || fit.state !== "now" ? fit.from ? range(fit.from, fit.to) : fit.mark : "");
      mark.className = { now: "is-now", waits: "is-wait", mine: "is-wait" }[fit.state] ?? "";
    }
    input.disabled = fit.state === "no";
  }
  const note = group.parentElement.querySelector("[data-hint]"), own = mine?.limits[panel.dataset.profile]?.[name]?.fits;
  if (own && Object.keys(own).length) hint = whyNot(Object.entries(fits).filter(([value, fit]) => !own[value] || fit.state === "no"), name);
  say(note, hint);
  note.hidden = !hint;
  drawLimit(group.parentElement, limitHint(mine?.limits[panel.dataset.profile]?.[name], fits));
  const picked = group.querySelector("input:checked");
  if (!picked?.disabled) return "";
  const possible = [...group.querySelectorAll("input:enabled")].at(-1);
  if (!possible) return "";
  possible.checked = true;
  return `${picked.value} is not possible here, ${possible.value} is chosen instead.`;
}

/** Why these values are not free now; those with the same reason share a sentence. */
function whyNot(fits, name) {
  const groups = new Map();
  for (const [value, { state, why }] of fits) {
    if (!why) continue;
    const key = `${state} ${why}`, found = groups.get(key) ?? { state, why, values: [] };
    found.values.push(value);
    groups.set(key, found);
  }
  return [...groups.values()].map(({ state, why, values }) => {
    const one = values.length === 1 && values[0] === "1", noun = one ? UNITS[name].replace(/s$/, "") : UNITS[name];
    const verb = state === "no" ? `${one ? "is" : "are"} not possible` : one ? "waits" : "wait";
    return `${listed(values)} ${noun} ${verb}: ${why}.`;
  }).join(" ");
}

/** What a limit has against values that a node could hold; for others more would not help. */
function limitHint(own, fits) {
  const all = Object.entries(own?.fits ?? {}), asked = all.filter(([value]) => fits[value]?.state !== "no");
  return asked.length === all.length ? own?.hint ?? "" : asked.map(([, { reason }]) => reason).join(" ");
}

function drawLimit(row, hint) {
  const note = row.querySelector("[data-mine]");
  say(note.querySelector("span"), hint);
  note.hidden = !hint;
}

/** What a value means to somebody with their limits. */
function forMe(panel, name, value, fit) {
  const own = mine?.limits[panel.dataset.profile]?.[name]?.fits[value];
  return own && fit.state !== "no" ? own : fit;
}

function drawPanel(name) {
  const panel = panelOf(name), offer = live.offers[name];
  if (!offer) return "";
  const model = field(panel, "gpu_model");
  if (model?.matches("select")) {
    for (const option of model.options) {
      const closed = mine?.models[option.value] ?? "", text = offer.models[option.value]?.text;
      if (text) say(option, closed ? `${text}, ${closed}` : text);
      option.disabled = Boolean(closed);
    }
  } else if (model) {
    say(panel.querySelector("[data-model-text]"), Object.values(offer.models)[0].text);
  }
  const kind = modelOf(panel, offer);
  return [
    drawGroup(panel, "gpus", kind.fits, kind.hint, true),
    drawGroup(panel, "memory_gib", offer.memory_gib.fits, offer.memory_gib.hint, false),
    drawGroup(panel, "cpus", offer.cpus.fits, offer.cpus.hint, false),
  ].filter(Boolean).join(" ");
}

function modelOf(panel, offer) {
  return offer.models[field(panel, "gpu_model")?.value ?? ""] ?? Object.values(offer.models)[0];
}

/** Whether one node has all of this free, with GPUs of one model. */
function free(wish) {
  if (!live.pool.room) return true;
  return live.pool.room.some(([gpus, memory, cores]) => {
    if (memory < wish.memory_gib * 2 ** 30 || cores < wish.cpus * 1000) return false;
    if (!wish.gpus) return true;
    const most = wish.model ? gpus[wish.model] ?? 0 : Math.max(0, ...Object.values(gpus));
    return most >= wish.gpus;
  });
}

function wished(panel) {
  return {
    gpus: Number(checked(panel, "gpus")),
    model: field(panel, "gpu_model")?.value ?? "",
    memory_gib: Number(checked(panel, "memory_gib")),
    cpus: Number(checked(panel, "cpus")),
  };
}

/** What one value means beside the others that are chosen now. */
function beside(panel, name, value, fit) {
  if (fit.state !== "now" || free({ ...wished(panel), [name]: Number(value) })) return fit;
  return { state: "waits", mark: "waits", reason: NOT_TOGETHER };
}

/** What no choice of one value says: limits of models and of GPU-hours, and of requests. */
function ownLimit(panel) {
  if (!mine) return "";
  const { gpus, model } = wished(panel), need = gpus * Number(field(panel, "hours").value);
  if (mine.refused) return mine.refused;
  if (gpus && mine.models[model]) return `This GPU model is ${mine.models[model]}.`;
  const over = mine.rolling.find((one) => need > one.left + 1e-9);
  return over && need ? `${over.words}, and this asks for ${need}.` : "";
}

/** What an expected start was reckoned with, where something else is chosen. */
function unlike(panel, usual) {
  const wish = wished(panel), hours = Number(field(panel, "hours").value);
  if (wish.memory_gib === usual.memory_gib && wish.cpus === usual.cpus && hours === usual.hours) return "";
  const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  return ` with ${usual.memory_gib} GiB, ${count(usual.cpus, "core")} and ${count(usual.hours, "hour")}`;
}

/** The worst of the chosen values, with the reasons for it. */
function verdict(panel, offer) {
  const of = { gpus: modelOf(panel, offer).fits, memory_gib: offer.memory_gib.fits, cpus: offer.cpus.fits };
  const fits = Object.entries(of).map(([name, all]) => {
    const value = checked(panel, name);
    return all[value] && forMe(panel, name, value, all[value]);
  }).filter(Boolean);
  let worst = ["no", "mine", "waits"].find((state) => fits.some((fit) => fit.state === state)) ?? "now";
  const reasons = fits.filter((fit) => fit.state === worst && worst !== "now").map((fit) => fit.reason);
  if (worst === "now" && !free(wished(panel))) {
    worst = "waits";
    reasons.push(NOT_TOGETHER);
  }
  const own = ownLimit(panel);
  if (own && worst !== "no") {
    worst = "no";
    reasons.splice(0, reasons.length, own);
  }
  const state = worst === "now" && offer.preparing ? "image" : worst;
  const latest = fits.filter((fit) => fit.from).sort((a, b) => a.from.localeCompare(b.from)).at(-1);
  if (worst === "waits" && latest) reasons.push(`Expected ${range(latest.from, latest.to)}${unlike(panel, offer.usual)}.`);
  const text = [...(state === "image" ? [] : reasons), live.words[state].text].join(" ").trim();
  return { ...live.words[state], state, text, own: Boolean(own) };
}

/* ---- What it costs, and who pays ---- */
const payers = () => [...form.querySelectorAll("[name=account]")];

function payer() {
  const name = form.querySelector("[name=account]:checked")?.value ?? "";
  return mine.payers.find((one) => one.name === name) ?? mine.payers[0];
}

/** The price of what is chosen; null where nothing is charged or the hours are no number. */
function cost(panel, offer) {
  const hours = field(panel, "hours");
  if (!mine || !/^\d{1,6}$/.test(hours.value) || !hours.validity.valid) return null;
  const wish = wished(panel);
  return { ...priceOf(mine, modelOf(panel, offer).of, wish), gpus: wish.gpus, hours: Number(hours.value) };
}

/** Said under the verdict: what happens before the asked time is over. */
function moneyNews(price) {
  const one = payer(), time = lasts(one, price.high);
  if (one.budget === "soft" && BigInt(one.available) <= 0n) return `${one.title} has no credits left: this is last in line and gives way to others.`;
  if (time === null || time >= price.hours || one.budget === "none") return "";
  const then = one.budget === "hard" ? "then it is stopped" : "then it gives way to others";
  return `The credits last for about ${length(time * 3600)}, ${then}, unless there are more by then.`;
}

function drawPrice(price) {
  if (!by("o-price") || !price) return;
  const one = payer(), total = price.high * BigInt(price.hours), an = span(price.low, price.high);
  say(by("o-price"), an);
  const words = parts(price, price.gpus);
  say(by("o-parts"), words);
  by("o-parts").hidden = !words;
  say(by("o-hours"), String(price.hours));
  say(by("o-total"), `${figure(total)} at most`);
  say(by("o-mini"), `${an} credits an hour, ${figure(total)} at most`);
  say(by("o-payer"), one.title);
  say(by("o-left"), leftOf(one, total));
  const time = lasts(one, price.high);
  for (const part of form.querySelectorAll("[data-until]")) part.hidden = !time;
  if (time) setTime(by("o-until"), new Date(Date.now() + time * 3600e3).toISOString());
}

/** Who cannot pay this says so; whoever is chosen stays it, and the verdict says no. */
function drawPayers(price) {
  if (!price) return;
  const no = [];
  for (const input of payers()) {
    const one = mine.payers.find((found) => found.name === input.value);
    const lacks = !one || short(mine, one, price.high, price.hours)?.aside === false;
    const note = one ? noteOf(mine, one, price.high, price.hours) : "not yours any more";
    say(input.parentElement.querySelector("[data-note] span"), note);
    input.parentElement.querySelector("[data-note] svg").toggleAttribute("hidden", !lacks);
    input.disabled = lacks && !input.checked;
    if (lacks) no.push(`${input.parentElement.querySelector("b").firstChild.textContent.trim()} cannot pay: ${note}.`);
  }
  say(by("d-payers"), no.join(" "));
}

function drawRail() {
  const card = chosen();
  if (!card || !by("o-go")) return;
  const panel = panelOf(card.value), offer = live.offers[card.value];
  const gpus = Number(checked(panel, "gpus")), kind = modelOf(panel, offer), hours = field(panel, "hours");
  const anyModel = (field(panel, "gpu_model")?.value ?? "") === "" && Object.keys(offer.models).length > 1;
  say(by("o-profile"), card.dataset.title);
  if (by("o-pips").children.length !== gpus) by("o-pips").innerHTML = '<i class="m"></i>'.repeat(gpus);
  say(by("o-gpus"), gpus === 0 ? "none" : anyModel ? `${gpus}, any model` : `${gpus} × ${kind.label}`);
  say(by("o-memory"), `${checked(panel, "memory_gib")} GiB`);
  say(by("o-cpus"), `${checked(panel, "cpus")} ${checked(panel, "cpus") === "1" ? "core" : "cores"}`);
  const data = chosenDatasets();
  say(by("o-datasets"), data ? `${data}, read-only` : "none");
  const price = cost(panel, offer), found = verdict(panel, offer);
  drawPrice(price);
  drawPayers(price);
  const lacks = price && found.state !== "no" ? short(mine, payer(), price.high, price.hours) : null;
  const money = lacks ? (lacks.aside ? "aside" : "short") : "";
  const { state, title, button } = money ? { ...live.words[money], state: money } : found;
  const text = [...(money ? [lacks.text, live.words[money].text] : [found.text, price ? moneyNews(price) : ""])].join(" ").trim();
  const stops = new Date(Date.now() + Number(hours.value) * 3600e3);
  const known = state === "now" && hours.value && hours.validity.valid;
  const later = hours.value && hours.validity.valid ? `${hours.value} h after it starts` : `choose ${hours.min} to ${hours.max} hours`;
  say(by("o-stops"), known ? `${hour(stops)} at the latest` : later);
  const note = by("o-note"), [tone, icon] = NOTE[state];
  note.className = `dc-note dc-js ${tone}`;
  note.querySelector("use").setAttribute("href", `#i-${icon}`);
  say(note.querySelector("b"), title);
  say(note.querySelector("div span"), text);
  by("o-ask").hidden = !money && !found.own;
  if (form.dataset.busy) return;
  say(by("o-go"), button);
  by("o-go").disabled = ["no", "short", "image"].includes(state) || nameTaken();
}

function drawCards() {
  for (const [name, offer] of Object.entries(live.offers)) {
    const input = form.querySelector(`[name=profile][value="${name}"]`);
    if (!input) continue;
    const card = input.parentElement;
    input.disabled = Boolean(offer.closed);
    for (const [kind, text] of [["closed", offer.closed], ["preparing", offer.preparing]]) {
      const line = card.querySelector(`[data-${kind}]`);
      line.hidden = !text;
      say(line.querySelector("span"), text);
      line.querySelector(".dc-bar")?.style.setProperty("--v", offer.progress);
    }
  }
}

function drawPool() {
  const { models, memory, cpus, queue } = live.pool;
  for (const row of form.querySelectorAll("[data-model]")) {
    const found = models[row.dataset.model];
    if (!found) continue;
    say(row.querySelector("[data-free]"), found.text);
    const pips = row.querySelectorAll(".dc-pips i");
    pips.forEach((pip, n) => pip.classList.toggle("f", n >= pips.length - found.free));
  }
  say(by("pool-memory"), memory);
  say(by("pool-cpus"), cpus);
  say(by("pool-queue"), queue);
}

function drawLive(ok) {
  const mark = form.querySelector("[data-live]");
  mark.className = `dc-state ${ok ? "is-free" : "is-wait"}`;
  mark.querySelector("use").setAttribute("href", ok ? "#i-busy" : "#i-clock");
  say(mark.querySelector("span"), ok ? "Live" : "Not live, as of");
  setTime(by("pool-at").querySelector("time"), heard.toISOString());
}

let spoken = "";
function draw({ speak = false } = {}) {
  const card = chosen();
  for (const panel of form.querySelectorAll(".dc-res")) panel.disabled = panel.dataset.profile !== card?.value;
  const changed = card ? drawPanel(card.value) : "";
  drawRail();
  const costs = by("o-price") ? `${by("o-price").textContent} credits an hour. ` : "";
  const now = by("o-note") ? `${by("o-note").querySelector("b").textContent}. ${costs}${changed}` : "";
  if ((speak && now !== spoken) || changed) say(by("o-said"), now);
  spoken = now;
}

/* ---- Server name: decides where the form goes ---- */
const serverName = by("server-name");
const { pathname, search: query } = new URL(form.action, location.href);
if (serverName && !serverName.value && pathname.startsWith(`${form.dataset.spawn}/`)) {
  // A refused form is drawn by the default server's spawner, whichever it was for.
  serverName.value = decodeURIComponent(pathname.slice(form.dataset.spawn.length + 1));
}

function nameTaken() {
  if (!serverName) return false;
  return serverName.dataset.active.split(" ").includes(serverName.value) && serverName.value !== "";
}

function drawName() {
  if (!serverName) return;
  const taken = nameTaken();
  serverName.setCustomValidity(taken ? "A server of this name runs already." : "");
  say(by("d-server-name"), taken
    ? `“${serverName.value}” runs already. Choose another name, or open it from Servers.`
    : "Empty is your default server. With a name you can run more than one.");
  const name = serverName.value ? `/${encodeURIComponent(serverName.value)}` : "";
  form.action = `${form.dataset.spawn}${name}${query}`;
}
serverName?.addEventListener("input", drawName);

/* ---- Events ---- */
const brings = () => JSON.parse(chosen()?.dataset.brings ?? "[]");
form.addEventListener("input", (event) => {
  if (event.target.name === "profile") bring(brings());
  draw({ speak: true });
});
followDatasets(form, brings(), draw);
for (const button of form.querySelectorAll("[data-step]")) {
  button.addEventListener("click", () => {
    const input = button.parentElement.querySelector("input");
    input.stepUp(Number(button.dataset.step));
    draw({ speak: true });
  });
}
form.addEventListener("submit", (event) => {
  if (form.dataset.busy) return event.preventDefault();
  form.dataset.busy = "1";
  say(by("o-go"), "Starting…");
  by("o-go").setAttribute("aria-disabled", "true");
});
addEventListener("pageshow", () => {
  // Coming back by the browser's own button finds the page as it was left.
  delete form.dataset.busy;
  by("o-go")?.removeAttribute("aria-disabled");
  draw();
});

/* ---- What is free, kept fresh ---- */
let heard = new Date(live.at), followed = false, timer = 0, hiding = 0;

function take({ mine: own, ...news }) {
  live = { ...live, ...news };
  if (own !== undefined) {
    for (const [name, { hours }] of Object.entries(own?.limits ?? {})) {
      if (mine?.limits[name]?.hours !== hours) field(panelOf(name), "hours").max = hours;
    }
    mine = own;
  }
  drawCards();
  drawPool();
  draw();
}

/** While the events do not come through: ask. */
async function poll() {
  clearTimeout(timer);
  if (followed || document.hidden) return;
  try {
    const answer = await fetch(form.dataset.fresh, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const news = await answer.json();
    if (followed) return;
    take(news);
    heard = new Date();
    drawLive(true);
    stream.start(); // the hub is there again
  } catch {
    drawLive(followed);
  }
  timer = setTimeout(poll, POLL_MS);
}

const stream = follow(form.dataset.events, { form: take, mine: (own) => take({ mine: own }) }, {
  live() {
    followed = true;
    heard = new Date();
    drawLive(true);
  },
  away() {
    followed = false;
    drawLive(false);
    poll();
  },
});

// A browser has six connections to a hub; a page that nobody looks at needs none.
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => { followed = false; stream.stop(); }, HIDDEN_MS);
  } else if (!followed) {
    stream.start();
  }
});
setInterval(() => {
  if (!followed) return;
  heard = new Date();
  drawLive(true);
}, 1000);

localTimes();
drawName();
draw();
by("refused")?.focus();
