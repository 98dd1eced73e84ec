// The hub's own administration, made to fit: our style last, names for its bare buttons, and a
// question before what ends other people's work.

// The app brings its own Bootstrap and puts it last in the head; ours has to come after it.
document.head.append(document.querySelector('link[href*="dcloud.css"]'));

const app = document.getElementById("react-admin-hook");
function name() {
  for (const button of app.querySelectorAll('button[aria-controls$="-collapse"]:not([aria-label])')) {
    button.setAttribute("aria-label", `Details of ${button.getAttribute("aria-controls").replace(/-collapse$/, "")}`);
  }
  // A button inside a link would be a second stop for the same thing.
  for (const button of app.querySelectorAll("a > button:not([tabindex])")) button.tabIndex = -1;
}
new MutationObserver(name).observe(app, { childList: true, subtree: true });
name();

const LOST = "Unsaved work and running programs end; files in homes stay.";
const ASK = {
  "Start All": ["Start a server for every user on this page?", "Each takes resources, or a place in the queue, with the user's last choice or the first profile."],
  "Stop All": ["Stop the servers of every user on this page?", `Who waits leaves the queue. ${LOST}`],
  "Stop Server": ["Stop this server?", LOST],
  "Delete Server": ["Remove this server?", "Its name and its last choice are forgotten. Files in the home stay."],
  "Delete user": ["Delete this user?", "Their servers end. The home is kept, closed to a new user of that name; dcloud homes lists it."],
  "Delete Group": ["Delete this group?", "Its members lose the profiles that are for it."],
  "Shutdown Hub": ["Restart the hub?", "It comes back by itself in a few seconds. Servers and places in the queue stay. To end it: dcloud down."],
};
const dialog = document.getElementById("a-dialog"), sure = document.getElementById("a-sure");
let wanted = null;

// On the way down, so that the app hears of a click only once it has been confirmed.
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("#react-admin-hook button");
  const text = button?.textContent.trim();
  if (!button || !Object.hasOwn(ASK, text) || button === wanted) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  [document.getElementById("a-ask").textContent, document.getElementById("a-lost").textContent] = ASK[text];
  sure.textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue !== "sure") return;
    wanted = button;
    button.click();
    wanted = null;
  };
}, true);
