// "Tell me when it is ready": a notification of the browser, asked for only on a click.
import { say } from "./words.js";

const KEY = "dcloud-tell";
const possible = "Notification" in window && window.isSecureContext;

/** The button is shown where the browser can notify; the line beside it says what will happen. */
export function tellButton(button, line) {
  const usual = line.textContent;
  function draw() {
    const told = possible && Notification.permission === "granted" && sessionStorage.getItem(KEY) === "1";
    const denied = possible && Notification.permission === "denied";
    button.hidden = !possible || denied;
    button.setAttribute("aria-pressed", String(told));
    say(button.querySelector("span"), told ? "You will be told" : "Tell me when it is ready");
    say(line, told ? "This browser tells you, while this page is open." : denied ? `${usual} Notifications are blocked in this browser.` : usual);
  }
  button.addEventListener("click", async () => {
    if (sessionStorage.getItem(KEY) === "1") sessionStorage.removeItem(KEY);
    else if ((await Notification.requestPermission()) === "granted") sessionStorage.setItem(KEY, "1");
    draw();
  });
  draw();
}

/** Tell it, where somebody asked for that. */
export function ready(what) {
  if (!possible || Notification.permission !== "granted" || sessionStorage.getItem(KEY) !== "1") return;
  sessionStorage.removeItem(KEY);
  const note = new Notification("Your server is ready", { body: what, tag: "dcloud-ready" });
  note.onclick = () => { window.focus(); note.close(); };
}
