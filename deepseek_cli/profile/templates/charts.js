"use strict";
// Drawing without a library: elements, tables, the stacked bar and the timeline.

const SVG = "http" + "://www.w3.org/2000/svg";  // a name, not an address: nothing is fetched

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// A table. A column is {key, label, show(row) → text or node, value?(row) → number, text?, how?, meter?}.
// `options`: foot (a row), sortable, rest (the row set in italics).
function table(place, columns, rows, options = {}) {
  const largest = Object.fromEntries(columns.filter((c) => c.meter).map((c) => [c.key, Math.max(...rows.map((r) => c.value(r) || 0), 1e-12)]));
  const kind = (c) => [c.text ? "text" : "", c.how ? "how" : ""].join(" ").trim() || null;
  const cell = (c, row, foot) => {
    const td = element("td", { class: kind(c), title: c.title && c.value(row) !== null ? c.title(row) : null }, c.show(row));
    if (c.meter && !foot) {
      const fill = element("i");
      fill.style.width = `${Math.max(0, 100 * (c.value(row) || 0) / largest[c.key])}%`;
      td.append(element("span", { class: "meter", "aria-hidden": "true" }, fill));
    }
    return td;
  };
  const head = element("tr", {}, ...columns.map((c) => element("th", { scope: "col", class: kind(c) }, options.sortable ? element("button", { type: "button" }, c.label) : c.label)));
  const body = element("tbody");
  const fill = (list) => body.replaceChildren(...list.map((row) => element("tr", { class: row === options.rest ? "rest" : null }, ...columns.map((c) => cell(c, row)))));
  fill(rows);
  if (options.sortable) head.querySelectorAll("button").forEach((button, i) => button.addEventListener("click", () => sort(head, i, columns[i], rows, fill)));
  const foot = options.foot && element("tfoot", {}, element("tr", {}, ...columns.map((c) => cell(c, options.foot, true))));
  place.replaceChildren(element("table", {}, element("thead", {}, head), body, foot));
}

function sort(head, index, column, rows, fill) {
  const th = head.children[index];
  const first = column.text ? "ascending" : "descending";
  const second = column.text ? "descending" : "ascending";
  const order = th.getAttribute("aria-sort") === first ? second : first;
  for (const other of head.children) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const place = new Map(rows.map((row, i) => [row, i]));  // a column of names goes back to the model's own order
  const of = column.text ? (row) => place.get(row) : (row) => column.value(row) ?? -Infinity;
  fill([...rows].sort((a, b) => sign * (of(a) - of(b))));
}

// parts: [{part, bytes, number, label}]; lengths are shares of the positive ones
function stack(place, parts, label) {
  place.setAttribute("aria-label", label);
  const shown = parts.filter((p) => p.bytes > 0);
  const sum = shown.reduce((total, p) => total + p.bytes, 0) || 1;
  place.replaceChildren(...shown.map((p) => {
    const span = element("span", { class: p.part, title: p.label }, p.bytes / sum > 0.025 ? String(p.number) : "");
    span.style.flexBasis = `${100 * p.bytes / sum}%`;
    return span;
  }));
}

function ticks(highest, count) {
  const raw = highest / count;
  const base = 10 ** Math.floor(Math.log10(raw || 1));
  const step = base * [1, 2, 5, 10].find((m) => m * base >= raw);
  return Array.from({ length: Math.floor(highest / step) + 1 }, (_, i) => i * step);
}

