"use strict";
/* Parts that several pages share: tiles cut out of sprites, the patch/projection choice, crumbs, tables. */

(() => {
  const { el, $, given, number3 } = atlas;

  /** Shows block n of a sprite sheet, or one part of it, as the background of `node`, at whatever size it has. */
  atlas.place = (node, layer, sheet, n, part = null) => {
    const number = Math.floor(n / sheet.perSheet);
    const within = n % sheet.perSheet;
    const onThis = Math.min(sheet.perSheet, sheet.count - number * sheet.perSheet);
    const width = sheet.columns * sheet.width;
    const height = Math.ceil(onThis / sheet.columns) * sheet.height;
    const cut = part ?? { x: 0, y: 0, width: sheet.width, height: sheet.height };
    const x = (within % sheet.columns) * sheet.width + cut.x;
    const y = Math.floor(within / sheet.columns) * sheet.height + cut.y;
    const share = (at, whole, shown) => (whole > shown ? `${(100 * at) / (whole - shown)}%` : "0%");
    node.style.backgroundImage = `url("layers/${layer.folder}/${sheet.name}-${number3(number)}.${sheet.suffix}")`;
    node.style.backgroundSize = `${(100 * width) / cut.width}% ${(100 * height) / cut.height}%`;
    node.style.backgroundPosition = `${share(x, width, cut.width)} ${share(y, height, cut.height)}`;
    node.style.aspectRatio = `${cut.width} / ${cut.height}`;
    return node;
  };

  /** All of a filter's patches, or of its projections, as one picture. */
  atlas.block = (layer, data, row, kind, label) => {
    const node = el("span", { class: `block ${kind}`, role: "img", "aria-label": label, style: { "--side": data.side } });
    return atlas.place(node, layer, data.sheets[kind], row);
  };

  /** The size of a tile within the block of a sheet. */
  const tileOf = ({ side, sheets }, kind) => ({ width: sheets[kind].width / side, height: sheets[kind].height / side });

  /** One of them: the patch or projection of rank 0, 1 ... */
  atlas.tile = (layer, data, row, rank, kind, label) => {
    const { width, height } = tileOf(data, kind);
    const part = { x: (rank % data.side) * width, y: Math.floor(rank / data.side) * height, width, height };
    const node = el("span", { class: `tile ${kind}`, role: "img", "aria-label": label });
    return atlas.place(node, layer, data.sheets[kind], row, part);
  };

  /** The way here: the index, then links or texts. */
  atlas.crumbs = (...parts) => {
    const bar = $("crumbs");
    bar.replaceChildren(bar.firstElementChild);
    for (const part of parts) bar.append(el("span", { class: "slash", "aria-hidden": "true" }, "›"), part);
  };

  /** Links to what comes before and after, as the arrow keys go. */
  atlas.steps = (before, after) => {
    const link = (to, sign, key) =>
      to ? el("a", { href: to.href, title: `${to.title} (${key})`, "aria-label": to.title }, sign) : el("span", { class: "quiet" }, sign);
    $("steps").replaceChildren(link(before, "←", "left arrow"), link(after, "→", "right arrow"));
  };

  /** The settings of nested objects as rows: [path, text]. */
  const flat = (settings, path = []) =>
    Object.entries(settings).flatMap(([key, value]) => {
      const here = [...path, key.replaceAll("_", " ")];
      if (value !== null && typeof value === "object" && !Array.isArray(value)) return flat(value, here);
      return [[here.join(", "), Array.isArray(value) ? value.join(", ") : value === null ? "–" : String(value)]];
    });

  /** The commands behind a page, and a table of the configuration. */
  atlas.provenance = (command, ...groups) => {
    const commands = [...new Set([given("site").command, command].filter(Boolean))];
    const rows = groups.flatMap((group) => flat(group)).map(([key, text]) =>
      el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, atlas.named(text, "wrap"))));
    const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Configuration" }, el("table", { class: "settings" }, el("tbody", {}, ...rows)));
    $("made").replaceChildren(...commands.map((text) => el("pre", {}, text)), el("details", {}, el("summary", {}, "Configuration"), table));
  };

  /** Says in place of a page that what its address names is not in the atlas. */
  atlas.absent = (what) => {
    const links = given("site").layers.map((layer) =>
      el("li", {}, el("a", { href: atlas.layerAddress(layer.name) }, atlas.named(layer.name))));
    document.title = "Not found";
    document.documentElement.dataset.ready = "absent";
    window.addEventListener("hashchange", () => location.reload(), { once: true });
    $("content").replaceChildren(
      el("h1", {}, "Not in this atlas"), el("p", {}, "Nothing here is called ", atlas.named(what), ". The layers are:"), el("ul", {}, ...links));
  };

  /** The address after # names what is shown, so that the way past the header cannot be such a link. */
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    $("content").focus();
  });

  const MODES = ["projections", "both", "patches"];

  function show(mode) {
    document.documentElement.dataset.mode = mode;
    for (const button of document.querySelectorAll("#mode button"))
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    try {
      localStorage.setItem("atlas-mode", mode);
    } catch { /* a browser may forbid it; the choice then lasts as long as the page */ }
  }

  /** Projections, both, patches, and around again. */
  atlas.toggle = () => show(MODES[(MODES.indexOf(document.documentElement.dataset.mode) + 1) % MODES.length]);

  let kept = null;
  try {
    kept = localStorage.getItem("atlas-mode");
  } catch { /* as above */ }
  show(MODES.includes(kept) ? kept : "both");
  for (const button of document.querySelectorAll("#mode button"))
    button.addEventListener("click", () => show(button.dataset.mode));
})();
