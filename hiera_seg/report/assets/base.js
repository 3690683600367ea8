"use strict";
// What all parts of the page share: the data, the chosen level, the theme, small helpers.
const report = {
  data: JSON.parse(document.getElementById("report-data").textContent),
  level: 0,
  ready: false, // charts are drawn from then on
  listeners: { level: [], theme: [], node: [] },
};

// Kinds of a prediction, in the order of report_data.py.
report.KINDS = ["right", "sibling", "cousin", "stranger", "left above"];

report.on = (event, listener) => report.listeners[event].push(listener);
report.emit = (event, value) => report.listeners[event].forEach((listener) => listener(value));

// An element with attributes and children. Text becomes text nodes: markup in names stays text.
report.el = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") element.style.cssText = value;
    else if (value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
};

report.percent = (fraction, digits = 1) =>
  fraction === null || fraction === undefined ? "–" : (100 * fraction).toFixed(digits);
report.number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);
// plotly reads a little html in labels; names are no html.
report.plain = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
report.shorten = (text, length) =>
  text.length > length ? `${text.slice(0, length - 1)}…` : text;
report.swatch = (node) =>
  report.el("span", { class: "swatch", style: `background:${report.data.tree.color[node]}` });

report.isAncestor = (node, other) => {
  const { parent } = report.data.tree;
  for (let v = other; v >= 0; v = parent[v]) if (v === node) return true;
  return false;
};
report.top = (node) => report.data.tree.standing[0][node];
// How a predicted node is related to a true one of the same level.
report.kind = (predicted, truth) => {
  const { parent } = report.data.tree;
  if (predicted === truth || report.isAncestor(truth, predicted)) return 0;
  if (report.isAncestor(predicted, truth)) return 4;
  if (parent[predicted] === parent[truth] && parent[truth] >= 0) return 1;
  return report.top(predicted) === report.top(truth) ? 2 : 3;
};

// A row of radio buttons that looks like one switch.
report.segments = (fieldset, name, options, chosen, onchange) => {
  options.forEach(([value, text]) => {
    const input = report.el("input", { type: "radio", name, value, onchange: () => onchange(value) });
    input.checked = value === chosen;
    fieldset.append(report.el("label", { title: text }, input, report.el("span", {}, text)));
  });
};

report.setLevel = (level) => {
  report.level = level;
  const name = report.data.tree.levels[level];
  document.querySelectorAll(".level-name").forEach((span) => (span.textContent = name));
  const chosen = document.querySelectorAll("#level-switch input")[level];
  chosen.checked = true;
  const label = chosen.parentElement, bar = document.getElementById("level-switch");
  bar.scrollLeft = label.offsetLeft - (bar.clientWidth - label.offsetWidth) / 2; // where it is narrow
  report.emit("level", level);
};

// --- theme ---
report.color = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

report.setTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.textContent = theme === "dark" ? "☀ Light" : "☾ Dark";
  button.setAttribute("aria-label", theme === "dark" ? "Use light colours" : "Use dark colours");
  button.setAttribute("aria-pressed", theme === "dark");
  report.emit("theme", theme);
};

// --- charts ---
report.layout = (changes = {}) => {
  const axis = { gridcolor: report.color("grid"), zerolinecolor: report.color("grid"), automargin: true };
  const { xaxis = {}, yaxis = {}, ...rest } = changes;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: report.color("ink") },
    margin: { l: 10, r: 10, t: 10, b: 10 },
    hoverlabel: { bgcolor: report.color("card"), bordercolor: report.color("line"), font: { color: report.color("ink") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    colorway: ["#4c6fd1", "#d1772a", "#2a9d74", "#b4499a", "#8b7a1f", "#5fa8d3", "#c9283e", "#7a6bd1"],
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...rest,
  };
};

report.draw = (id, traces, layout) => {
  if (!report.ready) return; // once at the start, and not at each of its steps
  Plotly.react(id, traces, layout, { responsive: true, displayModeBar: false });
};

// --- the head of the page ---
report.start = () => {
  const { data, el, percent, number } = report;
  const { tree, metrics } = data;
  document.getElementById("dataset").textContent = data.dataset || "evaluation";
  const plural = tree.levels.length === 1 ? "" : "s";
  document.getElementById("facts").textContent =
    `tree ${tree.name || "without a name"}: ${tree.names.length} nodes, ${tree.leaves} leaves, ` +
    `${tree.levels.length} level${plural} · ${data.numImages ?? "–"} image${data.numImages === 1 ? "" : "s"} · ${data.created}`;
  if (data.notes.length) {
    const notes = document.getElementById("notes");
    notes.hidden = false;
    notes.append(...data.notes.map((note) => el("li", {}, note)));
  }

  report.segments(
    document.getElementById("level-switch"), "level",
    tree.levels.map((name, level) => [level, name]), 0, report.setLevel,
  );
  const sections = [...document.querySelectorAll("main > section:not([hidden])")];
  document.getElementById("contents").append(
    ...sections.map((section) => {
      const title = section.querySelector("h2").textContent.replace(/ at level.*/s, "");
      return el("a", { href: `#${section.id}` }, title);
    }),
  );

  const facts = (rows) =>
    el("dl", { class: "facts" }, rows.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]));
  const of = (key) => (metrics[key] === undefined || metrics[key] === null ? null : metrics[key] / 100);
  const cards = tree.levels.map((name) => {
    const rows = [["mACC", percent(of(`mACC_${name}`))], ["pACC", percent(of(`pACC_${name}`))],
      ["fwIoU", percent(of(`fwIoU_${name}`))]];
    if (`mIoU_direct_${name}` in metrics) rows.unshift(["mIoU direct", percent(of(`mIoU_direct_${name}`))]);
    if (`ECE_${name}` in metrics) rows.push(["calibration error", percent(of(`ECE_${name}`))]);
    return el("article", { class: "card" }, el("h3", {}, name),
      el("div", { class: "big" }, percent(of(`mIoU_${name}`)), el("small", {}, " % mIoU")), facts(rows));
  });
  const edges = (key) => `${number(metrics[key])} edges`;
  const rows = [["mistake severity", edges("mistake_severity")]];
  if ("consistency" in metrics) rows.push(["consistency", `${percent(of("consistency"))} %`]);
  if ("safe_depth_auc" in metrics) rows.push(["safe-depth area", `${percent(of("safe_depth_auc"))} %`]);
  if ("mIoU_all" in metrics) rows.push(["mIoU, all classes", `${percent(of("mIoU_all"))} %`]);
  cards.push(el("article", { class: "card" }, el("h3", {}, "whole path"),
    el("div", { class: "big" }, number(metrics.tree_distance), el("small", {}, " edges tree distance")), facts(rows)));
  document.getElementById("cards").append(...cards);
  report.on("level", (level) =>
    cards.forEach((card, index) => card.classList.toggle("current", index === level)));

  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () =>
    report.setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => report.setTheme(dark.matches ? "dark" : "light"));
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  report.setLevel(tree.levels.length - 1);
  report.ready = true;
  report.setTheme(dark.matches ? "dark" : "light");
};
