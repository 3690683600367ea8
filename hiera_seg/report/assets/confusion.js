"use strict";
// What classes are predicted as: siblings, cousins, strangers.
report.confusionView = () => {
  const { data, el, percent, KINDS } = report;
  const { tree } = data;
  const MOST = 120; // classes that a matrix can show
  const LISTED = 300;
  const sorted = { column: 3, down: true };
  let table = null;

  const bars = (level) => {
    const sum = KINDS.map((_, kind) => level.kinds.reduce((total, row) => total + row[kind], 0));
    const legend = el("ul", { class: "legend" });
    report.kindLegend(legend, sum);
    document.getElementById("kind-bars").replaceChildren(report.stack(sum), legend);
  };

  const matrix = (level) => {
    const box = document.getElementById("matrix");
    const size = level.nodes.length;
    box.closest(".split").classList.toggle("narrow", size > MOST);
    if (size > MOST) {
      Plotly.purge(box);
      box.textContent = `${size} classes are too many for a matrix; the table lists the largest confusions.`;
      box.style.height = "auto";
      return;
    }
    box.style.height = "";
    const share = level.nodes.map(() => new Array(size).fill(0));
    const text = level.nodes.map(() => new Array(size).fill(""));
    const fill = (truth, predicted, count) => {
      const part = level.pixels[truth] ? count / level.pixels[truth] : null;
      share[truth][predicted] = part === null ? null : 100 * part;
    };
    level.nodes.forEach((_, i) => fill(i, i, level.kinds[i][0]));
    level.cells.forEach(([truth, predicted, count]) => fill(truth, predicted, count));
    level.nodes.forEach((truth, i) => level.nodes.forEach((predicted, j) => {
      const kind = i === j ? "right" : KINDS[report.kind(predicted, truth)];
      text[i][j] = `true ${report.plain(tree.display[truth])}<br>predicted ${report.plain(tree.display[predicted])}` +
        `<br>${percent(share[i][j] === null ? null : share[i][j] / 100, 2)} % of it, ${kind}`;
    }));
    const names = level.nodes.map((node) => report.plain(report.shorten(tree.display[node], 18)));
    const lines = [];
    const groups = report.level > 0 ? level.nodes.map((node) => tree.parent[node]) : [];
    groups.forEach((group, i) => {
      if (!i || group === groups[i - 1]) return;
      const line = { color: report.color("muted"), width: 1 };
      lines.push({ type: "line", x0: i - 0.5, x1: i - 0.5, y0: -0.5, y1: size - 0.5, line });
      lines.push({ type: "line", y0: i - 0.5, y1: i - 0.5, x0: -0.5, x1: size - 0.5, line });
    });
    const room = box.clientWidth / (size + 12) > 9; // else names would cover each other
    const ticks = {
      tickvals: names.map((_, i) => i), ticktext: names, showgrid: false, zeroline: false, ticks: "", showticklabels: room,
    };
    const dark = document.documentElement.dataset.theme === "dark";
    report.draw(box, [{
      type: "heatmap", z: share, text, hoverinfo: "text", zmin: 0, zmax: 100, xgap: size < 40 ? 1 : 0, ygap: size < 40 ? 1 : 0,
      colorscale: dark ? [[0, "#222a36"], [0.15, "#2f4a8a"], [0.5, "#5f8df0"], [1, "#e9f0ff"]]
        : [[0, "#f2f4f8"], [0.15, "#c5d3f5"], [0.5, "#6d8cf0"], [1, "#1f2f78"]],
      showscale: box.clientWidth > 500, colorbar: { thickness: 10, len: 0.7, ticksuffix: " %", outlinewidth: 0 },
    }], report.layout({
      shapes: lines,
      font: { size: size > 40 ? 8 : size > 20 ? 10 : 12, color: report.color("ink") },
      xaxis: { ...ticks, title: { text: "predicted", standoff: 12 }, tickangle: size > 5 ? -60 : 0 },
      yaxis: { ...ticks, title: { text: "true", standoff: 12 }, autorange: "reversed" },
    }));
  };

  const columns = [
    { title: "true", left: true, value: (row) => row.truth, show: (row) => row.truth },
    { title: "predicted as", left: true, value: (row) => row.predicted, show: (row) => row.predicted },
    {
      title: "related", left: true, value: (row) => row.kind,
      show: (row) => el("span", { class: "tag" }, el("span", { class: `swatch kind-${row.kind}` }), KINDS[row.kind]),
    },
    { title: "pixels %", downFirst: true, value: (row) => row.count, show: (row) => percent(row.ofAll, 2) },
    { title: "of class %", downFirst: true, value: (row) => row.ofClass, show: (row) => percent(row.ofClass) },
  ];
  const list = (level) => {
    const total = level.pixels.reduce((a, b) => a + b, 0);
    const rows = level.cells.slice(0, LISTED).map(([truth, predicted, count]) => ({
      truth: tree.display[level.nodes[truth]],
      predicted: tree.display[level.nodes[predicted]],
      kind: report.kind(level.nodes[predicted], level.nodes[truth]),
      count, ofAll: count / total, ofClass: count / level.pixels[truth],
    }));
    table = report.table(document.getElementById("confusion-table"), columns, rows, table ? table.state : sorted);
  };

  const update = () => {
    const level = data.levels[report.level];
    bars(level);
    matrix(level);
  };
  report.on("level", (index) => {
    update();
    list(data.levels[index]);
  });
  report.on("theme", () => matrix(data.levels[report.level]));
};
