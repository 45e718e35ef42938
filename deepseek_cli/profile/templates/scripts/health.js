// The allocators, the leak test, and advice.

const arenaView = {}, leakView = {};

function allocator() {
  const arena = data.arena, torch = data.allocator || [];
  if (!show("allocator-section", arena || torch.length)) return;
  const points = ((arena && arena.points) || []).map((p) => [p[0] / 1000, ...p.slice(1)]);
  if (show("arena-figure", points.length)) {
    chart($("arena-chart"), $("arena-readout"), {
      lines: [{ points, kind: "inuse", top: (p) => p[1], base: () => 0 }, { points, kind: "requested", top: (p) => p[2] }, { points, kind: "held", top: (p) => p[3] }],
      from: points[0][0], to: points[points.length - 1][0], most: Math.max(...points.map((p) => p[3]), 1), unit, view: arenaView, redraw: allocator, height: 240,
      showX: (s) => `${f.number(s, s % 1 ? 2 : 0)} s`, stops: points.map((p) => p[0]),
      say: (i) => t("arena.readout", { seconds: f.number(points[i][0], 3), inuse: f.size(points[i][1]), requested: f.size(points[i][2]), held: f.size(points[i][3]) }),
      rest: t("arena.chart", { held: f.size(Math.max(...points.map((p) => p[3]))) }),
    });
  }
  const rows = arena ? [["arena.weights", arena.weights_bytes], ["arena.activations", arena.activations_bytes], ["arena.requested", arena.requested_bytes], ["arena.held", arena.held_bytes], ["arena.peak", arena.lifetime_peak_bytes]].filter(([, size]) => size !== undefined && size !== null) : [];
  if (show("arena-facts", arena)) facts($("arena-facts"), [...rows.map(([key, size]) => [t(key), f.size(size)]), [t("arena.growths"), f.number(arena.growths)]]);
  if (!show("torch", torch.length)) return;
  table($("torch"), [
    label("phase", t("phase"), (p) => phaseName(p.phase)), bytes("allocated_bytes", t("torch.allocated")), bytes("reserved_bytes", t("torch.reserved")), bytes("peak_bytes", t("peak"), { meter: true }),
    { key: "fragmentation", label: t("torch.fragmentation"), value: (p) => p.fragmentation, show: (p) => (p.fragmentation === null || p.fragmentation === undefined ? "–" : f.percent(p.fragmentation, 1)) },
    { key: "slope_bytes", label: t("torch.slope"), value: (p) => p.slope_bytes, show: (p) => (p.slope_bytes === null || p.slope_bytes === undefined ? "–" : f.exact(p.slope_bytes)) },
  ], torch, { caption: t("allocator") });
}

function leak() {
  const test = data.leak;
  if (!show("leak-section", test)) return;
  const mark = test.leaks ? "does-not-fit" : "fits";
  $("leak-verdict").replaceChildren(element("span", { class: `mark ${mark}`, "aria-hidden": "true" }, test.leaks ? "✕" : "✓"), t(test.leaks ? "leak.yes" : "leak.no", {
    iterations: f.number(test.iterations), slope: f.exact(Math.round(test.slope_bytes)), low: f.exact(Math.round(test.low_bytes)), high: f.exact(Math.round(test.high_bytes)),
  }));
  const points = test.points || [];
  if (!show("leak-figure", points.length > 1)) return;
  const sizes = points.map((p) => p[1]), lowest = Math.min(...sizes), spread = Math.max(Math.max(...sizes) - lowest, 65536);
  const middle = [points.reduce((a, p) => a + p[0], 0) / points.length, sizes.reduce((a, b) => a + b, 0) / points.length];
  const fitted = [points[0], points[points.length - 1]].map((p) => [p[0], middle[1] + test.slope_bytes * (p[0] - middle[0])]);
  chart($("leak-chart"), $("leak-readout"), {
    lines: [{ points, kind: "rss", top: (p) => p[1] }, { points: fitted, kind: "held", top: (p) => p[1] }],
    from: points[0][0], to: points[points.length - 1][0], least: Math.max(lowest - spread, 0), most: lowest + 2 * spread, unit, view: leakView, redraw: leak, height: 220,
    showX: (i) => (Number.isInteger(i) ? f.number(i) : ""), stops: points.map((p) => p[0]),
    say: (i) => t("leak.readout", { iteration: f.number(points[i][0]), bytes: f.size(points[i][1]) }),
    rest: t("leak.chart", { iterations: f.number(points.length) }),
  });
}

function advice() {
  if (!show("advice-section", rowsOf("advice").length)) return;
  $("advice").replaceChildren(...data.advice.map(({ kind, saves_bytes: saves, facts: given }) => {
    const shown = Object.fromEntries(Object.entries(given || {}).map(([key, value]) => [key, key.endsWith("_bytes") ? f.size(value) : typeof value === "number" ? f.number(value) : value]));
    return element("li", {}, element("strong", { title: f.exact(saves) }, `−${f.size(saves)}`), element("span", {}, t(`advice.${kind}`, shown)));
  }));
}
