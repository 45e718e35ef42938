// What all sections read: the document, the language, and how numbers and texts are written in it.

const loaded = JSON.parse($("data").textContent);
const { document: data, aggregated } = unpack({ document: loaded.document, aggregated: loaded.aggregated });
let baseline = asRun(unpack(loaded.baseline));
const texts = loaded.texts;
const root = document.documentElement;
const stored = {  // a page opened from a file may have no storage
  get(key) { try { return localStorage.getItem(`deepseek.${key}`); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(`deepseek.${key}`, value); } catch { /* it is asked again next time */ } },
};
let language = stored.get("language") || ((navigator.language || "").startsWith("zh") ? "zh" : "en");
let oneLayer = null;  // a layer that is looked at alone
let f;  // formats in the language of now

const rowsOf = (key) => data[key] || [];
const only = data.estimate_only || null;
const unit = unitOf(data.peak ? data.peak.bytes : only ? only.total_bytes : 0);
const t = (key, given = {}) => (texts[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => given[name] ?? (name === "unit" ? f.unit : ""));
// A name that may have no text of its own: a phase or part that someone else named.
const named = (kind, name) => texts[language][`${kind}.${name}`] ?? name;
const phaseName = (phase) => named("phase", phase);
const layerName = (layer) => (/^\d+$/.test(layer) ? layer : named("layer", layer));
const instant = (when) => (when ? `${String(when).slice(0, 16).replace("T", " ")} UTC` : "");

const bytes = (key, label, more = {}) => ({ key, label, value: (r) => r[key], show: (r) => f.inUnit(r[key]), title: (r) => f.exact(r[key]), ...more });
const plain = (key, label, digits, more = {}) => ({ key, label, value: (r) => r[key], show: (r) => f.number(r[key], digits), ...more });
const label = (key, text, show) => ({ key, label: text, text: true, show });
const measured = (rows, key) => rows.some((row) => row[key] !== null && row[key] !== undefined);
const show = (id, isShown) => { $(id).hidden = !isShown; return isShown; };

function paint(name) {
  language = name;
  root.lang = language === "zh" ? "zh-CN" : "en";
  f = formats(root.lang === "en" ? "en-US" : root.lang, unit);
}
