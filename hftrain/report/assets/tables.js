"use strict";
/* Everything that is read rather than drawn: the overview, where the time went, and what is known of a run. */

/* ---- overview ---- */

function pill(run) {
  const status = statusOf(run);
  return make("span", { class: `pill ${status.replace(/ /g, "-")}` }, status);
}

function tile(label, text, note) {
  return make("div", { class: "tile" }, make("dt", {}, label), make("dd", {}, text), note ? make("dd", { class: "quiet note" }, note) : null);
}

/* The metrics that a run is judged by: losses first, then up to so many others of evaluations. */
function judged(limit) {
  const names = [...new Set(report.runs.flatMap((run) => Object.keys(run.curves)))];
  const evaluated = names.filter((name) => /^(eval|test)[_/]/.test(name) && !/_per_second$|_runtime$|model_preparation_time$/.test(name));
  return evaluated.sort((one, other) => Number(/loss$/.test(other)) - Number(/loss$/.test(one))).slice(0, limit);
}

const best = (curve, name) => (curve ? (isLowerBetter(name) ? curve.min : curve.max) : null);

function overviewOfOne(run) {
  const tiles = [tile("Status", pill(run), run.resumes.length ? `resumed at ${run.resumes.map((step) => `step ${number(step)}`).join(", ")}` : "")];
  const whole = { ...report.shared.arguments, ...run.arguments }.max_steps;
  tiles.push(tile("Steps", number(run.step), whole > run.step ? `of ${number(whole)}` : run.epoch === null ? "" : `epoch ${number(run.epoch)}`));
  tiles.push(tile("Time", duration(secondsOf(run)), run.started ? `since ${moment(run.started)}` : ""));
  const { loss } = run.curves;
  if (loss && loss.last) tiles.push(tile("Training loss", number(loss.last[1]), `lowest ${number(loss.min[1])} at step ${number(loss.min[0])}`));
  for (const name of judged(3)) {
    const point = best(run.curves[name], name);
    if (point) tiles.push(tile(`Best ${nameOf(name).toLowerCase()}`, number(point[1]), `at step ${number(point[0])}, last ${number(run.curves[name].last[1])}`));
  }
  if (run.rate && run.rate.last) tiles.push(tile("Steps per second", number(run.rate.last[1]), `highest ${number(run.rate.max[1])}`));
  return make("dl", { class: "tiles" }, ...tiles);
}

/* What stopped the runs that did not finish; of several, a line that opens. */
function errors() {
  const failed = report.runs.filter((run) => run.error);
  if (!failed.length) return [];
  const lines = failed.map((run) => make("p", {}, make("strong", {}, report.runs.length > 1 ? `${run.label} ${statusOf(run)}: ` : `${statusOf(run)}: `), make("span", { class: "code" }, run.error)));
  if (failed.length < 3) return lines.map((line) => make("div", { class: "alert", role: "note" }, line));
  return [make("details", { class: "alert" }, make("summary", {}, `${plural(failed.length, "run")} ended with an error`), ...lines)];
}

/* A column is {title, of(run) -> what it is sorted by, show(run) -> text or element, isNumber, better: "min"|"max"}. */
function columns() {
  const out = [
    { title: "Run", of: (run) => run.label, show: (run) => make("span", { class: "run-name", title: run.label }, swatch(report.runs.indexOf(run)), middle(run.label, 48)), isName: true },
    { title: "Status", of: statusOf, show: pill },
    { title: "Steps", of: (run) => run.step, isNumber: true },
    { title: "Time", of: secondsOf, show: (run) => duration(secondsOf(run)), isNumber: true },
  ];
  if (report.runs.some((run) => run.curves.loss)) {
    out.push({ title: "Loss", note: "the last", of: (run) => run.curves.loss && run.curves.loss.last && run.curves.loss.last[1], isNumber: true, better: "min" });
  }
  for (const name of judged(4)) {
    const of = (run) => { const point = best(run.curves[name], name); return point && point[1]; };
    out.push({ title: nameOf(name), note: "the best", of, isNumber: true, better: isLowerBetter(name) ? "min" : "max" });
  }
  for (const name of report.differing) {
    const of = (run) => run.arguments[name];
    out.push({ title: name, of, show: (run) => (name in run.arguments ? shortened(value(of(run)), 60) : "–"), isNumber: report.runs.every((run) => typeof of(run) === "number"), isSetting: true });
  }
  return out;
}

