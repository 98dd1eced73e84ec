// Pages of datasets: dialogs, copying, and what goes on in the background.
import { say } from "../words.js";

const by = (id) => document.getElementById(id);
const main = by("main");

function open(dialog) {
  dialog.showModal();
  // Where a change loads the page again, the dialog is open again.
  history.replaceState(null, "", `${location.pathname}${location.search}#${dialog.id}`);
}

for (const dialog of main.querySelectorAll("dialog[id^=d-]")) {
  dialog.addEventListener("close", () => {
    if (location.hash === `#${dialog.id}`) history.replaceState(null, "", location.pathname + location.search);
  });
}

main.addEventListener("click", async (event) => {
  const opener = event.target.closest("[data-open]"), closer = event.target.closest("[data-close]"), copier = event.target.closest("[data-copy], [data-copy-of]");
  if (opener) open(by(opener.dataset.open));
  if (closer) closer.closest("dialog").close();
  if (!copier) return;
  const words = copier.querySelector("span"), before = words.innerHTML;
  try {
    await navigator.clipboard.writeText(copier.dataset.copy ?? by(copier.dataset.copyOf).textContent);
    say(words, "Copied");
    say(by("l-news"), "Copied");
  } catch {
    say(words, "Select and copy it by hand");
  }
  setTimeout(() => { words.innerHTML = before; }, 2000);
});

by("s-sort")?.addEventListener("change", (event) => event.target.form.requestSubmit());

if (by(location.hash.slice(1))?.matches("dialog[id=d-share]")) open(by("d-share"));

const panel = main.querySelector("[data-work]"), pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

/** Take the parts that may have changed from the page as it is now; what is being written stays. */
async function refresh() {
  const answer = await fetch(location.pathname + location.search, { redirect: "error", headers: { Accept: "text/html" }, signal: AbortSignal.timeout(15000) });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of main.querySelectorAll("[data-fresh]")) {
    const next = page.getElementById(old.id);
    if (!next || next.innerHTML === old.innerHTML || old.contains(document.activeElement)) continue;
    const made = document.importNode(next, true);
    for (const button of made.querySelectorAll("button[data-path]")) button.disabled = false;
    old.replaceWith(made);
  }
}

let fresh = Promise.resolve();
main.addEventListener("dataset-changed", () => { fresh = fresh.then(refresh).catch(() => {}); });

/** Look again while something goes on; when it is over, the page is another one. */
async function follow() {
  while (by("s-work")?.matches("[data-busy]")) {
    await pause(document.hidden ? 10000 : 1500);
    let next;
    try {
      const answer = await fetch(panel.dataset.work, { redirect: "error", headers: { Accept: "text/html" }, signal: AbortSignal.timeout(8000) });
      if (!answer.ok) continue;
      next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("s-work");
    } catch { continue; }
    if (!next) return;
    const old = by("s-work");
    const over = !next.matches("[data-busy]"), words = next.querySelector("li b")?.textContent ?? "";
    if (words !== old.querySelector("li b")?.textContent) say(by("l-news"), words);
    document.title = `${words}${next.dataset.percent ? `, ${next.dataset.percent} %` : ""} · DCloud`;
    old.replaceWith(document.importNode(next, true));
    // Not while somebody is in a dialog or uploads something here.
    if (over && document.querySelector("dialog[open], [data-uploading]")) return void refresh().catch(() => {});
    if (!over) continue;
    document.body.inert = true; // until the page is there again nobody opens what would be gone with it
    location.reload();
  }
}
if (panel) follow();
