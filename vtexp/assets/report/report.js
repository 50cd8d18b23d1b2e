// The page's own behaviour: sorting, plots, the browser of samples. Texts of data sets and models
// are put into the page as text nodes; Plotly, which reads some tags in labels, gets them escaped.
"use strict";

const data = JSON.parse(document.getElementById("report-data").textContent);

// ---- small helpers ---------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// ---- the table -------------------------------------------------------------------------------

function sortTable(table, column, ascending) {
  // A body for each run, with its notes below it.
  const key = (body) => body.rows[0].cells[column].dataset.sort;
  const order = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const difference = Number(a) - Number(b);
    const compared = Number.isNaN(difference) ? a.localeCompare(b, undefined, { numeric: true }) : difference;
    return ascending ? compared : -compared;
  };
  table.append(...[...table.tBodies].sort(order));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[1].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortTable(table, column, ascending);
    });
  });
}

// ---- plots -----------------------------------------------------------------------------------

// Okabe and Ito's colours, told apart by the colour-blind; symbols and dashes tell lines apart in
// grey. Stacks go from dark to light, so that neighbours differ in grey too.
const COLORS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#576274", "#1c2430"],
  dark: ["#56b4e9", "#e69f00", "#2fc79a", "#e29cc4", "#4a90d9", "#f0723a", "#a2adbd", "#e4e8ee"],
};
// More symbols than colours: a ninth line has the first colour with another symbol.
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon", "triangle-down"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const RAMPS = {
  light: [[0, 32, 77], [87, 92, 109], [138, 134, 120], [203, 186, 105], [255, 234, 70]],
  dark: [[62, 104, 172], [124, 138, 158], [165, 158, 130], [210, 195, 110], [255, 234, 70]],
};
const printing = matchMedia("print");
const darkness = matchMedia("screen and (prefers-color-scheme: dark)");
const theme = () => (darkness.matches ? "dark" : "light");