function comparison() {
  const listed = columns();
  for (const column of listed.filter((one) => one.better)) {
    const values = report.runs.map(column.of).filter((found) => typeof found === "number");
    column.best = values.length > 1 ? Math[column.better](...values) : null;
  }
  const body = make("tbody", {});
  const heads = listed.map((column) => make("th", { scope: "col", class: [column.isNumber ? "number" : "", column.isSetting ? "setting" : "", column.isName ? "first" : ""].join(" ") },
    make("button", { type: "button", onclick: () => sort(column) }, column.title, column.note ? make("span", { class: "quiet" }, ` ${column.note}`) : null)));
  let sorted = null, isDown = false;
  function sort(column) {
    isDown = sorted === column ? !isDown : column.better === "max";
    sorted = column;
    fill([...report.runs].sort((one, other) => compare(column.of(one), column.of(other)) * (isDown ? -1 : 1)));
    listed.forEach((one, place) => heads[place].setAttribute("aria-sort", one !== column ? "none" : isDown ? "descending" : "ascending"));
  }
  function cell(column, run) {
    const shown = column.show ? column.show(run) : number(column.of(run));
    const isBest = column.best !== undefined && column.best !== null && column.of(run) === column.best;
    const kind = [column.isNumber ? "number" : "", isBest ? "best" : "", column.isSetting ? "setting" : "", column.isName ? "first" : ""].join(" ");
    return make(column.isName ? "th" : "td", { class: kind, scope: column.isName ? "row" : null, title: isBest ? "the best of all runs" : null }, shown);
  }
  function fill(runs) {
    body.replaceChildren(...runs.map((run) => make("tr", {}, ...listed.map((column) => cell(column, run)))));
  }
  fill(report.runs);
  const table = make("table", { class: "comparison" }, make("caption", { class: "hidden" }, "The runs by their results and differing arguments"), make("thead", {}, make("tr", {}, ...heads)), body);
  return make("div", { class: "card scroll many", tabindex: "0", role: "region", "aria-label": "Comparison of the runs" }, table);
}

function compare(one, other) {
  const isNothing = (found) => found === null || found === undefined;
  if (isNothing(one) || isNothing(other)) return Number(isNothing(one)) - Number(isNothing(other));
  return typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
}

function buildOverview() {
  const place = document.getElementById("overview");
  place.append(...errors());
  if (report.runs.length === 1) {
    place.append(overviewOfOne(report.runs[0]));
    return;
  }
  place.append(comparison());
  const said = report.differing.length ? report.differing.length === 1 ? "The column set in code letters is the argument in which the runs differ." : `Columns set in code letters are the ${plural(report.differing.length, "argument")} in which the runs differ.` : "The runs have the same arguments.";
  place.append(make("p", { class: "quiet note" }, `${said} A column's title sorts by it; the best values are bold.`));
}

/* ---- where the time went ---- */

function timeSpent() {
  const timed = report.runs.map((run, place) => [run, place]).filter(([run]) => run.timing);
  if (!timed.length) return null;
  const key = make("ul", { class: "key" }, ...PARTS.map((part) => make("li", {}, make("span", { class: `dot ${part}` }), PART_WORDS[part])));
  const rows = timed.map(([run, place]) => {
    const all = PARTS.reduce((sum, part) => sum + run.timing.seconds[part], 0) || 1;
    const share = (part) => (run.timing.seconds[part] / all) * 100;
    const words = PARTS.map((part) => `${PART_WORDS[part]} ${share(part).toFixed(1)} % (${duration(run.timing.seconds[part])})`).join(", ");
    const pieces = PARTS.map((part) => {
      const piece = make("span", { class: `piece ${part}`, title: `${PART_WORDS[part]}: ${share(part).toFixed(1)} %, ${duration(run.timing.seconds[part])}` });
      piece.style.flexGrow = share(part);
      if (share(part) >= 8) piece.append(`${Math.round(share(part))} %`);
      return piece;
    });
    const label = report.runs.length > 1 ? make("span", { class: "run-name", title: run.label }, swatch(place), middle(run.label, 40)) : null;
    return make("li", { "data-run": place }, label, make("span", { class: "pieces", role: "img", "aria-label": words }, ...pieces), make("span", { class: "number quiet" }, duration(all)));
  });
  return make("figure", { class: "card spent" },
    make("div", { class: "chart-head" }, make("figcaption", {}, make("span", { class: "chart-title" }, "Where the time went")), key),
    make("div", { class: "scroll bounded", ...(timed.length > 8 ? { tabindex: "0", role: "region", "aria-label": "Where the time of each run went" } : {}) },
      make("ol", { class: report.runs.length > 1 ? "bars several" : "bars" }, ...rows)));
}

/* ---- details of a run ---- */

