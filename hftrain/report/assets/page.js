"use strict";
/* Puts the page together and listens to its controls. */

function buildRuns() {
  const side = document.getElementById("runs");
  const boxes = [];
  const show = () => {
    boxes.forEach((box, place) => { if (box.checked) view.hidden.delete(place); else view.hidden.add(place); });
    document.querySelectorAll("[data-run]").forEach((row) => { row.hidden = view.hidden.has(Number(row.dataset.run)); });
    redraw();
  };
  const all = (isShown) => () => { boxes.forEach((box) => { box.checked = isShown; }); show(); };
  const focus = (place) => () => { if (view.focus !== place) { view.focus = place; redraw(); } };
  const rows = report.runs.map((run, place) => {
    const box = make("input", { type: "checkbox", checked: true, onchange: show });
    boxes.push(box);
    const only = make("button", { type: "button", class: "small only", "aria-label": `Show only ${run.label}`, onclick: () => { boxes.forEach((one) => { one.checked = one === box; }); show(); } }, "only");
    const label = make("label", { title: run.label }, box, swatch(place), make("span", { class: "label" }, middle(run.label, 44)));
    return make("li", { onmouseenter: focus(place), onmouseleave: focus(null), onfocusin: focus(place), onfocusout: focus(null) }, label, only);
  });
  const tools = make("div", { class: "tools" }, make("button", { type: "button", class: "small", onclick: all(true) }, "all"), make("button", { type: "button", class: "small", onclick: all(false) }, "none"));
  const list = make("details", { open: window.innerWidth >= 1100 }, make("summary", {}, `${report.runs.length} runs`), tools, make("ul", {}, ...rows));
  side.append(list);
  side.hidden = false;
  document.getElementById("frame").classList.add("with-runs");
}

function buildChooser() {
  const chosen = document.getElementById("chosen");
  report.runs.forEach((run, place) => chosen.append(make("option", { value: place }, middle(run.label, 60))));
  chosen.addEventListener("change", () => fillDetails(Number(chosen.value)));
  document.getElementById("chooser").hidden = report.runs.length === 1;
}

function listen() {
  const smoothing = document.getElementById("smoothing"), shown = document.getElementById("smoothing-value");
  smoothing.addEventListener("input", () => {
    view.smoothing = Number(smoothing.value);
    shown.textContent = String(view.smoothing);
    redraw();
  });
  const log = document.getElementById("log-all");
  log.addEventListener("click", () => {
    const isLog = log.getAttribute("aria-pressed") !== "true";
    log.setAttribute("aria-pressed", String(isLog));
    for (const chart of charts) chart.setLog(isLog);
  });
  const reset = document.getElementById("reset");
  reset.addEventListener("click", () => { view.range = null; reset.hidden = true; redraw(); });
  darkness.addEventListener("change", () => location.reload());
}

function buildPage() {
  const { runs } = report;
  const parts = [`made ${moment(report.made)}`, `hftrain ${report.version}`];
  if (runs.length === 1) parts.unshift(`run ${runs[0].id}`);
  if (runs.length < report.num_runs) parts.push(`room for ${runs.length} of ${report.num_runs} runs`);
  document.getElementById("made").textContent = parts.join(" · ");
  for (const name of ["overview", "curves", "details"]) {
    document.getElementById("sections").append(make("a", { href: `#${name}` }, name[0].toUpperCase() + name.slice(1)));
  }
  if (runs.length > 1) buildRuns();
  buildOverview();
  buildCharts();
  buildChooser();
  fillDetails(0);
  listen();
}

buildPage();
