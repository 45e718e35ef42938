// A model that is fed tokens over stdin and answers with logits on stdout, in the WebAssembly that browsers run.
// A request is a line of JSON: {"tokens": [...], "keep": 1} or {"rewind": 7}. An answer is a line of JSON, either
// {"error": "..."} or {"floats": n} with n float32 behind it.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { library, graph, data, threads } = JSON.parse(process.argv[2]);
const ort = await import(pathToFileURL(library));
ort.env.logLevel = "error";
ort.env.wasm.numThreads = threads;
const int64 = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);

let session, cache, position = 0;

async function load() {
  session = await ort.InferenceSession.create(readFileSync(graph.path), {
    executionProviders: ["wasm"],
    externalData: data.map(({ name, path }) => ({ path: name, data: readFileSync(path) })),
  });
  const past = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values."));
  cache = past.map(({ name, shape: [, heads, , channels] }) => [name, new ort.Tensor("float32", [], [1, heads, 0, channels])]);
}

async function feed(tokens, keep) {
  const length = position + tokens.length;
  const found = await session.run({
    input_ids: int64(tokens, [1, tokens.length]),
    attention_mask: int64(Array(length).fill(1), [1, length]),
    num_logits_to_keep: int64([keep], []),
    ...Object.fromEntries(cache),
  });
  cache = cache.map(([name]) => [name, found[name.replace("past_key_values", "present")]]);
  position = length;
  return found.logits.data;
}

function rewind(to) {
  cache = cache.map(([name, { data, dims: [, heads, length, channels] }]) => {
    const kept = new Float32Array(heads * to * channels);
    for (let head = 0; head < heads; head++) {
      const start = head * length * channels;
      kept.set(data.subarray(start, start + to * channels), head * to * channels);
    }
    return [name, new ort.Tensor("float32", kept, [1, heads, to, channels])];
  });
  position = to;
  return new Float32Array(0);
}

async function answer(work) {
  try {
    const floats = await work();
    process.stdout.write(`${JSON.stringify({ floats: floats.length })}\n`);
    process.stdout.write(new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength));
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ error: String(error?.message ?? error) })}\n`);
  }
}

await answer(() => load().then(() => new Float32Array(0)));
for await (const line of createInterface({ input: process.stdin })) {
  const { tokens, keep, rewind: to } = JSON.parse(line);
  await answer(async () => (tokens ? feed(tokens, keep) : rewind(to)));
}
process.exit(); // ONNX Runtime's threads would keep it alive
