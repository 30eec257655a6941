"use strict";
/* The filter page: filter.html#layer:channel. */

(() => {
  const { element, byId, included, nameNode, numberNode } = atlas;
  let current = null; // { layer, data, row, channel, filter } of the filter that is shown

  /** The filter's images, strongest first, as { image, rank }. */
  const rankedImages = ({ filter }) =>
    filter.images.map((image, rank) => ({ image, rank })).filter(({ image }) => image >= 0);

  function showHead({ layer, data, row, channel, filter }) {
    document.title = `${layer.name}:${channel}: ${included("site").title}`;
    const layerLink = element("a", { href: atlas.layerAddress(layer.name) }, nameNode(layer.name));
    atlas.showCrumbs(layerLink, element("span", {}, String(channel)));
    byId("title").replaceChildren(nameNode(layer.name), `:${channel}`);
    const target = (other) =>
      other !== undefined && { href: atlas.filterAddress(layer.name, other), title: `${layer.name}:${other}` };
    atlas.showSteps(target(data.channels[row - 1]), target(data.channels[row + 1]));
    const original = data.duplicate[row];
    const detected = atlas.nameOf(layer.name, channel);
    byId("tags").replaceChildren(
      detected ? element("span", { class: "tag", "data-part": "detects" }, `detects ${detected}`) : "",
      layer.rectified && data.dead[row] ? element("span", { class: "tag" }, "dead: positive in no image") : "",
      original >= 0 ? duplicateTag(layer, data, original) : "",
      atlas.misleadingTag(data, row));
    showFacts(layer, data, row, filter);
    atlas.showWithoutSwitches(layer);
  }

  /** In how many images the filter is positive somewhere; without a rectifier in front of it that means little. */
  function firedFact(layer, data, row) {
    if (!layer.rectified) return "";
    const part = (name, ...nodes) => element("span", { "data-part": name }, ...nodes);
    return atlas.fact("Positive somewhere in", part("fired", numberNode(data.fired[row])),
      ` of ${layer.count.toLocaleString("en")} images (`, part("rate", atlas.percentNode(data.rate[row])), ")");
  }

  /** The class of most of the strongest images; where each is of another class there is none. */
  function classNodes(data, row, filter) {
    const [images, same] = [filter.images.filter((image) => image >= 0), data.sameClass[row]];
    if (data.topClass[row] < 0) return [atlas.classNode(-1)];
    if (data.tellingClass[row] < 0) {
      const labels = new Set(images.map((image) => filter.imageNames[image][1]).filter((label) => label >= 0));
      return [`${atlas.counted(images.length, "image")} of ${labels.size} class${labels.size === 1 ? "" : "es"}`];
    }
    return [atlas.classNode(data.topClass[row]), " ",
      numberNode(data.share[row], `${same} of ${atlas.counted(images.length, "image")}`)];
  }

  function showFacts(layer, data, row, filter) {
    byId("facts").replaceChildren(
      fact("Largest activation", "maximum", numberNode(data.maximum[row])),
      fact("Mean over all images and places", "mean", numberNode(data.mean[row])),
      firedFact(layer, data, row),
      fact("Most frequent class of its strongest images", "class", ...classNodes(data, row, filter)),
      fact("A unit can see", "sees", atlas.seenText(layer.receptive_field)),
      fact("Rule of the projections", "rule", layer.rule));
    byId("facts").lastElementChild.title = layer.why;
  }

  function fact(name, part, ...value) {
    const node = atlas.fact(name, ...value);
    node.dataset.part = part;
    return node;
  }

  /** Names the filter that this one repeats; it need not be one of those that are shown. */
  function duplicateTag(layer, data, channel) {
    const text = ["duplicate of ", element("data", { value: channel }, String(channel))];
    if (!data.channels.includes(channel)) return element("span", { class: "tag" }, ...text);
    return element("a", { class: "tag", href: atlas.filterAddress(layer.name, channel) }, ...text);
  }

  function showBlocks(shown) {
    const { layer, data, row, channel } = shown;
    byId("reading").replaceChildren();
    if (!rankedImages(shown).length)
      return byId("blocks").replaceChildren(element("p", { class: "quiet" }, "This filter is positive in no image, so there is nothing to show."));
    const figure = (kind, caption) => {
      const block = atlas.blockNode(layer, data, row, kind, `${caption} of filter ${channel}, strongest first`);
      return element("figure", { class: kind }, block, element("figcaption", {}, caption));
    };
    byId("reading").replaceChildren(...atlas.readingNodes(layer, data, row));
    byId("blocks").replaceChildren(
      figure("projections", "Projections"), figure("patches", "Image patches"), wantedFigure(layer, data, row, channel));
  }

  /** The picture that was made so that the filter likes it, where the atlas has one. */
  function wantedFigure(layer, data, row, channel) {
    if (!data.sheets.wanted) return "";
    const label = `The picture that filter ${channel} would like best`;
    const node = element("span", { class: "tile wanted", role: "img", "aria-label": label });
    const title = "Made by gradient ascent on the mean of the filter's map; no image looks like this.";
    return element("figure", { class: "wanted", title }, atlas.showBlock(node, layer, data.sheets.wanted, row),
      element("figcaption", {}, "What it would like best (optimised, not a photo)"));
  }

  function showNeighbours({ layer, data, filter }) {
    const some = data.channels.length < layer.shape[0];
    byId("near-some").textContent = some
      ? `They are looked for among the ${data.channels.length} filters of this layer that are shown.` : "";
    byId("near").replaceChildren(...filter.neighbours.map((channel, n) => {
      const similarity = filter.similarity[n];
      const row = data.channels.indexOf(channel); // -1 where that filter is not shown
      const blocks = row < 0 ? [] : ["projections", "patches"].map((kind) =>
        atlas.blockNode(layer, data, row, kind, `${kind} of filter ${channel}`));
      const text = Number.isFinite(similarity) ? similarity.toFixed(2) : "–";
      const words = [element("b", {}, String(channel)), numberNode(similarity, text)];
      const content = [element("span", { class: "pair" }, ...blocks), element("span", { class: "words" }, ...words)];
      const link = {
        href: atlas.filterAddress(layer.name, channel),
        "aria-label": `Filter ${channel}, similarity ${atlas.rounded(similarity)}`,
      };
      return element("li", { "data-part": "neighbour", "data-channel": channel },
        row < 0 ? element("span", {}, ...content) : element("a", link, ...content));
    }));
  }

  function showPlaces(shown) {
    const { layer, data, row, filter } = shown;
    const tile = (rank, kind, name) => atlas.tileNode(layer, data, row, rank, kind, `${name} of rank ${rank + 1}`);
    byId("where").replaceChildren(...rankedImages(shown).map(({ image, rank }) => {
      const [name, label] = filter.imageNames[image];
      return element("li", {},
        element("a", { href: atlas.imageAddress(image), "aria-label": `${rank + 1}: ${name}` },
          atlas.framedPicture(image, "", filter.boxes[rank], filter.windows[rank]),
          element("span", { class: "pair" }, tile(rank, "projections", "Projection"), tile(rank, "patches", "Patch")),
          element("span", { class: "words" }, element("b", {}, `${rank + 1}`), numberNode(filter.values[rank]),
            atlas.classNode(label)),
          element("span", { class: "quiet words" }, nameNode(name))));
    }));
  }

  const TABLE_HEADS = [
    "Rank", "Activation", "Place on the filter's map (row, column)",
    "What the unit sees (top, left, bottom, right, in px)", "Part that is shown (in px)", "Image", "Class", "File",
  ];

  function showTable(shown) {
    const { filter } = shown;
    const numbersCell = (numbers) => element("td", { class: "numbers" },
      ...numbers.flatMap((number, n) => [n ? ", " : "", element("data", { value: number }, String(number))]));
    const rows = rankedImages(shown).map(({ image, rank }) => {
      const [name, label] = filter.imageNames[image];
      return element("tr", { "data-rank": rank },
        element("th", { scope: "row" }, String(rank + 1)),
        element("td", {}, numberNode(filter.values[rank])),
        numbersCell(filter.positions[rank]), numbersCell(filter.boxes[rank]), numbersCell(filter.windows[rank]),
        element("td", {}, element("data", { value: image }, String(image))),
        element("td", {}, atlas.classNode(label)),
        element("td", {}, element("a", { href: atlas.imageAddress(image) }, nameNode(name))));
    });
    const heads = TABLE_HEADS.map((text) => element("th", { scope: "col" }, text));
    byId("values").replaceChildren(
      element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  }

  function showProvenance({ data }) {
    const { command, ...sources } = data.sources;
    atlas.showProvenance(command, data.config, { sources });
  }

  async function open() {
    const { subject } = atlas.address();
    const [name, channel] = atlas.splitUnit(subject);
    const layer = included("site").layers.find((candidate) => candidate.name === name);
    const data = layer && (await atlas.layerData(layer));
    const row = data ? data.channels.indexOf(channel) : -1;
    if (row < 0) return atlas.showAbsent(subject);
    const filter = await atlas.filterData(layer, data, row);
    if (atlas.address().subject !== subject) return; // the reader has left for another filter meanwhile
    current = { layer, data, row, channel, filter };
    const parts = [showHead, showBlocks, atlas.showRange, showNeighbours, showPlaces, showTable, showProvenance];
    for (const showPart of parts) showPart(current);
    await atlas.showOptionalParts(current);
    document.documentElement.dataset.ready = `${name}:${channel}`;
  }

  /** Goes to a filter nearby, in the order of the channels. */
  function goToFilter(step) {
    const channel = current?.data.channels[current.row + step];
    if (channel !== undefined) atlas.follow(atlas.filterAddress(current.layer.name, channel));
  }

  /** Goes to the filter at the same place of a layer nearby, or to that layer's last filter. */
  async function goToLayer(step) {
    const { layers } = included("site");
    const next = current && layers[layers.indexOf(current.layer) + step];
    if (!next) return;
    const { channels } = await atlas.layerData(next);
    atlas.follow(atlas.filterAddress(next.name, channels[Math.min(current.row, channels.length - 1)]));
  }

  atlas.onKey("ArrowRight", "→", "Go to the next filter", () => goToFilter(1));
  atlas.onKey("ArrowLeft", "←", "Go to the previous filter", () => goToFilter(-1));
  atlas.onKey("ArrowDown", "↓", "Go to the next layer", () => goToLayer(1).catch(atlas.showError));
  atlas.onKey("ArrowUp", "↑", "Go to the previous layer", () => goToLayer(-1).catch(atlas.showError));
  window.addEventListener("hashchange", () => open().catch(atlas.showError));
  open().catch(atlas.showError);
})();
