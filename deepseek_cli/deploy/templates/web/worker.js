// The model, in a thread of its own, so that the page stays awake. It is asked {messages, most} or told "stop".
import { AutoModelForCausalLM, AutoTokenizer, InterruptableStoppingCriteria, Tensor, TextStreamer, env, wasm } from "./lib/index.js";

const here = new URL("./", import.meta.url).href;
const chat = await fetch("chat.json").then((response) => response.json());
const stopping = new InterruptableStoppingCriteria();
let tokenizer, model, known = { ids: [], past: null };

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = here;
env.useWasmCache = false;
if (wasm) env.backends.onnx.wasm.wasmPaths = wasm;
env.backends.onnx.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
if (env.useBrowserCache) env.cacheKey = await cacheOfThisBundle();

// A bundle that was deployed anew is loaded anew, and what was kept of the one before it goes.
async function cacheOfThisBundle() {
  const manifest = await fetch("deepseek.json").then((response) => response.arrayBuffer());
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", manifest));
  const prefix = `deepseek ${here} `, name = prefix + Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  for (const other of await caches.keys()) if (other.startsWith(prefix) && other !== name) await caches.delete(other);
  return name;
}

async function open(device) {
  const progress_callback = ({ status, loaded, total }) => {
    if (status === "progress_total") postMessage({ kind: "loading", loaded, total });
  };
  tokenizer ??= await AutoTokenizer.from_pretrained(".");
  model = await AutoModelForCausalLM.from_pretrained(".", { device, progress_callback });
  const forward = model.forward.bind(model);
  model.forward = async (inputs) => {
    await new Promise((resolve) => setTimeout(resolve)); // lets a "stop" in between two tokens
    return forward(inputs);
  };
}

const int64 = (ids) => new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
const numbers = (tensor) => Array.from(tensor.data, Number);

async function passesItsTest() {
  const { prompt, tokens } = chat.self_test;
  if (!tokens.length) return true;
  const inputs = { input_ids: int64(prompt), attention_mask: int64(prompt.map(() => 1)) };
  const found = numbers(await model.generate({ ...inputs, max_new_tokens: tokens.length, do_sample: false }));
  return tokens.every((token, i) => token === found[prompt.length + i]);
}

// WebGPU where there is one that computes what it should, else WebAssembly.
async function start() {
  const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
  let wrong = "";
  for (const device of gpu ? ["webgpu", "wasm"] : ["wasm"]) {
    try {
      await open(device);
      postMessage({ kind: "testing" });
      const passed = await passesItsTest();
      if (passed || device === "wasm") {
        return postMessage({ kind: "ready", device, threads: env.backends.onnx.wasm.numThreads, passed, wrong });
      }
      wrong = "differs";
      await model.dispose();
    } catch (error) {
      if (device === "wasm") throw error;
      wrong = "fails";
    }
  }
}

function encode(messages) {
  if (!tokenizer.chat_template) return tokenizer.encode(messages.at(-1).content);
  return numbers(tokenizer.apply_chat_template(messages, { add_generation_prompt: true, return_dict: true }).input_ids);
}

async function answer({ messages, most }) {
  stopping.reset();
  let kept = [...messages], ids = encode(kept);
  while (ids.length >= chat.context - 1 && kept.length > 1) ids = encode((kept = kept.slice(2))); // forgets what is oldest
  const room = chat.context - ids.length;
  if (room < 1) return postMessage({ kind: "full", context: chat.context });
  const same = known.past && known.ids.length < ids.length && known.ids.every((id, i) => id === ids[i]);
  if (known.past && !same) await known.past.dispose();
  const past_key_values = same ? known.past : null;
  known = { ids: [], past: null };
  let count = 0;
  const began = performance.now();
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    token_callback_function: () => (count += 1),
    callback_function: (text) => postMessage({ kind: "text", text }),
  });
  const { sequences, past_key_values: past } = await model.generate({
    input_ids: int64(ids),
    attention_mask: int64(ids.map(() => 1)),
    past_key_values,
    max_new_tokens: Math.min(most, room),
    do_sample: false,
    streamer,
    stopping_criteria: stopping,
    return_dict_in_generate: true,
  });
  known = { ids: numbers(sequences).slice(0, past.get_seq_length()), past };
  postMessage({ kind: "done", count, seconds: (performance.now() - began) / 1000, stopped: stopping.interrupted });
}

const failed = (error) => postMessage({ kind: "error", message: String(error?.message ?? error) });
self.onmessage = ({ data }) => (data === "stop" ? stopping.interrupt() : answer(data).catch(failed));
start().catch(failed);
