// Tensors as a tree of modules, laid out by bytes. Pure: node's tests load this file alone.

// A node: {name, path, bytes, parameters, form (where it is one alone), parent, children}.
function treeOf(tensors, name) {
  const root = { name, path: "", bytes: 0, parameters: 0, form: "", parent: null, children: [], depth: 0 };
  const nodes = new Map([["", root]]);
  for (const tensor of tensors) {
    const words = tensor.name.split(/[./]/).filter(Boolean);
    if (!words.length) words.push(tensor.name);
    let node = root;
    add(root, tensor);
    words.forEach((word, i) => {
      const path = words.slice(0, i + 1).join(".");
      if (!nodes.has(path)) {
        const child = { name: word, path, bytes: 0, parameters: 0, form: "", parent: node, children: [], depth: i + 1 };
        nodes.set(path, child);
        node.children.push(child);
      }
      node = nodes.get(path);
      add(node, tensor);
    });
  }
  return { root, nodes };
}

function add(node, tensor) {
  node.form = node.bytes === 0 && !node.form ? tensor.form : node.form === tensor.form ? node.form : "mixed";
  node.bytes += tensor.bytes;
  node.parameters += tensor.parameters;
}

// How the tensors are stored, as `by_form` of weights.py has it.
function formsOf(tensors) {
  const forms = new Map();
  for (const { form, parameters, bytes } of tensors) {
    const row = forms.get(form) || { form, tensors: 0, parameters: 0, bytes: 0 };
    forms.set(form, { form, tensors: row.tensors + 1, parameters: row.parameters + parameters, bytes: row.bytes + bytes });
  }
  return [...forms.values()].sort((a, b) => b.bytes - a.bytes);
}

// Boxes {node, left, width (shares of 1), row} of `focus` and what is below it; what is narrower than `least` is left out.
function layout(focus, rows, least) {
  const boxes = [];
  const place = (node, left, width, row) => {
    boxes.push({ node, left, width, row });
    if (row + 1 >= rows) return;
    let at = left;
    for (const child of node.children) {
      const share = node.bytes ? width * child.bytes / node.bytes : 0;
      if (share >= least) place(child, at, share, row + 1);
      at += share;
    }
  };
  place(focus, 0, 1, 0);
  return boxes;
}

// The tensors whose names the expression matches. A pattern that is none matches as plain text.
function search(tensors, pattern) {
  let expression;
  try {
    expression = new RegExp(pattern, "i");
  } catch {
    expression = null;
  }
  const hits = tensors.filter((t) => (expression ? expression.test(t.name) : t.name.includes(pattern)));
  return { hits, bytes: hits.reduce((sum, t) => sum + t.bytes, 0), isRegex: expression !== null };
}

// Every path that holds a hit.
function pathsOf(hits) {
  const paths = new Set([""]);
  for (const { name } of hits) {
    const words = name.split(/[./]/).filter(Boolean);
    if (!words.length) words.push(name);
    words.forEach((_, i) => paths.add(words.slice(0, i + 1).join(".")));
  }
  return paths;
}
