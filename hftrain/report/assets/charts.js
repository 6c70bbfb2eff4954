"use strict";
/* The curves. A chart is drawn when it comes into view, and again when what it shows has changed. */

const view = { smoothing: 0, hidden: new Set(), focus: null, range: null };
const charts = [];

const visibleRuns = () => report.runs.map((_, place) => place).filter((place) => !view.hidden.has(place));

class Chart {
  /* lines() returns [{run, curve, name, color, dash, width, isSmooth}]. */
  constructor(title, note, lines, options = {}) {
    this.title = title;
    this.lines = lines;
    this.options = { unit: "", isSmooth: true, isStacked: false, ...options };
    this.isLog = false;
    this.isDirty = true;
    this.isSeen = false;
    this.plot = make("div", { class: "plot" });
    this.remark = make("p", { class: "remark quiet", hidden: true });
    this.log = make("button", { type: "button", class: "small", "aria-pressed": "false", onclick: () => this.setLog(!this.isLog) }, "log");
    this.log.setAttribute("aria-label", `Logarithmic axis of ${title}`);
    this.heading = make("figcaption", {}, make("span", { class: "chart-title" }, title), make("span", { class: "chart-note quiet" }, note || ""));
    const tools = make("div", { class: "tools" }, ...(this.options.tools || []), this.options.isStacked ? null : this.log);
    this.element = make("figure", { class: "card chart" }, make("div", { class: "chart-head" }, this.heading, tools), this.plot, this.remark);
    charts.push(this);
  }

  setLog(isLog) {
    this.isLog = isLog && !this.options.isStacked;
    this.log.setAttribute("aria-pressed", String(this.isLog));
    this.invalidate();
  }

  invalidate() {
    this.isDirty = true;
    if (this.isSeen) soon(this);
  }

  draw() {
    if (!this.isDirty) return;
    this.isDirty = false;
    const lines = this.lines();
    const isCrowded = lines.length > 8;
    const traces = lines.flatMap((line) => this.traces(line, isCrowded));
    Plotly.react(this.plot, traces, this.layout(lines, isCrowded), {
      displaylogo: false,
      responsive: true,
      doubleClick: "reset",
      modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
      toImageButtonOptions: { format: "png", filename: this.title.replace(/\W+/g, "_"), scale: 2 },
    });
    this.describe(lines);
    if (this.isListening) return;
    this.isListening = true;
    this.plot.on("plotly_relayout", (change) => this.zoomed(change));
  }

  zoomed(change) {
    const range = "xaxis.range[0]" in change ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : null;
    if (!range && !("xaxis.autorange" in change)) return;
    view.range = range;
    document.getElementById("reset").hidden = range === null;
    for (const chart of charts) if (chart !== this) chart.invalidate();
  }

  traces(line, isCrowded) {
    const { curve, name, color, dash } = line;
    const weight = this.options.isSmooth ? view.smoothing : 0;
    const values = smoothed(curve, weight);
    const isSparse = curve.steps.length <= 40;
    const isFaded = view.focus !== null && line.run !== view.focus;
    const common = { x: curve.steps, type: "scatter", showlegend: false, connectgaps: false, opacity: isFaded ? 0.15 : 1 };
    const width = view.focus === line.run ? 3.2 : report.runs.length > 8 ? 1.5 : 2;
    const main = {
      ...common, name: plain(name, isCrowded ? 60 : 26), y: values, customdata: curve.values, mode: isSparse ? "lines+markers" : "lines",
      line: { color, dash, width }, marker: { color, size: curve.steps.length === 1 ? 9 : 5 },
    };
    const unit = this.options.unit ? ` ${this.options.unit}` : "";
    const where = isCrowded ? "step %{x:,d}: " : "";
    const told = weight > 0 && report.runs.length === 1 ? " (%{customdata:.5~g} unsmoothed)" : "";
    main.hovertemplate = `${where}%{y:.5~g}${unit}${told}`;
    if (this.options.isStacked) Object.assign(main, { stackgroup: "all", fillcolor: color, line: { color, width: 0.5 }, mode: "lines" });
    const traces = [main];
    if (weight > 0 && values !== curve.values) {
      traces.unshift({ ...common, y: curve.values, mode: "lines", hoverinfo: "skip", opacity: isFaded ? 0.04 : 0.22, line: { color, width: 1 } });
    }
    return curve.odd && curve.odd.length ? [...traces, this.crosses(line, common)] : traces;
  }

