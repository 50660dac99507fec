"use strict";
// Plots by uPlot: lines with intervals, bars on and beside each other; zoom by mouse, buttons and keys.

const HUES = ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"];
const NEAR = 24; // pixels from a point that count as on it
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

// A part of a whole has a paler colour where the colours come round; two hex colours half and half.
function part(i) {
  const [full, ground] = [colour(HUES[i % HUES.length]), colour("raised")];
  const half = (at) => (parseInt(full.slice(at, at + 2), 16) + parseInt(ground.slice(at, at + 2), 16)) >> 1;
  return i < HUES.length ? full : `#${[1, 3, 5].map((at) => half(at).toString(16).padStart(2, "0")).join("")}`;
}

// Of one line an engine each has its engine's colour, else each line has its own.
function looks_of(plot) {
  const engines = new Set(plot.series.map((s) => s.engine).filter(Boolean));
  const turns = {};
  return plot.series.map((series, i) => {
    const turn = (turns[series.engine] = (turns[series.engine] ?? -1) + 1);
    if (plot.kind !== "lines") return { paint: part(i), dash: [] };
    if (series.dashed) return { paint: colour("muted"), dash: [6, 6] };
    if (engines.size === plot.series.length && ["sglang", "vllm"].includes(series.engine)) return { paint: colour(series.engine), dash: [] };
    return { paint: colour(HUES[i % HUES.length]), dash: DASHES[(engines.size > 1 ? [...engines].indexOf(series.engine) : Math.floor(turn / HUES.length)) % DASHES.length] };
  });
}

function swatch({ paint, dash: [line, gap] }) {
  return line ? `repeating-linear-gradient(90deg, ${paint} 0 ${line / 2}px, transparent 0 ${(line + gap) / 2}px)` : paint;
}

// Points by place: for bars beside each other each series has places of its own.
function columns(plot) {
  const count = plot.series.length;
  const at = (point, i) => (plot.kind === "bars" ? point.x + ((i - (count - 1) / 2) * 0.8) / count : point.x);
  const places = [...new Set(plot.series.flatMap((s, i) => s.points.map((p) => at(p, i))))].sort((a, b) => a - b);
  const points = plot.series.map((s, i) => {
    const there = new Map(s.points.map((p) => [at(p, i), p]));
    return places.map((x) => there.get(x) ?? null);
  });
  let tops = points.map((column) => column.map((p) => (p ? p.y : null)));
  if (plot.kind === "stack") {
    const sums = places.map(() => 0);
    tops = points.map((column) => column.map((p, k) => (sums[k] += p ? p.y : 0)));
  }
  return { places, points, tops };
}

function limits(plot, data) {
  const values = data.points.flatMap((column, i) =>
    column.flatMap((p, k) => (p ? (plot.kind === "lines" ? [p.low ?? p.y, p.y, p.high ?? p.y] : [data.tops[i][k]]) : [])));
  const high = Math.max(...values);
  if (plot.log) {
    const low = Math.min(...values.filter((v) => v > 0));
    return [low / 1.15, high * 1.15];
  }
  return [Math.min(0, ...values), high > 0 ? high * 1.08 : 1];
}

function draw(plot, box, open) {
  const data = columns(plot);
  const looks = looks_of(plot);
  const ends = ends_of(plot, data);
  const axis = { stroke: colour("text"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
  // Of bars on each other the longest is drawn first, so that the shorter ones lie over it.
  const order = plot.series.map((_, i) => i);
  if (plot.kind === "stack") order.reverse();
  const bars = uPlot.paths.bars({ size: [plot.kind === "bars" ? 0.95 : 0.7, 60] });
  const chart = new uPlot({
    width: Math.max(box.clientWidth, 260),
    height: plot.ticks.length ? 360 : 320,
    legend: { show: false },
    cursor: { drag: { x: true, y: true, uni: 24 }, points: { size: 9 }, bind: { dblclick: (u) => () => all(u, ends) } },
    scales: { x: scale(plot, ends.x), y: scale(plot, ends.y) },
    axes: [
      { ...axis, label: plot.ticks.length ? undefined : shown(plot.x), ...ticks(plot, data) },
      { ...axis, label: shown(plot.y), size: 64, ...(plot.log ? { splits: (u, i, low, high) => round(low, high), filter: (u, found) => found } : {}), values: (u, found) => found.map(quantity) },
    ],
    series: [{}, ...order.map((i) => ({
      label: shown(plot.series[i].name), stroke: looks[i].paint, width: plot.kind === "lines" ? 2 : 1,
      dash: looks[i].dash, spanGaps: true, fill: plot.kind === "lines" ? undefined : looks[i].paint,
      points: { show: plot.kind === "lines" && !plot.series[i].dashed, size: 8, fill: looks[i].paint },
      paths: plot.kind === "lines" ? undefined : bars,
    }))],
    hooks: { ready: [(u) => all(u, ends)], draw: plot.kind === "lines" ? [(u) => intervals(u, data, looks)] : [] },
  }, [data.places, ...order.map((i) => data.tops[i])], box);
  chart.over.addEventListener("click", () => {
    const found = nearest(chart, data);
    if (found && found.p.record && (plot.kind !== "lines" || found.away < NEAR) && !chart.select.width) open(found.p.record);
  });
  return { chart, data, ends, looks, order };
}

function ends_of(plot, data) {
  const [first, last] = [data.places[0], data.places[data.places.length - 1]];
  const bars = plot.kind !== "lines" || plot.ticks.length;
  const x = plot.log ? [first / 1.2, last * 1.2] : bars ? [-0.6, plot.ticks.length - 0.4] : [first - 1, last + 1];
  return { x, y: limits(plot, data) };
}

// What is asked for, or everything; never nothing.
function scale(plot, ends) {
  return { time: false, auto: false, distr: plot.log ? 3 : 1, log: 10, range: (u, low, high) => (low === null || high === null || !(high > low) ? ends : [low, high]) };
}

// 1, 2 and 5 times powers of ten; where fewer than three lie in sight, even steps.
function round(low, high) {
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i));
  const inside = (steps) => powers.flatMap((power) => steps.map((step) => step * power)).filter((v) => v >= low && v <= high);
  const found = inside(powers.length > 5 ? [1] : [1, 2, 5]);
  if (found.length > 2) return found;
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const even = step * [1, 2, 5].find((times, i) => i === 2 || (high - low) / (step * times) <= 6);
  return Array.from({ length: 8 }, (_, i) => (Math.ceil(low / even) + i) * even).filter((v) => v <= high);
}

