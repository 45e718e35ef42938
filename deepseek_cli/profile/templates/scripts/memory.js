// Where the bytes are, at the peak and at the end of each phase; and resident memory over time.

let moment = 0;
const timeView = {};

function peak() {
  const moments = rowsOf("moments");
  if (!show("peak", moments.length)) return;
  const labelOf = (m) => (m.moment === "peak" ? t("moment.peak") : t("moment.end", { phase: phaseName(m.moment) }));
  choice($("moments"), moments.map(labelOf), moment, (i) => { moment = i; peak(); });
  const chosen = moments[moment], rest = chosen.parts[chosen.parts.length - 1];
  const parts = chosen.parts.filter((p) => p.bytes || p === rest).map((p, i) => ({ ...p, number: i + 1, label: `${named("part", p.part)}: ${f.size(p.bytes)}` }));
  $("peak-lede").textContent = t(chosen.moment === "peak" ? "peak.lede" : "end.lede", { phase: phaseName(chosen.phase), bytes: f.size(chosen.bytes), share: f.percent(chosen.bytes - Math.abs(rest.bytes), chosen.bytes) });
  show("doubt", Math.abs(rest.bytes) > 0.1 * chosen.bytes);
  stack($("stack"), parts, parts.map((p) => p.label).join("; "));
  const key = (p) => element("span", { class: "named" }, element("span", { class: `key p-${p.part}`, "aria-hidden": "true" }, String(p.number)), named("part", p.part));
  table($("parts"), [
    label("part", t("part"), (p) => (p.number ? key(p) : t(data.model.kind === "snapshot" ? "total.device" : "total"))),
    { ...label("how", t("how"), (p) => texts[language][`how.${p.part}`] ?? ""), how: true },
    bytes("bytes", f.unit),
    { key: "share", label: t("share"), value: (p) => p.bytes, show: (p) => f.percent(p.bytes, chosen.bytes), meter: true },
  ], parts, { foot: { part: "total", bytes: total(parts, "bytes") }, rest: parts[parts.length - 1], caption: t("where") });
}

// Lengths are shares of the positive parts.
function stack(place, parts, text) {
  place.setAttribute("aria-label", text);
  const shown = parts.filter((p) => p.bytes > 0), sum = total(shown, "bytes") || 1;
  place.replaceChildren(...shown.map((p) => {
    const span = element("span", { class: `p-${p.part}`, title: p.label }, p.bytes / sum > 0.025 ? String(p.number) : "");
    span.style.flexBasis = `${100 * p.bytes / sum}%`;
    return span;
  }));
}

function time() {
  const phases = rowsOf("phases"), points = (data.timeline && data.timeline.points) || [];
  if (!show("time", phases.length && data.peak)) return;
  const ends = phases.map((p) => p.start_seconds + p.seconds), to = Math.max(points.length ? points[points.length - 1][0] / 1000 : 0, ...ends, 1e-3);
  const arena = (data.arena && data.arena.points) || [];
  const high = phases.find((p) => p.phase === data.peak.phase) || phases[0];
  const within = points.filter((p) => p[0] / 1000 >= high.start_seconds && p[0] / 1000 <= high.start_seconds + high.seconds);
  const highest = within.reduce((a, b) => (b[1] > a[1] ? b : a), within[0] || [1000 * (high.start_seconds + high.seconds)]);
  const inSeconds = (list) => list.map((p) => [p[0] / 1000, ...p.slice(1)]);
  const drawn = inSeconds(points);
  const phaseAt = (s) => phases.find((p) => s >= p.start_seconds && s <= p.start_seconds + p.seconds);
  const spans = [[undefined, undefined], ...phases.map((p) => [p.start_seconds, p.start_seconds + Math.max(p.seconds, 1e-3)])];
  const at = Math.max(spans.findIndex(([a, b]) => a === timeView.from && b === timeView.to), 0);
  choice($("spans"), [t("span.all"), ...phases.map((p) => phaseName(p.phase))], at, (i) => { [timeView.from, timeView.to] = spans[i]; time(); });
  chart($("chart"), $("readout"), {
    lines: [
      { points: drawn, kind: "file", top: (p) => p[2], base: () => 0 },
      { points: drawn, kind: "rss", top: (p) => p[1], base: (p) => p[2] },
      ...(arena.length ? [{ points: inSeconds(arena), kind: "held", top: (p) => p[3] }] : []),
    ],
    from: 0, to, most: Math.max(data.peak.bytes, ...points.map((p) => p[1]), 1), unit, view: timeView, redraw: time,
    bands: phases.map((p, i) => ({ label: phaseName(p.phase), number: String(i + 1), from: p.start_seconds, to: ends[i], high: p.peak_bytes })),
    mark: { x: highest[0] / 1000, y: data.peak.bytes, label: t("peak.label", { bytes: f.size(data.peak.bytes) }) },
    showX: (s) => `${f.number(s, s % 1 ? (to < 1 ? 3 : 2) : 0)} s`, stops: drawn.map((p) => p[0]),
    say(i) {
      const [s, rss, file] = drawn[i], phase = phaseAt(s);
      return t("readout", { seconds: f.number(s, 3), phase: phase ? phaseName(phase.phase) : t("between"), rss: f.size(rss), anonymous: f.size(rss - file), file: f.size(file) });
    },
    rest: t("chart.label", { seconds: f.number(to, 1), bytes: f.size(data.peak.bytes), phase: phaseName(data.peak.phase) }),
  });
  show("arena-key", arena.length);
  const rows = phases.map((p, i) => ({ ...p, number: i + 1, growth: i ? p.rss_bytes - phases[i - 1].rss_bytes : p.rss_bytes }));
  table($("phases"), [
    label("phase", t("phase"), (p) => `${p.number} ${phaseName(p.phase)}`),
    plain("seconds", t("seconds"), 2), plain("tokens_per_second", t("rate"), 1), bytes("rss_bytes", t("rss")), bytes("growth", t("growth")),
    bytes("anonymous_bytes", t("anonymous")), bytes("file_bytes", t("file")), bytes("peak_bytes", t("peak"), { meter: true }),
  ], rows, { caption: t("timeline") });
}
