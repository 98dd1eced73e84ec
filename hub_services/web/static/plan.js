// Asks for a replay, shows how far it is, and puts the answer on the page when it is there.
import { call, refusal } from "./api.js";
import { say } from "../words.js";

const LOOK_MS = 400;
const by = (id) => document.getElementById(id);
const form = by("p-form"), wrong = by("p-wrong"), running = by("p-running"), answer = by("p-answer");
const button = form.querySelector("button");
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

function question() {
  const number = (name) => Number(form.elements[name].value || 0);
  const typed = [...form.querySelectorAll("[data-constant]")].filter((input) => input.value !== "");
  return {
    gpus: number("gpus"),
    model: form.elements.model.value,
    nodes: number("nodes"),
    policy: form.elements.policy.value,
    days: number("days"),
    constants: Object.fromEntries(typed.map((input) => [input.dataset.constant, Number(input.value)])),
  };
}

async function followed(replay) {
  while (replay.state === "waiting" || replay.state === "running") {
    by("p-bar").value = replay.progress;
    say(by("p-part"), replay.state === "waiting" ? "waiting for its turn" : `${Math.round(replay.progress * 100)} %`);
    await pause(LOOK_MS);
    replay = await call("GET", `plan/${replay.id}`);
  }
  if (replay.state === "failed") throw new Error(replay.problem);
  return replay;
}

async function show(replay) {
  const drawn = await fetch(form.dataset.answers + replay.id, { headers: { Accept: "text/html" } });
  if (!drawn.ok) throw new Error("The answer is there, but could not be drawn. Try once more.");
  const fresh = new DOMParser().parseFromString(await drawn.text(), "text/html");
  answer.replaceChildren(...document.importNode(fresh.body, true).childNodes);
  by("p-copy").addEventListener("click", copy);
  answer.focus({ preventScroll: true });
  answer.scrollIntoView({ block: "start" });
  say(by("l-news"), "The replay is done.");
}

async function copy() {
  const line = by("p-line");
  line.select();
  try {
    await navigator.clipboard.writeText(line.value);
    say(by("p-copy"), "Copied");
  } catch {
    say(by("p-copy"), "Selected"); // a browser that does not allow it: the text is selected
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  wrong.hidden = true;
  answer.replaceChildren();
  try {
    const replay = await call("POST", "plan", question());
    running.hidden = false;
    await show(await followed(replay));
  } catch (error) {
    wrong.hidden = false;
    say(wrong.querySelector("span"), refusal(error, form));
    form.elements[error.field]?.focus?.();
  }
  running.hidden = true;
  button.disabled = false;
});
