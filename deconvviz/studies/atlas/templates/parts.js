"use strict";
/* Parts that several pages share: tiles cut out of sprites, the choice of patches or projections, crumbs, tables. */

(() => {
  const { element, byId, included, padded, nameNode } = atlas;

  /** Where a part of a picture lies, in the per cent that background-position expects. */
  const position = (start, whole, length) => (whole > length ? `${(100 * start) / (whole - length)}%` : "0%");

  /** Shows block n of a sprite sheet, or a part of the block, as the background of a node of any size. */
  atlas.showBlock = (node, layer, sheet, n, part = null) => {
    const sheetNumber = Math.floor(n / sheet.perSheet);
    const place = n % sheet.perSheet;
    const blocksOnSheet = Math.min(sheet.perSheet, sheet.count - sheetNumber * sheet.perSheet);
    const width = sheet.columns * sheet.width;
    const height = Math.ceil(blocksOnSheet / sheet.columns) * sheet.height;
    const cut = part ?? { x: 0, y: 0, width: sheet.width, height: sheet.height };
    const x = (place % sheet.columns) * sheet.width + cut.x;
    const y = Math.floor(place / sheet.columns) * sheet.height + cut.y;
    const file = `${sheet.name}-${padded(sheetNumber, 3)}.${sheet.suffix}`;
    node.style.backgroundImage = `url("layers/${layer.folder}/${file}")`;
    node.style.backgroundSize = `${(100 * width) / cut.width}% ${(100 * height) / cut.height}%`;
    node.style.backgroundPosition = `${position(x, width, cut.width)} ${position(y, height, cut.height)}`;
    node.style.aspectRatio = `${cut.width} / ${cut.height}`;
    return node;
  };

  /** All patches or all projections of a filter, as one picture; kind: "patches" or "projections". */
  atlas.blockNode = (layer, data, row, kind, label) => {
    const attributes = { class: `block ${kind}`, role: "img", "aria-label": label, style: { "--side": data.side } };
    return atlas.showBlock(element("span", attributes), layer, data.sheets[kind], row);
  };

  /** One patch or one projection of a filter; rank: 0 for the strongest. */
  atlas.tileNode = (layer, data, row, rank, kind, label) => {
    const { side, sheets } = data;
    const [width, height] = [sheets[kind].width / side, sheets[kind].height / side];
    const part = { x: (rank % side) * width, y: Math.floor(rank / side) * height, width, height };
    const node = element("span", { class: `tile ${kind}`, role: "img", "aria-label": label });
    return atlas.showBlock(node, layer, sheets[kind], row, part);
  };

  /** The part [top, left, bottom, right] of an image's picture; of a small part the pixels are seen. */
  atlas.pictureTile = (image, [top, left, bottom, right], label) => {
    const [height, width] = included("site").size;
    const [rows, columns] = [bottom - top, right - left];
    const small = Math.max(rows, columns) <= 48;
    const node = element("span", { class: small ? "tile pixels" : "tile", role: "img", "aria-label": label });
    node.style.backgroundImage = `url("${atlas.pictureFile(image)}")`;
    node.style.backgroundSize = `${(100 * width) / columns}% ${(100 * height) / rows}%`;
    node.style.backgroundPosition = `${position(left, width, columns)} ${position(top, height, rows)}`;
    node.style.aspectRatio = `${columns} / ${rows}`;
    return node;
  };

  /** How the projections and patches of a filter are read, as texts and nodes. */
  atlas.readingNodes = (layer, data, row) => {
    const label = data.tellingClass[row];
    const images = atlas.counted(data.k, "image patch").replace(/patchs$/, "patches");
    const reading = [
      `This is filter ${data.channels[row]} of `, nameNode(layer.name), `. Left: what reached it (projections, grey is `
      + `zero). Right: the ${images} that activate it most, in the same order, the strongest first. What stands out from `
      + "the grey in most of them is what the filter reacts to.",
    ];
    if (label < 0) return reading;
    const share = [" ", atlas.percentNode(data.share[row]), " of these images are of the class ", atlas.classNode(label)];
    const meaning = data.share[row] > 0.6
      ? [", so this filter reacts to something that is typical of ", atlas.classNode(label), "."]
      : [", the others are not, so this filter reacts to something that several classes have."];
    return [...reading, ...share, ...meaning];
  };

  /** Says where the deconvnet has no switches, so that its projections hardly depend on the image. */
  atlas.showWithoutSwitches = ({ rule, switches, why }) => {
    const note = byId("no-switches");
    note.hidden = switches || rule !== "deconvnet" || Boolean(why);
    note.textContent = included("site").withoutSwitches;
  };

  /** Shows in the help how one filter of this atlas is read. */
  atlas.showExample = async () => {
    const [layerNumber, row] = included("site").example;
    const layer = included("site").layers[layerNumber];
    const data = await atlas.layerData(layer);
    const channel = data.channels[row];
    const blocks = ["projections", "patches"].map((kind) =>
      atlas.blockNode(layer, data, row, kind, `${kind} of filter ${channel}`));
    const link = element("a", { href: atlas.filterAddress(layer.name, channel), onclick: () => byId("keys").close() },
      "Go to its page");
    byId("example").replaceChildren(
      element("p", {}, ...atlas.readingNodes(layer, data, row), " ", link),
      element("div", { class: "pair" }, ...blocks));
  };

  /** The path to this page: the index, then the parts, which are links or texts. */
  atlas.showCrumbs = (...parts) => {
    const crumbs = byId("crumbs");
    crumbs.replaceChildren(crumbs.firstElementChild);
    for (const part of parts) crumbs.append(element("span", { class: "slash", "aria-hidden": "true" }, "›"), part);
  };

  /** Links to the previous and the next page, which the arrow keys follow too. */
  atlas.showSteps = (previous, next) => {
    const link = (target, arrow, key) =>
      target
        ? element("a", { href: target.href, title: `${target.title} (${key})`, "aria-label": target.title }, arrow)
        : element("span", { class: "quiet" }, arrow);
    byId("steps").replaceChildren(link(previous, "←", "left arrow"), link(next, "→", "right arrow"));
  };

  function settingText(value) {
    if (Array.isArray(value)) return value.join(", ");
    return value === null ? "–" : String(value);
  }

  /** The settings of nested objects as rows of [path, text]. */
  const settingRows = (settings, path = []) =>
    Object.entries(settings).flatMap(([key, value]) => {
      const keyPath = [...path, key.replaceAll("_", " ")];
      const nested = value !== null && typeof value === "object" && !Array.isArray(value);
      return nested ? settingRows(value, keyPath) : [[keyPath.join(", "), settingText(value)]];
    });

  /** Shows the commands that made a page, and a table of their configuration. */
  atlas.showProvenance = (command, ...groups) => {
    const commands = [...new Set([included("site").command, command].filter(Boolean))];
    const rows = groups.flatMap((group) => settingRows(group)).map(([path, text]) =>
      element("tr", {}, element("th", { scope: "row" }, path), element("td", {}, nameNode(text, "wrap"))));
    const table = element("table", { class: "settings" }, element("tbody", {}, ...rows));
    const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": "Configuration" };
    const details = element("details", {}, element("summary", {}, "Configuration"), element("div", region, table));
    byId("made").replaceChildren(...commands.map((text) => element("pre", {}, text)), details);
  };

  /** Shows in place of a page that the atlas has nothing of this name. */
  atlas.showAbsent = (name) => {
    const links = included("site").layers.map((layer) =>
      element("li", {}, element("a", { href: atlas.layerAddress(layer.name) }, nameNode(layer.name))));
    document.title = "Not found";
    document.documentElement.dataset.ready = "absent";
    window.addEventListener("hashchange", () => location.reload(), { once: true });
    byId("content").replaceChildren(
      element("h1", {}, "Not in this atlas"),
      element("p", {}, "This atlas has no page for ", nameNode(name), ". It shows these layers:"),
      element("ul", {}, ...links));
  };

  /** Moves the focus to the next or previous card of a grid. */
  atlas.stepFocus = (grid, step) => {
    const cards = [...grid.children];
    const place = cards.findIndex((card) => card.contains(document.activeElement));
    const next = place < 0 ? cards[0] : cards[place + step];
    if (next) next.firstElementChild.focus();
  };

  /** The address after # names what is shown, so the link that skips the header cannot be a link of that kind. */
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("content").focus();
  });

  const MODES = ["projections", "both", "patches"];

  function showMode(mode) {
    document.documentElement.dataset.mode = mode;
    for (const button of document.querySelectorAll("#mode button"))
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    try {
      localStorage.setItem("atlas-mode", mode);
    } catch { /* a browser may forbid it; the choice then lasts as long as the page */ }
  }

  /** Goes on to the next of projections, both and patches. */
  atlas.nextMode = () => showMode(MODES[(MODES.indexOf(document.documentElement.dataset.mode) + 1) % MODES.length]);

  let storedMode = null;
  try {
    storedMode = localStorage.getItem("atlas-mode");
  } catch { /* as above */ }
  showMode(MODES.includes(storedMode) ? storedMode : "both");
  for (const button of document.querySelectorAll("#mode button"))
    button.addEventListener("click", () => showMode(button.dataset.mode));
})();