function escaped(text) {
  const marks = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return String(text).replace(/[&<>"']/g, (mark) => marks[mark]).replace(/\n/g, "<br>");
}

// A text that fits into some px of a plot, with its beginning and its end.
function fitting(text, px) {
  const most = Math.max(8, Math.floor(px / 7));
  const end = Math.floor((most - 1) / 2);
  return text.length <= most ? text : `${text.slice(0, most - 1 - end)}\u2026${text.slice(-end)}`;
}

function rampColor(ramps, index, count) {
  const ramp = ramps[theme()];
  const place = count > 1 ? (index / (count - 1)) * (ramp.length - 1) : 1;
  const below = Math.min(Math.floor(place), ramp.length - 2);
  const mixed = ramp[below].map((v, i) => v + (ramp[below + 1][i] - v) * (place - below));
  return `rgb(${mixed.map(Math.round).join(",")})`;
}

// Colours of what has an order, from dark to light on paper; viridis, without its palest end.
const ORDERED = {
  light: [[68, 1, 84], [59, 82, 139], [33, 144, 140], [93, 201, 99]],
  dark: [[129, 98, 201], [86, 140, 206], [60, 178, 172], [160, 222, 120]],
};

function errorBars(series, own) {
  if (!series.low) return undefined;
  const distance = (end, sign) =>
    series.y.map((y, i) => (end[i] === null || y === null ? 0 : Math.max(0, sign * (end[i] - y))));
  return {
    type: "data", symmetric: false, thickness: 1.3, width: 4, color: own,
    array: distance(series.high, 1), arrayminus: distance(series.low, -1),
  };
}

// What the pointer shows of a point: its name, its place, and its series.
function hover(series, value) {
  const label = series.label ? `<extra>${escaped(series.label)}</extra>` : "<extra></extra>";
  return `%{customdata}<br>${value}${label}`;
}

function pointTrace(plot, series, index, own) {
  return {
    type: "scatter", name: escaped(series.label), x: series.x, y: series.y,
    mode: (plot.kind === "points" ? "markers" : "lines+markers") + (series.beside ? "+text" : ""),
    line: { color: own, dash: DASHES[index % DASHES.length], width: 2 },
    marker: {
      color: own, size: plot.kind === "panels" ? 7 : 9, line: { color: own, width: 2 },
      symbol: series.x.map((_, i) =>
        SYMBOLS[index % SYMBOLS.length] + (series.marked?.[i] ? "-open" : "")),
    },
    text: series.beside?.map(escaped), customdata: series.names?.map(escaped), textposition: series.corners ?? undefined,
    error_y: errorBars(series, own),
    hovertemplate: hover(series, "%{x:.5~g}: <b>%{y:.4~g}</b>"),
  };
}

function barTrace(series, index, count) {
  return {
    type: "bar", orientation: "h", name: escaped(series.label), x: series.y, y: series.x,
    marker: { color: rampColor(RAMPS, index, count), line: { color: color("--card"), width: 1 } },
    customdata: series.names.map(escaped),
    hovertemplate: hover(series, "<b>%{x:.4~g}</b>"),
  };
}

// A point with its interval to the right and left, in the place of a bar.
function forestTrace(plot, series, index, own) {
  const trace = pointTrace(plot, series, index, own);
  return {
    ...trace, mode: "markers", cliponaxis: false, x: series.y, y: series.x, error_x: trace.error_y, error_y: undefined,
    hovertemplate: hover(series, "<b>%{x:.4~g}</b>"),
  };
}

function lineTrace(x, y, extra) {
  return {
    type: "scatter", mode: "lines", x, y, hoverinfo: "skip",
    line: { color: color("--quiet"), width: 1.5, dash: "dash", ...extra },
  };
}

function panelTrace(plot, series) {
  const place = plot.panels.indexOf(series.panel);
  const axes = { xaxis: `x${place + 1}`, yaxis: `y${place + 1}` };
  if (series.behind) return { ...lineTrace(series.x, series.y, { dash: "solid", width: 1.2 }), ...axes };
  const line = Math.max(0, plot.legend.indexOf(series.label));
  const alone = plot.ordered ? rampColor(ORDERED, place, plot.panels.length) : COLORS[theme()][0];
  const own = plot.legend.length ? COLORS[theme()][line % COLORS[theme()].length] : alone;
  return { ...pointTrace(plot, series, line, own), ...axes };
}

function tracesOf(plot) {
  const palette = COLORS[theme()];
  if (plot.kind === "panels") return plot.series.map((series) => panelTrace(plot, series));
  if (plot.kind === "bars") {
    return plot.series.map((series, i) => barTrace(series, i, plot.series.length));
  }
  const trace = plot.kind === "forest" ? forestTrace : pointTrace;
  const shape = plot.kind === "forest" ? "linear" : "hv";
  const traces = plot.series.map((series, i) => trace(plot, series, i, palette[i % palette.length]));
  for (const { x, y, series } of plot.steps) {
    const own = series === null ? {} : { color: palette[series % palette.length] };
    traces.unshift(lineTrace(x, y, { shape, ...own }));
  }
  if (plot.diagonal) {
    const along = plot.series.flatMap((series) => series.x);
    const ends = [plot.log_x.length ? Math.min(...along) : 0, Math.max(...along)];
    traces.unshift(lineTrace(ends, ends, {}));
  }
  return traces;
}

function axisOf() {
  return {
    gridcolor: color("--line"), linecolor: color("--line"), zeroline: false, automargin: true,
    showline: true,
  };
}

// An axis of logarithms where values span much, with the ticks that the figures have.
function logAxis(ticks) {
  return ticks.length ? { type: "log", tickvals: ticks, ticktext: ticks.map(String) } : {};
}

const highest = (plot) =>
  Math.max(0, ...plot.series.flatMap((series) => [...series.y, ...(series.high ?? [])]));

// From 0 with room for a marker there.
function forestRange(plot) {
  const most = Math.max(highest(plot), ...plot.steps[0].x) || 1;
  return [-0.03 * most, 1.05 * most];
}

function valueAxis(plot, label) {
  const title = label ? { title: { text: escaped(plot.y_label), standoff: 6 } } : {};
  const bars = plot.kind === "bars";
  const range = plot.percent ? { range: bars ? [0, 100] : [-2, 102] }
    : plot.kind === "forest" ? { range: forestRange(plot) }
    : bars ? { rangemode: "tozero" }
    : plot.log_y.length ? {} : { range: [0, 1.1 * highest(plot) || 1] };
  return { ...axisOf(), ...title, ...range, ...logAxis(plot.log_y) };
}

function barAxes(plot) {
  const names = plot.ticks.filter((tick) => !tick.heading);
  const headings = plot.ticks.filter((tick) => tick.heading);
  return {
    xaxis: valueAxis(plot, true),
    yaxis: {
      ...axisOf(), range: [plot.ticks.length - 0.4, -0.6], showgrid: false, ticklabelstandoff: 6,
      tickvals: names.map((tick) => tick.place), ticktext: names.map((tick) => escaped(tick.text)),
    },
    annotations: headings.map((tick) => ({
      text: `<b>${escaped(fitting(tick.text, 0.6 * plot.width))}</b>`, hovertext: escaped(tick.text),
      x: 0, xref: "paper", xanchor: "left", y: tick.place, showarrow: false,
    })),
  };
}

// Panels beside each other, as many as fit; numbers along the left and the lower edge alone.
function panelAxes(plot, columns) {
  const rows = Math.ceil(plot.panels.length / columns);
  const made = { annotations: [
    { text: escaped(plot.x_label), x: 0.5, y: 0, xref: "paper", yref: "paper", yshift: -42, showarrow: false },
    { text: escaped(plot.y_label), x: 0, y: 0.5, xref: "paper", yref: "paper", xshift: -48, textangle: -90, showarrow: false },
  ] };
  plot.panels.forEach((name, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const [width, height] = [1 / columns, 1 / rows];
    const own = i ? i + 1 : "";
    const last = i + columns >= plot.panels.length;
    const across = [column * width + 0.012, (column + 1) * width - 0.012];
    const down = [1 - (row + 1) * height + 0.03 / rows, 1 - row * height - 34 / (rows * PANEL_PX)];
    made[`xaxis${own}`] = {
      ...axisOf(), domain: across, anchor: `y${own}`, showticklabels: last, nticks: 5, ...logAxis(plot.log_x),
      ...(i ? { matches: "x" } : {}), automargin: false,
    };
    made[`yaxis${own}`] = {
      ...valueAxis(plot, false), domain: down, anchor: `x${own}`, showticklabels: column === 0,
      ...(i ? { matches: "y" } : {}), automargin: false,
    };
    made.annotations.push({
      text: escaped(fitting(name, width * plot.width)), hovertext: escaped(name), x: across[0], y: down[1], xref: "paper", yref: "paper", xanchor: "left",
      yanchor: "bottom", showarrow: false,
    });
  });
  return made;
}

function linearAxes(plot) {
  return {
    xaxis: {
      ...axisOf(), title: { text: escaped(plot.x_label), standoff: 8 },
      rangemode: plot.diagonal ? "tozero" : "normal", ...logAxis(plot.log_x),
    },
    yaxis: valueAxis(plot, true),
  };
}

function layoutOf(plot, width) {
  const axes = { bars: barAxes, forest: barAxes, panels: panelAxes }[plot.kind] ?? linearAxes;
  return {
    autosize: true, barmode: "stack", hovermode: "closest", showlegend: false,
    margin: plot.kind === "panels" ? { l: 62, r: 8, t: 4, b: 58 } : { l: 55, r: 14, t: 12, b: 50 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", bargap: 0.25,
    font: { color: color("--text"), family: "system-ui, sans-serif", size: 12 },
    hoverlabel: { align: "left" }, ...axes({ ...plot, width }, panelColumns(plot, width)),
  };
}

// Heights follow from the number of bars, and of panels below each other.
const [BAR_PX, PANEL_PX] = [26, 190];

// Panels are wide enough for their names, within the plot.
function panelColumns(plot, width) {
  const longest = Math.max(...plot.panels.map((name) => name.length), 0);
  return Math.max(1, Math.min(4, Math.floor(width / Math.max(160, 7 * Math.min(longest, 50)))));
}

function heightOf(plot, width) {
  if (plot.ticks.length) return `${75 + BAR_PX * plot.ticks.length}px`;
  if (plot.kind !== "panels") return "";
  return `${65 + PANEL_PX * Math.ceil(plot.panels.length / panelColumns(plot, width))}px`;
}

const MARKS = ["\u25cf", "\u25a0", "\u25c6", "\u25b2", "\u271a", "\u2716", "\u2605", "\u2b22", "\u25bc"];

// Names of the series above the plot, where they cover nothing; a click hides one.
function showLegend(plot, figure, place) {
  const names = plot.legend.map((label, i) => {
    const bars = plot.kind === "bars";
    const own = bars ? rampColor(RAMPS, i, plot.legend.length) : COLORS[theme()][i % 8];
    const mark = element("span", { class: "mark", style: `color: ${own}` }, bars ? "\u25a0" : MARKS[i % MARKS.length]);
    const button = element("button", { type: "button", "aria-pressed": "true" }, mark, label);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      const traces = [...place.data.keys()].filter((k) => place.data[k].name === escaped(label));
      Plotly.restyle(place, { visible: shown }, traces);
    });
    return element("li", {}, button);
  });
  figure.querySelector(".legend").replaceChildren(...names);
}

function draw(plot, index) {
  const figure = document.getElementById(`plot-${index}`);
  const place = figure.querySelector(".canvas");
  showLegend(plot, figure, place);
  place.style.setProperty("--height", heightOf(plot, place.clientWidth));
  return Plotly.react(place, tracesOf(plot), layoutOf(plot, place.clientWidth), {
    displaylogo: false, responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: plot.name },
  });
}

