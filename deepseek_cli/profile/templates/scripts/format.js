// Numbers as text. Pure: node's tests load this file alone.

const UNITS = [["GiB", 1073741824], ["MiB", 1048576], ["KiB", 1024]];

// The unit of a page's tables: one for all, so that columns can be compared.
function unitOf(largest) {
  return largest >= 64 * UNITS[0][1] ? UNITS[0] : UNITS[1];
}

function formats(locale, unit) {
  const missing = (value) => value === null || value === undefined || !Number.isFinite(value);
  const number = (value, digits = 0) => (missing(value) ? "–" : value.toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−"));
  const scaled = (bytes, by) => number(bytes / by, bytes !== 0 && Math.abs(bytes) < 10 * by ? 2 : 1);
  return {
    number,
    unit: unit[0],
    inUnit: (bytes) => (missing(bytes) ? "–" : scaled(bytes, unit[1])),
    // A single size, in the unit that suits it.
    size(bytes) {
      if (missing(bytes)) return "–";
      const [name, by] = UNITS.find(([, by]) => Math.abs(bytes) >= by) || ["B", 1];
      return `${by === 1 ? number(bytes) : scaled(bytes, by)} ${name}`;
    },
    exact: (bytes) => `${number(bytes)} B`,
    percent: (part, whole) => `${number(100 * part / (whole || 1), 1)} %`,
    signed: (value, text) => (value > 0 ? `+${text}` : text),
    // 1,234,567 operations as 1.23 M
    short(value) {
      if (missing(value)) return "–";
      const [name, by] = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]].find(([, by]) => Math.abs(value) >= by) || ["", 1];
      return by === 1 ? number(value) : `${number(value / by, 2)} ${name}`;
    },
  };
}

function ticks(from, to, count) {
  const raw = (to - from) / count;
  if (!(raw > 0)) return [from];
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = base * [1, 2, 5, 10].find((m) => m * base >= raw * 0.999);
  const first = Math.ceil(from / step - 1e-9) + 0;  // no −0
  const all = [];
  for (let i = first; i * step <= to * (1 + 1e-9); i++) all.push(i * step);
  return all;
}
