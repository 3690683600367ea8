"use strict";
// Tables whose headings sort.
report.table = (table, columns, rows, sorted = { column: 0, down: false }) => {
  const { el } = report;
  const state = { ...sorted };
  const body = el("tbody");

  const compare = (a, b) => {
    // what is not known comes last, whichever way is up
    const known = (value) => !(value === null || value === undefined);
    const x = columns[state.column].value(a), y = columns[state.column].value(b);
    if (!known(x) || !known(y)) return known(y) - known(x);
    const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return state.down ? -order : order;
  };
  const show = () => {
    const visible = rows.filter((row) => !row.hidden).sort(compare);
    body.replaceChildren(...visible.map((row) => {
      row.element ??= el("tr", {}, columns.map((column) =>
        el("td", { class: column.left ? "left" : "" }, column.show(row))));
      return row.element;
    }));
    headings.forEach((heading, index) => heading.setAttribute("aria-sort",
      index !== state.column ? "none" : state.down ? "descending" : "ascending"));
  };
  const headings = columns.map((column, index) =>
    el("th", { scope: "col", class: column.left ? "left" : "" }, el("button", {
      type: "button",
      title: `Sort by ${column.title}`,
      onclick: () => {
        const first = Boolean(column.downFirst);
        state.down = state.column === index ? !state.down : first;
        state.column = index;
        show();
      },
    }, column.title)));

  table.replaceChildren(el("thead", {}, el("tr", {}, headings)), body);
  show();
  return { show, state };
};

report.meter = (fraction) => {
  const { el } = report;
  return el("span", { class: "meter", "aria-hidden": "true" },
    el("i", { style: `width:${Math.max(0, Math.min(100, 100 * (fraction ?? 0)))}%` }));
};

// Shares of right, sibling, cousin, ... as one bar.
report.stack = (counts) => {
  const { el, KINDS, percent } = report;
  const total = counts.reduce((a, b) => a + b, 0);
  if (!total) return el("span", { class: "muted" }, "–");
  const text = KINDS.map((kind, i) => (counts[i] ? `${kind} ${percent(counts[i] / total)} %` : ""))
    .filter(Boolean).join(", ");
  return el("div", { class: "stack", role: "img", "aria-label": text, title: text },
    counts.map((count, i) => (count ? el("i", { class: `kind-${i}`, style: `width:${(100 * count) / total}%` }) : null)));
};

report.kindLegend = (list, counts = null) => {
  const { el, KINDS, data, percent } = report;
  const all = data.levels.flatMap((level) => level.kinds);
  const total = counts && counts.reduce((a, b) => a + b, 0);
  list.replaceChildren(...KINDS.map((kind, i) => {
    if (!all.some((row) => row[i])) return null;
    const share = counts ? ` ${percent(total ? counts[i] / total : null)} %` : "";
    return el("li", {}, el("span", { class: `swatch kind-${i}` }), kind + share);
  }).filter(Boolean));
};

// The classes of the chosen level.
report.classTable = () => {
  const { el, data, percent } = report;
  const filter = document.getElementById("class-filter");
  const sorted = { column: 1, down: true };
  let rows = [], table = null;

  const columns = [
    {
      title: "class", left: true, value: (row) => row.name,
      show: (row) => el("button", { type: "button", class: "link", onclick: () => report.showNode(row.node, true) },
        report.swatch(row.node), row.name),
    },
    {
      title: "IoU %", downFirst: true, value: (row) => row.iou,
      show: (row) => [percent(row.iou, 2), report.meter(row.iou)],
    },
    { title: "ACC %", downFirst: true, value: (row) => row.acc, show: (row) => percent(row.acc, 2) },
    {
      title: "pixels %", downFirst: true, value: (row) => row.share,
      show: (row) => (row.pixels ? percent(row.share, 2) : "–"),
    },
    {
      title: "predicted as", downFirst: true, value: (row) => (row.pixels ? row.kinds[0] / row.pixels : null),
      show: (row) => report.stack(row.kinds),
    },
  ];
  const applyFilter = () => {
    const wanted = filter.value.trim().toLowerCase();
    rows.forEach((row) => (row.hidden = !row.name.toLowerCase().includes(wanted)));
    table.show();
  };
  report.on("level", (index) => {
    const level = data.levels[index];
    rows = level.nodes.map((node, i) => ({
      node, name: data.tree.display[node], iou: level.iou[i], acc: level.acc[i],
      share: level.share[i], pixels: level.pixels[i], kinds: level.kinds[i],
    }));
    table = report.table(document.getElementById("class-table"), columns, rows, table ? table.state : sorted);
    applyFilter();
  });
  filter.addEventListener("input", applyFilter);
  report.kindLegend(document.getElementById("kind-legend"));
};