// model: {points [[ms, rss, file]], phases [{label, number, start, end, peak}] in seconds, peak {bytes, label}, mib(bytes), seconds(s)}
// Gives back a function that puts the cursor on a point.
function timeline(place, model) {
  const width = Math.max(place.clientWidth, 300), height = width < 600 ? 260 : 340;
  const left = 52, right = 10, top = 44, bottom = 28;
  const { points, phases } = model;
  const end = Math.max(points.length ? points[points.length - 1][0] / 1000 : 0, ...phases.map((p) => p.end), 1e-3);
  const most = Math.max(model.peak.bytes, ...points.map((p) => p[1]), 1) * 1.06;
  const x = (seconds) => left + (width - left - right) * seconds / end;
  const y = (bytes) => height - bottom - (height - top - bottom) * bytes / most;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const hatch = shape("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  hatch.append(shape("line", { x1: 0, y1: 0, x2: 0, y2: 5, class: "hatch" }));
  svg.append(hatch);
  phases.forEach((phase, i) => {
    const from = x(phase.start), to = x(phase.end);
    if (i % 2 === 0) svg.append(shape("rect", { class: "band", x: from, y: 0, width: Math.max(to - from, 1), height: height - bottom }));
    const wide = to - from > phase.label.length * (/[^\x00-\xff]/.test(phase.label) ? 14 : 8) + 26;
    svg.append(shape("text", { class: "strong", x: (from + to) / 2, y: 18, "text-anchor": "middle" }, wide ? `${phase.number} ${phase.label}` : phase.number));
  });
  for (const tick of ticks(most / 1048576, 4)) {
    const at = y(tick * 1048576);
    svg.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }), shape("text", { x: left - 10, y: at + 4, "text-anchor": "end" }, tick));
  }
  svg.append(shape("text", { x: left - 10, y: 18, "text-anchor": "end" }, "MiB"));
  for (const tick of ticks(end, width < 600 ? 4 : 8)) svg.append(shape("text", { x: x(tick), y: height - 6, "text-anchor": tick ? "middle" : "start" }, model.seconds(tick)));
  if (points.length) {
    const line = (of) => points.map((p) => `${x(p[0] / 1000).toFixed(1)},${y(of(p)).toFixed(1)}`).join("L");
    const first = x(points[0][0] / 1000), last = x(points[points.length - 1][0] / 1000), base = y(0);
    const back = points.slice().reverse().map((p) => `${x(p[0] / 1000).toFixed(1)},${y(p[2]).toFixed(1)}`).join("L");
    svg.append(
      shape("path", { class: "anonymous", d: `M${line((p) => p[1])}L${back}Z` }),
      shape("path", { class: "file", d: `M${first},${base}L${line((p) => p[2])}L${last},${base}Z` }),
      shape("path", { class: "edge", d: `M${line((p) => p[2])}` }),
      shape("path", { class: "rss", d: `M${line((p) => p[1])}` }),
    );
  }
  for (const phase of phases) if (phase.peak) svg.append(shape("line", { class: "high", x1: x(phase.start), x2: x(phase.end), y1: y(phase.peak), y2: y(phase.peak) }));
  const inside = points.filter((p) => p[0] / 1000 >= model.peak.start && p[0] / 1000 <= model.peak.end);
  const highest = inside.reduce((a, b) => (b[1] > a[1] ? b : a), inside[0] || [1000 * model.peak.end, 0, 0]);
  const px = x(highest[0] / 1000), py = y(model.peak.bytes), late = px > width * 0.6;
  svg.append(shape("circle", { class: "marker", cx: px, cy: py, r: 4.5 }), shape("text", { class: "strong", x: px + (late ? -10 : 10), y: py - 9, "text-anchor": late ? "end" : "start" }, model.peak.label));
  const cursor = shape("line", { class: "cursor", y1: top - 14, y2: height - bottom, visibility: "hidden" });
  svg.append(cursor);
  place.replaceChildren(svg);
  return {
    move(index) {
      for (const side of ["x1", "x2"]) cursor.setAttribute(side, x(points[index][0] / 1000));
      cursor.setAttribute("visibility", "visible");
    },
    nearest(pixels) {
      const at = (pixels - left) / (width - left - right) * end * 1000;
      return points.reduce((best, p, i) => (Math.abs(p[0] - at) < Math.abs(points[best][0] - at) ? i : best), 0);
    },
  };
}
