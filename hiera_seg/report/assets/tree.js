"use strict";
// The class tree as a sunburst or an icicle, and a panel that says the same in words.
report.treeView = () => {
  const { data, el, percent } = report;
  const { tree } = data;
  const ROOT = "root";
  const chart = document.getElementById("tree-chart");
  const state = { shape: "sunburst", size: "classes", zoom: ROOT, node: -1, listens: false };
  const key = (node) => (node < 0 ? ROOT : String(node));

  // A node's scores are those of the level that it stands at.
  const place = new Map();
  data.levels.forEach((level, index) => level.nodes.forEach((node, i) => {
    if (tree.depth[node] === index) place.set(node, { level, index, i });
  }));
  const iou = (node) => place.get(node).level.iou[place.get(node).i];
  const children = new Map([[-1, []], ...tree.parent.map((_, node) => [node, []])]);
  data.levels.forEach((level) => level.nodes.forEach((node) => {
    const siblings = children.get(tree.parent[node]);
    if (!siblings.includes(node)) siblings.push(node);
  }));
  // Areas add up from the leaves, so that children fill their parent.
  const areas = (weight) => {
    const result = tree.parent.map(() => 0);
    for (let leaf = 0; leaf < tree.leaves; leaf++)
      for (let v = leaf; v >= 0; v = tree.parent[v]) result[v] += weight(leaf);
    return result;
  };
  const finest = data.levels.at(-1);
  const pixels = new Map(finest.nodes.map((node, i) => [node, finest.pixels[i]]));
  const area = { classes: areas(() => 1), pixels: areas((leaf) => pixels.get(leaf) ?? 0) };

  const nodes = [...tree.parent.keys()];
  const draw = () => {
    const values = area[state.size];
    const total = children.get(-1).reduce((sum, node) => sum + values[node], 0);
    const hover = nodes.map((node) => {
      const { level, i } = place.get(node);
      return `<b>${report.plain(tree.display[node])}</b><br>IoU ${percent(level.iou[i])} %` +
        `<br>ACC ${percent(level.acc[i])} %<br>${percent(level.share[i], 2)} % of the pixels`;
    });
    const none = report.color("grid");
    const trace = {
      type: state.shape,
      ids: [ROOT, ...nodes.map(key)],
      labels: [tree.name || "tree", ...nodes.map((node) => report.shorten(tree.names[node], 22))].map(report.plain),
      parents: ["", ...nodes.map((node) => key(tree.parent[node]))],
      values: [total, ...values],
      branchvalues: "total",
      sort: false,
      level: state.zoom,
      maxdepth: report.level + 2,
      hovertext: ["", ...hover],
      hoverinfo: "text",
      marker: {
        colors: [report.color("card"), ...nodes.map((node) => (iou(node) === null ? none : report.shade(iou(node))))],
        line: { width: Math.min(1, 150 / tree.leaves), color: report.color("card") },
      },
      root: { color: "rgba(0,0,0,0)" },
      leaf: { opacity: 1 },
      insidetextorientation: "auto",
      domain: { x: [0, 1], y: [0.17, 1] },
      tiling: { orientation: "h" },
      pathbar: { visible: true },
    };
    // A trace of no area with the scale of colours beside it.
    const scale = {
      type: "scatter", x: [null], y: [null], showlegend: false, hoverinfo: "skip",
      marker: {
        color: [0], cmin: 0, cmax: 100, colorscale: report.SCALE, showscale: true,
        colorbar: {
          orientation: "h", thickness: 10, len: 0.6, x: 0.5, y: 0, yanchor: "bottom", outlinewidth: 0,
          ticksuffix: " %", title: { text: "IoU", side: "top" },
        },
      },
    };
    const hiddenAxis = { visible: false, fixedrange: true };
    report.draw(chart, [trace, scale], report.layout({ xaxis: hiddenAxis, yaxis: hiddenAxis }));
    if (!chart.on || state.listens) return;
    state.listens = true; // a chart has events once it has been drawn
    chart.on("plotly_sunburstclick", clicked);
    chart.on("plotly_icicleclick", clicked);
  };

  const chip = (node, text) => el("button", {
    type: "button", class: "chip", onclick: () => report.showNode(node),
  }, node < 0 ? null : report.swatch(node), el("span", {}, text));

  const panel = document.getElementById("node");
  const describe = (focus) => {
    const node = state.node;
    const path = [];
    for (let v = node; v >= 0; v = tree.parent[v]) path.unshift(v);
    const crumbs = el("nav", { class: "crumbs", "aria-label": "Path in the tree" }, chip(-1, tree.name || "tree"),
      path.map((v) => ["›", chip(v, tree.names[v])]).flat());
    const parts = [crumbs, el("h3", {}, node < 0 ? tree.name || "tree" : tree.display[node])];
    if (node >= 0) {
      const { level, index, i } = place.get(node);
      const facts = [["level", tree.levels[index]], ["IoU", `${percent(level.iou[i], 2)} %`],
        ["ACC", `${percent(level.acc[i], 2)} %`], ["share of the pixels", `${percent(level.share[i], 2)} %`],
        ["pixels", level.pixels[i].toLocaleString("en")]];
      parts.push(el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
      parts.push(el("h4", {}, "Its pixels are predicted as"), report.stack(level.kinds[i]));
      const confused = level.cells.filter((cell) => cell[0] === i).slice(0, 5);
      if (confused.length) {
        parts.push(el("dl", { class: "facts" }, confused.flatMap(([, other, count]) => [
          el("dt", {}, el("span", { class: "tag" },
            el("span", { class: `swatch kind-${report.kind(level.nodes[other], node)}` }), tree.display[level.nodes[other]])),
          el("dd", {}, `${percent(count / level.pixels[i])} %`)])));
      }
    }
    const below = children.get(node);
    const leaves = finest.nodes.filter((leaf) =>
      iou(leaf) !== null && (node < 0 || (leaf !== node && report.isAncestor(node, leaf))));
    if (below.length) {
      parts.push(el("h4", {}, node < 0 ? "Top of the tree" : "Below it"),
        el("div", { class: "chips" }, below.map((child) =>
          chip(child, `${tree.names[child]} ${percent(iou(child), 0)}`))));
    }
    if (leaves.length > 5) {
      const weakest = leaves.sort((a, b) => iou(a) - iou(b)).slice(0, 5);
      parts.push(el("h4", {}, "Weakest leaves"), el("div", { class: "chips" }, weakest.map((leaf) =>
        chip(leaf, `${tree.names[leaf]} ${percent(iou(leaf))}`))));
    }
    panel.replaceChildren(...parts);
    if (focus) crumbs.querySelector("button:last-of-type").focus();
  };

  // Show a node in the panel, and go to it in the chart: leaves are seen in their parent.
  report.showNode = (node, scroll = false) => {
    const inside = panel.contains(document.activeElement);
    state.node = node;
    state.zoom = key(node >= 0 && !children.get(node).length ? tree.parent[node] : node);
    describe(inside);
    draw();
    if (scroll) document.getElementById("tree").scrollIntoView();
  };

  report.segments(document.getElementById("tree-shape"), "shape",
    [["sunburst", "sunburst"], ["icicle", "icicle"]], "sunburst", (value) => {
      state.shape = value;
      draw();
    });
  report.segments(document.getElementById("tree-size"), "size",
    [["classes", "by classes"], ["pixels", "by pixels"]], "classes", (value) => {
      state.size = value;
      draw();
    });
  report.on("level", draw);
  report.on("theme", draw);
  describe(false);
  const clicked = (event) => {
    const id = event.points[0].id;
    // a click on the node that fills the chart goes up
    const up = id === state.zoom && id !== ROOT;
    report.showNode(up ? tree.parent[Number(id)] : id === ROOT ? -1 : Number(id));
    return false; // the chart does not zoom by itself
  };
};

// IoU as a colour: the cividis-like scale is legible for colour-blind readers, light to dark.
report.SCALE = [[0, "#5b2a86"], [0.25, "#5167b8"], [0.5, "#2f9aa0"], [0.75, "#67c06f"], [1, "#f2e24b"]];
report.shade = (fraction) => {
  const scale = report.SCALE;
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  let at = 0;
  while (at < scale.length - 2 && fraction > scale[at + 1][0]) at++;
  const [low, high] = [scale[at], scale[at + 1]];
  const t = Math.max(0, Math.min(1, (fraction - low[0]) / (high[0] - low[0])));
  const a = rgb(low[1]), b = rgb(high[1]);
  return `rgb(${a.map((value, i) => Math.round(value + t * (b[i] - value))).join(",")})`;
};
