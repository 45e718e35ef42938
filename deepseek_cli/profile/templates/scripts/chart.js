// A chart over time or steps: lines and areas, bands, a cursor, and a part of it at a time. The figures are in the text beside it.

let charts = 0;

// `model`: lines [{points [[x, y, …]], kind, top(p), base?(p)}], from, to, most, bands [{from, to, label, number, high}],
// mark? {x, y, label}, showX(x), unit [name, bytes], stops [x, …] that the cursor stands on, say(stop index) → text,
// rest (text while there is no cursor), view {from, to, cursor}, which outlives a drawing.
function chart(place, readout, model) {
  const width = Math.max(place.clientWidth, 260), height = model.height || (width < 600 ? 250 : 330);
  const left = 54, right = 12, top = model.bands ? 44 : 26, bottom = 30;
  const view = model.view;
  const from = view.from ?? model.from, to = Math.max(view.to ?? model.to, from + 1e-9);
  const x = (value) => left + (width - left - right) * (value - from) / (to - from);
  const least = model.least || 0, most = least + 1.06 * Math.max(model.most - least, 1);
  const y = (value) => height - bottom - (height - top - bottom) * (value - least) / (most - least);
  const back = (pixels) => from + (pixels - left) / (width - left - right) * (to - from);
  const clip = `clip${++charts}`;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const frame = shape("clipPath", { id: clip });
  frame.append(shape("rect", { x: left, y: 0, width: width - left - right, height }));
  const inside = shape("g", { "clip-path": `url(#${clip})` });
  const hatch = shape("pattern", { id: `${clip}h`, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  hatch.append(shape("line", { x1: 0, y1: 0, x2: 0, y2: 5, class: "hatch" }));
  svg.append(frame, hatch, inside);
  let names = -Infinity;
  (model.bands || []).forEach((band, i) => {
    const begin = Math.max(x(band.from), left), end = Math.min(x(band.to), width - right);
    if (end < begin) return;
    if (i % 2 === 0) inside.append(shape("rect", { class: "band", x: begin, y: 0, width: Math.max(end - begin, 1), height: height - bottom }));
    const middle = (begin + end) / 2, wide = end - begin > band.label.length * (/[^\x00-\xff]/.test(band.label) ? 14 : 8) + 26;
    if (wide || middle - names > 14) {
      svg.append(shape("text", { class: "strong", x: middle, y: 18, "text-anchor": "middle" }, wide ? `${band.number} ${band.label}` : band.number));
      names = wide ? end : middle;
    }
  });
  const [unit, by] = model.unit;
  for (const tick of ticks(least / by, most / by, 4)) {
    inside.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: y(tick * by), y2: y(tick * by) }));
    svg.append(shape("text", { x: left - 10, y: y(tick * by) + 4, "text-anchor": "end" }, Number(tick.toPrecision(6)).toLocaleString("en-US")));
  }
  svg.append(shape("text", { x: left - 10, y: 18, "text-anchor": "end" }, unit));
  for (const tick of ticks(from, to, width < 600 ? 4 : 8)) svg.append(shape("text", { x: x(tick), y: height - 6, "text-anchor": x(tick) > width - 30 ? "end" : x(tick) < left + 16 ? "start" : "middle" }, model.showX(tick)));
  for (const line of model.lines) inside.append(...traced(line, x, y, from, to, clip));
  for (const band of model.bands || []) if (band.high) inside.append(shape("line", { class: "high", x1: x(band.from), x2: x(band.to), y1: y(band.high), y2: y(band.high) }));
  if (model.mark && model.mark.x >= from && model.mark.x <= to) {
    const px = x(model.mark.x), py = y(model.mark.y), late = px > width * 0.6;
    svg.append(shape("circle", { class: "marker", cx: px, cy: py, r: 4.5 }), shape("text", { class: "strong halo", x: px + (late ? -10 : 10), y: py - 9, "text-anchor": late ? "end" : "start" }, model.mark.label));
  }
  const brush = shape("rect", { class: "brush", y: top - 14, height: height - bottom - top + 14, width: 0, visibility: "hidden" });
  const cursor = shape("line", { class: "cursor", y1: top - 14, y2: height - bottom, visibility: "hidden" });
  svg.append(brush, cursor);
  place.replaceChildren(svg);
  listen(place, readout, model, { x, back, brush, cursor, from, to });
}