// Plotly takes longer to start than all the rest: the page is there and can be read before.
function startPlotly() {
  if (window.Plotly) return;
  const script = element("script");
  script.textContent = document.getElementById("plotly-source").textContent;
  document.head.append(script); // runs at once; the policy knows it by its hash
}

function drawAll() {
  startPlotly();
  data.plots.forEach(draw);
}

function drawSeen(entries) {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    waiting.unobserve(entry.target);
    const index = Number(entry.target.id.slice("plot-".length));
    draw(data.plots[index], index);
  }
}

const waiting = new IntersectionObserver(drawSeen, { rootMargin: "600px" });
addEventListener("load", () => setTimeout(() => {
  startPlotly();
  document.querySelectorAll(".plot").forEach((figure, index) => {
    const place = figure.querySelector(".canvas");
    place.style.setProperty("--height", heightOf(data.plots[index], place.clientWidth));
    waiting.observe(figure);
  });
}));
for (const change of [darkness, printing]) change.addEventListener("change", drawAll);
addEventListener("beforeprint", drawAll);

// ---- the browser of samples ------------------------------------------------------------------

const PER_PAGE = 10;
// Places in a sample and in an answer, as vtexp/report/browser.py writes them.
const [ID, IMAGE, GROUPS, QUESTION, OPTIONS, REFERENCES, ANSWERS] = [0, 1, 2, 3, 4, 5, 6];
const [PREDICTION, SCORE, TILING, TOKENS, RIGHT] = [0, 1, 2, 3, 4];

