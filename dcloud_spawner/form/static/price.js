// What a choice costs and who can pay it, in the words of form/purse.py. Amounts are micro-credits
// as whole numbers (BigInt); a price an hour is a fraction over SCALE, so nothing is rounded but
// what is shown.
import { credits, left } from "./words.js";

const GIB = 2n ** 30n;
const SCALE = 1000n * GIB;
const FAR_HOURS = 366n * 24n;

/** Micro-credits an hour times SCALE: the least and the most of what it may get, and memory and
 *  cores alone. wish: { gpus, memory_gib, cpus }. */
export function priceOf({ rates }, models, wish) {
  const bytes = BigInt(Math.trunc(wish.memory_gib * 2 ** 30)), cores = BigInt(Math.round(wish.cpus * 1000));
  const rest = BigInt(rates.memory_gib) * bytes * 1000n + BigInt(rates.cpu_core) * cores * GIB;
  const one = (model) => BigInt(rates.gpu[model] ?? rates.gpu[""]) * BigInt(wish.gpus) * SCALE;
  const all = (wish.gpus && models?.length ? models : [""]).map(one).sort((a, b) => (a < b ? -1 : Number(a > b)));
  return { low: all[0] + rest, high: all.at(-1) + rest, rest };
}

export const figure = (amount) => credits(amount, SCALE);

/** 2.00, or 1.00–2.00 where it depends on the GPU that it gets. */
export function span(low, high) {
  const one = figure(low), two = figure(high);
  return one === two ? one : `${one}–${two}`;
}

export function parts({ low, high, rest }, gpus) {
  return gpus && rest ? `GPUs ${span(low - rest, high - rest)}, memory and cores ${figure(rest)}` : "";
}

/** What is set aside at admission, times SCALE. */
const needed = (mine, price, hours) => (price * BigInt(mine.hold_seconds ?? hours * 3600)) / 3600n;

const lacks = (mine, payer, price, hours) =>
  payer.budget === "hard" && BigInt(payer.available) * SCALE < needed(mine, price, hours);

/** Why this account cannot pay, and whether it only has to wait; null when it can. */
export function short(mine, payer, price, hours) {
  if (!lacks(mine, payer, price, hours)) return null;
  const set = needed(mine, price, hours), aside = BigInt(payer.balance) * SCALE >= set;
  const beside = aside ? " beside what its running servers have set aside" : "";
  return { aside, text: `${payer.title} has ${left(BigInt(payer.available))} credits left${beside}, ${mine.hold_words} costs ${figure(set)}.` };
}

/** What stands beside a payer. */
export function noteOf(mine, payer, price, hours) {
  if (!lacks(mine, payer, price, hours)) return payer.note;
  return `${payer.note}, ${figure(needed(mine, price, hours))} needed`;
}

/** Whole micro-credits, rounded down. */
const rounded = (amount) => (amount >= 0n ? amount / SCALE : -((-amount + SCALE - 1n) / SCALE));

export function leftOf(payer, total) {
  if (payer.budget === "none") return "only counted";
  const available = BigInt(payer.available);
  let after = rounded(available * SCALE - total);
  const least = available < 0n ? available : 0n;
  if (payer.budget === "hard" && after < least) after = least; // then it is stopped
  return `${left(available)} → ${left(after)}`;
}

/** Hours that the account lasts when this runs besides; null when no end is in sight. */
export function lasts(payer, price) {
  const burn = BigInt(payer.burn) * SCALE + price, balance = BigInt(payer.balance) * SCALE;
  if (payer.budget === "none" || burn <= 0n) return null;
  if (balance <= 0n) return 0;
  return balance / burn > FAR_HOURS ? null : Number((balance * 3600n) / burn) / 3600;
}
