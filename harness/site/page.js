"use strict";
// Filters, the table, and which plots are shown. What is chosen stands in the address behind #, so that it can be sent on.

const ROWS = 100; // shown at first, and with each "More rows"
const PLOTS = 8;
const FILTERS = ["machine", "scenario", "model", "engine", "metric"];
const HEADLINES = "headlines";

let limit = ROWS;
let plotted = PLOTS;
let charts = [];

function state() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function address(changes) {
  const next = { ...state(), ...changes };
  const kept = Object.entries(next).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return `#${new URLSearchParams(kept)}`;
}

function go(changes) {
  [limit, plotted] = [ROWS, PLOTS];
  history.replaceState(null, "", address(changes));
  render();
}

rollbench.data = (data) => {
  rollbench.held = data;
  byId("summary").textContent = shown(`SGLang and vLLM side by side: ${data.records} records, ${data.rows.length} cases on ${Object.keys(data.machines).length} machines`);
  filters();
  byId("skipped").hidden = !data.skipped.length;
  byId("skipped").querySelector("ul").replaceChildren(...data.skipped.map((line) => element("li", {}, line)));
  render();
};

function filters() {
  const { rows, engines, metrics } = rollbench.held;
  const values = (key) => [...new Set(rows.map((row) => row[key]))].map((value) => [value, value]);
  const held = new Set(rows.flatMap((row) => Object.keys(row.metrics)));
  const choices = {
    machine: [["", "all"], ...values("machine")],
    scenario: [["", "all"], ...values("scenario")],
    model: [["", "all"], ...values("model")],
    engine: [["", "all"], ...Object.entries(engines)],
    metric: [["", "headlines"], ["*", "all"], ...Object.keys(metrics).filter((name) => held.has(name)).map((name) => [name, metrics[name][0]])],
  };
  const select = (name, values_of) => element("select", { name, onchange: (event) => go({ [name]: event.target.value }) }, values_of.map(([value, text]) => element("option", { value }, text)));
  const fields = FILTERS.map((name) => field(name[0].toUpperCase() + name.slice(1), select(name, choices[name])));
  const search = field("Case", element("input", { type: "search", name: "case", placeholder: "part of its name", oninput: (event) => go({ case: event.target.value }) }));
  const sort = field("Sort by", select("sort", [["", "as they come"], ...heads().map(([key, text]) => [key, text])]), "narrow");
  const reset = element("button", { type: "button", onclick: () => { location.hash = ""; go({}); } }, "Reset");
  byId("filters").replaceChildren(...fields, search, sort, reset);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
}

function field(text, input, kind = "") {
  input.id = `filter-${input.name}`;
  return element("div", { class: `field ${kind}` }, element("label", { for: input.id }, text), input);
}

function engines() {
  const chosen = state().engine;
  return Object.entries(rollbench.held.engines).filter(([engine]) => !chosen || engine === chosen);
}

function heads() {
  const [before, after] = rollbench.held.pair.map((engine) => rollbench.held.engines[engine]);
  const both = !state().engine;
  return [["case", "Case"], ["model", "Model"], ["machine", "Machine"], ["title", "Metric"], ...engines(),
    ...(both ? [["ratio", `${after} / ${before}`], ["verdict", "Verdict"]] : []), ["certificates", "Certificates"], ["measured", "Measured"]];
}

// A row for each case and metric that the filters leave.
function lines() {
  const now = state();
  const found = [];
  for (const row of rollbench.held.rows) {
    if (["machine", "scenario", "model"].some((key) => now[key] && row[key] !== now[key])) continue;
    if (now.case && !row.case.toLowerCase().includes(now.case.toLowerCase())) continue;
    if (now.engine && !row.records[now.engine]) continue;
    const names = now.metric === "*" ? Object.keys(row.metrics) : now.metric ? [now.metric].filter((name) => row.metrics[name]) : row.headlines;
    for (const metric of names) found.push({ row, metric, cell: row.metrics[metric] });
  }
  return sorted(found, now);
}