class Browser {
  constructor(root, content, number) {
    this.root = root;
    this.content = content;
    this.number = number;
    // A map, as an id can be the name of something that every object has.
    this.images = new Map(Object.entries(content.images));
    this.form = root.querySelector("form");
    this.cards = root.querySelector(".cards");
    this.more = root.querySelector(".more");
    this.fillGroups();
    this.fillPatterns();
    this.form.addEventListener("input", () => this.show());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.more.addEventListener("click", () => this.addCards());
    this.show();
  }

  text(number) { return this.content.texts[number]; }

  imageOf(sample) { return this.images.get(String(sample[IMAGE])); }

  pattern(sample) { return sample[ANSWERS].map((answer) => answer[RIGHT]).join(""); }

  fillGroups() {
    const select = this.form.elements.group;
    select.append(new Option("all", ""));
    this.content.groups.forEach((name, place) => {
      const counts = this.count((sample) => sample[GROUPS][place]);
      if (counts.size > 40) return;
      const group = element("optgroup", { label: name.replaceAll("_", " ") });
      const sorted = [...counts].map(([number, n]) => [this.text(number) ?? "none", number, n]);
      sorted.sort((a, b) => a[0].localeCompare(b[0], undefined, { numeric: true }));
      for (const [text, number, n] of sorted) {
        group.append(new Option(`${text} (${n})`, `${place} ${number}`));
      }
      select.append(group);
    });
  }

