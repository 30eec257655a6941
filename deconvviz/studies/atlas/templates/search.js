"use strict";
/* The search: filters as layer:channel, classes, file names. Names of images are loaded when it is first opened. */

(() => {
  const { el, $, given } = atlas;
  const MOST = 24; // of each kind, lest the classes hide the files
  let images = null;

  async function opened() {
    $("search").showModal();
    $("query").select();
    if (images === null) {
      const parts = given("site").images.starts.map((_, part) => atlas.imageList(part));
      images = (await Promise.all(parts)).flat().map(([image, name]) => ({ image, name, low: name.toLowerCase() }));
      update();
    }
  }

  /** "7:12" -> channel 12 of each layer with "7" in its name; without a colon the layers themselves. */
  function filters(query) {
    const [name, channel] = atlas.unit(query);
    const layers = given("site").layers.filter((layer) => layer.name.toLowerCase().includes(name.trim()));
    const exact = layers.filter((layer) => layer.name.toLowerCase() === name.trim());
    const ordered = [...exact, ...layers.filter((layer) => !exact.includes(layer))];
    if (channel === null) return ordered.map((layer) => [atlas.layerAddress(layer.name), layer.name, `layer, ${layer.filters} filters`]);
    if (!Number.isInteger(channel)) return [];
    return ordered
      .filter((layer) => (layer.channels ? layer.channels.includes(channel) : channel >= 0 && channel < layer.filters))
      .map((layer) => [atlas.filterAddress(layer.name, channel), `${layer.name}:${channel}`, "filter"]);
  }

  /** Classes by name, and where their filters are; `best` counts live filters whose top pictures are mostly of it. */
  function classes(query) {
    const found = [];
    (given("classes") ?? []).forEach((name, label) => {
      if (!name.toLowerCase().includes(query)) return;
      for (const layer of given("site").layers) {
        const [, count] = layer.classes.find(([one]) => one === label) ?? [];
        if (count) found.push([atlas.layerAddress(layer.name, { class: label }), name, `class, ${count} filter${count > 1 ? "s" : ""} of ${layer.name}`]);
      }
    });
    return found;
  }

  function names(query) {
    const found = (images ?? []).filter((one) => one.low.includes(query));
    return found.map((one) => [atlas.imageAddress(one.image), one.name, "image"]);
  }

  function update() {
    const query = $("query").value.trim().toLowerCase();
    const kinds = query ? [filters(query), classes(query), names(query)] : [];
    const found = kinds.reduce((sum, kind) => sum + kind.length, 0);
    const rows = kinds.flatMap((kind) => kind.slice(0, MOST)).map(([href, name, kind]) =>
      el("li", {}, el("a", { href, onclick: () => $("search").close() }, atlas.named(name), el("span", { class: "quiet name", title: kind }, kind))));
    $("results").replaceChildren(...rows);
    const more = found > rows.length ? `, ${rows.length} are shown` : "";
    const loading = images === null ? "; names of images are loading" : "";
    $("found").textContent = query ? `${found} found${more}${loading}` : "";
  }

  /** Down and up walk through the query and the results; Enter in the query takes the first. */
  $("search").addEventListener("keydown", (event) => {
    const stops = [$("query"), ...$("results").querySelectorAll("a")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const next = stops[Math.max(0, stops.indexOf(document.activeElement)) + step];
      if (next) next.focus();
      event.preventDefault();
    } else if (event.key === "Escape") {
      event.preventDefault(); // which would only empty the query
      $("search").close();
    } else if (event.key === "Enter" && document.activeElement === $("query")) {
      event.preventDefault();
      if (stops[1]) stops[1].click();
    }
  });
  $("query").addEventListener("input", update);
  $("open-search").addEventListener("click", () => opened().catch(atlas.complain));
  atlas.key("/", "/", "searches: layer:channel, class, file name", () => opened().catch(atlas.complain));
})();
