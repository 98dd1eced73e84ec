// The form of a new reservation; the list above shows it as soon as the server has it.
import { confirmAct } from "./acts.js";
import { call, refusal } from "./api.js";
import { say } from "../words.js";

const by = (id) => document.getElementById(id);
const form = by("r-form"), wrong = by("r-wrong");

say(by("r-zone"), Intl.DateTimeFormat().resolvedOptions().timeZone);

const names = (text) => text.split(",").map((name) => name.trim()).filter(Boolean);
const moment = (text) => new Date(text).toISOString();

const asked = () => {
  const field = (name) => form.elements[name].value;
  return {
    title: field("title"),
    starts_at: moment(field("starts_at")),
    ends_at: moment(field("ends_at")),
    gpus: Number(field("gpus")),
    gpu_model: field("gpu_model") || null,
    memory_gib_per_gpu: Number(field("memory_gib_per_gpu")),
    cpus_per_gpu: Number(field("cpus_per_gpu")),
    users: names(field("users")),
    groups: names(field("groups")),
  };
};

function done() {
  say(by("l-news"), "Reserved.");
  form.reset();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  wrong.hidden = true;
  try {
    const body = asked();
    try {
      await call("POST", "reservations", body);
      done();
    } catch (error) {
      if (error.code !== "nobody_yet") throw error;
      confirmAct({
        ask: "Reserve for somebody who is not here yet?",
        lost: refusal(error, form),
        who: "If the name is right, the GPUs are theirs from their first sign-in on. If not, nobody can use them.",
        sure: "Reserve all the same",
        path: "reservations",
        body: { ...body, ahead: true },
        words: (later) => refusal(later, form),
        done,
      });
    }
  } catch (error) {
    wrong.hidden = false;
    say(wrong.querySelector("span"), refusal(error, form));
    form.elements[error.field]?.focus?.();
  }
  button.disabled = false;
});
