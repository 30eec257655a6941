"use strict";
/* What is drawn over pictures: boxes, and maps in the colours of the site. */

(() => {
  const { element, included, numberNode, percentNode } = atlas;

  /** The colour of a value in 0..1. */
  function colour(value) {
    const anchors = included("site").colours;
    const place = Math.min(1, Math.max(0, value)) * (anchors.length - 1);
    const lower = Math.min(Math.floor(place), anchors.length - 2);
    const mixed = anchors[lower].map((level, channel) =>
      Math.round(level + (place - lower) * (anchors[lower + 1][channel] - level)));
    return `rgb(${mixed.join(" ")})`;
  }

  /** A whole picture with two boxes [top, left, bottom, right]: the receptive field, and the part that is shown. */
  atlas.framedPicture = (image, alt, field, shownPart) => {
    const [height, width] = included("site").size;
    const rectangle = (className, [top, left, bottom, right]) =>
      element("rect", { class: className, x: left, y: top, width: right - left, height: bottom - top });
    const boxes = element("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
      rectangle("field halo", field), rectangle("field", field),
      rectangle("window halo", shownPart), rectangle("window", shownPart));
    return element("span", { class: "framed" }, pictureNode(image, alt), boxes);
  };

  /** A picture that is loaded when it comes near the window. */
  function pictureNode(image, alt) {
    const [height, width] = included("site").size;
    return element("img", { src: atlas.pictureFile(image), alt, width, height, loading: "lazy", decoding: "async" });
  }
  atlas.pictureNode = pictureNode;

  /** Loads a picture file to be drawn on a canvas. */
  const loadedPicture = (file) =>
    new Promise((resolve, reject) => {
      const picture = new Image();
      picture.onload = () => resolve(picture);
      picture.onerror = () => reject(new Error(`The file ${file} is missing. Make the atlas again.`));
      picture.src = file;
    });

  function newCanvas(label) {
    const [height, width] = included("site").size;
    const scale = Math.min(2, Math.max(1, 448 / Math.max(height, width)));
    const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
    const canvas = element("canvas", { role: "img", "aria-label": label, ...size });
    return [canvas, canvas.getContext("2d")];
  }

  /** Draws the picture in grey, and sets the opacity of what is drawn over it. */
  function drawUnderneath(context, picture, opacity) {
    const { width, height } = context.canvas;
    context.filter = "grayscale(1)";
    context.drawImage(picture, 0, 0, width, height);
    context.filter = "none";
    context.globalAlpha = opacity;
  }

  /** One map of a sheet over the picture; partOf: sheet -> the map's {x, y, width, height} on it. */
  atlas.mapOverPicture = async (image, sheetFile, partOf, opacity, label) => {
    const [canvas, context] = newCanvas(label);
    const files = [atlas.pictureFile(image), sheetFile];
    const [picture, sheet] = await Promise.all(files.map(loadedPicture));
    const part = partOf(sheet);
    drawUnderneath(context, picture, opacity);
    context.drawImage(sheet, part.x, part.y, part.width, part.height, 0, 0, canvas.width, canvas.height);
    return canvas;
  };

  /** The values of a sliding square over the picture; whole: the value without it, which the colours span too. A value fills the middle of its window, half way to the next. */
  atlas.occlusionOverPicture = async (image, windows, values, opacity, label, whole = values[0]) => {
    const [canvas, context] = newCanvas(label);
    drawUnderneath(context, await loadedPicture(atlas.pictureFile(image)), opacity);
    const [height, width] = included("site").size;
    const centres = windows.map(([top, left, bottom, right]) => [(top + bottom) / 2, (left + right) / 2]);
    const rows = cellBounds(centres.map(([y]) => y), height);
    const columns = cellBounds(centres.map(([, x]) => x), width);
    const [low, high] = valueRange([...values, whole]);
    const scale = canvas.width / width;
    centres.forEach(([y, x], n) => {
      const [top, bottom] = rows.get(y);
      const [left, right] = columns.get(x);
      context.fillStyle = colour((values[n] - low) / (high - low || 1));
      context.fillRect(left * scale, top * scale, (right - left) * scale, (bottom - top) * scale);
    });
    return canvas;
  };

  /** Maps each centre to the bounds of its cell, which lie half way to its neighbours and at the border. */
  function cellBounds(centres, size) {
    const sorted = [...new Set(centres)].sort((a, b) => a - b);
    const middles = sorted.slice(1).map((centre, n) => (centre + sorted[n]) / 2);
    const bounds = [0, ...middles, size];
    return new Map(sorted.map((centre, n) => [centre, [bounds[n], bounds[n + 1]]]));
  }

  /** The range of the colours begins at zero, so that a small change does not look like a large one. */
  function valueRange(values) {
    const finite = values.filter(Number.isFinite);
    return [Math.min(0, ...finite), Math.max(...finite)];
  }

  /** The ramp of the colours; marks: shares of its length, 0..1, at which a line stands. */
  function rampNode(marks = []) {
    const colours = included("site").colours.map((levels) => `rgb(${levels.join(" ")})`);
    const ramp = { style: { background: `linear-gradient(to right, ${colours.join(", ")})` }, "aria-hidden": "true" };
    return element("i", ramp, ...marks.map((mark) => element("b", { style: { left: `${100 * mark}%` } })));
  }

  /** The colour scale of values, with the numbers at its ends; number: makes a node of a value. */
  atlas.scaleNode = (values, number = numberNode) => {
    const [low, high] = valueRange(values);
    return element("span", { class: "scale" }, number(low), rampNode(), number(high));
  };

  /** The colour scale of probabilities, with a mark at the one without the square. */
  atlas.probabilityScaleNode = (values, whole) => {
    const [low, high] = valueRange([...values, whole]);
    const ramp = rampNode([(whole - low) / (high - low || 1)]);
    return element("span", { class: "scale marked" }, percentNode(low), ramp, percentNode(high));
  };

  /** The colour scale of maps that have their own range each. */
  atlas.ownScaleNode = () => element("span", { class: "scale" }, "lowest", rampNode(), "highest");
})();
