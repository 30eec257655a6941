"use strict";
/* The layer page: every filter is a card. A card is an empty box until it comes near the window. */

(() => {
  const { element, byId, included, nameNode, numberNode, fact } = atlas;
  /* key -> what the list calls it, and the value by which filters are sorted */
  const SORTS = {
    channel: ["channel", (row) => data.channels[row]],
    maximum: ["largest activation", (row) => -data.maximum[row]],
    mean: ["mean activation", (row) => -data.mean[row]],
    rate: ["share of images where it is positive", (row) => -data.rate[row]],
    class: ["most frequent class", (row) => atlas.classOf(data.tellingClass[row]) ?? "\uffff"],
    share: ["share of that class among its strongest images", (row) => -data.share[row]],
    nearest: ["similarity to another filter", (row) => -data.nearest[row]],
  };
  /* key -> what the list calls it, and whether a filter is shown */
  const SHOWS = {
    all: ["all filters", () => true],
    live: ["filters that are positive somewhere", (row) => !data.dead[row]],
    dead: ["dead filters", (row) => data.dead[row]],
    duplicates: ["filters that repeat another", (row) => data.duplicate[row] >= 0],
    misleading: ["filters whose strongest images mislead", (row) => data.range?.misleads[row] ?? false],
  };
  let layer, data, cards, rowsOfEvolution;

  /** A filter whose values come from a rectifier is dead where it is positive in no image. */
  const isDead = (row) => layer.rectified && Boolean(data.dead[row]);
  const isReversed = () => byId("turn").getAttribute("aria-pressed") === "true";

  /** The setting of each control, as the address holds it. */
  const settings = () => ({
    sort: byId("sort").value === "channel" ? "" : byId("sort").value,
    turned: isReversed() ? "1" : "",
    show: byId("show").value === "all" ? "" : byId("show").value,
    class: byId("class").value,
    epoch: epochNumber() === null ? "" : byId("epoch").value,
  });

  /** The number of the chosen epoch, from 0; null for the end of the training, where all tiles are shown. */
  function epochNumber() {
    const value = Number(byId("epoch").value);
    return data.evolution && value < data.evolution.epochs.length ? value : null;
  }

  function newCard(row) {
    const channel = data.channels[row];
    const link = element("a", { href: atlas.filterAddress(layer.name, channel), "aria-label": description(row) });
    const className = isDead(row) ? "card dead" : "card";
    return element("li", { class: className, "data-channel": channel, "data-row": row }, link);
  }

  function description(row) {
    const parts = [`Filter ${data.channels[row]}`, `largest activation ${atlas.rounded(data.maximum[row])}`];
    const className = atlas.classOf(data.tellingClass[row]);
    if (className) parts.push(className);
    if (isDead(row)) parts.push("dead: positive in no image");
    else if (data.duplicate[row] >= 0) parts.push(`duplicate of ${data.duplicate[row]}`);
    return parts.join(", ");
  }

  /** The number below a filter: that by which filters are sorted, or else the largest activation. */
  function cardNumber(row) {
    const epoch = epochNumber();
    if (epoch !== null) return numberNode(data.evolution.values[rowsOfEvolution.get(data.channels[row])][epoch]);
    const sort = byId("sort").value;
    if (sort === "rate" || sort === "share") return atlas.percentNode(data[sort][row]);
    return numberNode((["mean", "nearest"].includes(sort) ? data[sort] : data.maximum)[row]);
  }

  /** Patches and projections of a filter; at an epoch before the last only the strongest of each. */
  function blocksNode(row) {
    const blocks = element("span", { class: "pair" });
    const epoch = epochNumber();
    for (const kind of ["projections", "patches"]) {
      const node = atlas.blockNode(layer, data, row, kind, `${kind} of filter ${data.channels[row]}`);
      if (epoch !== null) {
        node.classList.add("single");
        const n = rowsOfEvolution.get(data.channels[row]) * data.evolution.epochs.length + epoch;
        atlas.showBlock(node, layer, data.sheets[`evolution-${kind}`], n);
      }
      blocks.append(node);
    }
    return blocks;
  }

  /** What stands at the right below a filter: its state, or else the class that several of its images have. */
  function stateNode(row) {
    if (isDead(row)) return element("span", { class: "tag" }, "dead");
    if (data.duplicate[row] >= 0) return element("span", { class: "tag" }, `= ${data.duplicate[row]}`);
    return data.tellingClass[row] >= 0 ? atlas.classNode(data.tellingClass[row]) : null;
  }

  function fillCard(row) {
    const channel = element("b", {}, String(data.channels[row]));
    const words = element("span", { class: "words" }, channel, cardNumber(row), stateNode(row));
    cards[row].firstElementChild.replaceChildren(blocksNode(row), words);
    cards[row].dataset.filled = "";
  }

  const nearWindow = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries)
        if (isIntersecting && !("filled" in target.dataset)) fillCard(Number(target.dataset.row));
    },
    { rootMargin: "600px 0px" },
  );

  /** The rows that the controls ask for, in their order. */
  function listedRows() {
    const [, isShown] = SHOWS[byId("show").value];
    const label = byId("class").value;
    const rows = data.channels.map((_, row) => row).filter((row) =>
      isShown(row)
      && (label === "" || data.tellingClass[row] === Number(label))
      && (epochNumber() === null || rowsOfEvolution.has(data.channels[row])));
    const [, sortValue] = SORTS[byId("sort").value];
    const values = new Map(rows.map((row) => [row, sortValue(row)]));
    rows.sort((a, b) => order(values.get(a), values.get(b)) || a - b);
    return isReversed() ? rows.reverse() : rows;
  }

  /** Compares two numbers or texts; a value that is not a number comes last. */
  function order(a, b) {
    if (a < b) return -1;
    if (a > b) return 1;
    return a === b ? 0 : Number.isNaN(a) - Number.isNaN(b);
  }

  /** Lays the cards out; each is observed anew, so that those in view are filled. */
  function arrange() {
    const rows = listedRows();
    nearWindow.disconnect();
    byId("grid").replaceChildren(...rows.map((row) => cards[row]));
    for (const row of rows) nearWindow.observe(cards[row]);
    const total = atlas.counted(data.channels.length, "filter");
    byId("count").textContent = rows.length === data.channels.length ? total : `${rows.length} of ${total}`;
    history.replaceState(null, "", atlas.layerAddress(layer.name, settings()).slice("layer.html".length));
  }

  function redraw() {
    for (const card of cards) delete card.dataset.filled;
    const epoch = epochNumber();
    byId("epoch-value").textContent = epoch === null ? "end" : String(data.evolution.epochs[epoch]);
    arrange();
  }

  function fillList(list, choices, value) {
    list.replaceChildren(...choices.map(([key, text]) => element("option", { value: key }, text)));
    list.value = choices.some(([key]) => String(key) === value) ? value : String(choices[0][0]);
  }

  function showControls(wanted) {
    const told = ([key]) => (layer.rectified || !["rate", "live", "dead"].includes(key)) // the sign means little else
      && (data.range || key !== "misleading");
    fillList(byId("sort"), Object.entries(SORTS).filter(told).map(([key, [text]]) => [key, text]), wanted.sort);
    fillList(byId("show"), Object.entries(SHOWS).filter(told).map(([key, [text]]) => [key, text]), wanted.show);
    const classes = layer.classes.map(([label, count]) => [label, `${atlas.classOf(label)} (${count})`]);
    const sortedClasses = classes.sort(([, a], [, b]) => (a < b ? -1 : 1));
    fillList(byId("class"), [["", "any class"], ...sortedClasses], wanted.class);
    byId("turn").setAttribute("aria-pressed", String(wanted.turned === "1"));
    byId("epochs").hidden = !data.evolution;
    if (data.evolution) {
      rowsOfEvolution = new Map(data.evolution.channels.map((channel, n) => [channel, n]));
      byId("epoch").max = data.evolution.epochs.length;
      byId("epoch").value = wanted.epoch ?? data.evolution.epochs.length;
    }
  }

  /** How many filters of the whole layer are dead, and how many of those that are shown. */
  function deadText({ whole, filters }) {
    const all = `${whole.dead} of ${whole.channels}`;
    return whole.dead && filters < whole.channels ? `${all} (${whole.shown || "none"} among the ${filters} shown)` : all;
  }

  function showHead() {
    document.title = `${layer.name}: ${included("site").title}`;
    atlas.showCrumbs(nameNode(layer.name));
    byId("title").replaceChildren(nameNode(layer.name));
    const { layers } = included("site");
    const place = layers.indexOf(layer);
    const target = (other) => other && { href: atlas.layerAddress(other.name), title: other.name };
    atlas.showSteps(target(layers[place - 1]), target(layers[place + 1]));
    byId("facts").replaceChildren(
      fact("Kind", layer.kind),
      fact(atlas.shapeName(layer.shape), layer.shape.join(" × ")),
      fact("A unit can see", atlas.seenText(layer.receptive_field)),
      fact("Distance between units (stride)", Math.max(...layer.stride) ? `${[...new Set(layer.stride)].join(" × ")} px` : "–"),
      fact("Parameters of this module", layer.parameters.toLocaleString("en")),
      layer.rectified ? fact("Dead filters (positive in no image)", deadText(layer)) : "",
      fact("Filters that repeat another", String(layer.duplicates)));
    byId("rule").textContent = `The rule of the projections is ${layer.why || `${layer.rule}.`}`;
    atlas.showWithoutSwitches(layer);
  }

  async function open() {
    const { subject, settings: wanted } = atlas.address();
    const addressed = included("site").layers.find(({ name }) => name === subject);
    if (!addressed) return atlas.showAbsent(subject);
    const addressedData = await atlas.layerData(addressed);
    if (atlas.address().subject !== subject) return; // the reader has left for another layer meanwhile
    layer = addressed;
    data = addressedData;
    cards = data.channels.map((_, row) => newCard(row));
    showHead();
    showControls(wanted);
    redraw();
    document.documentElement.dataset.ready = layer.name;
  }

  /** Goes to a layer nearby with the same settings. */
  function goToLayer(step) {
    const { layers } = included("site");
    const next = layer && layers[layers.indexOf(layer) + step];
    if (next) location.hash = atlas.layerAddress(next.name, settings()).split("#")[1];
  }

  for (const id of ["sort", "show", "class"]) byId(id).addEventListener("change", redraw);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("epoch").addEventListener("input", redraw);
  byId("turn").addEventListener("click", () => {
    byId("turn").setAttribute("aria-pressed", String(!isReversed()));
    arrange();
  });
  atlas.onKey("ArrowRight", "→", "Go to the next filter", () => atlas.stepFocus(byId("grid"), 1));
  atlas.onKey("ArrowLeft", "←", "Go to the previous filter", () => atlas.stepFocus(byId("grid"), -1));
  atlas.onKey("ArrowDown", "↓", "Go to the next layer", () => goToLayer(1));
  atlas.onKey("ArrowUp", "↑", "Go to the previous layer", () => goToLayer(-1));
  window.addEventListener("hashchange", () => open().catch(atlas.showError));
  open().catch(atlas.showError);
})();
