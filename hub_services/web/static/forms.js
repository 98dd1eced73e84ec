// Forms and buttons that call the API: each says in its own attributes what it does.
//   data-path     of the API; {name} stands for the value of a field or of the button's data-name
//   data-method   POST where it is not said
//   data-ask, data-lost, data-sure, data-look   the question before it is done; none: done at once
//   data-reason   the question asks for a reason too, which is sent as this field
//   data-done     what is said when the page is there again; data-next: where to go then
//   data-body     what is sent, as JSON, where a button has no form
//   data-ahead    asked when a name is nobody's yet, before it is sent again as meant so
// A field is sent under its name; data-as says how: credits, whole, number, moment, names, check.
// An empty one is left out, sent as null with data-null, or as it is with data-empty. A part with data-when="field=a|b" is
// there only while that field has one of these values.
import { confirmAct } from "./acts.js";
import { call, refusal } from "./api.js";
import { hour, say } from "../words.js";

const DONE = "dcloud-done", MICRO = 1_000_000, MOST = 1_000_000_000;
const by = (id) => document.getElementById(id);
const main = by("main");

/** Names what is about to be done, so that it is done once however often it is sent. */
const freshKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** 5.2 credits as 5200000, exactly. */
function microcredits(text) {
  const [, minus, whole, part = ""] = /^\s*([-+−]?)(\d*)(?:[.,](\d*))?\s*$/.exec(text) ?? [];
  if (whole === undefined || !(whole + part) || part.length > 6) throw new Error("An amount is written like 5.20, with at most six decimals.");
  const value = Number(whole) * MICRO + Number(part.padEnd(6, "0"));
  if (value > MOST * MICRO) throw new Error("No amount is beyond a billion credits.");
  return minus && minus !== "+" ? -value : value;
}

const AS = {
  credits: microcredits,
  whole: (text) => Number.parseInt(text, 10),
  number: Number,
  moment: (text) => new Date(text).toISOString(),
  names: (text) => text.split(",").map((name) => name.trim()).filter(Boolean),
};

function fields(form) {
  return [...form.elements].filter((field) => field.name && !field.matches(":disabled") && (field.type !== "radio" || field.checked));
}

function body(form) {
  const found = {};
  for (const field of fields(form)) {
    if ("only" in field.dataset) continue; // for the path or the question alone
    if (field.type === "checkbox") {
      if (field.dataset.as === "check") found[field.name] = field.checked;
      else if (field.checked) (found[field.name] ??= []).push(field.value);
    } else if (field.value !== "") found[field.name] = (AS[field.dataset.as] ?? ((text) => text))(field.value);
    else if ("null" in field.dataset) found[field.name] = null;
    else if ("empty" in field.dataset) found[field.name] = (AS[field.dataset.as] ?? ((text) => text))("");
  }
  return found;
}

/** What a field says, in words. */
function shown(field) {
  if (field.tagName === "SELECT") return field.value ? field.selectedOptions[0].textContent.trim() : field.dataset.none ?? "";
  if (field.type === "radio") return field.labels[0]?.textContent.trim() ?? field.value;
  if (field.type === "datetime-local" && field.value) return hour(new Date(field.value));
  if (field.type === "checkbox") return field.checked ? field.dataset.yes ?? "" : field.dataset.no ?? "";
  return field.value || (field.dataset.none ?? "");
}

/** {name} by what the fields say; a sentence in [brackets] only where all its fields say something. */
function filled(text, form) {
  const words = Object.fromEntries(form ? fields(form).map((field) => [field.name, shown(field)]) : []);
  const put = (part) => part.replace(/\{(\w+)\}/g, (_, name) => words[name] ?? "");
  return put(text.replace(/\[([^\]]*)\]/g, (_, part) => ([...part.matchAll(/\{(\w+)\}/g)].every(([, name]) => words[name]) ? part : "")));
}

