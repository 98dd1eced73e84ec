// Datasets on the start page: the search asks the hub, whose answer is drawn as the page was;
// what is ticked stays on top whatever is searched for.
import { say } from "./words.js";

const WAIT_MS = 200;
const section = document.getElementById("datasets");
const by = (id) => document.getElementById(id);

/** How many are chosen, for the summary; null where the page has no datasets. */
export function chosenDatasets() {
  return section ? section.querySelectorAll("[name=datasets]:checked").length : null;
}

function draw() {
  const chosen = chosenDatasets();
  say(by("ds-chosen"), `${chosen || "none"} chosen, read-only under ~/datasets`);
  for (const item of section.querySelectorAll("[data-dataset]")) {
    const select = item.querySelector("[data-latest]");
    if (select) say(item.querySelector("[data-version]"), `v${select.value || select.dataset.latest.replace(/\D/g, "")}`);
  }
}

/* ---- Search ---- */
const list = by("ds-list"), find = by("ds-find");
const first = list ? [...list.children] : []; // what the page opened with
let timer = 0, asked = 0, note = "";

function show(items) {
  const ticked = [...list.children].filter((item) => item.querySelector("[name=datasets]:checked"));
  const names = new Set(ticked.map((item) => item.dataset.dataset));
  list.replaceChildren(...ticked, ...items.filter((item) => !ticked.includes(item) && !names.has(item.dataset.dataset)));
  draw();
}

async function look(form) {
  const text = find.value.trim(), mine = ++asked;
  if (!text) {
    show(first);
    say(by("ds-note"), note);
    return;
  }
  try {
    const answer = await fetch(`${form.dataset.find}?q=${encodeURIComponent(text)}`, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const { html, total, shown } = await answer.json();
    if (mine !== asked) return;
    const box = document.createElement("template");
    box.innerHTML = html;
    show([...box.content.querySelectorAll("li")]);
    say(by("ds-note"), total === 0 ? "Nothing found." : total > shown ? `The first ${shown} of ${total}.` : `${total} found.`);
  } catch {
    if (mine === asked) say(by("ds-note"), "The search does not answer. Try again.");
  }
}

/** A profile brings its own datasets: those of the one before go, unless somebody ticked them. */
let brought = [];
export function bring(datasets) {
  if (!section) return;
  for (const item of section.querySelectorAll("[data-dataset]")) {
    const input = item.querySelector("[name=datasets]"), now = datasets.find(([value]) => value === input.value);
    if (input.dataset.touched) continue;
    if (now) {
      input.checked = true;
      [now[1], now[2]].forEach((value, index) => {
        const select = item.querySelectorAll("select")[index];
        if (select && [...select.options].some((option) => option.value === value)) select.value = value;
      });
    } else if (brought.some(([value]) => value === input.value)) {
      input.checked = false;
    }
  }
  brought = datasets;
  draw();
}

/** Follow the section; changed() is called when what is chosen changes. */
export function followDatasets(form, datasets, changed) {
  if (!section) return;
  brought = datasets;
  note = by("ds-note")?.textContent ?? "";
  section.addEventListener("change", (event) => {
    if (event.target.name === "datasets") event.target.dataset.touched = "1";
    draw();
    changed();
  });
  find?.addEventListener("input", (event) => {
    event.stopPropagation(); // it is no choice
    clearTimeout(timer);
    timer = setTimeout(look, WAIT_MS, form);
  });
  find?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault(); // it must not start a server
  });
  draw();
}
