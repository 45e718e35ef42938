// The layers: a strip whose darkness is one figure, and the table of them all; then operators and nodes.

let metric = 0;

function layerColumns(rows) {
  return [
    bytes("weights_bytes", t("weightsunit"), { meter: true }), bytes("kv_bytes", t("kvunit")), bytes("activation_bytes", t("activationunit")),
    plain("prefill", t("prefill"), 2, { meter: true }), plain("decode", t("decode"), 3, { meter: true }),
    plain("forward", t("forward"), 2, { meter: true }),
    { ...plain("prefill_flops", t("prefillflops"), 0), show: (r) => f.short(r.prefill_flops) }, { ...plain("decode_flops", t("decodeflops"), 0), show: (r) => f.short(r.decode_flops) },
    bytes("moved_bytes", t("moved")), plain("intensity", t("intensity"), 2),
  ].filter((c) => rows.some((r) => r[c.key]));
}

function layers() {
  if (!show("layers-section", rowsOf("layers").length)) return;
  const perToken = data.run.new_tokens || 1;
  const rows = data.layers.map((l) => ({ ...l, prefill: 1000 * l.prefill_seconds, decode: 1000 * l.decode_seconds / perToken, forward: 1000 * l.forward_seconds, intensity: l.moved_bytes ? l.decode_flops / l.moved_bytes : null }));
  const columns = layerColumns(rows);
  heat(rows, columns);
  const summed = columns.filter((c) => c.key !== "activation_bytes" && c.key !== "intensity").map((c) => [c.key, total(rows, c.key)]);
  const filter = table($("layers"), [label("layer", t("layer"), (l) => (l.layer === "all" ? t("all") : chooser(l.layer))), ...columns], rows, { sortable: true, foot: { layer: "all", activation_bytes: null, intensity: null, ...Object.fromEntries(summed) }, caption: t("layers") });
  const apply = () => { const wanted = $("layer-search").value.trim().toLowerCase(); filter((l) => !wanted || layerName(l.layer).toLowerCase().split(/\s+/).some((word) => word.startsWith(wanted)) || l.layer === wanted); };
  $("layer-search").oninput = apply;
  apply();
}

function heat(rows, columns) {
  metric = Math.min(metric, columns.length - 1);
  if (!show("heat", metric >= 0)) return;
  choice($("metrics"), columns.map((c) => c.label), metric, (i) => { metric = i; layers(); });
  const column = columns[metric], most = Math.max(...rows.map((r) => r[column.key] || 0), 1e-12);
  $("strip").setAttribute("aria-label", t("strip.label", { metric: column.label, most: layerName(rows.reduce((a, b) => ((b[column.key] || 0) > (a[column.key] || 0) ? b : a)).layer) }));
  $("strip").replaceChildren(...rows.map((row) => {
    const cell = element("span", { title: `${layerName(row.layer)}: ${column.show(row)}`, class: row.layer === oneLayer ? "on" : null, "data-layer": row.layer }), fill = element("i");
    cell.addEventListener("click", () => choose(row.layer === oneLayer ? null : row.layer));
    fill.style.height = `${100 * (row[column.key] || 0) / most}%`;
    cell.append(fill);
    return cell;
  }));
}

function operators() {
  if (!show("operators-section", rowsOf("operators").length)) return;
  const { plain_seconds: without, profiled_seconds: profiled } = data.overhead || {}, perToken = data.run.new_tokens || 1;
  const said = profiled ? t("operators.lede", { profiled: f.number(profiled, 2), without: f.number(without, 2) }) : t("operators.plain");
  $("operators-lede").textContent = said + (data.traced ? t("operators.seen", { steps: f.number(data.traced.decode_steps), all: f.number(data.traced.of_steps) }) : "");
  const timed = (o) => ({ ...o, prefill: 1000 * o.prefill_seconds, decode: 1000 * o.decode_seconds / perToken });
  table($("operators"), [
    label("operator", t("operator"), (o) => o.operator), plain("nodes", t("nodes"), 0), plain("calls", t("calls"), 0),
    plain("prefill", t("prefill"), 2, { meter: true }), plain("decode", t("decode"), 3, { meter: true }), bytes("arena_growth_bytes", t("arena")),
  ], (oneLayer === null ? data.operators : ofChosen(rowsOf("layer_operators"))).map(timed), { sortable: true, caption: t("operators") });
  const every = rowsOf("nodes"), nodes = ofChosen(every).map(timed);
  if (!show("nodes-block", nodes.length)) return;
  $("nodes-title").textContent = t(oneLayer === null ? "nodes.title" : "nodes.chosen", { count: f.number(nodes.length), all: f.number(every.length) });
  table($("nodes"), [
    label("node", t("node"), (n) => n.node), { ...label("operator", t("operator"), (n) => n.operator) }, { ...label("layer", t("layer"), (n) => layerName(n.layer ?? "")) },
    plain("prefill", t("prefill"), 2, { meter: true }), plain("decode", t("decode"), 3, { meter: true }),
    bytes("in_use_bytes", t("inuse")), bytes("requested_bytes", t("requested")), bytes("held_bytes", t("heldunit")), bytes("growth_bytes", t("arena")),
  ], nodes, { sortable: true, caption: t("nodes"), most: 12, moreLabel: (count) => t("more", { count: f.number(count) }) });
}
