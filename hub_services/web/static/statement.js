// The button that prints.
document.getElementById("u-print").addEventListener("click", () => print());
