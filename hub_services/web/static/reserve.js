// The form of a new reservation; the list above shows it as soon as the server has it.
import { call, refusal } from "./api.js";
import { say } from "../words.js";

const by = (id) => document.getElementById(id);
const form = by("r-form"), wrong = by("r-wrong");

say(by("r-zone"), Intl.DateTimeFormat().resolvedOptions().timeZone);

const names = (text) => text.split(",").map((name) => name.trim()).filter(Boolean);
const moment = (text) => new Date(text).toISOString();

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  const field = (name) => form.elements[name].value;
  button.disabled = true;
  wrong.hidden = true;
  try {
    await call("POST", "reservations", {
      title: field("title"),
      starts_at: moment(field("starts_at")),
      ends_at: moment(field("ends_at")),
      gpus: Number(field("gpus")),
      gpu_model: field("gpu_model") || null,
      memory_gib_per_gpu: Number(field("memory_gib_per_gpu")),
      cpus_per_gpu: Number(field("cpus_per_gpu")),
      users: names(field("users")),
      groups: names(field("groups")),
    });
    say(by("l-news"), "Reserved.");
    form.reset();
  } catch (error) {
    wrong.hidden = false;
    say(wrong.querySelector("span"), refusal(error, form));
    form.elements[error.field]?.focus?.();
  }
  button.disabled = false;
});
