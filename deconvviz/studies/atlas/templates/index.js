"use strict";
/* The index: the up and down keys walk along the layers, left and right along a layer's thumbnails. */

(() => {
  const layerRows = [...document.querySelectorAll(".chain > li")];
  const linksOf = (layerRow) => [...layerRow.querySelectorAll("a.layer, .strip a")];

  function moveFocus(down, right) {
    const row = layerRows.findIndex((layerRow) => layerRow.contains(document.activeElement));
    if (row < 0) return linksOf(layerRows[0])[0].focus();
    const place = linksOf(layerRows[row]).indexOf(document.activeElement);
    const links = linksOf(layerRows[row + down] ?? layerRows[row]);
    links[Math.min(Math.max(0, place + right), links.length - 1)].focus();
  }

  atlas.onKey("ArrowDown", "↓", "Go to the next layer", () => moveFocus(1, 0));
  atlas.onKey("ArrowUp", "↑", "Go to the previous layer", () => moveFocus(-1, 0));
  atlas.onKey("ArrowRight", "→", "Go to the next filter of the layer", () => moveFocus(0, 1));
  atlas.onKey("ArrowLeft", "←", "Go to the previous filter of the layer", () => moveFocus(0, -1));
  atlas.onKey("Enter", "Enter", "Open the layer or filter", () => document.activeElement.click?.());
})();