  fillPatterns() {
    const select = this.form.elements.pattern;
    select.append(new Option("any", ""));
    const counts = [...this.count((sample) => this.pattern(sample))];
    counts.sort((a, b) => b[1] - a[1]);
    for (const [pattern, n] of counts) {
      const marks = [...pattern].map((right) => (right === "1" ? "\u2713" : "\u2717")).join(" ");
      select.append(new Option(`${marks}  (${n})`, pattern));
    }
  }

  count(key) {
    const counts = new Map();
    for (const sample of this.content.samples) {
      counts.set(key(sample), (counts.get(key(sample)) ?? 0) + 1);
    }
    return counts;
  }

  matches(sample) {
    const { group, pattern, search, pictured } = this.form.elements;
    if (group.value) {
      const [place, number] = group.value.split(" ").map(Number);
      if (sample[GROUPS][place] !== number) return false;
    }
    if (pattern.value && this.pattern(sample) !== pattern.value) return false;
    if (pictured.checked && !this.imageOf(sample)) return false;
    const wanted = search.value.trim().toLowerCase();
    return !wanted || this.searchable(sample).some((text) => text.toLowerCase().includes(wanted));
  }

  searchable(sample) {
    const numbers = [sample[QUESTION], ...sample[OPTIONS], ...sample[REFERENCES],
      ...sample[ANSWERS].map((answer) => answer[PREDICTION])];
    return [sample[ID], ...numbers.map((number) => this.text(number))];
  }

  show() {
    this.found = this.content.samples.filter((sample) => this.matches(sample));
    // Those with an image first; the order stays otherwise.
    const bare = (sample) => (this.imageOf(sample) ? 0 : 1);
    this.found.sort((a, b) => bare(a) - bare(b));
    this.shown = 0;
    this.cards.replaceChildren();
    const n = this.found.length;
    this.root.querySelector(".count").textContent = `${n} sample${n === 1 ? "" : "s"} found`;
    this.addCards();
  }

  addCards() {
    const next = this.found.slice(this.shown, this.shown + PER_PAGE);
    this.cards.append(...next.map((sample) => this.card(sample)));
    this.shown += next.length;
    this.more.hidden = this.shown >= this.found.length;
  }

