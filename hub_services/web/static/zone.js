// Tells the server where the reader is, so that days begin at their midnight, and writes times as
// they have them.
import { localTimes } from "../words.js";

const main = document.getElementById("main");
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";

localTimes();
if (zone && main.dataset.zone !== zone && !new URLSearchParams(location.search).has("tz")) {
  document.cookie = `dcloud-zone=${zone}; path=${main.dataset.service}; max-age=31536000; samesite=lax`;
  // Drawn once more only where the cookie was taken, and only where days are shown.
  if (main.querySelector("[data-days]") && document.cookie.includes(`dcloud-zone=${zone}`)) location.reload();
}