  /* A cross for each value that is not finite, at the height of the last one that was. */
  crosses({ curve, name, color }, common) {
    const heights = curve.odd.map(([step]) => {
      let height = null;
      for (let place = 0; place < curve.steps.length && curve.steps[place] <= step; place++) {
        if (curve.values[place] !== null) height = curve.values[place];
      }
      return height === null ? (curve.min ? curve.min[1] : 0) : height;
    });
    return {
      ...common, x: curve.odd.map((one) => one[0]), y: heights, text: curve.odd.map((one) => one[1]), name: plain(name),
      mode: "markers", marker: { symbol: "x-thin", size: 10, line: { color, width: 2.5 } }, hovertemplate: "%{text}",
    };
  }

  layout(lines, isCrowded) {
    const grid = css("--grid"), quiet = css("--quiet");
    const axis = { gridcolor: grid, linecolor: css("--edge"), zeroline: false, automargin: true, tickfont: { color: quiet, size: 11 } };
    return {
      height: this.options.height || 270,
      margin: { l: 8, r: 14, t: 8, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--font"), color: css("--text"), size: 12 },
      hovermode: isCrowded ? "closest" : "x unified",
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--edge"), font: { color: css("--text"), size: 12 }, namelength: -1 },
      dragmode: "zoom",
      uirevision: "kept",
      xaxis: {
        ...axis, title: { text: "step", font: { size: 11, color: quiet }, standoff: 6 }, hoverformat: ",d", spikecolor: quiet, spikethickness: 1, spikedash: "dot", unifiedhovertitle: { text: "step %{x:,d}" }, tickformat: "~s", nticks: 8,
        ...(view.range ? { range: view.range, autorange: false } : { autorange: true }), uirevision: JSON.stringify(view.range),
      },
      yaxis: {
        ...axis, type: this.isLog ? "log" : "linear", autorange: true, uirevision: `${this.isLog}`, exponentformat: "power",
        ...(this.isLog ? { dtick: this.spansDecades(lines) ? 1 : undefined } : { nticks: 6 }), rangemode: this.options.isStacked ? "tozero" : "normal",
        ticksuffix: this.options.unit ? ` ${this.options.unit}` : "",
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: css("--accent") },
    };
  }

  spansDecades(lines) {
    const lows = lines.filter((line) => line.curve.min && line.curve.min[1] > 0).map((line) => line.curve.min[1]);
    const highs = lines.filter((line) => line.curve.max).map((line) => line.curve.max[1]);
    return lows.length > 0 && Math.max(...highs) / Math.min(...lows) > 30;
  }

  describe(lines) {
    const odd = lines.filter((line) => line.curve.numOdd > 0);
    const few = odd.slice(0, 3).map(({ run, name, curve }) => {
      const [step, text] = curve.odd[0];
      const whose = report.runs.length > 1 ? `${shortened(name, 40)}: ` : "";
      return `${whose}${plural(curve.numOdd, "value")} not finite, first ${text} at step ${step.toLocaleString("en-US")}`;
    });
    this.remark.textContent = few.join("; ") + (odd.length > 3 ? `; and ${odd.length - 3} more runs` : "");
    this.remark.hidden = !odd.length;
    const ends = lines.slice(0, 10).filter((line) => line.curve.last).map((line) => `${line.name}: ${number(line.curve.last[1])} at step ${line.curve.last[0]}`);
    this.plot.setAttribute("role", "img");
    this.plot.setAttribute("aria-label", `${this.title} over steps. ${ends.length ? `Last values: ${ends.join(", ")}.` : ""}`);
  }
}

/* ---- when to draw ---- */

const waiting = new Set();

function soon(chart) {
  if (!waiting.size) {
    requestAnimationFrame(() => {
      const now = [...waiting];
      waiting.clear();
      for (const one of now) one.draw();
    });
  }
  waiting.add(chart);
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find((one) => one.element === entry.target);
    chart.isSeen = entry.isIntersecting;
    if (chart.isSeen && chart.isDirty) soon(chart);
  }
}, { rootMargin: "500px" });

function redraw() {
  for (const chart of charts) chart.invalidate();
}

window.addEventListener("beforeprint", () => charts.forEach((chart) => chart.draw()));

/* ---- which charts there are ---- */

