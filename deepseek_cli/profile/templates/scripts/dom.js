// Elements, tables and choices.

const SVG = "http" + "://www.w3.org/2000/svg";  // a name, not an address: nothing is fetched
const $ = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// A table. A column is {key, label, show(row) → text or node, value?(row) → number, title?, text?, how?, meter?, full?},
// where `full` is the value of a full meter, otherwise the largest is.
// `options`: foot (a row), sortable, rest (the row set in italics), caption, most (rows; a button shows the others).
// Gives back a function that shows only the rows a test lets through.
function table(place, columns, rows, options = {}) {
  const largest = Object.fromEntries(columns.filter((c) => c.meter).map((c) => [c.key, c.full || Math.max(...rows.map((r) => c.value(r) || 0), 1e-12)]));
  const kind = (c) => [c.text ? "text" : "", c.how ? "how" : ""].join(" ").trim() || null;
  const cell = (c, row, foot) => {
    const td = element(c.text && c === columns[0] ? "th" : "td", { class: kind(c), scope: c.text && c === columns[0] ? "row" : null, title: c.title && c.value(row) !== null ? c.title(row) : null }, c.show(row));
    if (c.meter && !foot) {
      const fill = element("i");
      fill.style.width = `${Math.max(0, 100 * (c.value(row) || 0) / largest[c.key])}%`;
      td.append(element("span", { class: "meter", "aria-hidden": "true" }, fill));
    }
    return td;
  };
  const head = element("tr", {}, ...columns.map((c) => element("th", { scope: "col", class: kind(c) }, options.sortable ? element("button", { type: "button" }, c.label) : c.label)));
  const body = element("tbody");
  let order = rows, passes = () => true, most = options.most || Infinity;
  const more = element("button", { type: "button", class: "more" });
  const fill = () => {
    const shown = order.filter(passes);
    body.replaceChildren(...shown.slice(0, most).map((row) => element("tr", { class: row === options.rest ? "rest" : null }, ...columns.map((c) => cell(c, row)))));
    more.hidden = shown.length <= most;
    if (!more.hidden) more.textContent = options.moreLabel(shown.length - most);
  };
  more.addEventListener("click", () => { most = Infinity; fill(); });
  if (options.sortable) head.querySelectorAll("button").forEach((button, i) => button.addEventListener("click", () => { order = sorted(head, i, columns[i], rows); fill(); }));
  const foot = options.foot && element("tfoot", {}, element("tr", {}, ...columns.map((c) => cell(c, options.foot, true))));
  place.replaceChildren(element("table", {}, options.caption && element("caption", { class: "quiet" }, options.caption), element("thead", {}, head), body, foot), more);
  fill();
  return (test) => { passes = test; fill(); };
}

function sorted(head, index, column, rows) {
  const th = head.children[index];
  const first = column.text ? "ascending" : "descending";
  const second = column.text ? "descending" : "ascending";
  const order = th.getAttribute("aria-sort") === first ? second : first;
  for (const other of head.children) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const place = new Map(rows.map((row, i) => [row, i]));  // a column of names goes back to the model's own order
  const of = column.text ? (row) => place.get(row) : (row) => column.value(row) ?? -Infinity;
  return [...rows].sort((a, b) => sign * (of(a) - of(b)));
}

// One of some: buttons that the arrow keys move between.
function choice(place, labels, chosen, choose) {
  place.setAttribute("role", "radiogroup");
  const pick = (i) => {
    const index = (i + labels.length) % labels.length;
    choose(index);
    if (place.children[index]) place.children[index].focus();
  };
  place.replaceChildren(...labels.map((text, i) => {
    const button = element("button", { type: "button", role: "radio", "aria-checked": String(i === chosen), tabindex: i === chosen ? 0 : -1 }, text);
    button.addEventListener("click", () => pick(i));
    return button;
  }));
  place.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    pick([...place.children].indexOf(document.activeElement) + step);
  };
}

function facts(place, rows) {
  place.replaceChildren(...rows.flatMap(([key, text]) => [element("dt", {}, key), element("dd", {}, text)]));
}
