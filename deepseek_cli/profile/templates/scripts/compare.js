// Two runs beside each other: the baseline came with the page, or from a file that is chosen or dropped.

const compareView = {};

function compare() {
  const after = rowsOf("moments")[0];
  if (!show("compare-section", after)) return;
  if (!show("compared", baseline)) return;
  const before = baseline.moments[0];
  $("compare-lede").textContent = t("compare.lede", { name: baseline.name, when: baseline.when });
  const shown = (r, text) => f.signed(r.change, text);
  table($("compare"), [
    label("part", t("part"), (r) => (r.part === "total" ? t("total") : named("part", r.part))), bytes("before", t("before")), bytes("after", t("after")),
    bytes("change", t("change"), { show: (r) => shown(r, f.inUnit(r.change)) }),
    { key: "share", label: t("changeshare"), value: (r) => r.change, show: (r) => (r.before ? shown(r, f.percent(r.change, r.before)) : "–") },
  ], deltas(before, after), { foot: { part: "total", before: before.bytes, after: after.bytes, change: after.bytes - before.bytes }, caption: t("compare") });
  const now = thin(((data.timeline && data.timeline.points) || []), 1500).map((p) => [p[0] / 1000, p[1]]), then = baseline.points.map((p) => [p[0] / 1000, p[1]]);
  if (!show("compare-figure", now.length && then.length)) return;
  const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
  chart($("compare-chart"), $("compare-readout"), {
    lines: [{ points: then, kind: "before", top: (p) => p[1] }, { points: now, kind: "rss", top: (p) => p[1] }],
    from: 0, to: Math.max(now[now.length - 1][0], then[then.length - 1][0]), most: Math.max(before.bytes, after.bytes, ...now.map((p) => p[1]), ...then.map((p) => p[1])),
    unit, view: compareView, redraw: compare, height: 250, showX: (s) => `${f.number(s, s % 1 ? 2 : 0)} s`, stops: now.map((p) => p[0]),
    say: (i) => t("compare.readout", { seconds: f.number(now[i][0], 3), now: f.size(now[i][1]), then: f.size(nearest(then, now[i][0])[1]) }),
    rest: t("compare.chart"),
  });
}

async function take(file) {
  let run = null;
  try {
    run = asRun(JSON.parse(await file.text()));
  } catch { /* said below */ }
  if (run) baseline = run;
  $("compare-said").textContent = t(run ? "compare.taken" : "compare.refused", { file: file.name });
  compare();
  scrollable();
  if (run) $("compare-section").scrollIntoView({ block: "start" });
}

function acceptFiles() {
  $("compare-file").addEventListener("change", () => { if ($("compare-file").files[0]) take($("compare-file").files[0]); });
  if (!rowsOf("moments").length) return;
  const holds = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", (event) => { if (holds(event)) { event.preventDefault(); root.dataset.drop = "1"; } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) delete root.dataset.drop; });
  addEventListener("drop", (event) => {
    delete root.dataset.drop;
    if (!holds(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