function lineOf(run, curve, extra) {
  return { run, curve, name: report.runs[run].label, ...style(run), ...extra };
}

function metricLines(metric) {
  return () => visibleRuns().filter((run) => report.runs[run].curves[metric]).map((run) => lineOf(run, report.runs[run].curves[metric]));
}

/* With one run, its training and evaluation losses are seen best over each other. */
function lossLines() {
  const { curves } = report.runs[0];
  if (report.runs.length > 1 || !curves.eval_loss || !curves.loss) return metricLines("loss");
  return () => [
    lineOf(0, curves.loss, { name: "training" }),
    lineOf(0, curves.eval_loss, { name: "evaluation", ...style(1) }),
  ];
}

function legendOf(lines) {
  return make("span", { class: "legend" }, ...lines.map((line) => make("span", {}, drawnLine(line), line.name)));
}

function noteOf(metric) {
  if (report.runs.length > 1) return "";
  const curve = report.runs[0].curves[metric];
  return curve && curve.last ? number(curve.last[1]) : "";
}

function metricChart(metric) {
  const lines = metric === "loss" ? lossLines() : metricLines(metric);
  const unit = /_runtime$/.test(metric) ? "s" : "";
  const chart = new Chart(nameOf(metric), noteOf(metric), lines, { unit, isSmooth: metric !== "learning_rate" });
  if (report.runs.length === 1 && lines().length > 1) chart.heading.append(legendOf(lines()));
  return chart;
}

function rateChart() {
  const lines = () => visibleRuns().filter((run) => report.runs[run].rate).map((run) => lineOf(run, report.runs[run].rate));
  const { rate } = report.runs[0];
  return new Chart("Steps per second", report.runs.length === 1 && rate && rate.last ? number(rate.last[1]) : "", lines);
}

function timingChart() {
  const timed = report.runs.map((_, place) => place).filter((place) => report.runs[place].timing);
  let chosen = timed[0];
  const chooser = make("select", { class: "small", "aria-label": "Run whose time per step is shown" });
  for (const run of timed) chooser.append(make("option", { value: run }, middle(report.runs[run].label, 40)));
  const lines = () => PARTS.map((part) => {
    const { steps, ms } = report.runs[chosen].timing;
    const curve = { steps, values: ms[part], odd: [], numOdd: 0, last: null, min: null, max: null };
    return { run: null, curve, name: PART_WORDS[part], color: PART_COLORS[theme()][part], dash: "solid" };
  });
  const tools = timed.length > 1 ? [chooser] : [];
  const chart = new Chart("Time of a step", "", lines, { unit: "ms", isSmooth: false, isStacked: true, tools });
  chooser.addEventListener("change", () => { chosen = Number(chooser.value); chart.invalidate(); });
  return chart;
}

function groupsOfMetrics() {
  const metrics = [...new Set(report.runs.flatMap((run) => Object.keys(run.curves)))];
  const isSpeed = (name) => /_per_second$|_runtime$/.test(name);
  const isEvaluation = (name) => /^(eval|test)[_/]/.test(name);
  const first = ["loss", "learning_rate", "grad_norm"].filter((name) => metrics.includes(name));
  const rest = metrics.filter((name) => !first.includes(name) && !isSpeed(name));
  return {
    Training: first,
    Evaluation: rest.filter(isEvaluation),
    Speed: metrics.filter(isSpeed),
    "Other metrics": rest.filter((name) => !isEvaluation(name)),
  };
}

function buildCharts() {
  const place = document.getElementById("charts");
  for (const [title, metrics] of Object.entries(groupsOfMetrics())) {
    const made = [];
    if (title === "Speed" && report.runs.some((run) => run.rate)) made.push(rateChart());
    if (title === "Speed" && report.runs.some((run) => run.timing && run.timing.steps.length)) made.push(timingChart());
    made.push(...metrics.map(metricChart));
    const spent = title === "Speed" ? timeSpent() : null;
    if (!made.length && !spent) continue;
    const grid = make("div", { class: "grid" }, ...(spent ? [spent] : []), ...made.map((chart) => chart.element));
    place.append(make("h3", {}, title), grid);
  }
  if (!charts.length) {
    place.append(make("p", { class: "card empty quiet" }, "No numbers have been logged. Curves come with the first logged row (see logging_steps)."));
    document.querySelector(".controls").hidden = true;
  }
  for (const chart of charts) watcher.observe(chart.element);
}