function path(asked, form) {
  const values = form ? Object.fromEntries(fields(form).map((field) => [field.name, field.value])) : {};
  return asked.dataset.path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(values[name] ?? ""));
}

function done(asked, words, answer) {
  sessionStorage.setItem(DONE, words);
  const next = asked.dataset.next?.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(answer?.[name] ?? ""));
  if (next) location.assign(main.dataset.service + next);
  else location.reload();
}

function complain(form, error) {
  const note = form.querySelector("[role=alert]");
  note.hidden = false;
  say(note.querySelector("span"), refusal(error, form));
  fields(form).find((field) => field.name === error.field?.split(".")[0])?.focus();
}

function asks(asked, form, sent) {
  const words = filled(asked.dataset.done ?? "Done.", form);
  confirmAct({
    ask: filled(asked.dataset.ask, form),
    lost: filled(asked.dataset.lost ?? "", form),
    sure: asked.dataset.sure,
    look: asked.dataset.look,
    method: asked.dataset.method,
    path: path(asked, form),
    body: sent,
    key: freshKey(),
    reason: "reason" in asked.dataset,
    reasonName: asked.dataset.reason || "reason",
    words: (error) => (form ? refusal(error, form) : error.message),
    done: (answer) => done(asked, words, answer),
  });
}

/** Nobody has this name yet: whoever wrote it says whether it is right. */
function asksAhead(form, sent, error) {
  const words = filled(form.dataset.done ?? "Done.", form);
  confirmAct({
    ask: form.dataset.ahead,
    lost: refusal(error, form),
    who: "If the name is right, it counts from their first sign-in on. If not, whoever gets it one day is in the project.",
    sure: "The name is right",
    method: form.dataset.method,
    path: path(form, form),
    body: { ...sent, ahead: true },
    key: freshKey(),
    words: (later) => refusal(later, form),
    done: (answer) => done(form, words, answer),
  });
}

async function send(form, sent) {
  const button = form.querySelector("[type=submit]"), words = filled(form.dataset.done ?? "Done.", form);
  button.disabled = true;
  try {
    done(form, words, await call(form.dataset.method ?? "POST", path(form, form), sent, freshKey()));
  } catch (error) {
    if (error.code === "nobody_yet" && form.dataset.ahead) asksAhead(form, sent, error);
    else complain(form, error);
  }
  button.disabled = false;
}

/** Show the parts of a form that belong to what is chosen. */
function settle(form) {
  for (const part of form.querySelectorAll("[data-when]")) {
    const [name, values] = part.dataset.when.split("=");
    const field = [...form.elements].find((each) => each.name === name && (each.type !== "radio" || each.checked) && !each.matches(":disabled"));
    const here = Boolean(field) && values.split("|").includes(field.value);
    part.hidden = !here;
    part.disabled = !here;
  }
}

main.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-path]");
  if (!form) return;
  event.preventDefault();
  form.querySelector("[role=alert]").hidden = true;
  try {
    const sent = body(form);
    if (form.dataset.ask) asks(form, form, sent);
    else void send(form, sent);
  } catch (error) {
    complain(form, error);
  }
});

main.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-path]");
  if (button) asks(button, null, button.dataset.body && JSON.parse(button.dataset.body));
});

main.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-path]");
  if (form) settle(form);
});

for (const form of main.querySelectorAll("form[data-path]")) settle(form);
// Until here a click would have been lost, or would have sent the form to nowhere.
for (const button of main.querySelectorAll("form[data-path] [type=submit], button[data-path]")) button.disabled = false;
for (const zone of main.querySelectorAll("[data-zone-name]")) say(zone, Intl.DateTimeFormat().resolvedOptions().timeZone);

const told = sessionStorage.getItem(DONE);
if (told) {
  sessionStorage.removeItem(DONE);
  by("d-done").hidden = false;
  say(by("d-done").querySelector("span"), told);
  say(by("l-news"), told);
}