// A line, or the area between it and its base, thinned to what is in view.
function traced({ points, kind, top, base }, x, y, from, to, clip) {
  const near = points.filter((p, i) => (points[i + 1] || p)[0] >= from && (points[i - 1] || p)[0] <= to);
  if (!near.length) return [];
  const path = (list, of) => list.map((p) => `${x(p[0]).toFixed(1)},${y(of(p)).toFixed(1)}`).join("L");
  const area = base && shape("path", { class: `area ${kind}`, d: `M${path(near, top)}L${path([...near].reverse(), base)}Z` });
  if (area && kind === "file") area.style.fill = `url(#${clip}h)`;
  return [area, shape("path", { class: `line ${kind}`, d: `M${path(near, top)}` })].filter(Boolean);
}

// Cursor by pointer and arrow keys; a part by dragging, or + and − around the cursor; all of it by 0 or Escape.
function listen(place, readout, model, { x, back, brush, cursor, from, to }) {
  const { view, stops } = model;
  const nearest = (value) => stops.reduce((best, stop, i) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best), 0);
  const redraw = (range) => { Object.assign(view, range); (model.redraw || (() => chart(place, readout, model)))(); };
  const say = (index) => {
    view.cursor = Math.min(Math.max(index, 0), stops.length - 1);
    const at = stops[view.cursor], text = model.say(view.cursor);
    readout.textContent = text;
    place.setAttribute("aria-valuenow", view.cursor);
    place.setAttribute("aria-valuetext", text);
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, x(at));
    cursor.setAttribute("visibility", at >= from && at <= to ? "visible" : "hidden");
  };
  const within = (event) => event.clientX - place.getBoundingClientRect().left;
  let begun = null;
  place.setAttribute("aria-valuemin", 0);
  place.setAttribute("aria-valuemax", Math.max(stops.length - 1, 0));
  place.setAttribute("aria-valuetext", model.rest);
  readout.textContent = model.rest;
  if (!stops.length) return;
  if (view.cursor >= 0) say(view.cursor);
  place.onpointerdown = (event) => { if (event.pointerType !== "touch") { begun = within(event); place.setPointerCapture(event.pointerId); } };
  place.onpointermove = (event) => {
    say(nearest(back(within(event))));
    if (begun === null) return;
    const [a, b] = [begun, within(event)].sort((p, q) => p - q);
    brush.setAttribute("x", a);
    brush.setAttribute("width", b - a);
    brush.setAttribute("visibility", "visible");
  };
  place.onpointerup = (event) => {
    if (begun === null) return;
    const [a, b] = [begun, within(event)].sort((p, q) => p - q);
    begun = null;
    if (b - a > 8) redraw({ from: Math.max(back(a), model.from), to: Math.min(back(b), model.to) });
    else brush.setAttribute("visibility", "hidden");
  };
  place.ondblclick = () => redraw({ from: undefined, to: undefined });
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity };
  place.onkeydown = (event) => {
    const zoom = { "+": 0.5, "=": 0.5, "-": 2, "0": Infinity, Escape: Infinity }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!zoom && !(event.key in steps))) return;
    event.preventDefault();
    if (!zoom) { say((view.cursor ?? -1) + steps[event.key] * (event.shiftKey ? 20 : 1)); return; }
    const middle = view.cursor >= 0 ? stops[view.cursor] : (from + to) / 2, half = zoom * (to - from) / 2;
    redraw(half < model.to - model.from ? { from: Math.max(middle - half, model.from), to: Math.min(middle + half, model.to) } : { from: undefined, to: undefined });
  };
}