// The places that there are, as long as they are few and some are in sight.
function at_places(plot, data, low, high) {
  const seen = data.places.filter((x) => x >= low && x <= high);
  const apart = plot.log ? seen.filter((x, i) => !i || Math.log(x / seen[i - 1]) > 0.1 * Math.log(high / low)) : seen;
  return apart.length && apart.length <= 8 ? apart : plot.log ? round(low, high) : null;
}

function ticks(plot, data) {
  if (!plot.ticks.length) {
    const splits = plot.log || data.places.length <= 8 ? { splits: (u, i, low, high) => at_places(plot, data, low, high) ?? [], filter: (u, found) => found } : {};
    return { ...splits, values: (u, found) => found.map(quantity) };
  }
  const longest = Math.max(...plot.ticks.map((tick) => Math.min(tick.length, 26)));
  return {
    splits: (u) => {
      const every = Math.max(1, Math.ceil(((u.scales.x.max - u.scales.x.min) * 16) / Math.max(u.bbox.width / devicePixelRatio, 1)));
      return plot.ticks.map((_, i) => i).filter((i) => i % every === 0 && i >= u.scales.x.min && i <= u.scales.x.max);
    },
    values: (u, found) => found.map((i) => { const text = shown(plot.ticks[i] ?? ""); return text.length > 26 ? `${text.slice(0, 15)}…${text.slice(-10)}` : text; }),
    rotate: 60, size: 24 + longest * 5.4, grid: { show: false },
  };
}

function intervals(u, data, looks) {
  const { ctx } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  data.points.forEach((column, i) => {
    if (!u.series[i + 1].show) return;
    ctx.strokeStyle = looks[i].paint;
    ctx.lineWidth = 1.5 * devicePixelRatio;
    column.forEach((p, k) => {
      if (!p || p.low === null || p.high === null) return;
      const x = u.valToPos(data.places[k], "x", true);
      const top = u.valToPos(p.high, "y", true);
      const bottom = u.scales.y.distr === 3 && p.low <= 0 ? u.bbox.top + u.bbox.height : u.valToPos(p.low, "y", true);
      const cap = 4 * devicePixelRatio;
      ctx.beginPath();
      for (const [x0, y0, x1, y1] of [[x, top, x, bottom], [x - cap, top, x + cap, top], [x - cap, bottom, x + cap, bottom]]) {
        ctx.moveTo(x0, y0);
        ctx.lineTo(x1, y1);
      }
      ctx.stroke();
    });
  });
  ctx.restore();
}

// The point at the pointer's place that lies nearest to it, its series, and how many pixels it is away.
function nearest(u, data) {
  const { idx: place, left, top } = u.cursor;
  if (place === null || place === undefined) return null;
  const aside = u.valToPos(data.places[place], "x") - left;
  const found = data.points.flatMap((column, i) => (column[place] ? [{ p: column[place], i, away: Math.hypot(aside, u.valToPos(data.tops[i][place], "y") - top) }] : []));
  return found.sort((a, b) => a.away - b.away)[0] ?? null;
}

// A zoom by a factor about the middle, on both axes.
function zoom(u, factor, ends) {
  u.batch(() => {
    for (const axis of ["x", "y"]) {
      const { min, max, distr } = u.scales[axis];
      const [go, back] = distr === 3 ? [Math.log, Math.exp] : [(v) => v, (v) => v];
      const [middle, half] = [(go(min) + go(max)) / 2, ((go(max) - go(min)) / 2) * factor];
      const [low, high] = [back(middle - half), back(middle + half)];
      u.setScale(axis, { min: Math.max(low, ends[axis][0]), max: Math.min(high, ends[axis][1]) });
    }
  });
}

