// Weights by form, and as an icicle of modules: width is bytes, colour is how they are stored.

const ROWS = 8;         // of the icicle below what it is zoomed to
const LEAST = 0.0015;   // of its width; what is narrower is in the table alone
const tensors = rowsOf("tensors");
let modules = treeOf(tensors, data.model.name || "");
let narrowed = null;  // to the layer that `modules` holds alone
let focus = modules.root;
let active = modules.root;
let found = null;  // {hits, bytes, isRegex, paths}

function weights() {
  if (!show("weights-section", rowsOf("weights").length || tensors.length)) return;
  if (narrowed !== oneLayer) narrow();
  const forms = oneLayer === null ? rowsOf("weights") : formsOf(ofChosen(tensors));
  const sum = { form: t("all"), tensors: total(forms, "tensors"), parameters: total(forms, "parameters"), bytes: total(forms, "bytes") };
  table($("weights"), [
    label("form", t("form"), (w) => (w === sum ? w.form : formKey(w.form))), plain("tensors", t("tensors"), 0), plain("parameters", t("parameters"), 0), bytes("bytes", f.unit, { meter: true }),
    { key: "bits", label: t("bits"), value: () => 0, show: (w) => (w.parameters ? f.number(8 * w.bytes / w.parameters, 2) : "–") },
  ], forms, { foot: sum, caption: t("weights") });
  if (show("icicle-block", ofChosen(tensors).length)) searchWeights();
}

// The tree anew, of the chosen layer or of all, zoomed to where it first branches.
function narrow() {
  narrowed = oneLayer;
  modules = treeOf(ofChosen(tensors), data.model.name || "");
  focus = modules.root;
  while (oneLayer !== null && focus.children.length === 1 && focus.children[0].children.length) focus = focus.children[0];
  active = focus;
}

const formClass = (form) => {
  const place = rowsOf("weights").findIndex((w) => w.form === form);
  return place < 0 ? "f-mixed" : `f-${Math.min(place, 6)}`;
};
const formKey = (form) => element("span", { class: "named" }, element("span", { class: `key small ${formClass(form)}`, "aria-hidden": "true" }), form);

function icicle(keepFocus) {
  const place = $("icicle"), wide = place.clientWidth, boxes = layout(focus, ROWS, LEAST);
  if (!boxes.some((b) => b.node === active)) active = focus;
  const size = (node) => t("node.label", { name: node.path || node.name, bytes: f.size(node.bytes), share: f.percent(node.bytes, modules.root.bytes), form: node.form === "mixed" ? t("mixed") : node.form });
  place.replaceChildren(...boxes.map(({ node, left, width, row }, i) => {
    const box = element("div", {
      role: "treeitem", id: `n${i}`, "aria-level": row + 1, "aria-label": size(node), title: size(node), "aria-selected": String(node === active),
      "aria-expanded": node.children.length ? String(row + 1 < ROWS) : null,
      class: [formClass(node.form), node === active ? "active" : "", found && !found.paths.has(node.path) ? "dim" : "", found && found.paths.has(node.path) && !node.children.length ? "hit" : ""].join(" "),
    }, wide * width > 7 * Math.min(node.name.length, 8) + 13 ? element("span", {}, node.name) : null);
    box.style.left = `${100 * left}%`;
    box.style.width = `calc(${100 * width}% - 1px)`;
    box.style.top = `${26 * row}px`;
    box.addEventListener("click", () => { active = node; zoom(node); });
    return box;
  }));
  place.style.height = `${26 * (1 + Math.max(...boxes.map((b) => b.row)))}px`;
  place.setAttribute("aria-activedescendant", `n${boxes.findIndex((b) => b.node === active)}`);
  place.onkeydown = (event) => walk(event, boxes);
  $("icicle-readout").textContent = size(active);
  crumbs();
  children();
  if (keepFocus) place.focus();
}

function zoom(node) {
  focus = node.children.length ? node : node.parent || node;
  icicle(true);
}

// Arrow keys walk the tree, Enter zooms in, Escape and Backspace out.
function walk(event, boxes) {
  const drawn = (node) => boxes.some((b) => b.node === node);
  const siblings = active.parent ? active.parent.children.filter(drawn) : [active], at = siblings.indexOf(active);
  const to = { ArrowDown: active.children.find(drawn), ArrowUp: active.parent, ArrowLeft: siblings[at - 1], ArrowRight: siblings[at + 1], Home: focus, Enter: active, Escape: focus.parent || focus, Backspace: focus.parent || focus }[event.key];
  if (event.key.startsWith("Arrow") || to) event.preventDefault();
  if (!to) return;
  active = to;
  if (["Enter", "Escape", "Backspace"].includes(event.key)) zoom(to);
  else if (drawn(to)) icicle(true);
  else zoom(to);
}

function crumbs() {
  const path = [];
  for (let node = focus; node; node = node.parent) path.unshift(node);
  $("crumbs").replaceChildren(...path.map((node) => {
    const button = element("button", { type: "button", "aria-current": node === focus ? "true" : null }, node.name);
    button.addEventListener("click", () => { active = node; zoom(node); });
    return element("li", {}, button);
  }));
}

function children() {
  const rows = [...(focus.children.length ? focus.children : [focus])].sort((a, b) => b.bytes - a.bytes);
  table($("children"), [
    label("name", t("item.name"), (n) => n.name), label("form", t("form"), (n) => (n.form === "mixed" ? t("mixed") : formKey(n.form))),
    plain("parameters", t("parameters"), 0), bytes("bytes", f.unit, { meter: true }),
    { key: "share", label: t("share"), value: (n) => n.bytes, show: (n) => f.percent(n.bytes, modules.root.bytes) },
  ], rows, { foot: { name: focus.name, form: focus.form, parameters: focus.parameters, bytes: focus.bytes }, caption: t("children"), most: 10, moreLabel: (count) => t("more", { count: f.number(count) }) });
}

function searchWeights() {
  const pattern = $("weight-search").value;
  found = pattern ? search(ofChosen(tensors), pattern) : null;
  if (found) found.paths = pathsOf(found.hits);
  $("weight-found").textContent = found ? t(found.isRegex ? "found" : "found.plain", { count: f.number(found.hits.length), bytes: f.size(found.bytes), share: f.percent(found.bytes, modules.root.bytes) }) : "";
  icicle();
}
