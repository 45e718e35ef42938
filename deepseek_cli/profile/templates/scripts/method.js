// How it was measured, what was not, and the machine.

function method() {
  if (only) $("method-title").textContent = t("method.estimate");
  const { timeline: line, machine = {}, overhead } = data, phases = rowsOf("phases");
  const linux = phases.every((p) => p.anonymous_bytes !== null && p.anonymous_bytes !== undefined);
  const reset = phases.every((p) => p.peak_reset);
  const points = (line && line.points) || [];
  const absent = only ? [] : [["timeline", points.length], ["layers", rowsOf("layers").length], ["weights.tensors", tensors.length], ["operators", rowsOf("operators").length], ["leak", data.leak], ["allocator", data.arena || rowsOf("allocator").length]].filter(([, has]) => !has).map(([key]) => t(key));
  const cost = overhead && overhead.sampled_seconds !== undefined && [t("m.overhead"), t(recorded() ? "m.overhead.own" : "m.overhead.text", { plain: f.number(overhead.plain_seconds, 2), sampled: f.number(overhead.sampled_seconds, 2), share: percentMore(overhead.sampled_seconds, overhead.plain_seconds) }) + (overhead.profiled_seconds ? t("m.overhead.profiled", { profiled: f.number(overhead.profiled_seconds, 2), share: percentMore(overhead.profiled_seconds, overhead.plain_seconds) }) : "") + processor(overhead)];
  const how = only ? [[t("m.estimate"), t("m.estimate.text")], [t("m.devices"), t("m.devices.text")]] : data.model.kind === "snapshot" ? [[t("m.process"), t("m.snapshot")]] : [
    [t("m.process"), t(recorded() ? "m.process.own" : "m.process.text")],
    ...(linux ? [[t("m.edges"), t("m.edges.text")], [t("m.peak"), t(reset ? "m.peak.reset" : "m.peak.text")]] : [[t("m.other"), t("m.other.text")]]),
    line && [t("m.timeline"), t("m.timeline.text", { period: f.number(line.period_ms), samples: f.number(line.samples), points: f.number(points.length) })],
    cost, [t("m.time"), t(recorded() ? "m.time.own" : "m.time.text")], [t("m.not"), t("m.not.text")], absent.length && [t("m.absent"), absent.join(t("comma"))],
  ];
  facts($("method"), [...how.filter(Boolean), [t("m.schema"), data.schema]]);
  facts($("machine"), [
    machine.processor && [t("x.processor"), machine.processor], machine.cores && [t("x.cores"), f.number(machine.cores)], machine.memory_bytes && [t("x.memory"), f.size(machine.memory_bytes)],
    machine.limit_bytes && [t("x.limit"), f.size(machine.limit_bytes)], machine.system && [t("x.system"), machine.system],
    machine.versions && [t("x.versions"), Object.entries(machine.versions).map(([key, value]) => `${key} ${value}`).join(" · ")],
  ].filter(Boolean));
}

// Whether a program recorded itself, instead of being run for the purpose.
const recorded = () => data.model.kind === "program";
// The same in processor time, which other programs disturb less.
function processor(overhead) {
  const { plain_cpu_seconds: plain, sampled_cpu_seconds: sampled, profiled_cpu_seconds: profiled, sampling_cpu_seconds: own, sampling_seconds: all } = overhead;
  if (!plain) return "";
  return t("m.overhead.processor", { sampled: percentMore(sampled, plain) }) + (profiled ? t("m.overhead.processor.profiled", { profiled: percentMore(profiled, plain) }) : "") + t("m.overhead.processor.own", { own: f.percent(own, all) });
}

const percentMore = (a, b) => (b ? f.signed(a - b, f.percent(a - b, b)) : "–");
