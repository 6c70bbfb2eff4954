"use strict";
/* What the page knows: the document, its curves unpacked, and how numbers, times and colours are shown. */

const report = JSON.parse(document.getElementById("document").textContent);

/* Ten colours that people who see few colours tell apart (after Okabe and Ito), for either background, and four kinds
   of line: forty runs look different. */
const COLORS = {
  light: ["#0067b1", "#d55e00", "#008a63", "#b5488c", "#a87400", "#2e9bd6", "#7a1f4b", "#6b6b00", "#4a4ab8", "#666666"],
  dark: ["#5ab0ff", "#ff8a47", "#2fd0a0", "#f08ccb", "#f2c14a", "#a8ddff", "#e0709c", "#cfcf5a", "#a5a5ff", "#b8b8b8"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const PARTS = ["compute", "data", "eval", "save", "log"];
const PART_COLORS = {
  light: { compute: "#0067b1", data: "#e08a00", eval: "#008a63", save: "#b5488c", log: "#777777" },
  dark: { compute: "#5ab0ff", data: "#f2b04a", eval: "#2fd0a0", save: "#f08ccb", log: "#a0a0a0" },
};
const PART_WORDS = {
  compute: "computing", data: "waiting for data", eval: "evaluating", save: "saving", log: "logging",
};
const NAMES = {
  loss: "Training loss", learning_rate: "Learning rate", grad_norm: "Gradient norm", eval_loss: "Evaluation loss",
};
const LOWER_IS_BETTER = /(^|[_/])(loss|error|err|perplexity|ppl|wer|cer|mse|rmse|mae|nll|bpc)$/;

const darkness = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => (darkness.matches ? "dark" : "light");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const style = (run) => ({ color: COLORS[theme()][run % 10], dash: DASHES[Math.floor(run / 10) % DASHES.length] });

/* Steps are kept as distances. */
function unpacked(steps) {
  let sum = 0;
  return steps.map((distance) => (sum += distance));
}

/* A curve with a gap at each value that is not finite, so that no line is drawn over it. */
function opened(curve) {
  const points = unpacked(curve.steps).map((step, place) => [step, curve.values[place]]);
  for (const [step] of curve.odd) points.push([step, null]);
  if (curve.odd.length) points.sort((one, other) => one[0] - other[0]);
  return {
    steps: points.map((point) => point[0]),
    values: points.map((point) => point[1]),
    odd: curve.odd,
    num: curve.num,
    numOdd: curve.num_odd,
    last: curve.last,
    min: curve.min,
    max: curve.max,
  };
}

for (const run of report.runs) {
  for (const name of Object.keys(run.curves)) run.curves[name] = opened(run.curves[name]);
  if (run.rate) run.rate = opened(run.rate);
  if (run.timing) run.timing.steps = unpacked(run.timing.steps);
}

/* Exponential mean whose weight fades with the distance in steps, so that thinned curves look like whole ones; divided
   by the sum of weights, since it begins with nothing (Kingma and Ba 2015, section 3). */
function smoothed(curve, weight) {
  if (weight <= 0 || curve.values.length < 3) return curve.values;
  const span = (curve.steps[curve.steps.length - 1] - curve.steps[0]) / (curve.steps.length - 1) || 1;
  let sum = 0, weights = 0, before = null;
  return curve.values.map((value, place) => {
    if (value === null) return null;
    const keep = before === null ? 0 : Math.pow(weight, Math.max(0, curve.steps[place] - before) / span);
    before = curve.steps[place];
    sum = keep * sum + (1 - weight) * value;
    weights = keep * weights + (1 - weight);
    return sum / weights;
  });
}

function isLowerBetter(name) {
  const settings = { ...report.shared.arguments, ...report.runs[0].arguments };
  const chosen = settings.metric_for_best_model;
  if (typeof chosen === "string" && typeof settings.greater_is_better === "boolean") {
    if (name === chosen || name === `eval_${chosen}`) return !settings.greater_is_better;
  }
  return LOWER_IS_BETTER.test(name);
}

/* ---- words ---- */

const nameOf = (metric) => NAMES[metric] || metric.replace(/^eval_/, "eval ").replace(/_/g, " ");

function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e9) return value.toLocaleString("en-US");
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
    return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  if (seconds === null || seconds === undefined || !(seconds >= 0)) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function moment(seconds) {
  if (!seconds) return "–";
  const date = new Date(seconds * 1000);
  const two = (part) => String(part).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

const plural = (count, noun) => `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : "s"}`;

const shortened = (text, limit) => (text.length <= limit ? text : `${text.slice(0, limit - 1)}…`);

/* Names of many runs often begin alike: what is cut stands in the middle. */
function middle(text, limit) {
  const half = Math.floor((limit - 1) / 2);
  return text.length <= limit ? text : `${text.slice(0, half).trimEnd()} … ${text.slice(-half).trimStart()}`;
}

/* plotly reads a little HTML in its labels: nothing of a run's words may be taken for that. */
const plain = (text, limit = 26) => middle(text, limit).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function value(setting) {
  if (setting === null || setting === undefined) return "None";
  if (setting === true) return "True";
  if (setting === false) return "False";
  return setting === "" ? '""' : String(setting);
}

function statusOf(run) {
  if (run.status) return run.status;
  return report.made - (run.updated || 0) < 600 ? "running" : "no end told";
}

const secondsOf = (run) => (run.started === null || run.updated === null ? null : run.updated - run.started);

/* ---- elements ---- */

/* make("p", {class: "quiet", onclick: f}, "text", child): words are always text, never markup. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, given] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), given);
    else if (given !== false && given !== null && given !== undefined) element.setAttribute(name, given === true ? "" : given);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const swatch = (run) => drawnLine(style(run));

function drawnLine({ color, dash }) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  for (const [name, given] of Object.entries({ class: "swatch", viewBox: "0 0 26 8", "aria-hidden": "true" })) picture.setAttribute(name, given);
  const line = document.createElementNS(space, "line");
  const pattern = { solid: "", dash: "8 4", dot: "3 3", dashdot: "8 3 2 3" }[dash];
  const given = { x1: 1, y1: 4, x2: 25, y2: 4, stroke: color, "stroke-width": 3, "stroke-dasharray": pattern };
  for (const [name, text] of Object.entries(given)) line.setAttribute(name, text);
  picture.append(line);
  return picture;
}