  card(sample) {
    const image = this.imageOf(sample);
    const about = this.content.groups
      .map((name, i) => [name.replaceAll("_", " "), this.text(sample[GROUPS][i])])
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name}: ${value}`);
    const right = sample[REFERENCES].map((number) => this.text(number)).join(" | ");
    const words = element("div", {},
      element("p", { class: "question" }, this.text(sample[QUESTION])),
      element("p", { class: "about" }, "right answer: ", element("strong", {}, right)));
    if (sample[OPTIONS].length) {
      const options = sample[OPTIONS].map((number) => this.text(number)).join(" | ");
      words.append(element("p", { class: "about" }, `options: ${options}`));
    }
    const card = element("article", { class: image ? "card" : "card bare" });
    const overlay = svg("g", { class: "overlay" });
    words.append(this.answers(sample, image, overlay),
      element("p", { class: "quiet about" }, [sample[ID], ...about].join(" \u00b7 ")));
    if (image) card.append(this.picture(image, overlay));
    card.append(words);
    return card;
  }

  answers(sample, image, overlay) {
    const body = element("tbody");
    sample[ANSWERS].forEach((answer, place) => {
      const right = answer[RIGHT] === 1;
      const name = this.content.runs[place];
      const run = element("label", {}, name);
      if (image) {
        const radio = element("input", { type: "radio", name: `crops-${this.number}-${sample[ID]}` });
        radio.setAttribute("aria-label", `draw the crops of ${name}`);
        radio.checked = place === sample[ANSWERS].length - 1;
        radio.addEventListener("change", () => drawCrops(overlay, image, place));
        run.prepend(radio);
      }
      const score = answer[SCORE] === null ? "" : `${right ? "\u2713" : "\u2717"} ${+answer[SCORE].toFixed(3)}`;
      body.append(element("tr", { class: right ? "right" : "wrong" },
        element("th", { scope: "row" }, run),
        element("td", { class: "number" }, this.text(answer[TILING])),
        element("td", { class: "number" }, String(answer[TOKENS] ?? "")),
        element("td", { class: "prediction" }, this.text(answer[PREDICTION])),
        element("td", { class: "score" }, score)));
    });
    if (image) drawCrops(overlay, image, sample[ANSWERS].length - 1);
    const names = ["budget", "tiling", "tokens", "prediction", "score"];
    const head = names.map((name) => element("th", { scope: "col" }, name));
    head[1].className = head[2].className = "number";
    return element("table", {}, element("thead", {}, element("tr", {}, ...head)), body);
  }

  picture(image, overlay) {
    const { height, width } = image;
    const canvases = image.overlays.map(([canvas]) => canvas);
    const top = Math.min(0, ...canvases.map((box) => box[0])) * height;
    const left = Math.min(0, ...canvases.map((box) => box[1])) * width;
    const bottom = Math.max(1, ...canvases.map((box) => box[0] + box[2])) * height;
    const end = Math.max(1, ...canvases.map((box) => box[1] + box[3])) * width;
    const drawing = svg("svg", {
      viewBox: `${left} ${top} ${end - left} ${bottom - top}`, role: "img",
      "aria-label": "the image, with the crops of the chosen run drawn over it",
    });
    drawing.append(
      svg("image", { href: image.uri, width, height, preserveAspectRatio: "none" }), overlay);
    const button = element("button", { type: "button", "aria-label": "enlarge the image" }, drawing);
    button.addEventListener("click", () => enlarge(drawing));
    return element("figure", {}, button, element("figcaption", {},
      "Click to enlarge. Outlined: the crops of the chosen run; darker where they overlap."));
  }
}

function drawCrops(overlay, image, place) {
  const [canvas, crops] = image.overlays[place];
  const rect = ([top, left, height, width], name) => svg("rect", {
    y: top * image.height, x: left * image.width, class: name,
    height: height * image.height, width: width * image.width,
  });
  overlay.replaceChildren(rect(canvas, "edge"), ...crops.map((box) => rect(box, "crop")));
}

// ---- an image, enlarged ------------------------------------------------------------------------

const zoom = document.getElementById("zoom");
const [sheet, controls] = [zoom.querySelector(".sheet"), zoom.querySelector("form").elements];
let zoomWidth = 0;

function setZoom(width) {
  zoomWidth = Math.max(200, Math.min(8000, width));
  sheet.firstChild.style.width = `${zoomWidth}px`;
}

function enlarge(drawing) {
  sheet.replaceChildren(drawing.cloneNode(true));
  zoom.showModal();
  const { width, height } = drawing.viewBox.baseVal;
  const fits = Math.min(sheet.clientWidth, sheet.clientHeight * width / height);
  setZoom(Math.max(fits, 1.5 * width)); // so that small print can be read
  sheet.classList.toggle("bare", !controls.crops.checked);
}

controls.in.addEventListener("click", () => setZoom(zoomWidth * 1.5));
controls.out.addEventListener("click", () => setZoom(zoomWidth / 1.5));
controls.crops.addEventListener("input", () => sheet.classList.toggle("bare", !controls.crops.checked));

for (const root of document.querySelectorAll(".browser")) {
  const number = Number(root.dataset.browser);
  new Browser(root, data.browsers[number], number);
}
