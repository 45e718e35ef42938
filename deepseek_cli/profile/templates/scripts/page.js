// The page itself: its sections in reading order, its language, its colours.

const SECTIONS = [header, verdict, peak, time, layers, chosenBar, weights, operators, reckon, allocator, leak, compare, advice, method];

function render() {
  paint(language);
  for (const section of SECTIONS) section();
  contents();
  paintTheme();
  scrollable();
}

function contents() {
  const heads = [...document.querySelectorAll("main > section:not([hidden]) > h2:not(.quiet)")];
  $("contents").replaceChildren(...heads.map((head) => element("li", {}, element("a", { href: `#${head.parentElement.id}` }, head.textContent))));
}

// What overflows can be reached and moved by keyboard.
function scrollable() {
  for (const node of document.querySelectorAll(".scroll")) {
    const overflows = node.scrollWidth > node.clientWidth || node.scrollHeight > node.clientHeight;
    for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", t("scrolls")]]) if (overflows) node.setAttribute(name, value); else node.removeAttribute(name);
  }
}

const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function paintTheme() {
  const other = t(isDark() ? "theme.light" : "theme.dark");
  $("theme").textContent = other;
  $("theme").setAttribute("aria-label", t("theme.label", { name: other }));
  $("language").textContent = t("language");
}

function download() {
  const name = String(data.model.name || "model").replace(/[^\w.@+-]+/g, "-").slice(0, 80);
  element("a", { download: `${name}-memory.json`, href: URL.createObjectURL(new Blob([JSON.stringify(data)], { type: "application/json" })) }).click();
}

if (stored.get("theme")) root.dataset.theme = stored.get("theme");
$("theme").addEventListener("click", () => { stored.set("theme", root.dataset.theme = isDark() ? "light" : "dark"); paintTheme(); });
$("language").addEventListener("click", () => { stored.set("language", language = language === "en" ? "zh" : "en"); render(); });
$("download").addEventListener("click", download);
$("weight-search").addEventListener("input", searchWeights);
acceptFiles();
let waiting = 0, wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === wide) return;
  wide = innerWidth;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(render);
});
render();
root.dataset.ready = "1";
