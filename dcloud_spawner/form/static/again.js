// Load the page again after data-again seconds, or go to data-go; the part after # is kept.
const { again, go } = document.getElementById("main").dataset;
const start = document.getElementById("start");
if (start && location.hash) start.hash = location.hash;
if (again) {
  setTimeout(() => { if (go) location.assign(go + location.hash); else location.reload(); }, Number(again) * 1000);
}
