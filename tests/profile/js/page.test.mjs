// The page's pure functions, as the page has them: run by tests/profile/test_scripts.py with `node --test`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { runInThisContext } from "node:vm";

const { DEEPSEEK_SCRIPTS: scripts, DEEPSEEK_GRID: grid } = process.env;
for (const name of ["format", "data", "whatif", "icicle"]) runInThisContext(readFileSync(`${scripts}/${name}.js`, "utf8"));
const { formats, unitOf, ticks, unpack, thin, deltas, asRun, verdictOf, need, largestContext, contextAt, positionOf, treeOf, layout, search, pathsOf } = globalThis;
const MIB = 1048576;

test("the sliders reckon as Python does", () => {
  const { models, cases } = JSON.parse(readFileSync(grid, "utf8"));
  assert.ok(cases.length > 200);
  for (const { model: name, choice, parts, verdicts, largest } of cases) {
    const model = models[name];
    assert.deepEqual(need(model, choice), parts);
    assert.deepEqual(model.devices.map((d) => verdictOf(parts.total, d.usable_bytes, model.tight)), verdicts);
    assert.deepEqual(model.devices.map((d) => largestContext(model, choice, d.usable_bytes)), largest);
  }
});

test("the context slider reaches both ends, and stands where it was put", () => {
  assert.equal(contextAt(0, 128, 8192), 128);
  assert.equal(contextAt(1, 128, 8192), 8192);
  assert.equal(contextAt(positionOf(800, 128, 8192), 128, 8192), 800);
  assert.equal(positionOf(100, 100, 100), 0);
});

test("sizes take the unit that suits them", () => {
  const f = formats("en-US", unitOf(0));
  assert.deepEqual([0, 1023, 1024, 5 * MIB, 700 * 1024 * MIB, -3 * MIB, null].map(f.size), ["0 B", "1,023 B", "1.00 KiB", "5.00 MiB", "700.0 GiB", "−3.00 MiB", "–"]);
  assert.equal(f.inUnit(undefined), "–");
  assert.equal(f.number(NaN), "–");
  assert.equal(unitOf(100 * 1024 * MIB)[0], "GiB");
  assert.equal(f.short(1_234_000_000), "1.23 G");
});

test("ticks are round numbers within the range", () => {
  assert.deepEqual(ticks(0, 100, 4), [0, 50, 100]);
  assert.deepEqual(ticks(0.9, 2.1, 4), [1, 1.5, 2]);
  assert.ok(Object.is(ticks(0, 3, 4)[0], 0));
  assert.deepEqual(ticks(5, 5, 4), [5]);
});

test("columns become rows again", () => {
  const packed = { a: { $columns: ["x", "y"], rows: [[1, null], [2, { $columns: ["z"], rows: [["s"]] }]] }, b: [1, "t"] };
  assert.deepEqual(unpack(packed), { a: [{ x: 1, y: null }, { x: 2, y: [{ z: "s" }] }], b: [1, "t"] });
});

test("no peak and no trough is thinned away", () => {
  const points = Array.from({ length: 9999 }, (_, i) => [i, i === 5003 ? 99 : i === 700 ? -9 : 1]);
  const kept = thin(points, 300);
  assert.ok(kept.length <= 300);
  assert.ok(kept.some((p) => p[1] === 99) && kept.some((p) => p[1] === -9));
  assert.deepEqual(kept, [...kept].sort((a, b) => a[0] - b[0]));
});

test("changes come largest first, and a part that is only in one run counts", () => {
  const before = { parts: [{ part: "kv", bytes: 5 }, { part: "old", bytes: 100 }] };
  const after = { parts: [{ part: "kv", bytes: 8 }, { part: "new", bytes: 7 }] };
  assert.deepEqual(deltas(before, after).map((r) => [r.part, r.change]), [["old", -100], ["new", 7], ["kv", 3]]);
});

test("only a report is taken for one", () => {
  const whole = { schema: "deepseek.profile/1", model: { name: "m" }, run: {}, moments: [{ moment: "peak", phase: "load", bytes: 3, parts: [{ part: "kv", bytes: 3 }] }], timeline: { points: [[1, 2, 3], "x", [null, 2]] } };
  assert.deepEqual(asRun(whole).points, [[1, 2, 3]]);
  for (const wrong of [null, 7, [], {}, { schema: "other" }, { ...whole, moments: 7 }, { ...whole, moments: [{ bytes: "3", parts: [] }] }]) assert.equal(asRun(wrong), null);
});

const tensors = [
  { name: "model.layers.0.q.weight", bytes: 60, parameters: 1, form: "int4" },
  { name: "model.layers.1.q.weight", bytes: 30, parameters: 1, form: "f32" },
  { name: "model.norm", bytes: 10, parameters: 1, form: "f32" },
];

test("a module holds what its tensors do", () => {
  const { root, nodes } = treeOf(tensors, "m");
  assert.equal(root.bytes, 100);
  assert.equal(nodes.get("model.layers").bytes, 90);
  assert.equal(nodes.get("model.layers").form, "mixed");
  assert.equal(nodes.get("model.layers.1").form, "f32");
});

test("boxes lie inside their module, side by side, as wide as their bytes", () => {
  const boxes = layout(treeOf(tensors, "m").root, 9, 0);
  assert.equal(boxes.length, 1 + 9);
  for (const { node, left, width } of boxes) {
    assert.ok(Math.abs(width - node.bytes / 100) < 1e-12);
    const outer = boxes.find((b) => b.node === node.parent);
    if (outer) assert.ok(left >= outer.left - 1e-12 && left + width <= outer.left + outer.width + 1e-12);
  }
  assert.equal(layout(treeOf(tensors, "m").root, 9, 0.2).some((b) => b.node.name === "norm"), false);
  assert.equal(layout(treeOf([], "m").root, 9, 0).length, 1);
});

test("a search is an expression, or plain text where it is none", () => {
  assert.deepEqual(search(tensors, "layers\\.\\d\\.q").bytes, 90);
  assert.deepEqual(search(tensors, "NORM").hits.length, 1);
  assert.equal(search(tensors, "q(").isRegex, false);
  assert.ok(pathsOf(search(tensors, "norm").hits).has("model.norm"));
  assert.ok(!pathsOf(search(tensors, "norm").hits).has("model.layers"));
});
