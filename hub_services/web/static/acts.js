// What people and administrators do, each after a question that says what it means.
import { call } from "./api.js";
import { hour, say } from "../words.js";

const by = (id) => document.getElementById(id);
const dialog = by("a-dialog"), form = by("a-form"), reason = by("a-reason"), wrong = by("a-wrong"), sure = by("a-sure");
let act = null;

/** Each: the question, what it means, the button, the request, and whether a reason is needed. */
const ACTS = {
  cancel: (row) => row.mine
    ? { ask: "Leave the queue?", lost: "The place is given up. Your files are not touched.", sure: "Leave the queue", look: "btn-stop", path: `workloads/${row.workload}/cancel`, reason: false }
    : { short: "Take out", ask: `Take this request out of the queue? ${row.about}`, lost: "Its place is lost for good; its owner sees the reason.", sure: "Take out", look: "btn-stop", path: `workloads/${row.workload}/cancel`, reason: true },
  hold: (row) => ({ short: "Hold", ask: `Keep this request on hold? ${row.about}`, lost: "It keeps its due time, but does not start until somebody releases it. Its owner sees the reason.", sure: "Hold", path: `workloads/${row.workload}/hold`, reason: true }),
  release: (row) => ({ short: "Release", ask: `Release this request? ${row.about}`, lost: "It waits again at the place of its due time.", sure: "Release", path: `workloads/${row.workload}/release`, reason: false }),
  move: (row) => ({ short: "To the head", ask: `Move this request to the head? ${row.about}`, lost: "It goes before everybody who waits, also before what was moved earlier. Its owner sees the reason.", sure: "Move to the head", path: `workloads/${row.workload}/move`, reason: true }),
  drain: (row) => ({ ask: `Drain ${row.about}?`, lost: "Nothing new starts there. Who runs there goes on until they stop.", who: row.runs.replace(/\{([^}]+)\}/g, (_, iso) => hour(new Date(iso))), sure: "Drain", path: row.path + "/drain", reason: true }),
  undrain: (row) => ({ ask: `Offer ${row.about} again?`, lost: "What waits may start there at once.", sure: "Offer again", path: row.path + "/undrain", reason: false }),
  unreserve: (row) => ({ ask: `Cancel this reservation? ${row.about}`, lost: "Its GPUs go to everybody. Who runs on it goes on.", sure: "Cancel reservation", look: "btn-stop", method: "DELETE", path: `reservations/${row.reservation}`, reason: false }),
};

function show(chosen) {
  act = chosen;
  say(by("a-ask"), act.ask);
  say(by("a-lost"), act.lost);
  say(by("a-who"), act.who ?? "");
  by("a-reason-part").hidden = !act.reason;
  reason.required = act.reason;
  sure.className = `btn ${act.look ?? "btn-primary"}`;
  sure.disabled = false;
  say(sure, act.sure);
  wrong.hidden = true;
}

function choices(row) {
  const kinds = [row.hold ? "release" : "hold", "move", "cancel"];
  by("a-choices").replaceChildren(...kinds.map((kind, i) => {
    const label = document.createElement("label"), input = document.createElement("input"), words = document.createElement("b");
    Object.assign(input, { type: "radio", name: "a-kind", value: kind, checked: i === 0 });
    input.addEventListener("change", () => show(ACTS[kind](row)));
    words.textContent = ACTS[kind]({ ...row, mine: "" }).short;
    label.append(input, words);
    return label;
  }));
  return kinds[0];
}

/** Ask about the act of a button; its row carries what it is about. */
export function openAct(button) {
  const row = { ...button.closest("[data-about]").dataset };
  const many = button.dataset.act === "row";
  by("a-choose").hidden = !many;
  show(ACTS[many ? choices(row) : button.dataset.act](row));
  reason.value = "";
  dialog.showModal();
  (act.reason ? reason : by("a-stay")).focus();
}

/** Ask about an act that says itself what it is: as those above, with ``body`` and ``done``, or
    with ``act``, what is done instead of one call. */
export function confirmAct(chosen) {
  by("a-choose").hidden = true;
  show(chosen);
  reason.value = "";
  dialog.showModal();
  (chosen.reason ? reason : by("a-stay")).focus();
}

by("a-stay").addEventListener("click", () => dialog.close());

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = act;
  sure.disabled = true;
  say(sure, "One moment…");
  try {
    const why = asked.reason ? { [asked.reasonName ?? "reason"]: reason.value } : undefined;
    const answer = asked.act ? await asked.act() : await call(asked.method ?? "POST", asked.path, asked.body || why ? { ...asked.body, ...why } : undefined, asked.key);
    dialog.close();
    asked.done?.(answer);
  } catch (error) {
    wrong.hidden = false;
    say(wrong.querySelector("span"), asked.words?.(error) ?? error.message);
  }
  sure.disabled = false;
  say(sure, asked.sure);
});
