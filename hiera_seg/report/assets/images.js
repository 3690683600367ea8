"use strict";
// Images with their labels: a slider from coarse to fine, and the path of the pixel pointed at.
report.bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

// Runs of (value, length) as LEB128 numbers; value 0 is void, v + 1 node v. Gives -1 for void.
report.decodeRuns = (text, size) => {
  const bytes = report.bytes(text);
  const labels = new Int32Array(size);
  let at = 0, filled = 0;
  const next = () => {
    let value = 0, shift = 0, byte;
    do {
      byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      shift += 7;
    } while (byte & 0x80);
    return value;
  };
  while (at < bytes.length) {
    const value = next() - 1, length = next();
    labels.fill(value, filled, filled + length);
    filled += length;
  }
  return labels;
};

report.imagesView = () => {
  const { data, el, percent, KINDS } = report;
  const { tree } = data;
  const section = document.getElementById("images");
  section.hidden = !data.images.length;
  if (section.hidden) return;
  const paint = { mode: "labels", opacity: 0.6 };
  const rgb = tree.color.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const kindColors = () => ["right", "sibling", "cousin", "stranger", "above"].map((name) =>
    [1, 3, 5].map((at) => parseInt(report.color(name).slice(at, at + 2), 16)));

  const samples = data.images.map((image, number) => makeSample(image, number));
  document.getElementById("samples").append(...samples.map((sample) => sample.element));
  const redraw = () => samples.forEach((sample) => sample.draw());

  report.segments(document.getElementById("paint"), "paint",
    [["labels", "labels"], ...(data.images.some((image) => image.truth) ? [["mistakes", "mistakes"]] : [])], "labels",
    (value) => {
      paint.mode = value;
      redraw();
    });
  document.getElementById("opacity").addEventListener("input", (event) => {
    paint.opacity = event.target.value / 100;
    redraw();
  });
  report.on("level", (level) => samples.forEach((sample) => sample.setLevel(level)));
  report.on("theme", redraw);

  function makeSample(image, number) {
    const { width, height } = image;
    const size = width * height;
    const labels = report.decodeRuns(image.labels, size);
    const truth = image.truth ? report.decodeRuns(image.truth, size) : null;
    const scores = image.scores && { ...image.scores, bytes: report.bytes(image.scores.bytes) };
    const photo = new Image();
    const state = { level: tree.levels.length - 1, x: Math.floor(width / 2), y: Math.floor(height / 2) };
    const at = (map, level, index) => (map[index] < 0 ? -1 : tree.standing[level][map[index]]);

    const view = (title, map, own) => {
      const canvas = el("canvas", { width, height });
      const cross = el("span", { class: "cross" });
      const box = el("div", {
        class: "view", tabindex: "0", role: "application", "aria-roledescription": "picture",
        "aria-label": `${title} of ${image.name}. Arrow keys move over the pixels.`,
      }, canvas, cross);
      const caption = el("figcaption");
      const move = (x, y) => {
        state.x = Math.max(0, Math.min(width - 1, x));
        state.y = Math.max(0, Math.min(height - 1, y));
        point();
      };
      box.addEventListener("pointermove", (event) => {
        const area = canvas.getBoundingClientRect();
        move(Math.floor(((event.clientX - area.left) / area.width) * width),
          Math.floor(((event.clientY - area.top) / area.height) * height));
      });
      box.addEventListener("keydown", (event) => {
        const step = event.shiftKey ? 1 : Math.max(1, Math.round(width / 64));
        const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
        if (!by) return;
        event.preventDefault();
        move(state.x + by[0], state.y + by[1]);
      });
      box.addEventListener("focus", () => move(state.x, state.y));
      return { title, map, own, canvas, cross, caption, figure: el("figure", {}, caption, box) };
    };
    const views = [view("Prediction", labels, true), ...(truth ? [view("Ground truth", truth, false)] : [])];

    const output = el("output", { for: `walk-${number}` });
    const slider = el("input", {
      type: "range", id: `walk-${number}`, min: "0", max: String(tree.levels.length - 1), step: "1",
      "aria-label": `Level of ${image.name}, coarse to fine`,
      oninput: () => setLevel(Number(slider.value)),
    });
    slider.disabled = tree.levels.length === 1;
    const walk = el("div", { class: "walk" }, el("span", { class: "ends" }, "coarse"), slider,
      el("span", { class: "ends" }, "fine"), output);
    const path = el("div", { class: "path", "aria-live": "polite" });
    const element = el("article", { class: "sample" }, el("h3", {}, image.name), walk,
      el("div", { class: truth ? "sample-grid" : "sample-grid no-truth" }, views.map((v) => v.figure), path));

    // The score at a pixel: of the nearest one that was kept and has the same label.
    const score = (level) => {
      if (!scores) return null;
      const columns = Math.ceil(width / scores.stride), rows = Math.ceil(height / scores.stride);
      const label = labels[state.y * width + state.x];
      let best = null, nearest = Infinity;
      const column = Math.floor(state.x / scores.stride), row = Math.floor(state.y / scores.stride);
      for (let r = Math.max(0, row - 1); r <= Math.min(rows - 1, row + 1); r++) {
        for (let c = Math.max(0, column - 1); c <= Math.min(columns - 1, column + 1); c++) {
          const x = c * scores.stride, y = r * scores.stride;
          const distance = (x - state.x) ** 2 + (y - state.y) ** 2;
          if (distance >= nearest || labels[y * width + x] !== label) continue;
          const value = scores.bytes[(level * rows + r) * columns + c];
          if (value === 255) continue;
          [best, nearest] = [value * scores.unit, distance];
        }
      }
      return best;
    };

    const cell = (node) => (node < 0 ? el("span", { class: "muted" }, "void")
      : el("span", { class: "name" }, report.swatch(node), el("span", {}, tree.names[node])));
    const point = () => {
      const index = state.y * width + state.x;
      views.forEach(({ cross }) => {
        cross.style.left = `${(100 * (state.x + 0.5)) / width}%`;
        cross.style.top = `${(100 * (state.y + 0.5)) / height}%`;
      });
      const rows = tree.levels.map((name, level) => {
        const node = at(labels, level, index);
        const value = score(level);
        const cells = [el("td", { class: "left" }, name), el("td", { class: "left" }, cell(node),
          value === null ? null : el("div", { class: "score" }, report.meter(value), value.toFixed(2)))];
        if (truth) {
          const real = at(truth, level, index);
          // a label known at a coarser level only says nothing here
          const reached = real >= 0 && (tree.depth[real] >= level || real < tree.leaves);
          const kind = reached ? report.kind(node, real) : null;
          cells.push(el("td", { class: "left" }, real >= 0 && !reached ? el("span", { class: "muted" }, "not known") : cell(real),
            kind === null || kind === 0 ? null : el("span", { class: "tag" }, el("span", { class: `swatch kind-${kind}` }), KINDS[kind])));
        }
        return el("tr", {}, cells);
      });
      const heads = ["level", "prediction", ...(truth ? ["truth"] : [])];
      path.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, heads.map((head) =>
        el("th", { scope: "col", class: "left" }, head)))), el("tbody", {}, rows)),
      el("p", { class: "muted" }, `pixel ${state.x}, ${state.y}`));
    };

    const draw = () => {
      if (!photo.complete) return;
      const { level } = state;
      const kinds = paint.mode === "mistakes" ? kindColors() : null;
      views.forEach(({ title, map, own, canvas, caption }) => {
        const mistakes = kinds && own && truth;
        caption.textContent = mistakes ? `Mistakes at level ${tree.levels[level]}` : `${title}, ${tree.levels[level]}`;
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(photo, 0, 0, width, height);
        const picture = context.getImageData(0, 0, width, height);
        const pixels = picture.data;
        const opacity = mistakes ? Math.max(0.75, paint.opacity) : paint.opacity;
        for (let i = 0; i < size; i++) {
          const node = at(map, level, i);
          let color = node < 0 ? null : rgb[node];
          if (mistakes) {
            const real = at(truth, level, i);
            const known = real >= 0 && (tree.depth[real] >= level || real < tree.leaves);
            const kind = known && node >= 0 ? report.kind(node, real) : 0;
            color = kind ? kinds[kind] : null;
            if (!color) { // grey, so that mistakes stand out
              const grey = (pixels[4 * i] * 0.3 + pixels[4 * i + 1] * 0.59 + pixels[4 * i + 2] * 0.11) * 0.7 + 60;
              pixels[4 * i] = pixels[4 * i + 1] = pixels[4 * i + 2] = grey;
            }
          }
          if (!color) continue;
          for (let c = 0; c < 3; c++)
            pixels[4 * i + c] += opacity * (color[c] - pixels[4 * i + c]);
        }
        context.putImageData(picture, 0, 0);
      });
    };
    const setLevel = (level) => {
      state.level = level;
      slider.value = String(level);
      slider.setAttribute("aria-valuetext", tree.levels[level]);
      output.textContent = tree.levels[level];
      draw();
    };
    photo.addEventListener("load", draw);
    photo.src = `data:image/jpeg;base64,${image.jpeg}`;
    point();
    return { element, draw, setLevel };
  }
};

report.treeView();
report.classTable();
report.confusionView();
report.curvesView();
report.trustView();
report.imagesView();
report.start();
