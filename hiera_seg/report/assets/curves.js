"use strict";
// Curves of the run, accuracy against specificity, and reliability of the scores.
report.curvesView = () => {
  const { data } = report;
  const log = document.getElementById("log-losses");
  const { losses, miou } = data.curves;
  if (!losses.length && !miou.length) {
    document.getElementById("curves-missing").hidden = false;
    document.querySelector("#curves .pair").hidden = true;
    return;
  }
  const side = (id, curves) => {
    const box = document.getElementById(id).parentElement;
    box.hidden = !curves.length;
    box.classList.toggle("alone", curves.length > 0 && !(losses.length && miou.length));
  };
  side("miou-chart", miou);
  side("loss-chart", losses);
  const lines = (curves, mode, format) => curves.map((curve) => ({
    type: "scatter", mode: curve.x.length > 1 ? mode : "markers", name: report.plain(curve.name), x: curve.x, y: curve.y,
    marker: { size: curve.x.length > 1 ? 6 : 10 },
    hovertemplate: `${format}<extra>%{fullData.name}</extra>`,
  }));
  const xaxis = { title: { text: "iteration" }, rangemode: "tozero" };
  const draw = () => {
    if (miou.length) {
      report.draw("miou-chart", lines(miou, "lines+markers", "%{y:.2f} % at %{x}"), report.layout({
        hovermode: "x unified", xaxis, yaxis: { title: { text: "mIoU" }, ticksuffix: " %", rangemode: "tozero" }, showlegend: true,
      }));
    }
    if (losses.length) {
      report.draw("loss-chart", lines(losses, "lines", "%{y:.4g}"), report.layout({
        hovermode: "x unified", xaxis, showlegend: true,
        yaxis: { type: log.checked ? "log" : "linear", rangemode: log.checked ? "normal" : "tozero" },
      }));
    }
  };
  log.addEventListener("change", draw);
  report.on("theme", draw);
};

report.trustView = () => {
  const { data, percent } = report;
  const section = document.getElementById("trust");
  const curves = Object.entries(data.safeDepth ?? {}).filter(([, curve]) => curve.thresholds?.length);
  const calibration = data.calibration ?? {};
  const hasCalibration = Object.values(calibration).some((level) => level.bins.some((bin) => bin.count));
  section.hidden = !curves.length && !hasCalibration;
  if (section.hidden) return;
  document.getElementById("safe-depth-box").hidden = !curves.length;
  document.getElementById("calibration-box").hidden = !hasCalibration;
  const alone = !(curves.length && hasCalibration);
  section.querySelectorAll(".pair > div").forEach((box) => box.classList.toggle("alone", alone));

  const safeDepth = () => {
    const traces = curves.map(([name, curve]) => ({
      type: "scatter", mode: "lines+markers", marker: { size: 5 },
      name: report.plain(curves.length > 1 ? `${name}, area ${percent(curve.area)} %` : `area ${percent(curve.area)} %`),
      x: curve.specificity.map((v) => (v === null ? null : 100 * v)),
      y: curve.accuracy.map((v) => (v === null ? null : 100 * v)),
      customdata: curve.thresholds,
      hovertemplate: "threshold %{customdata:.4~f}<br>accuracy %{y:.1f} %<br>specificity %{x:.1f} %<extra></extra>",
    }));
    report.draw("safe-depth-chart", traces, report.layout({
      showlegend: true,
      xaxis: { title: { text: "specificity" }, ticksuffix: " %", range: [0, 102] },
      yaxis: { title: { text: "accuracy" }, ticksuffix: " %" },
    }));
  };
  const reliability = () => {
    const name = data.tree.levels[report.level];
    const level = calibration[name];
    const text = document.getElementById("calibration-text");
    if (!level || !level.bins.some((bin) => bin.count)) {
      Plotly.purge("calibration-chart");
      text.textContent = `Nothing was counted at level ${name}.`;
      return;
    }
    text.textContent = "Where scores are probabilities the bars end at the line: of the pixels with score 0.8, " +
      `80 % are right. Expected calibration error: ${percent(level.ece, 2)} %.`;
    const bins = level.bins.filter((bin) => bin.count);
    const total = bins.reduce((sum, bin) => sum + bin.count, 0);
    const middle = bins.map((bin) => (bin.low !== undefined ? (bin.low + bin.high) / 2 : bin.confidence));
    const width = bins.map((bin) => (bin.low !== undefined ? 0.94 * (bin.high - bin.low) : 0.06));
    const shares = bins.map((bin) => bin.count / total);
    const largest = Math.max(...shares);
    report.draw("calibration-chart", [
      {
        type: "bar", name: "right", x: middle, y: bins.map((bin) => bin.accuracy), width,
        marker: { color: report.color("bar"), opacity: shares.map((share) => 0.2 + 0.65 * Math.sqrt(share / largest)) },
        customdata: bins.map((bin, i) => [bin.confidence, 100 * shares[i]]),
        hovertemplate: "score %{customdata[0]:.2f}<br>right %{y:.2f}<br>%{customdata[1]:.1f} % of the pixels<extra></extra>",
      },
      {
        type: "scatter", mode: "markers", name: "pixels (area of the dots)", x: bins.map((bin) => bin.confidence), y: bins.map((bin) => bin.accuracy),
        marker: { color: report.color("cousin"), size: shares.map((share) => 4 + 18 * Math.sqrt(share / largest)), line: { width: 1, color: report.color("card") } },
        hoverinfo: "skip",
      },
      {
        type: "scatter", mode: "lines", name: "perfect", x: [0, 1], y: [0, 1], hoverinfo: "skip",
        line: { color: report.color("muted"), dash: "dot", width: 2 },
      },
    ], report.layout({
      showlegend: true, bargap: 0.02,
      xaxis: { title: { text: "score" }, range: [0, 1.02] },
      yaxis: { title: { text: "share that is right" }, range: [0, 1.05] },
    }));
  };
  if (curves.length) report.on("theme", safeDepth);
  if (hasCalibration) {
    report.on("theme", reliability);
    report.on("level", reliability);
  }
};
