"use strict";
/* The filter page: filter.html#layer:channel. */

(() => {
  const { el, $, given } = atlas;
  let here = null; // { layer, data, row, channel, filter }

  const ranks = ({ filter }) => filter.images.map((image, rank) => ({ image, rank })).filter((one) => one.image >= 0);

  function head({ layer, data, row, channel, filter }) {
    const site = given("site");
    document.title = `${layer.name}:${channel}: ${site.title}`;
    atlas.crumbs(el("a", { href: atlas.layerAddress(layer.name) }, atlas.named(layer.name)), el("span", {}, String(channel)));
    $("title").replaceChildren(atlas.named(layer.name), `:${channel}`);
    const to = (channel) => channel !== undefined && { href: atlas.filterAddress(layer.name, channel), title: `${layer.name}:${channel}` };
    atlas.steps(to(data.channels[row - 1]), to(data.channels[row + 1]));
    const double = data.duplicate[row];
    $("tags").replaceChildren(
      data.dead[row] ? el("span", { class: "tag" }, "dead: no image activates it") : "",
      double >= 0 ? duplicate(layer, data, double) : "");
    const size = data.config.image_size;
    $("facts").replaceChildren(
      ...fact("Largest activation", "maximum", atlas.exact(data.maximum[row])), ...fact("Mean activation", "mean", atlas.exact(data.mean[row])),
      ...fact("Fires on", "fired", atlas.exact(data.fired[row]), ` of ${layer.count} images`), ...fact("Firing rate", "rate", atlas.percent(data.rate[row])),
      ...fact("Class", "class", atlas.className(data.topClass[row]), " ", data.topClass[row] >= 0 ? atlas.percent(data.share[row]) : ""),
      ...fact("Sees", "sees", `${layer.receptive_field.join(" × ")} of ${size.join(" × ")} px`));
  }

  /** Names the filter that this one repeats; it may not be among those that are shown. */
  function duplicate(layer, data, channel) {
    const said = ["duplicate of ", el("data", { value: channel }, String(channel))];
    if (!data.channels.includes(channel)) return el("span", { class: "tag" }, ...said);
    return el("a", { class: "tag", href: atlas.filterAddress(layer.name, channel) }, ...said);
  }

  const fact = (name, part, ...what) => {
    const node = atlas.fact(name, ...what);
    node.dataset.part = part;
    return [node];
  };

  function best(shown) {
    const { layer, data, row, channel } = shown;
    const block = (kind, words) => el("figure", { class: kind }, atlas.block(layer, data, row, kind, `${words} of filter ${channel}, strongest first`), el("figcaption", {}, words));
    const none = ranks(shown).length ? null : el("p", { class: "quiet" }, "No image activates this filter.");
    $("blocks").replaceChildren(block("projections", "Projections"), block("patches", "Patches"));
    if (none) $("blocks").replaceChildren(none);
  }

  function near({ layer, data, filter }) {
    const rows = filter.neighbours.map((channel, n) => {
      const row = data.channels.indexOf(channel);
      const blocks = row < 0 ? [] : ["projections", "patches"].map((kind) => atlas.block(layer, data, row, kind, `${kind} of filter ${channel}`));
      const words = el("span", { class: "words" }, el("b", {}, String(channel)), atlas.exact(filter.similarity[n], Number.isFinite(filter.similarity[n]) ? filter.similarity[n].toFixed(2) : "–"));
      const inside = [el("span", { class: "pair" }, ...blocks), words];
      return el("li", { "data-part": "neighbour", "data-channel": channel },
        row < 0 ? el("span", {}, ...inside) : el("a", { href: atlas.filterAddress(layer.name, channel), "aria-label": `Filter ${channel}, similarity ${atlas.short(filter.similarity[n])}` }, ...inside));
    });
    $("near").replaceChildren(...rows);
  }

  function where(shown) {
    const { layer, data, row, filter } = shown;
    $("where").replaceChildren(...ranks(shown).map(({ image, rank }) => {
      const [name, label] = filter.named[image];
      const tiles = el("span", { class: "pair" }, ...["projections", "patches"].map((kind) => atlas.tile(layer, data, row, rank, kind, `${kind === "patches" ? "Patch" : "Projection"} of rank ${rank + 1}`)));
      return el("li", {},
        el("a", { href: atlas.imageAddress(image), "aria-label": `${rank + 1}: ${name}` }, atlas.framed(image, "", filter.boxes[rank], filter.windows[rank]), tiles,
          el("span", { class: "words" }, el("b", {}, `${rank + 1}`), atlas.exact(filter.values[rank]), atlas.className(label)),
          el("span", { class: "quiet words" }, atlas.named(name))));
    }));
  }

  function values(shown) {
    const { filter } = shown;
    const heads = ["Rank", "Value", "Position (y, x)", "Receptive field (top, left, bottom, right)", "Part shown", "Image", "Class", "File"];
    const list = (numbers) => el("td", { class: "numbers" }, ...numbers.flatMap((n, at) => [at ? ", " : "", el("data", { value: n }, String(n))]));
    const rows = ranks(shown).map(({ image, rank }) => {
      const [name, label] = filter.named[image];
      return el("tr", { "data-rank": rank }, el("th", { scope: "row" }, String(rank + 1)), el("td", {}, atlas.exact(filter.values[rank], String(filter.values[rank]))),
        list(filter.positions[rank]), list(filter.boxes[rank]), list(filter.windows[rank]), el("td", {}, el("data", { value: image }, String(image))),
        el("td", {}, atlas.className(label)), el("td", {}, el("a", { href: atlas.imageAddress(image) }, atlas.named(name))));
    });
    $("values").replaceChildren(el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows));
  }

  function made({ data }) {
    const { command, ...sources } = data.sources;
    atlas.provenance(command, data.config, { where: sources });
  }

  async function open() {
    const { main } = atlas.address();
    const [name, channel] = atlas.unit(main);
    const layer = given("site").layers.find((one) => one.name === name);
    const data = layer && (await atlas.layerData(layer));
    const row = data ? data.channels.indexOf(channel) : -1;
    if (row < 0) return atlas.absent(main);
    const filter = await atlas.filterData(layer, data, row);
    if (atlas.address().main !== main) return; // the reader has gone on meanwhile
    here = { layer, data, row, channel, filter };
    for (const part of [head, best, near, where, values, made]) part(here);
    await atlas.filterParts(here);
    document.documentElement.dataset.ready = `${name}:${channel}`;
  }

  /** The filter `by` places on, in the order of the channels. */
  function step(by) {
    const channel = here?.data.channels[here.row + by];
    if (channel !== undefined) atlas.go(atlas.filterAddress(here.layer.name, channel));
  }

  /** The filter at the same place of a layer nearby, or its last one. */
  async function level(by) {
    const layers = given("site").layers;
    const next = here && layers[layers.indexOf(here.layer) + by];
    if (!next) return;
    const { channels } = await atlas.layerData(next);
    atlas.go(atlas.filterAddress(next.name, channels[Math.min(here.row, channels.length - 1)]));
  }

  atlas.key("ArrowRight", "→", "next filter", () => step(1));
  atlas.key("ArrowLeft", "←", "filter before", () => step(-1));
  atlas.key("ArrowDown", "↓", "next layer", () => level(1).catch(atlas.complain));
  atlas.key("ArrowUp", "↑", "layer before", () => level(-1).catch(atlas.complain));
  window.addEventListener("hashchange", () => open().catch(atlas.complain));
  open().catch(atlas.complain);
})();
