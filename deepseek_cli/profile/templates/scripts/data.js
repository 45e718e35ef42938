// What the page's figures are made of: unpacked, thinned, compared. Pure: node's tests load this file alone.

// Undoes `columns` of pack.py.
function unpack(data) {
  if (Array.isArray(data)) return data.map(unpack);
  if (data === null || typeof data !== "object") return data;
  if (Array.isArray(data.$columns)) return data.rows.map((row) => Object.fromEntries(data.$columns.map((key, i) => [key, unpack(row[i])])));
  return Object.fromEntries(Object.entries(data).map(([key, value]) => [key, unpack(value)]));
}

function total(rows, key) {
  return rows.reduce((sum, row) => sum + (row[key] || 0), 0);
}

// At most `most` points [x, y, …]: the lowest and the highest of every bucket, in their order.
function thin(points, most) {
  if (points.length <= most) return points;
  const buckets = Math.max(Math.floor(most / 2), 1);
  const kept = [];
  for (let i = 0; i < buckets; i++) {
    const bucket = points.slice(Math.floor(i * points.length / buckets), Math.floor((i + 1) * points.length / buckets));
    let low = 0, high = 0;
    bucket.forEach((p, j) => { if (p[1] < bucket[low][1]) low = j; if (p[1] > bucket[high][1]) high = j; });
    for (const j of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) kept.push(bucket[j]);
  }
  return kept;
}

// The parts of two moments beside each other, the largest change first.
function deltas(before, after) {
  const size = (moment, part) => (moment.parts.find((p) => p.part === part) || { bytes: 0 }).bytes;
  const names = [...new Set([...after.parts, ...before.parts].map((p) => p.part))];
  return names
    .map((part) => ({ part, before: size(before, part), after: size(after, part) }))
    .filter((row) => row.before || row.after)
    .map((row) => ({ ...row, change: row.after - row.before }))
    .sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
}

// What of an earlier report a comparison reads; null where it is none. It comes from a file that anyone may have written.
function asRun(report) {
  const whole = (x) => Number.isSafeInteger(x);
  const rows = (x) => (Array.isArray(x) ? x : []);
  if (!report || typeof report !== "object" || !String(report.schema).startsWith("deepseek.profile/")) return null;
  const moments = rows(report.moments).filter((m) => m && whole(m.bytes) && rows(m.parts).length && m.parts.every((p) => p && typeof p.part === "string" && whole(p.bytes)));
  if (!moments.length) return null;
  const points = rows(report.timeline && report.timeline.points).filter((p) => Array.isArray(p) && p.length >= 2 && p.every(Number.isFinite));
  return {
    name: String((report.model && report.model.name) || "?"),
    when: String((report.run && report.run.when) || "").slice(0, 16).replace("T", " "),
    moments: moments.map((m) => ({ moment: String(m.moment), phase: String(m.phase), bytes: m.bytes, parts: m.parts })),
    points: thin(points, 1500),
  };
}

// "fits", "tight" or "does not fit"; as `verdict_of` in fit.py.
function verdictOf(needed, usable, tight) {
  if (needed > usable) return "does not fit";
  return needed <= tight * usable ? "fits" : "tight";
}
