// The hub's own administration, made to fit: our style last, and names for its bare buttons.

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
