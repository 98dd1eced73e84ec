// Draws what a [data-chart] says with uPlot: bars that stand on each other, or lines over time.
// Series differ by pattern or dashes, not by colour alone. Nothing moves.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const drawn = new Map();
const FONT = "12px system-ui, sans-serif";
const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3]];
const HEIGHT = { bars: 200, lines: 136 };

/** A pattern that tells the nth series from its neighbours, on the page's own colour. */
function pattern(context, n) {
  if (n === 0) return css("--dc-accent");
  const ratio = devicePixelRatio, size = 6 * ratio, tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  pen.fillStyle = css("--bs-body-bg");
  pen.fillRect(0, 0, size, size);
  pen.strokeStyle = pen.fillStyle = css("--dc-taken");
  pen.lineWidth = 1.75 * ratio;
  pen.beginPath();
  if (n === 1) for (const shift of [-size, 0, size]) { pen.moveTo(shift - 1, size + 1); pen.lineTo(shift + size + 1, -1); }
  if (n === 2) pen.arc(size / 2, size / 2, size / 3.2, 0, 2 * Math.PI);
  if (n === 3) { pen.moveTo(0, size / 2); pen.lineTo(size, size / 2); }
  if (n === 2) pen.fill(); else pen.stroke();
  return context.createPattern(tile, "repeat");
}

const edge = (n) => css(n === 0 ? "--dc-accent" : "--dc-taken");

function axes(extra) {
  const axis = { stroke: () => css("--bs-secondary-color"), font: FONT, grid: { stroke: () => css("--dc-line"), width: 1 }, ticks: { show: false } };
  return [{ ...axis, grid: { show: false }, gap: 6, size: 26, ...extra }, { ...axis, size: (u, values) => 12 + 7 * Math.max(1, ...(values ?? [""]).map((text) => text.length)), gap: 6, values: (u, splits) => splits.map(number) }];
}

const number = (value) => (value === null ? "" : String(Number(value.toPrecision(4))));

function stacked(chart) {
  const count = chart.labels.length, rows = chart.series.map((each) => each.values);
  // A part that is nothing has no bar, not even a line.
  const sums = rows.map((row, n) => chart.labels.map((_, x) => (row[x] ? rows.slice(0, n + 1).reduce((sum, each) => sum + each[x], 0) : null)));
  const bars = window.uPlot.paths.bars({ size: [0.6, 36], align: 0 });
  return {
    data: [[...Array(count).keys()], ...sums.toReversed()],
    options: {
      scales: { x: { time: false, range: [-0.6, count - 0.4] }, y: { range: (u, low, high) => [0, high > 0 ? high * 1.05 : 1] } },
      axes: axes({
        splits: (u) => { const step = Math.max(1, Math.ceil(count / Math.max(2, Math.floor(u.width / 84)))); return [...Array(count).keys()].filter((x) => (count - 1 - x) % step === 0); },
        values: (u, splits) => splits.map((x) => chart.labels[x]),
      }),
      series: [{}, ...chart.series.map((each, n) => ({ label: each.label, paths: bars, points: { show: false }, width: 1, stroke: () => edge(n), fill: (u) => pattern(u.ctx, n) })).toReversed()],
    },
    words: (x) => {
      const parts = chart.series.filter((each) => each.values[x]).map((each) => `${each.label} ${each.values[x].toFixed(1)}`);
      return `${chart.labels[x]}: ${parts.join(", ") || "0"} ${chart.unit}`;
    },
  };
}

function moments(zone) {
  const part = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, ...options });
  const time = part({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }), day = part({ day: "numeric", month: "short" });
  return { time: (at) => time.format(at * 1000), day: (at) => day.format(at * 1000) };
}

/** Values between two gaps, of which a line would show nothing. */
const lonely = (values) => [...values.keys()].filter((x) => values[x] != null && values[x - 1] == null && values[x + 1] == null);

function lines(chart, zone) {
  const { time, day } = moments(zone);
  return {
    data: [chart.at, ...chart.series.map((each) => each.values)],
    options: {
      tzDate: (at) => window.uPlot.tzDate(new Date(at * 1000), zone),
      scales: { x: { time: true, range: () => [chart.from, chart.until] }, y: { range: (u, low, high) => [0, chart.most ?? (high > 0 ? high * 1.1 : 1)] } },
      axes: axes({ space: 72, values: (u, splits) => splits.map((at, n) => { const here = time(at); return here === "00:00" || (n > 0 && day(at) !== day(splits[n - 1])) ? day(at) : here; }) }),
      series: [{}, ...chart.series.map((each, n) => ({ label: each.label, stroke: () => (n === 0 ? css("--dc-accent") : css("--bs-body-color")), width: 1.5, dash: DASHES[n % DASHES.length], points: { show: true, size: 3, filter: (u, index) => lonely(u.data[index]) }, spanGaps: false }))],
    },
    words: (x) => {
      const parts = chart.series.map((each) => `${chart.series.length > 1 ? `${each.label} ` : ""}${each.values[x] === null ? "not measured" : `${number(each.values[x])} ${chart.unit}`}`);
      return `${day(chart.at[x])}, ${time(chart.at[x])}: ${parts.join(", ")}`;
    },
  };
}

function plan(element) {
  const chart = JSON.parse(element.dataset.chart);
  const zone = document.getElementById("main").dataset.zone || "UTC";
  return { kind: chart.kind, ...(chart.kind === "bars" ? stacked(chart) : lines(chart, zone)) };
}

/** Draw a chart, or put new values into the one that is there. */
function draw(element) {
  const found = plan(element), old = drawn.get(element);
  if (old && old.said === element.dataset.chart) return;
  old?.plot.destroy();
  const read = element.nextElementSibling?.matches(".u-read") ? element.nextElementSibling : null;
  const say = (u) => { if (read) read.textContent = u.cursor.idx == null ? "" : found.words(u.cursor.idx); };
  const plot = new window.uPlot({
    width: Math.max(240, element.clientWidth),
    height: HEIGHT[found.kind],
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    hooks: { setCursor: [say] },
    padding: [8, 20, 0, 0],
    ...found.options,
  }, found.data, element);
  drawn.set(element, { plot, said: element.dataset.chart });
}

const every = (act) => { for (const [element, { plot }] of drawn) if (element.isConnected) act(plot, element); };

/** All charts below an element; false where the library is not there. */
export function charts(root = document) {
  if (!window.uPlot) return false;
  for (const element of root.querySelectorAll("[data-chart]")) {
    draw(element);
    sizes.observe(element);
  }
  return true;
}

const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const plot = drawn.get(target)?.plot;
    if (plot && contentRect.width > 0 && Math.abs(plot.width - contentRect.width) > 1) plot.setSize({ width: Math.max(240, contentRect.width), height: plot.height });
  }
});

// Colours are read anew when the theme is another one.
new MutationObserver(() => every((plot) => plot.redraw(false, true))).observe(document.documentElement, { attributes: true, attributeFilter: ["data-bs-theme"] });