function all(u, ends) {
  u.batch(() => {
    for (const axis of ["x", "y"]) u.setScale(axis, { min: ends[axis][0], max: ends[axis][1] });
  });
}

// A figure: title, legend, plot, buttons, what the pointer is at, and the same figures as a table.
rollbench.figure = (plot, about, open) => {
  const box = element("div", { class: "canvas", tabindex: "0", role: "application", "aria-roledescription": "plot",
    "aria-label": `${plot.title}; arrow keys go from point to point, Enter opens the record` });
  const at = element("p", { class: "at", role: "status" });
  const legend = element("p", { class: "legend" });
  const figure = element("figure", {}, element("figcaption", {}, element("strong", {}, plot.title), " ", element("span", { class: "note" }, about)),
    legend, box, at);
  let held = null;
  let order = plot.series.flatMap((s, i) => s.points.map((p) => ({ p, i }))).sort((a, b) => a.p.x - b.p.x || a.i - b.i);
  let here = -1;

  function say(i, p) {
    const x = plot.ticks.length ? plot.ticks[p.x] ?? p.x : `${quantity(p.x)} ${plot.x}`;
    const interval = p.low === null || p.high === null ? "" : ` [${quantity(p.low)}, ${quantity(p.high)}]`;
    at.textContent = shown(`${plot.series[i].name}, ${x}: ${quantity(p.y)}${interval} ${plot.y}`);
  }

  function step(by) {
    const visible = order.filter(({ i }) => !hidden.has(i));
    if (!visible.length) return;
    here = Math.min(Math.max(here + by, 0), visible.length - 1);
    const { p, i } = visible[here];
    say(i, p);
    const k = held.data.points[i].indexOf(p);
    held.chart.setCursor({ left: held.chart.valToPos(held.data.places[k], "x"), top: held.chart.valToPos(held.data.tops[i][k], "y") });
  }

  const hidden = new Set();
  plot.series.forEach((series, i) => {
    const key = element("button", { type: "button", class: "key", "aria-pressed": "true", onclick: () => {
      hidden.has(i) ? hidden.delete(i) : hidden.add(i);
      key.setAttribute("aria-pressed", String(!hidden.has(i)));
      if (held) held.chart.setSeries(held.order.indexOf(i) + 1, { show: !hidden.has(i) });
    } }, element("span", { class: "swatch" }), series.name);
    legend.append(key);
  });
  const keys = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), "+": () => zoom(held.chart, 0.6, held.ends), "=": () => zoom(held.chart, 0.6, held.ends),
    "-": () => zoom(held.chart, 1 / 0.6, held.ends), 0: () => all(held.chart, held.ends),
    Enter: () => { const visible = order.filter(({ i }) => !hidden.has(i)); if (visible[here]?.p.record) open(visible[here].p.record); } };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key] || !held) return;
    event.preventDefault();
    keys[event.key]();
  });
  box.addEventListener("mousemove", () => {
    const found = held && nearest(held.chart, held.data);
    if (found) say(found.i, found.p);
  });
  const button = (name, does) => element("button", { type: "button", onclick: () => held && does() }, name);
  figure.append(element("p", { class: "buttons" },
    button("Zoom in", () => zoom(held.chart, 0.6, held.ends)), button("Zoom out", () => zoom(held.chart, 1 / 0.6, held.ends)), button("Show all", () => all(held.chart, held.ends))),
    table(plot, open));

  figure.redraw = () => {
    if (held) held.chart.destroy();
    held = draw(plot, box, open);
    [...legend.children].forEach((key, i) => key.firstChild.style.setProperty("background", swatch(held.looks[i])));
    hidden.forEach((i) => held.chart.setSeries(held.order.indexOf(i) + 1, { show: false }));
    figure.chart = held.chart;
  };
  figure.fit = () => held && held.chart.setSize({ width: Math.max(box.clientWidth, 260), height: held.chart.height });
  return figure;
};

function table(plot, open) {
  const rows = plot.series.flatMap((s) => s.points.map((p) => element("tr", {},
    element("td", {}, s.name), element("td", {}, plot.ticks.length ? plot.ticks[p.x] ?? p.x : quantity(p.x)),
    element("td", {}, p.record ? element("button", { type: "button", class: "figure", onclick: () => open(p.record) }, quantity(p.y)) : quantity(p.y)),
    element("td", {}, p.low === null || p.high === null ? "" : `[${quantity(p.low)}, ${quantity(p.high)}]`))));
  const heads = ["series", plot.ticks.length ? "at" : plot.x, plot.y, "95 % interval"];
  return element("details", {}, element("summary", {}, "The same as a table"),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${plot.title} as a table` },
      element("table", {}, element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))), element("tbody", {}, rows))));
}
