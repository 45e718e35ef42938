// What another context, batch, cache or scheme would take, and which devices would hold it; and the estimate beside what was measured.

const LEAST_CONTEXT = 128;
const chosen = data.what_if ? { ...data.what_if.now } : null;

function reckon() {
  const model = data.what_if;
  if (!show("whatif-section", model || data.kv)) return;
  cacheTable();
  if (show("whatif", model)) {
    sliders(model);
    answer();
  }
  estimateTable();
}

function sliders(model) {
  const least = Math.min(LEAST_CONTEXT, model.longest_context);
  $("w-context").value = 1000 * positionOf(chosen.context, least, model.longest_context);
  $("w-context").oninput = () => { chosen.context = contextAt($("w-context").value / 1000, least, model.longest_context); answer(); };
  $("w-batch").value = chosen.batch;
  $("w-batch").oninput = () => { chosen.batch = Number($("w-batch").value); answer(); };
  const options = (id, names, key, text) => {
    $(id).replaceChildren(...names.map((name) => element("option", { value: name, selected: name === chosen[key] }, text(name))));
    $(id).value = chosen[key];
    $(id).onchange = () => { chosen[key] = $(id).value; answer(); };
  };
  options("w-kv", Object.keys(model.kv), "kv", (name) => name);
  options("w-scheme", Object.keys(model.schemes), "scheme", (name) => `${named("scheme", name)} · ${f.size(model.schemes[name])}`);
}

function answer() {
  const model = data.what_if, parts = need(model, chosen);
  $("w-context-value").textContent = t("w.tokens", { count: f.number(chosen.context) });
  $("w-context").setAttribute("aria-valuetext", $("w-context-value").textContent);
  $("w-batch-value").textContent = t("w.rows", { count: f.number(chosen.batch) });
  const shown = [["weights", "weights_mapped"], ["kv", "kv"], ["activations", "activations"], ["runtime", "runtime_files"]].map(([part, colour], i) => ({ name: part, part: colour, bytes: parts[part], number: i + 1, label: `${t(`need.${part}`)}: ${f.size(parts[part])}` }));
  stack($("w-stack"), shown, shown.map((p) => p.label).join("; "));
  table($("w-parts"), [
    label("part", t("part"), (p) => (p.number ? element("span", { class: "named" }, element("span", { class: `key p-${p.part}`, "aria-hidden": "true" }, String(p.number)), t(`need.${p.name}`)) : t("need.total"))),
    bytes("bytes", f.unit), { key: "share", label: t("share"), value: (p) => p.bytes, show: (p) => f.percent(p.bytes, parts.total) },
  ], shown, { foot: { bytes: parts.total }, caption: t("w.total") });
  const devices = model.devices.map((d) => ({ ...d, verdict: verdictOf(parts.total, d.usable_bytes, model.tight), most: largestContext(model, chosen, d.usable_bytes) }));
  const fit = devices.filter((d) => d.verdict !== "does not fit").length;
  $("w-answer").textContent = t("w.answer", { bytes: f.size(parts.total), fit: f.number(fit), all: f.number(devices.length) });
  table($("w-devices"), [
    label("name", t("device"), (d) => named("device", d.name)),
    { ...label("verdict", t("verdict.word"), (d) => element("span", { class: "named" }, element("span", { class: `mark ${d.verdict.replaceAll(" ", "-")}`, "aria-hidden": "true" }, MARKS[d.verdict]), t(`word.${d.verdict}`))) },
    { key: "usable", label: t("usable"), value: (d) => d.usable_bytes, show: (d) => f.size(d.usable_bytes), title: (d) => f.exact(d.usable_bytes) },
    { key: "share", label: t("filled"), value: (d) => Math.min(parts.total / d.usable_bytes, 1), show: (d) => `${f.number(100 * parts.total / d.usable_bytes, parts.total > d.usable_bytes ? 0 : 1)} %`, meter: true, full: 1 },
    { key: "most", label: t("longest"), value: (d) => d.most, show: (d) => (d.most ? f.number(d.most) : "–") },
  ], devices, { caption: t("w.devices") });
}

function cacheTable() {
  const { kv } = data;
  if (!show("kv-block", kv)) return;
  const given = { positions: f.number(kv.positions), context: f.number(kv.context) };
  const rows = [["kv.one", kv.bytes_per_token], ["kv.used", kv.used_bytes], ["kv.resident", kv.resident_bytes], ["kv.full", kv.reserved_bytes]].filter(([, size]) => size !== undefined && size !== null);
  table($("kv"), [label("item", t("item"), (r) => t(r[0], given)), { key: "bytes", label: t("size"), value: (r) => r[1], show: (r) => f.size(r[1]), title: (r) => f.exact(r[1]) }], rows, { caption: t("kv") });
  const kinds = kv.kinds || (data.what_if && data.what_if.kinds) || [];
  $("kinds").textContent = kinds.map((k) => t(k.window ? "kind.window" : "kind", { layers: f.number(k.layers), kind: named("kind", k.kind), values: f.number(k.values_per_token), window: f.number(k.window) })).join(" ");
}

function estimateTable() {
  const rows = (data.estimate && data.estimate.rows) || [];
  if (!show("estimate-block", rows.length)) return;
  table($("estimate"), [
    label("part", t("part"), (r) => t(`estimate.${r.part}`)), bytes("estimated_bytes", t("estimated")), bytes("measured_bytes", t("measured")),
    { key: "error", label: t("error"), value: (r) => r.error, show: (r) => `${f.signed(r.error, f.number(100 * r.error, 1))} %` },
  ], rows, { caption: t("estimate") });
}
