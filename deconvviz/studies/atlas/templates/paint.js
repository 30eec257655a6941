"use strict";
/* What is drawn over pictures: boxes, and maps in the colours of the site. */

(() => {
  const { el, given } = atlas;

  /** The colour of a share in 0..1. */
  atlas.colour = (share) => {
    const anchors = given("site").colours;
    const place = Math.min(1, Math.max(0, share)) * (anchors.length - 1);
    const low = Math.min(Math.floor(place), anchors.length - 2);
    const mixed = anchors[low].map((c, n) => Math.round(c + (place - low) * (anchors[low + 1][n] - c)));
    return `rgb(${mixed.join(" ")})`;
  };

  /** A full picture with the box of the receptive field and that of the part that is shown. */
  atlas.framed = (image, alt, seen, cut) => {
    const [height, width] = given("site").size;
    const rect = (kind, [top, left, bottom, right]) =>
      el("rect", { class: kind, x: left, y: top, width: right - left, height: bottom - top });
    const boxes = el("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, rect("seen halo", seen), rect("seen", seen), rect("cut halo", cut), rect("cut", cut));
    return el("span", { class: "framed" }, photo(image, alt), boxes);
  };

  /** A picture that is loaded when it comes near. */
  function photo(image, alt) {
    const [height, width] = given("site").size;
    return el("img", { src: atlas.picture(image), alt, width, height, loading: "lazy", decoding: "async" });
  }
  atlas.photo = photo;

  /** Loads an image file to be drawn on a canvas. */
  const loaded = (file) =>
    new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => reject(new Error(`${file} is missing: make the atlas again`));
      image.src = file;
    });

  function canvas(label) {
    const [height, width] = given("site").size;
    const sharp = Math.min(2, Math.max(1, 448 / Math.max(height, width)));
    const node = el("canvas", { role: "img", "aria-label": label, width: Math.round(width * sharp), height: Math.round(height * sharp) });
    return [node, node.getContext("2d")];
  }

  /** Draws the picture in grey, and leaves the brush at the strength of what comes over it. */
  function underneath(brush, picture, strength) {
    const { width, height } = brush.canvas;
    brush.filter = "grayscale(1)";
    brush.drawImage(picture, 0, 0, width, height);
    brush.filter = "none";
    brush.globalAlpha = strength;
  }

  /** One map of a sheet over the picture; cut: its {x, y, width, height} on the sheet. */
  atlas.mapped = async (image, sheet, cutOf, strength, label) => {
    const [node, brush] = canvas(label);
    const [picture, maps] = await Promise.all([loaded(atlas.picture(image)), loaded(sheet)]);
    const cut = cutOf(maps);
    underneath(brush, picture, strength);
    brush.drawImage(maps, cut.x, cut.y, cut.width, cut.height, 0, 0, node.width, node.height);
    return node;
  };

  /** Values under a sliding square over the picture: each fills the middle of its place, as far as to the next one. */
  atlas.heated = async (image, places, values, strength, label) => {
    const [node, brush] = canvas(label);
    underneath(brush, await loaded(atlas.picture(image)), strength);
    const [height, width] = given("site").size;
    const cells = places.map(([top, left, bottom, right]) => [(top + bottom) / 2, (left + right) / 2]);
    const rows = edges(cells.map((cell) => cell[0]), height);
    const columns = edges(cells.map((cell) => cell[1]), width);
    const [low, high] = range(values);
    const scale = node.width / width;
    cells.forEach(([y, x], n) => {
      const [top, bottom] = rows.get(y);
      const [left, right] = columns.get(x);
      brush.fillStyle = atlas.colour((values[n] - low) / (high - low || 1));
      brush.fillRect(left * scale, top * scale, (right - left) * scale, (bottom - top) * scale);
    });
    return node;
  };

  /** Centres -> for each, from where to where its cell reaches: half way to its neighbours, and to the border. */
  function edges(centres, size) {
    const sorted = [...new Set(centres)].sort((a, b) => a - b);
    const between = [0, ...sorted.slice(1).map((c, n) => (c + sorted[n]) / 2), size];
    return new Map(sorted.map((c, n) => [c, [between[n], between[n + 1]]]));
  }

  function range(values) {
    const finite = values.filter(Number.isFinite);
    return [Math.min(0, ...finite), Math.max(...finite)]; // from zero on, lest a change of nothing look like much
  }

  /** The scale of a map, with the values of its ends. */
  atlas.scale = (values) => {
    const [low, high] = range(values);
    const ramp = `linear-gradient(to right, ${given("site").colours.map((c) => `rgb(${c.join(" ")})`).join(", ")})`;
    return el("span", { class: "scale" }, atlas.exact(low), el("i", { style: { background: ramp }, "aria-hidden": "true" }), atlas.exact(high));
  };
})();