function settingsCard(title, settings, own) {
  const names = Object.keys(settings).sort();
  if (!names.length) return null;
  const rows = names.map((name) => make("tr", { class: own.includes(name) ? "own" : null, "data-words": `${name} ${value(settings[name])}`.toLowerCase() },
    make("th", { scope: "row" }, name), make("td", {}, value(settings[name]))));
  const none = make("p", { class: "quiet empty", hidden: true }, "None of them match.");
  const find = make("input", { type: "search", class: "small", placeholder: "find", "aria-label": `Find in ${title.toLowerCase()}`, oninput: () => {
    const words = find.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.dataset.words.includes(words);
    none.hidden = rows.some((row) => !row.hidden);
  } });
  return card(title, names.length, make("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": title }, make("table", { class: "settings" }, make("tbody", {}, ...rows)), none), names.length > 12 ? find : null);
}

function card(title, count, content, tool) {
  return make("section", { class: "card" }, make("div", { class: "chart-head" }, make("h3", {}, title, " ", make("span", { class: "quiet count" }, number(count))), tool || null), content);
}

function listCard(title, count, heads, rows, nothing) {
  if (!rows.length) return nothing ? card(title, 0, make("p", { class: "quiet empty" }, nothing)) : null;
  const table = make("table", { class: "list" }, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))))));
  const rest = count > rows.length ? make("p", { class: "quiet note" }, `The last ${rows.length} of ${number(count)}.`) : null;
  return card(title, count, make("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": title }, table, rest));
}

function histogram(entry) {
  const highest = Math.max(...entry.counts, 1e-300), width = 100 / entry.counts.length;
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  for (const [name, given] of Object.entries({ viewBox: "0 0 100 50", preserveAspectRatio: "none", class: "histogram", role: "img" })) picture.setAttribute(name, given);
  picture.setAttribute("aria-label", `Histogram from ${number(entry.edges[0])} to ${number(entry.edges[entry.edges.length - 1])}`);
  entry.counts.forEach((count, place) => {
    const bar = document.createElementNS(space, "rect");
    const height = (count / highest) * 50;
    for (const [name, given] of Object.entries({ x: place * width, y: 50 - height, width: width * 0.92, height })) bar.setAttribute(name, given);
    picture.append(bar);
  });
  const ends = make("div", { class: "ends quiet" }, make("span", {}, number(entry.edges[0])), make("span", {}, number(entry.edges[entry.edges.length - 1])));
  return make("div", {}, picture, ends);
}

function mediaCard(run) {
  if (!run.media.length) return null;
  const shown = run.media.map((entry) => {
    let content = make("p", { class: "quiet empty" }, `Not in this page: ${entry.why}. It is at ${entry.path}.`);
    if (entry.image) content = make("img", { src: entry.image, alt: `${entry.name} at step ${entry.step}`, loading: "lazy" });
    else if (entry.counts) content = histogram(entry);
    else if (entry.text !== undefined) content = make("pre", { tabindex: "0" }, entry.text + (entry.is_cut ? "\n…" : ""));
    return make("figure", { class: entry.kind }, content, make("figcaption", {}, entry.name, make("span", { class: "quiet" }, ` step ${number(entry.step)}`)));
  });
  const made = card("Media", run.num_media, make("div", { class: "media" }, ...shown));
  made.classList.add("wide");
  return made;
}

function fillDetails(place) {
  const run = report.runs[place];
  const whole = (part) => ({ ...report.shared[part], ...run[part] });
  const own = report.runs.length > 1 ? Object.keys(run.arguments) : [];
  const facts = { run: run.id, folder: run.folder, ...(run.trial ? { trial: run.trial } : {}), ...(run.group ? { group: run.group } : {}), started: moment(run.started), updated: moment(run.updated) };
  const warnings = run.warnings.map((one) => [number(one.step), make("div", { class: "warning" }, make("span", {}, one.text), make("span", { class: "quiet" }, ` ${one.logger}${one.num > 1 ? `, ${one.num} times` : ""}`))]);
  const checkpoints = run.checkpoints.map((one) => [number(one.step), make("span", { class: "code", title: one.path }, one.name), moment(one.time)]).reverse();
  const artifacts = run.artifacts.map((one) => [number(one.step), one.name, make("span", { class: "code" }, one.path)]).reverse();
  document.getElementById("cards").replaceChildren(...[
    settingsCard("Arguments", whole("arguments"), own),
    settingsCard("Chosen by the search", run.params, []),
    settingsCard("Environment", whole("environment"), []),
    settingsCard("Run", facts, []),
    settingsCard("Totals", run.totals, []),
    settingsCard("Model", whole("model"), []),
    listCard("Warnings", run.num_warnings, ["Step", "Text"], warnings, "None were given."),
    listCard("Checkpoints", run.num_checkpoints, ["Step", "Name", "Saved"], checkpoints, "None were saved."),
    listCard("Artifacts", run.artifacts.length, ["Step", "Name", "Path"], artifacts, ""),
    mediaCard(run),
  ].filter(Boolean));
}