function value(line, key) {
  const { row, metric, cell } = line;
  const records = Object.values(row.records);
  if (rollbench.held.engines[key]) return cell.levels[key]?.[0] ?? null;
  if (key === "ratio") return cell.ratio?.[0] ?? null;
  if (key === "verdict") return cell.verdict;
  if (key === "title") return rollbench.held.metrics[metric][0];
  if (key === "certificates") {
    const said = new Set(records.map((record) => record.certificates));
    if (said.size === 1) return [...said][0];
    return Object.entries(row.records).map(([engine, record]) => `${rollbench.held.engines[engine]}: ${record.certificates}`).join("; ");
  }
  if (key === "measured") return records.map((record) => record.measured).sort().pop();
  return row[key];
}

// What has no value comes last, however it is sorted.
function sorted(found, now) {
  if (!now.sort) return found;
  const sign = now.down ? -1 : 1;
  const empty = (v) => v === null || v === undefined || v === "";
  return found.map((line) => [value(line, now.sort), line]).sort(([a], [b]) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    return sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  }).map(([, line]) => line);
}

function render() {
  const now = state();
  for (const field of byId("filters").elements) if (field.name && document.activeElement !== field) field.value = now[field.name] ?? "";
  const found = lines();
  const cases = new Set(found.map((line) => line.row)).size;
  byId("state").textContent = `${found.length} rows, ${cases} cases`;
  table_of(found, now);
  figures(now);
  if (now.record) opened(now.record);
}

function table_of(found, now) {
  const columns = heads();
  const head = element("tr", { role: "row" }, columns.map(([key, text]) => {
    const down = now.sort === key && now.down;
    const way = now.sort !== key ? "none" : down ? "descending" : "ascending";
    const mark = element("span", { "aria-hidden": "true" }, { none: "", ascending: " ▲", descending: " ▼" }[way]);
    return element("th", { scope: "col", role: "columnheader", "aria-sort": way },
      element("button", { type: "button", "data-key": key, onclick: () => { go({ sort: key, down: now.sort === key && !down ? "1" : "" }); byId("table").querySelector(`[data-key="${CSS.escape(key)}"]`).focus(); } }, text, mark));
  }));
  const rows = found.slice(0, limit).map((line) => element("tr", { role: "row" }, columns.map(([key, text]) => element("td", { role: "cell", "data-label": text }, cell(line, key)))));
  const shown_rows = rows.length ? rows : [element("tr", {}, element("td", { colspan: columns.length }, "Nothing fits these filters."))];
  byId("table").setAttribute("role", "table");
  byId("table").replaceChildren(element("caption", { class: "hidden" }, "Figures of each case and metric"), element("thead", { role: "rowgroup" }, head), element("tbody", { role: "rowgroup" }, shown_rows));
  byId("more").hidden = found.length <= limit;
  byId("more").textContent = `More rows (${found.length - limit} left)`;
}

function cell(line, key) {
  const { row, metric, cell: figures_of } = line;
  if (rollbench.held.engines[key]) {
    const level = figures_of.levels[key];
    return level ? opener(level[3], row.records[key].id) : "";
  }
  if (key === "ratio") {
    const id = (row.records[rollbench.held.pair[1]] ?? {}).id;
    return figures_of.ratio ? opener(figures_of.ratio[3], id) : row.why && metric === row.headlines[0] ? element("span", { class: "note" }, row.why) : "";
  }
  if (key === "case") return element("code", {}, row.case);
  if (key === "title") return element("span", { title: rollbench.held.metrics[metric][3] }, rollbench.held.metrics[metric][0]);
  const text = value(line, key) ?? "";
  if (key === "certificates" && text.includes("NOT OK")) return element("span", { class: "bad" }, text);
  return element("span", { class: key }, text);
}

function opener(text, id) {
  const [point, interval] = text.split(" [");
  const parts = interval ? [element("span", {}, point), " ", element("span", {}, `[${interval}`)] : [text];
  return element("a", { class: "figure", href: address({ record: id }) }, parts);
}

