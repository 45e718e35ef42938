// The page: what is said stands in `messages`, the model runs in worker.js.
const chinese = (navigator.language || "").toLowerCase().startsWith("zh");
const TEXTS = {
  en: {
    welcome: "Ask, and it is answered here.",
    private: "The model runs in this browser. Nothing you type leaves it.",
    question: "Ask something",
    send: "Send", stop: "Stop", new: "New chat",
    loading: "Loading", testing: "Testing itself", ready: "Ready", busy: "Answering", error: "Stopped",
    loaded: (now, all) => `${now} of ${all} MB`,
    webgpu: "WebGPU", wasm: (threads) => `WebAssembly, ${threads === 1 ? "1 thread" : `${threads} threads`}`,
    speed: (count, rate) => `${count} tokens, ${rate} a second`,
    differs: "This browser's WebGPU computes something else than the model was deployed with, so the model runs in WebAssembly: right, but slower.",
    fails: "This browser's WebGPU could not run the model, which runs in WebAssembly instead: right, but slower.",
    untrue: "The model computes something else here than where it was deployed. Its answers may be wrong; please load it again.",
    full: (context) => `This is longer than the ${context} tokens that the model holds.`,
    broken: (message) => `The model cannot be run: ${message}`,
  },
  zh: {
    welcome: "在此提问，在此作答。",
    private: "模型就在这个浏览器里运行，您输入的内容不会离开这里。",
    question: "问点什么",
    send: "发送", stop: "停止", new: "新对话",
    loading: "正在加载", testing: "正在自检", ready: "就绪", busy: "正在回答", error: "已停止",
    loaded: (now, all) => `${now} / ${all} MB`,
    webgpu: "WebGPU", wasm: (threads) => `WebAssembly，${threads} 线程`,
    speed: (count, rate) => `${count} 个 token，每秒 ${rate} 个`,
    differs: "此浏览器的 WebGPU 算出的结果与部署时不同，因此模型改用 WebAssembly 运行：结果正确，但较慢。",
    fails: "此浏览器的 WebGPU 无法运行该模型，已改用 WebAssembly：结果正确，但较慢。",
    untrue: "模型在这里算出的结果与部署时不同，回答可能有误，请重新加载。",
    full: (context) => `内容超过了模型所能容纳的 ${context} 个 token。`,
    broken: (message) => `模型无法运行：${message}`,
  },
};
const texts = TEXTS[chinese ? "zh" : "en"];
const MOST = 1024; // tokens of an answer
const root = document.documentElement;
const find = (id) => document.getElementById(id);
const [question, send, list, pane] = [find("question"), find("send"), find("messages"), document.querySelector("main")];
const worker = new Worker("worker.js", { type: "module" });
let messages = [], device = "", answer = null;

function state(name) {
  root.dataset.state = name;
  find("status").lastElementChild.textContent = device && name === "ready" ? device : texts[name];
  send.textContent = texts[name === "busy" ? "stop" : "send"];
  send.disabled = name !== "busy" && (name !== "ready" || !question.value.trim());
  find("new").hidden = !messages.length || name === "busy";
}

function note(id, text) {
  find(id).textContent = text;
  find(id).hidden = !text;
}

function show(role, text) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = text;
  list.append(item);
  find("welcome").hidden = true;
  pane.scrollTop = pane.scrollHeight;
  return item;
}

function ask(text) {
  messages.push({ role: "user", content: text });
  show("user", text);
  answer = show("assistant", "");
  answer.classList.add("waiting");
  question.value = "";
  note("alert", "");
  state("busy");
  worker.postMessage({ messages, most: MOST });
}

function end(note = "") {
  messages.push({ role: "assistant", content: answer.textContent });
  answer.classList.remove("waiting");
  if (note) answer.append(Object.assign(document.createElement("small"), { textContent: note }));
  answer = null;
  state("ready");
}

const heard = {
  loading({ loaded, total }) {
    const percent = total ? (100 * loaded) / total : 0;
    find("bar").firstElementChild.style.width = `${percent}%`;
    find("bar").setAttribute("aria-valuenow", percent.toFixed());
    find("loaded").textContent = texts.loaded((loaded / 1e6).toFixed(), (total / 1e6).toFixed());
  },
  testing: () => state("testing"),
  ready({ device: found, threads, passed, wrong }) {
    device = found === "webgpu" ? texts.webgpu : texts.wasm(threads);
    find("notice").classList.toggle("mild", passed);
    note("notice", passed ? (texts[wrong] ?? "") : texts.untrue);
    state("ready");
    question.focus();
  },
  text({ text }) {
    const atEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 60;
    answer.append(text);
    if (atEnd) pane.scrollTop = pane.scrollHeight;
  },
  done: ({ count, seconds }) => end(texts.speed(count, (count / seconds).toFixed(1))),
  full({ context }) {
    note("alert", texts.full(context));
    end();
  },
  error({ message }) {
    answer?.classList.remove("waiting");
    note("alert", texts.broken(message));
    state("error");
  },
};

worker.onmessage = ({ data }) => heard[data.kind](data);
worker.onerror = (event) => heard.error({ message: event.message || "worker.js" });
question.oninput = () => state(root.dataset.state);
question.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (root.dataset.state === "ready") find("form").requestSubmit(send);
  }
};
find("form").onsubmit = (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (root.dataset.state === "busy") worker.postMessage("stop");
  else if (root.dataset.state === "ready" && text) ask(text);
};
find("new").onclick = () => {
  messages = [];
  list.replaceChildren();
  find("welcome").hidden = false;
  note("alert", "");
  state("ready");
  question.focus();
};

root.lang = chinese ? "zh-CN" : "en";
find("welcome").querySelector("h2").textContent = texts.welcome;
find("welcome").querySelector("p").textContent = texts.private;
find("new").textContent = texts.new;
question.placeholder = texts.question;
question.ariaLabel = texts.question;
state("loading");
const { name } = await fetch("chat.json").then((response) => response.json());
find("name").textContent = document.title = name;
