"use strict";
/* The index: up and down walk along the chain, left and right along a layer's thumbnails. */

(() => {
  const rows = [...document.querySelectorAll(".chain > li")];
  const stops = (row) => [...row.querySelectorAll("a.layer, .strip a")];

  function walk(down, right) {
    const row = rows.findIndex((one) => one.contains(document.activeElement));
    if (row < 0) return stops(rows[0])[0].focus();
    const place = stops(rows[row]).indexOf(document.activeElement);
    const next = stops(rows[row + down] ?? rows[row]);
    next[Math.min(Math.max(0, place + right), next.length - 1)].focus();
  }

  atlas.key("ArrowDown", "↓", "next layer", () => walk(1, 0));
  atlas.key("ArrowUp", "↑", "layer before", () => walk(-1, 0));
  atlas.key("ArrowRight", "→", "next filter of the layer", () => walk(0, 1));
  atlas.key("ArrowLeft", "←", "filter before", () => walk(0, -1));
  atlas.key("Enter", "Enter", "opens it", () => document.activeElement.click?.());
})();
