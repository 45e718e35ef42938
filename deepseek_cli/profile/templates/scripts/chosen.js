// One layer, chosen in the table of layers: operators, nodes and modules are then its own.

const ofChosen = (rows) => (oneLayer === null ? rows : rows.filter((row) => row.layer === oneLayer));
const layerButton = (layer) => document.querySelector(`#layers button[data-layer="${CSS.escape(layer)}"]`);

function chooser(layer) {
  const button = element("button", { type: "button", class: "layer", "data-layer": layer, "aria-pressed": String(layer === oneLayer) }, layerName(layer));
  button.addEventListener("click", () => choose(layer === oneLayer ? null : layer));
  return button;
}

function choose(layer) {
  const before = oneLayer;
  oneLayer = layer;
  for (const button of document.querySelectorAll("#layers button.layer")) button.setAttribute("aria-pressed", String(button.dataset.layer === oneLayer));
  for (const section of [chosenBar, weights, operators]) section();
  scrollable();
  if (layer === null && layerButton(before)) layerButton(before).focus({ preventScroll: true });  // what had it may be gone
}

// What is chosen, in sight as long as it holds, and how to see all again. The place stays, so that a screen reader hears it change.
function chosenBar() {
  for (const cell of $("strip").children) cell.classList.toggle("on", cell.dataset.layer === oneLayer);
  if (oneLayer === null) return $("chosen").replaceChildren();
  const button = element("button", { type: "button" }, t("chosen.all"));
  button.addEventListener("click", () => choose(null));
  const name = /^\d+$/.test(oneLayer) ? t("chosen.number", { layer: oneLayer }) : layerName(oneLayer);
  $("chosen").replaceChildren(element("p", {}, t("chosen", { name })), button);
}

addEventListener("keydown", (event) => {
  const at = document.activeElement;
  if (event.key === "Escape" && oneLayer !== null && ($("chosen").contains(at) || $("layers").contains(at))) choose(null);
});