function opened(id) {
  const row = rollbench.held.rows.find((found) => Object.values(found.records).some((record) => record.id === id));
  const others = row ? Object.entries(row.records).filter(([, record]) => record.id !== id) : [];
  const record = row && Object.values(row.records).find((found) => found.id === id);
  rollbench.open(id, record?.again, others.map(([engine, other]) => element("a", { href: address({ record: other.id }) }, rollbench.held.engines[engine])));
}

function figures(now) {
  const fits = rollbench.held.figures.filter((f) => ["machine", "scenario"].every((key) => !now[key] || f[key] === now[key]) && (!now.model || f.models.includes(now.model)));
  const found = fits.flatMap((f) => f.plots.map((plot) => ({ f, plot })))
    .filter(({ f, plot }) => !now.model || f.models.length < 2 || plot.title.includes(now.model) || !f.models.some((model) => plot.title.includes(model)))
    .filter(({ f, plot }) => f.name !== "history" || !now.case || `${f.scenario}/${plot.title}`.toLowerCase().includes(now.case.toLowerCase()))
    .sort((a, b) => (now.case ? (b.f.name === "history") - (a.f.name === "history") : 0))
    .map(({ f, plot }) => ({ f, plot: of_engine(plot, now.engine) })).filter(({ plot }) => plot.series.some((s) => s.points.length));
  watch.disconnect();
  charts = found.slice(0, plotted).map(({ f, plot }) => {
    const about = f.name === "history" ? `history, ${f.scenario}, ${f.machine}` : `${f.scenario}, ${f.machine}`;
    return rollbench.figure(plot, about, (id) => { location.hash = address({ record: id }); });
  });
  byId("plots").replaceChildren(...(charts.length ? charts : [element("p", {}, "No plots fit these filters.")]));
  charts.forEach((chart) => watch.observe(chart));
  byId("more-plots").hidden = found.length <= plotted;
  byId("more-plots").textContent = `More plots (${found.length - plotted} left)`;
}

// Only the lines of an engine, or the places that are its own.
function of_engine(plot, engine) {
  if (!engine) return plot;
  const series = plot.series.filter((s) => !s.engine || s.engine === engine);
  if (!plot.owners.length) return { ...plot, series: series.some((s) => s.engine) || !plot.series.some((s) => s.engine) ? series : [] };
  const places = plot.owners.flatMap((owner, i) => (owner === engine ? [i] : []));
  const moved = (points) => points.flatMap((p) => (places.includes(p.x) ? [{ ...p, x: places.indexOf(p.x) }] : []));
  return { ...plot, ticks: places.map((i) => plot.ticks[i]), series: series.map((s) => ({ ...s, points: moved(s.points) })) };
}

// A plot is drawn when it comes into sight.
const watch = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !target.chart) target.redraw();
  }
}, { rootMargin: "200px" });

const THEMES = ["system", "light", "dark"];

const dark = matchMedia("(prefers-color-scheme: dark)");
let chosen = remembered();

function theme(name) {
  chosen = name;
  document.documentElement.dataset.theme = name === "system" ? (dark.matches ? "dark" : "light") : name;
  byId("theme").textContent = `Theme: ${name}`;
  charts.forEach((chart) => chart.chart && chart.redraw());
}

function remembered(name) {
  try {
    if (name) localStorage.setItem("theme", name);
    return THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";
  } catch {
    return name ?? "system";
  }
}

byId("theme").addEventListener("click", () => theme(remembered(THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length])));
byId("more").addEventListener("click", () => { limit += ROWS; table_of(lines(), state()); });
byId("more-plots").addEventListener("click", () => { plotted += PLOTS; figures(state()); });
byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("results").focus(); });
byId("record").addEventListener("close", () => { const now = state(); if (now.record) { delete now.record; history.replaceState(null, "", `#${new URLSearchParams(now)}`); } });
addEventListener("hashchange", () => { const now = state(); if (now.record) opened(now.record); else { byId("record").close(); render(); } });
dark.addEventListener("change", () => theme(chosen));
let resizing = 0;
addEventListener("resize", () => { cancelAnimationFrame(resizing); resizing = requestAnimationFrame(() => charts.forEach((chart) => chart.chart && chart.fit())); });
theme(chosen);
