// The header, whether it fits, and the six figures that matter.

const MARKS = { fits: "✓", tight: "!", "does not fit": "✕" };

function header() {
  const { model, run } = data;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  $("about").textContent = [
    model.architecture && t("about.layers", { architecture: model.architecture, layers: f.number(model.layers) }),
    model.parameters && t(model.active_parameters && model.active_parameters !== model.parameters ? "about.active" : "about.parameters", { count: f.short(model.parameters), active: f.short(model.active_parameters) }),
    only ? t("about.estimate") : model.runtime,
    run.prompt_tokens && t("about.tokens", { prompt: f.number(run.prompt_tokens), new: f.number(run.new_tokens) }),
    instant(run.when),
  ].filter(Boolean).join(" · ");
  if (show("command", run.command)) $("command").textContent = run.command;
  if (show("failed", data.failed)) $("failed").textContent = t("failed", { phase: phaseName(data.failed.phase), message: data.failed.message });
  if (show("aggregated", aggregated && aggregated.length)) $("aggregated").textContent = t("aggregated", { what: aggregated.map((name) => t(`aggregated.${name}`)).join(t("comma")) });
}

function verdict() {
  const model = data.what_if, needed = data.peak ? data.peak.bytes : only && only.total_bytes;
  const here = model && model.devices[0];
  const machine = data.machine || {}, memory = Math.min(machine.memory_bytes || 0, machine.limit_bytes || Infinity);
  const usable = here ? here.usable_bytes : 0.9 * memory;
  if (show("fits", needed && usable)) {
    const word = verdictOf(needed, usable, model ? model.tight : 0.85);
    $("fits").className = word.replaceAll(" ", "-");
    $("fits").replaceChildren(element("span", { class: "mark", "aria-hidden": "true" }, MARKS[word]), t(`fits.${word}`, { bytes: f.size(needed), usable: f.size(usable) }));
  }
  if (show("devices-line", model)) devices(model);
  const items = (only ? estimated() : figures()).filter(Boolean);
  $("figures").replaceChildren(...items.map(([key, value, unitName, note, title]) => element("div", {},
    element("dt", {}, t(key)),
    element("dd", { class: "number", title }, value, element("small", {}, unitName)),
    element("dd", { class: "note" }, note))));
  show("figures", items.length);
}

// Other devices by verdict, at the length and with the cache of this run.
function devices(model) {
  const judged = model.devices.slice(1).map((d) => [d.name, verdictOf(need(model, model.now).total, d.usable_bytes, model.tight)]);
  const of = (word) => judged.filter(([, w]) => w === word).map(([name]) => name);
  $("devices-summary").textContent = t("devices.line", { all: judged.length, fits: of("fits").length, tight: of("tight").length, not: of("does not fit").length, context: f.number(model.now.context) });
  $("devices").replaceChildren(...Object.keys(MARKS).filter((word) => of(word).length).flatMap((word) => [
    element("dt", {}, element("span", { class: `mark ${word.replaceAll(" ", "-")}`, "aria-hidden": "true" }, MARKS[word]), t(`word.${word}`)),
    element("dd", {}, of(word).join(" · ")),
  ]));
}

function sized(key, size, note) {
  const [value, unitName] = f.size(size).split(" ");
  return [key, value, unitName, note, f.exact(size)];
}

function figures() {
  const { peak, kv, estimate } = data, phases = rowsOf("phases"), weights = rowsOf("weights");
  const last = phases[phases.length - 1], load = phases.find((p) => p.phase === "load");
  const held = total(weights, "bytes"), parameters = total(weights, "parameters");
  const error = estimate && estimate.rows.find((r) => r.part === "peak");
  return [
    peak && sized("v.peak", peak.bytes, t("v.peak.note", { phase: phaseName(peak.phase) })),
    last && sized(recorded() ? "v.steady.own" : "v.steady", last.rss_bytes, last.anonymous_bytes === null ? t("v.steady.plain") : t("v.steady.note", { anonymous: f.size(last.anonymous_bytes), file: f.size(last.file_bytes) })),
    weights.length && sized("v.weights", held, t("v.weights.note", { bits: f.number(8 * held / parameters, 2) })),
    kv && kv.used_bytes !== undefined && sized("v.kv", kv.used_bytes, t("v.kv.note", { positions: f.number(kv.positions), context: f.number(kv.context), reserved: f.size(kv.reserved_bytes) })),
    load && load.peak_bytes && ["v.load", f.number(load.peak_bytes / load.rss_bytes, 2), "×", t("v.load.note", { peak: f.size(load.peak_bytes), stays: f.size(load.rss_bytes) }), f.exact(load.peak_bytes)],
    error && ["v.error", f.signed(error.error, f.number(100 * error.error, 1)), "%", t("v.error.note", { estimated: f.size(error.estimated_bytes) }), f.exact(error.estimated_bytes - error.measured_bytes)],
  ];
}

function estimated() {
  const part = (name) => only.parts.find((p) => p.part === name).bytes;
  const cache = only.kv;
  return [
    sized("v.peak", only.total_bytes, t("v.needs.note")),
    sized("v.weights", only.weights_bytes, t("v.weights.note", { bits: f.number(8 * only.weights_bytes / only.parameters, 2) })),
    sized("v.kv", part("kv"), t("v.kv.estimate", { context: f.number(cache.context), batch: f.number(cache.batch), kind: cache.kind })),
    sized("v.activations", part("activations"), t("v.activations.note")),
    only.decode.seconds_per_step && ["v.token", f.number(1000 * only.decode.seconds_per_step, 1), "ms", t("v.token.note", { read: f.size(only.decode.read_bytes), rate: f.number(only.decode.bandwidth_bytes_per_second / 1e9) }), null],
  ];
}
