"use strict";
/* The layer page: every filter as a card. A card is an empty box until it comes near the window. */

(() => {
  const { el, $, given } = atlas;
  const SORTS = {
    channel: ["channel", (data, row) => data.channels[row]],
    maximum: ["largest activation", (data, row) => -data.maximum[row]],
    mean: ["mean activation", (data, row) => -data.mean[row]],
    rate: ["firing rate", (data, row) => -data.rate[row]],
    class: ["class", (data, row) => atlas.classOf(data.topClass[row]) ?? "\uffff"],
    share: ["share of one class", (data, row) => -data.share[row]],
    nearest: ["most similar to another", (data, row) => -data.nearest[row]],
  };
  const SHOWS = {
    all: ["all filters", () => true],
    live: ["live", (data, row) => !data.dead[row]],
    dead: ["dead", (data, row) => data.dead[row]],
    duplicates: ["duplicates", (data, row) => data.duplicate[row] >= 0],
  };
  let layer, data, cards, followed;

  /** The setting of each control, as the address keeps it. */
  const settings = () => ({
    sort: $("sort").value === "channel" ? "" : $("sort").value,
    turned: $("turn").getAttribute("aria-pressed") === "true" ? "1" : "",
    show: $("show").value === "all" ? "" : $("show").value,
    class: $("class").value,
    epoch: epoch() === null ? "" : $("epoch").value,
  });

  /** Which epoch is chosen, or null for the end of the training, with its top pictures. */
  const epoch = () => (data.evolution && Number($("epoch").value) < data.evolution.epochs.length ? Number($("epoch").value) : null);

  function card(row) {
    const channel = data.channels[row];
    const link = el("a", { href: atlas.filterAddress(layer.name, channel), "aria-label": described(row) });
    return el("li", { class: data.dead[row] ? "card dead" : "card", "data-channel": channel, "data-row": row }, link);
  }

  function described(row) {
    const state = data.dead[row] ? ", dead" : data.duplicate[row] >= 0 ? `, duplicate of ${data.duplicate[row]}` : "";
    const best = atlas.classOf(data.topClass[row]);
    return `Filter ${data.channels[row]}, largest activation ${atlas.short(data.maximum[row])}${best ? `, ${best}` : ""}${state}`;
  }

  /** The number below a filter: what the filters are sorted by, if that is a number, or how strongly it fires. */
  function figure(row) {
    if (epoch() !== null) return atlas.exact(data.evolution.values[followed.get(data.channels[row])][epoch()]);
    const sort = $("sort").value;
    if (sort === "rate" || sort === "share") return atlas.percent(data[sort][row]);
    return atlas.exact((["mean", "nearest"].includes(sort) ? data[sort] : data.maximum)[row]);
  }

  /** Draws a card's pictures and words. */
  function fill(row) {
    const label = (kind) => `${kind} of filter ${data.channels[row]}`;
    const blocks = el("span", { class: "pair" });
    for (const kind of ["projections", "patches"]) {
      const node = atlas.block(layer, data, row, kind, label(kind));
      const at = epoch();
      if (at !== null) {
        node.classList.add("single");
        atlas.place(node, layer, data.sheets[`evolution-${kind}`], followed.get(data.channels[row]) * data.evolution.epochs.length + at);
      }
      blocks.append(node);
    }
    // Of one picture alone a class says nothing of the filter.
    const own = data.share[row] * data.k > 1.5 ? atlas.className(data.topClass[row]) : null;
    const state = data.dead[row] ? el("span", { class: "tag" }, "dead") : data.duplicate[row] >= 0 ? el("span", { class: "tag" }, `= ${data.duplicate[row]}`) : null;
    const words = el("span", { class: "words" }, el("b", {}, String(data.channels[row])), figure(row), state ?? own);
    cards[row].firstElementChild.replaceChildren(blocks, words);
    cards[row].dataset.filled = "";
  }

  const watcher = new IntersectionObserver(
    (seen) => {
      for (const one of seen) {
        if (one.isIntersecting && !("filled" in one.target.dataset)) fill(Number(one.target.dataset.row));
      }
    },
    { rootMargin: "600px 0px" },
  );

  function chosen() {
    const [, shown] = SHOWS[$("show").value];
    const label = $("class").value;
    const rows = data.channels.map((_, row) => row).filter((row) =>
      shown(data, row) && (label === "" || data.topClass[row] === Number(label)) && (epoch() === null || followed.has(data.channels[row])));
    const [, by] = SORTS[$("sort").value];
    const keys = new Map(rows.map((row) => [row, by(data, row)]));
    const compared = (a, b) => (a < b ? -1 : a > b ? 1 : a === b ? 0 : Number.isNaN(a) - Number.isNaN(b));
    rows.sort((a, b) => compared(keys.get(a), keys.get(b)) || a - b);
    return $("turn").getAttribute("aria-pressed") === "true" ? rows.reverse() : rows;
  }

  /** Lays the cards out anew; each is observed afresh, so those in view are drawn. */
  function arrange() {
    const rows = chosen();
    watcher.disconnect();
    $("grid").replaceChildren(...rows.map((row) => cards[row]));
    for (const row of rows) watcher.observe(cards[row]);
    $("count").textContent = rows.length === data.channels.length ? `${rows.length} filters` : `${rows.length} of ${data.channels.length} filters`;
    history.replaceState(null, "", atlas.layerAddress(layer.name, settings()).slice("layer.html".length));
  }

  function redraw() {
    for (const one of cards) delete one.dataset.filled;
    const at = epoch();
    $("epoch-told").textContent = at === null ? "end" : String(data.evolution.epochs[at]);
    arrange();
  }

  const options = (node, pairs, value) => {
    node.replaceChildren(...pairs.map(([key, text]) => el("option", { value: key }, text)));
    node.value = pairs.some(([key]) => String(key) === value) ? value : String(pairs[0][0]);
  };

  function controls(wanted) {
    options($("sort"), Object.entries(SORTS).map(([key, [text]]) => [key, text]), wanted.sort);
    options($("show"), Object.entries(SHOWS).map(([key, [text]]) => [key, text]), wanted.show);
    const best = layer.classes.map(([label, count]) => [label, `${atlas.classOf(label)} (${count})`]);
    options($("class"), [["", "any"], ...best.sort((a, b) => (a[1] < b[1] ? -1 : 1))], wanted.class);
    $("turn").setAttribute("aria-pressed", String(wanted.turned === "1"));
    $("epochs").hidden = !data.evolution;
    if (data.evolution) {
      followed = new Map(data.evolution.channels.map((channel, n) => [channel, n]));
      $("epoch").max = data.evolution.epochs.length;
      $("epoch").value = wanted.epoch ?? data.evolution.epochs.length;
    }
  }

  function head() {
    document.title = `${layer.name}: ${given("site").title}`;
    atlas.crumbs(atlas.named(layer.name));
    $("title").replaceChildren(atlas.named(layer.name));
    const layers = given("site").layers;
    const at = layers.indexOf(layer);
    const to = (one) => one && { href: atlas.layerAddress(one.name), title: one.name };
    atlas.steps(to(layers[at - 1]), to(layers[at + 1]));
    $("facts").replaceChildren(
      atlas.fact("Kind", layer.kind), atlas.fact("Size", layer.shape.join(" × ")),
      atlas.fact("Sees", `${layer.receptive_field.join(" × ")} px`), atlas.fact("Stride", Math.max(...layer.stride) ? [...new Set(layer.stride)].join(" × ") : "–"),
      atlas.fact("Parameters", layer.parameters.toLocaleString("en")), atlas.fact("Dead", `${layer.dead} of ${layer.filters}`),
      atlas.fact("Duplicates", String(layer.duplicates)));
  }

  async function open() {
    const { main, settings: wanted } = atlas.address();
    const found = given("site").layers.find((one) => one.name === main);
    if (!found) return atlas.absent(main);
    const arrived = await atlas.layerData(found);
    if (atlas.address().main !== main) return; // the reader has gone on meanwhile
    layer = found;
    data = arrived;
    cards = data.channels.map((_, row) => card(row));
    head();
    controls(wanted);
    redraw();
    document.documentElement.dataset.ready = layer.name;
  }

  /** Moves the focus among the cards. */
  function step(by) {
    const shown = [...$("grid").children];
    const at = shown.findIndex((one) => one.contains(document.activeElement));
    const next = at < 0 ? shown[0] : shown[at + by];
    if (next) next.firstElementChild.focus();
  }

  function level(by) {
    const layers = given("site").layers;
    const next = layer && layers[layers.indexOf(layer) + by];
    if (next) location.hash = atlas.layerAddress(next.name, settings()).split("#")[1];
  }

  for (const id of ["sort", "show", "class"]) $(id).addEventListener("change", redraw);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("epoch").addEventListener("input", redraw);
  $("turn").addEventListener("click", () => {
    $("turn").setAttribute("aria-pressed", String($("turn").getAttribute("aria-pressed") !== "true"));
    arrange();
  });
  atlas.key("ArrowRight", "→", "next filter", () => step(1));
  atlas.key("ArrowLeft", "←", "filter before", () => step(-1));
  atlas.key("ArrowDown", "↓", "next layer", () => level(1));
  atlas.key("ArrowUp", "↑", "layer before", () => level(-1));
  window.addEventListener("hashchange", () => open().catch(atlas.complain));
  open().catch(atlas.complain);
})();
