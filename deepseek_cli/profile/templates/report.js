(() => {
  const { document: data, baseline, texts } = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const stored = {  // a page opened from a file may have no storage
    get(key) { try { return localStorage.getItem(`deepseek.${key}`); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(`deepseek.${key}`, value); } catch { /* it is asked again next time */ } },
  };
  let language = stored.get("language") || ((navigator.language || "").startsWith("zh") ? "zh" : "en");
  let moment = 0;
  let cursor = -1;

  const t = (key, facts = {}) => (texts[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => facts[name] ?? "");
  const number = (value, digits = 0) => (value === null || value === undefined || !isFinite(value) ? "–" : value.toLocaleString(language === "zh" ? "zh-CN" : "en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  const inMib = (bytes) => (bytes === null || bytes === undefined ? "–" : number(bytes / 1048576, bytes !== 0 && Math.abs(bytes) < 10485760 ? 2 : 1));
  const mib = (bytes) => `${inMib(bytes)} MiB`;
  const exact = (bytes) => `${number(bytes)} B`;
  const percent = (part, whole) => `${number(100 * part / (whole || 1), 1)} %`;
  const name = (phase) => t(`phase.${phase}`);
  const sum = (rows, key) => rows.reduce((total, row) => total + (row[key] || 0), 0);
  const bytes = (key, label, more = {}) => ({ key, label, value: (r) => r[key], show: (r) => inMib(r[key]), title: (r) => exact(r[key]), ...more });
  const plain = (key, label, digits, more = {}) => ({ key, label, value: (r) => r[key], show: (r) => number(r[key], digits), ...more });
  const label = (key, text, show) => ({ key, label: text, text: true, show });

  function header() {
    const { model, run } = data;
    root.lang = language === "zh" ? "zh-CN" : "en";
    for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
    for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
    $("about").textContent = t("about", { ...model, prompt: number(run.prompt_tokens), new: number(run.new_tokens), when: run.when.slice(0, 16).replace("T", " ") + " UTC" });
    $("command").textContent = run.command;
    $("command").hidden = !run.command;
    $("language").textContent = t("language");
    $("failed").hidden = !data.failed;
    if (data.failed) $("failed").textContent = t("failed", { phase: name(data.failed.phase), message: data.failed.message });
    paintTheme();
  }

  function verdict() {
    const { phases, peak, kv, weights } = data;
    const last = phases[phases.length - 1], load = phases.find((p) => p.phase === "load");
    const held = sum(weights, "bytes"), parameters = sum(weights, "parameters");
    const items = [
      peak && ["v.peak", peak.bytes, t("v.peak.note", { phase: name(peak.phase) })],
      last && ["v.steady", last.rss_bytes, last.anonymous_bytes === null ? t("v.steady.plain") : t("v.steady.note", { anonymous: mib(last.anonymous_bytes), file: mib(last.file_bytes) })],
      weights.length && ["v.weights", held, t("v.weights.note", { bits: number(8 * held / parameters, 2) })],
      kv && ["v.kv", kv.used_bytes, t("v.kv.note", { positions: number(kv.positions), context: number(kv.context), reserved: mib(kv.reserved_bytes) })],
      load && load.peak_bytes !== null && ["v.load", load.peak_bytes, t("v.load.note", { ratio: number(load.peak_bytes / load.rss_bytes, 2) })],
    ].filter(Boolean);
    $("verdict").querySelector("dl").replaceChildren(...items.map(([key, size, note]) => element("div", {},
      element("dt", {}, t(key)),
      element("dd", { class: "number", title: exact(size) }, inMib(size), element("small", {}, "MiB")),
      element("dd", { class: "note" }, note))));
    $("verdict").hidden = !items.length;
  }

  function peak() {
    $("peak").hidden = !data.moments.length;
    if (!data.moments.length) return;
    const labelOf = (m) => (m.moment === "peak" ? t("moment.peak") : t("moment.end", { phase: name(m.moment) }));
    $("moments").replaceChildren(...data.moments.map((m, i) => {
      const button = element("button", { type: "button", role: "radio", "aria-checked": String(i === moment), tabindex: i === moment ? 0 : -1 }, labelOf(m));
      button.addEventListener("click", () => choose(i));
      return button;
    }));
    const chosen = data.moments[moment];
    const rest = chosen.parts[chosen.parts.length - 1];
    const parts = chosen.parts.filter((p) => p.bytes || p === rest).map((p, i) => ({ ...p, number: i + 1, label: `${t(`part.${p.part}`)}: ${mib(p.bytes)}` }));
    const explained = percent(chosen.bytes - Math.abs(rest.bytes), chosen.bytes);
    $("peak-lede").textContent = t(chosen.moment === "peak" ? "peak.lede" : "end.lede", { phase: name(chosen.phase), bytes: mib(chosen.bytes), share: explained });
    stack($("stack"), parts, parts.map((p) => p.label).join("; "));
    table($("parts"), [
      label("part", t("part"), (p) => (p.number ? element("span", { class: "named" }, element("span", { class: `key ${p.part}`, "aria-hidden": "true" }, String(p.number)), t(`part.${p.part}`)) : t("total"))),
      { ...label("how", t("how"), (p) => t(`how.${p.part}`)), how: true },
      bytes("bytes", "MiB"),
      { key: "share", label: t("share"), value: (p) => p.bytes, show: (p) => percent(p.bytes, chosen.bytes), meter: true },
    ], parts, { foot: { part: "total", bytes: parts.reduce((total, p) => total + p.bytes, 0) }, rest: parts[parts.length - 1] });
  }

  function choose(index) {
    moment = (index + data.moments.length) % data.moments.length;
    peak();
    $("moments").children[moment].focus();
  }

  function time() {
    const { phases, timeline: { points } } = data;
    $("time").hidden = !phases.length;
    if (!phases.length) return;
    const highest = phases.find((p) => p.phase === data.peak.phase);
    const drawn = timeline($("chart"), {
      points, seconds: (s) => `${number(s, s % 1 ? 1 : 0)} s`,
      phases: phases.map((p, i) => ({ label: name(p.phase), number: i + 1, start: p.start_seconds, end: p.start_seconds + p.seconds, peak: p.peak_bytes })),
      peak: { bytes: data.peak.bytes, start: highest.start_seconds, end: highest.start_seconds + highest.seconds, label: t("peak.label", { bytes: mib(data.peak.bytes) }) },
    });
    const last = points.length - 1;
    const say = (index) => {
      cursor = Math.min(Math.max(index, 0), last);
      const [ms, rss, file] = points[cursor];
      const phase = phases.find((p) => ms / 1000 >= p.start_seconds && ms / 1000 <= p.start_seconds + p.seconds);
      const text = t("readout", { seconds: number(ms / 1000, 3), phase: phase ? name(phase.phase) : t("between"), rss: mib(rss), anonymous: mib(rss - file), file: mib(file) });
      $("readout").textContent = text;
      $("chart").setAttribute("aria-valuenow", cursor);
      $("chart").setAttribute("aria-valuetext", text);
      drawn.move(cursor);
    };
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity };
    $("chart").setAttribute("aria-valuemin", 0);
    $("chart").setAttribute("aria-valuemax", Math.max(last, 0));
    $("chart").onpointermove = (event) => last >= 0 && say(drawn.nearest(event.clientX - $("chart").getBoundingClientRect().left));
    $("chart").onkeydown = (event) => {
      if (!(event.key in steps) || last < 0) return;
      event.preventDefault();
      say(cursor + steps[event.key] * (event.shiftKey ? 20 : 1));
    };
    $("readout").textContent = t("chart.label", { seconds: number(points.length ? points[last][0] / 1000 : 0, 1), bytes: mib(data.peak.bytes), phase: name(data.peak.phase) });
    if (cursor >= 0 && last >= 0) say(cursor);
    const rows = phases.map((p, i) => ({ ...p, number: i + 1, growth: i ? p.rss_bytes - phases[i - 1].rss_bytes : p.rss_bytes }));
    table($("phases"), [
      label("phase", t("phase"), (p) => `${p.number} ${name(p.phase)}`),
      plain("seconds", t("seconds"), 2), plain("tokens_per_second", t("rate"), 1), bytes("rss_bytes", t("rss")), bytes("growth", t("growth")),
      bytes("anonymous_bytes", t("anonymous")), bytes("file_bytes", t("file")), bytes("peak_bytes", t("peak"), { meter: true }),
    ], rows);
  }

  function held() {
    const { weights, kv } = data;
    $("held").hidden = !weights.length && !kv;
    table($("weights"), [
      label("form", t("form"), (w) => w.form), plain("tensors", t("tensors"), 0), plain("parameters", t("parameters"), 0), bytes("bytes", "MiB"),
      { key: "bits", label: t("bits"), value: () => 0, show: (w) => (w.parameters ? number(8 * w.bytes / w.parameters, 2) : "–") },
    ], weights, { foot: { form: t("all"), tensors: sum(weights, "tensors"), parameters: sum(weights, "parameters"), bytes: sum(weights, "bytes") } });
    if (!kv) return;
    const facts = { positions: number(kv.positions), context: number(kv.context) };
    const rows = [["kv.one", kv.bytes_per_token], ["kv.used", kv.used_bytes], ["kv.resident", kv.resident_bytes], ["kv.full", kv.reserved_bytes]];
    table($("kv"), [label("item", t("item"), (r) => t(r[0], facts)), { key: "bytes", label: "MiB", value: (r) => r[1], show: (r) => inMib(r[1]), title: (r) => exact(r[1]) }], rows);
  }

  function layers() {
    $("layers-section").hidden = !data.layers.length;
    const perToken = data.run.new_tokens;
    const timed = data.layers.some((l) => l.decode_seconds);
    const rows = data.layers.map((l) => ({ ...l, prefill: 1000 * l.prefill_seconds, decode: 1000 * l.decode_seconds / perToken }));
    table($("layers"), [
      label("layer", t("layer"), (l) => (/^\d+$/.test(l.layer) ? l.layer : t(l.layer === "all" ? "all" : `layer.${l.layer}`))),
      bytes("weights_bytes", t("weightsmib"), { meter: true }), bytes("kv_bytes", t("kvmib")),
      ...(timed ? [plain("prefill", t("prefill"), 2, { meter: true }), plain("decode", t("decode"), 3, { meter: true })] : []),
    ], rows, { sortable: true, foot: { layer: "all", weights_bytes: sum(rows, "weights_bytes"), kv_bytes: sum(rows, "kv_bytes"), prefill: sum(rows, "prefill"), decode: sum(rows, "decode") } });
  }

  function operators() {
    $("operators-section").hidden = !data.operators.length;
    if (!data.operators.length) return;
    const { plain_seconds: without, profiled_seconds: profiled } = data.overhead || {};
    $("operators-lede").textContent = t("operators.lede", { without: number(without, 2), profiled: number(profiled, 2) });
    const rows = data.operators.map((o) => ({ ...o, prefill: 1000 * o.prefill_seconds, decode: 1000 * o.decode_seconds / data.run.new_tokens }));
    table($("operators"), [
      label("operator", t("operator"), (o) => o.operator), plain("nodes", t("nodes"), 0), plain("calls", t("calls"), 0),
      plain("prefill", t("prefill"), 2, { meter: true }), plain("decode", t("decode"), 3, { meter: true }),
      bytes("arena_growth_bytes", t("arena")),
    ], rows, { sortable: true });
  }

  function compare() {
    const before = baseline && baseline.moments[0], after = data.moments[0];
    $("compare-section").hidden = !before || !after;
    if (!before || !after) return;
    $("compare-lede").textContent = t("compare.lede", { name: baseline.model.name, when: baseline.run.when.slice(0, 16).replace("T", " ") });
    const size = (m, part) => (m.parts.find((p) => p.part === part) || { bytes: 0 }).bytes;
    const row = (part, a, b) => ({ part, before: a, after: b, change: b - a });
    const names = [...new Set([...after.parts, ...before.parts].map((p) => p.part))];
    const rows = names.map((part) => row(part, size(before, part), size(after, part))).filter((r) => r.before || r.after).sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
    const signed = (r, text) => (r.change > 0 ? `+${text}` : text);
    table($("compare"), [
      label("part", t("part"), (r) => (r.part === "total" ? t("total") : t(`part.${r.part}`))), bytes("before", t("before")), bytes("after", t("after")),
      bytes("change", t("change"), { show: (r) => signed(r, inMib(r.change)) }),
      { key: "share", label: t("changeshare"), value: (r) => r.change, show: (r) => (r.before ? signed(r, percent(r.change, r.before)) : "–") },
    ], rows, { foot: row("total", before.bytes, after.bytes) });
  }

  function method() {
    const { phases, timeline: line, machine } = data;
    const facts = (place, rows) => place.replaceChildren(...rows.flatMap(([key, text]) => [element("dt", {}, key), element("dd", {}, text)]));
    const linux = phases.every((p) => p.anonymous_bytes !== null);
    const reset = phases.every((p) => p.peak_reset);
    facts($("method"), [
      [t("m.process"), t("m.process.text")],
      ...(linux ? [[t("m.edges"), t("m.edges.text")], [t("m.peak"), t(reset ? "m.peak.reset" : "m.peak.text")], [t("m.timeline"), t("m.timeline.text", { period: number(line.period_ms, 0), samples: number(line.samples), points: number(line.points.length) })]] : [[t("m.other"), t("m.other.text")]]),
      [t("m.time"), t("m.time.text")], [t("m.not"), t("m.not.text")],
    ]);
    facts($("machine"), [
      [t("x.processor"), machine.processor], [t("x.cores"), number(machine.cores)], [t("x.memory"), mib(machine.memory_bytes)],
      ...(machine.limit_bytes ? [[t("x.limit"), mib(machine.limit_bytes)]] : []), [t("x.system"), machine.system],
      [t("x.versions"), Object.entries(machine.versions).map(([key, value]) => `${key} ${value}`).join(" · ")],
    ]);
  }

  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  function paintTheme() {
    const other = t(isDark() ? "theme.light" : "theme.dark");
    $("theme").textContent = other;
    $("theme").setAttribute("aria-label", t("theme.label", { name: other }));
  }

  function render() { for (const part of [header, verdict, peak, held, layers, operators, compare, method, fit]) part(); }

  if (stored.get("theme")) root.dataset.theme = stored.get("theme");
  $("theme").addEventListener("click", () => { stored.set("theme", root.dataset.theme = isDark() ? "light" : "dark"); paintTheme(); });
  $("language").addEventListener("click", () => { stored.set("language", language = language === "en" ? "zh" : "en"); render(); });
  $("moments").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (step) { event.preventDefault(); choose(moment + step); }
  });
  $("download").addEventListener("click", () => {
    const link = element("a", { download: `${data.model.name}-memory.json`, href: URL.createObjectURL(new Blob([JSON.stringify(data)], { type: "application/json" })) });
    link.click();
  });
  function fit() {  // the chart takes the width there is; what overflows can be reached and moved by keyboard
    time();
    for (const node of document.querySelectorAll(".scroll")) node.tabIndex = node.scrollWidth > node.clientWidth || node.scrollHeight > node.clientHeight ? 0 : -1;
  }
  let waiting = 0;
  addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(fit); });
  render();
  root.dataset.ready = "1";
})();
