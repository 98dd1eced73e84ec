// Figures, times and words, as form/words.py says them on the server.

const two = (n) => String(n).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

export const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;

/** 14:22 today, 20 Nov, 14:22 on another day. */
export function hour(date, now = new Date()) {
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (date.toDateString() === now.toDateString()) return time;
  const year = date.getFullYear() === now.getFullYear() ? "" : ` ${date.getFullYear()}`;
  return `${date.getDate()} ${MONTHS[date.getMonth()]}${year}, ${time}`;
}

/** 14:10–14:40, with the day where it is not today, twice where it ends on another one. */
export function range(from, to, now = new Date()) {
  const one = hour(new Date(from), now), two = hour(new Date(to), now);
  const same = new Date(from).toDateString() === new Date(to).toDateString();
  return `${one}–${same ? two.split(", ").at(-1) : two}`;
}

export function utc(date) {
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function length(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  return `${Math.floor(minutes / 60)} h${rest ? ` ${rest} min` : ""}`;
}

export const count = (number, noun) => `${Number(number)} ${noun}${Number(number) === 1 ? "" : "s"}`;

export function model(name) {
  return name.replace(/^(NVIDIA|Tesla)\s+/, "").replaceAll("-", " ").replace(/(\d+)\s?GB\b/g, "$1 GB");
}

/** A size on disk in decimal units: 8.4 GB. */
export function size(bytes) {
  let value = Number(bytes);
  for (const unit of ["B", "kB", "MB", "GB"]) {
    const shown = Number(value.toPrecision(3));
    if (shown < 1000) return `${shown} ${unit}`;
    value /= 1000;
  }
  return `${Number(value.toPrecision(4))} TB`;
}

export const gpus = (number, name) => (name ? `${number} × ${model(name)}` : count(number, "GPU"));

const CREDIT = 1000000n;
/** Division of whole numbers that rounds down, below zero too. */
const floorDiv = (a, b) => (a >= 0n ? a / b : -((-a + b - 1n) / b));

function decimal(steps, decimals) {
  const digits = String(steps < 0n ? -steps : steps).padStart(decimals + 1, "0");
  const whole = digits.slice(0, -decimals).replace(/\B(?=(\d{3})+$)/g, ",");
  return `${steps < 0n ? "−" : ""}${whole}.${digits.slice(-decimals)}`;
}

/** Micro-credits (a BigInt, or a fraction of two) as credits, rounded to the nearest: 5.20. */
export function credits(microcredits, of = 1n, decimals = 2) {
  const step = (CREDIT / 10n ** BigInt(decimals)) * of;
  return decimal(floorDiv(2n * microcredits + step, 2n * step), decimals);
}

/** What is left, rounded down, so that what is shown is there. */
export function left(microcredits, decimals = 2) {
  return decimal(floorDiv(microcredits, CREDIT / 10n ** BigInt(decimals)), decimals);
}

export function listed(parts) {
  return parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

/** Put a moment into a <time>: local on the page, exact UTC in its title. */
export function setTime(element, iso) {
  const date = iso ? new Date(iso) : null;
  if (!date || Number.isNaN(Number(date))) return;
  element.dateTime = date.toISOString();
  element.title = utc(date);
  element.textContent = element.dataset.show === "clock" ? clock(date) : hour(date);
}

/** Turn every <time data-show> the server wrote in UTC into local time. */
export function localTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-show]")) setTime(element, element.dateTime);
}

/** Text that only changes when it differs, so that nothing is announced or selected anew. */
export function say(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}
