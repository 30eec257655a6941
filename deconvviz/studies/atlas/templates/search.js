"use strict";
/* The search finds filters as layer:channel and by what they detect, classes and file names. The names are loaded when it is first opened. */

(() => {
  const { element, byId, included, nameNode, counted } = atlas;
  const LIMIT = 24; // results of each kind, so that the classes do not hide the files
  let images = null;

  async function openSearch() {
    byId("search").showModal();
    byId("query").select();
    if (images === null) {
      images = (await atlas.allImages()).map(([image, name]) => ({ image, name, lowerName: name.toLowerCase() }));
      showResults();
    }
  }

  /** "7:12" finds channel 12 of each layer with "7" in its name; without a colon the layers themselves are found. */
  function findFilters(query) {
    const [name, channel] = atlas.splitUnit(query);
    const layers = included("site").layers.filter((layer) => layer.name.toLowerCase().includes(name.trim()));
    const exactMatches = layers.filter((layer) => layer.name.toLowerCase() === name.trim());
    const ordered = [...exactMatches, ...layers.filter((layer) => !exactMatches.includes(layer))];
    if (channel === null)
      return ordered.map((layer) =>
        [atlas.layerAddress(layer.name), layer.name, `layer with ${counted(layer.filters, "filter")}`]);
    if (!Number.isInteger(channel)) return [];
    return ordered
      .filter((layer) => (layer.channels ? layer.channels.includes(channel) : channel >= 0 && channel < layer.filters))
      .map((layer) => [atlas.filterAddress(layer.name, channel), `${layer.name}:${channel}`, "filter"]);
  }

  /** Finds classes by name, and the layers with filters whose strongest images are mostly of the class. */
  function findClasses(query) {
    const results = [];
    (included("classes") ?? []).forEach((name, label) => {
      if (!name.toLowerCase().includes(query)) return;
      for (const layer of included("site").layers) {
        const [, count] = layer.classes.find(([classLabel]) => classLabel === label) ?? [];
        if (!count) continue;
        const kind = `class of ${counted(count, "filter")} in ${layer.name}`;
        results.push([atlas.layerAddress(layer.name, { class: label }), name, kind]);
      }
    });
    return results;
  }

  /** Finds filters by what they detect, where names were given. */
  function findNames(query) {
    return Object.entries(included("names") ?? {}).flatMap(([layer, names]) =>
      Object.entries(names)
        .filter(([, name]) => name.toLowerCase().includes(query))
        .map(([channel, name]) => [atlas.filterAddress(layer, Number(channel)), name, `filter ${layer}:${channel}`]));
  }

  function findImages(query) {
    const matches = (images ?? []).filter(({ lowerName }) => lowerName.includes(query));
    return matches.map(({ image, name }) => [atlas.imageAddress(image), name, "image"]);
  }

  function resultNode([href, name, kind]) {
    const link = { href, onclick: () => byId("search").close() };
    return element("li", {},
      element("a", link, nameNode(name), element("span", { class: "quiet name", title: kind }, kind)));
  }

  function showResults() {
    const query = byId("query").value.trim().toLowerCase();
    const resultsByKind = query ? [findFilters(query), findNames(query), findClasses(query), findImages(query)] : [];
    const count = resultsByKind.reduce((sum, results) => sum + results.length, 0);
    const listed = resultsByKind.flatMap((results) => results.slice(0, LIMIT));
    byId("results").replaceChildren(...listed.map(resultNode));
    const more = count > listed.length ? `, ${listed.length} of them are listed` : "";
    const loading = images === null ? "; the names of the images are loading" : "";
    byId("result-count").textContent = query ? `${counted(count, "result")}${more}${loading}` : "";
  }

  /** The arrow keys walk through the query and the results; Enter in the query takes the first result. */
  byId("search").addEventListener("keydown", (event) => {
    const stops = [byId("query"), ...byId("results").querySelectorAll("a")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const next = stops[Math.max(0, stops.indexOf(document.activeElement)) + step];
      if (next) next.focus();
      event.preventDefault();
    } else if (event.key === "Escape") {
      event.preventDefault(); // the browser would only empty the query
      byId("search").close();
    } else if (event.key === "Enter" && document.activeElement === byId("query")) {
      event.preventDefault();
      if (stops[1]) stops[1].click();
    }
  });
  byId("query").addEventListener("input", showResults);
  byId("open-search").addEventListener("click", () => openSearch().catch(atlas.showError));
  atlas.onKey("/", "/", "Search for layer:channel, what a filter detects, a class or a file name", () =>
    openSearch().catch(atlas.showError));
})();
