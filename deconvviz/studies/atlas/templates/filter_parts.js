"use strict";
/* The parts of a filter page that not every filter has: weights, evolution, invariance, occlusion. */

(() => {
  const { element, byId, nameNode, numberNode } = atlas;

  /** Shows a section with its content, or hides it where the content is null. */
  function showSection(id, content) {
    byId(id).hidden = content === null;
    byId(`${id}-at`).replaceChildren(content ?? "");
  }

  function showWeights({ layer, data, row, channel }) {
    if (!data.sheets.filters) return showSection("weights", null);
    const label = `Weights of filter ${channel}`;
    const node = element("span", { class: "tile weights", role: "img", "aria-label": label });
    showSection("weights", atlas.showBlock(node, layer, data.sheets.filters, row));
  }

  /** For each epoch one projection, one patch, and the filter's largest activation at that epoch. */
  function showEvolution({ layer, data, channel }) {
    const evolutionRow = data.evolution ? data.evolution.channels.indexOf(channel) : -1;
    byId("evolution").hidden = evolutionRow < 0;
    if (evolutionRow < 0) return byId("film").replaceChildren();
    const { epochs, values } = data.evolution;
    byId("film").replaceChildren(...epochs.map((epoch, n) => {
      const tile = (kind) => {
        const label = `${kind} at epoch ${epoch}`;
        const node = element("span", { class: `tile ${kind}`, role: "img", "aria-label": label });
        return atlas.showBlock(node, layer, data.sheets[`evolution-${kind}`], evolutionRow * epochs.length + n);
      };
      const words = [element("b", {}, `epoch ${epoch}`), numberNode(values[evolutionRow][n])];
      return element("li", { "data-part": "evolution" },
        tile("projections"), tile("patches"), element("span", { class: "words" }, ...words));
    }));
  }

  /** A bar for the score of each kind of transform. */
  function showInvariance({ filter }) {
    const scores = Object.entries(filter.invariance ?? {});
    if (!scores.length) return showSection("invariance", null);
    const rows = scores.map(([kind, score]) => {
      const width = `${100 * Math.min(1, Math.max(0, score || 0))}%`;
      const meter = element("span", { class: "meter", "aria-hidden": "true" }, element("i", { style: { width } }));
      return element("tr", { "data-part": "invariance", "data-kind": kind },
        element("th", { scope: "row" }, nameNode(kind)), element("td", {}, numberNode(score)),
        element("td", {}, meter));
    });
    const explanation = "1: the transform does not change the filter's maximum; "
      + "0: it changes the maximum as much as another image does.";
    showSection("invariance", element("div", {},
      element("table", { class: "bars" }, element("tbody", {}, ...rows)),
      element("p", { class: "quiet" }, explanation)));
  }

  /** The classes that become less probable where the filter is set to zero. */
  function showOff({ filter }) {
    if (!filter.off) return showSection("off", null);
    const count = filter.images.filter((image) => image >= 0).length;
    if (!count) return showSection("off", null);
    const where = `on the ${atlas.counted(count, "image")} that activate it most`;
    const rows = filter.off.map(([name, before, after]) =>
      element("tr", { "data-part": "off" },
        element("th", { scope: "row" }, nameNode(name)),
        element("td", {}, atlas.percentNode(before)), element("td", {}, atlas.percentNode(after))));
    if (!rows.length) return showSection("off", element("p", { class: "quiet" }, `Without it no class is less probable, ${where}.`));
    const heads = ["class", "with it", "without it"].map((text) => element("th", { scope: "col" }, text));
    showSection("off", element("div", {},
      element("p", { class: "quiet" }, `These classes fall most where the filter is set to zero, ${where}: mean probabilities.`),
      element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows))));
  }

  /** The images in whose decisions the filter had the largest shares of the relevance. */
  function showCarried({ layer, data, row, filter }) {
    if (!filter.carried) return showSection("carried", null);
    const { rule, target } = data.config.relevance;
    const whose = { predicted: "that the network predicts", label: "of its label" }[target] ?? `number ${target}, for every image`;
    const how = ["A share is what the filter adds to the score of a class, as a part of what all filters of ",
      nameNode(layer.name), ` add and take away; the class is the one ${whose} (${rule}). `];
    if (!filter.carried.length) return showSection("carried", element("p", { class: "quiet" }, ...how, "This filter adds to no decision."));
    const items = filter.carried.map(([image, share], rank) => {
      const [name, label] = filter.imageNames[image];
      return element("li", { "data-part": "carried", "data-image": image },
        element("a", { href: atlas.imageAddress(image), "aria-label": `${rank + 1}: ${name}` },
          atlas.tileNode(layer, data, row, rank, "relevance-patches", `Patch of ${name}`),
          element("span", { class: "words" }, atlas.percentNode(share), atlas.classNode(label))));
    });
    showSection("carried", element("div", {},
      element("p", { class: "quiet" }, ...how, "A patch lies around the place that adds most."),
      element("ol", { class: "reasons" }, ...items)));
  }

  /** The sum of the filter's map under each place of a square, over the picture, and all numbers in a table. */
  async function showOcclusion({ data, filter, channel }) {
    const image = filter.occluded;
    if (!filter.occlusion || !data.places || image < 0) return showSection("occlusion", null);
    const [name] = filter.imageNames[image];
    const label = `Activation of filter ${channel} while a square covers each part of ${name}`;
    const canvas = await atlas.occlusionOverPicture(image, data.places, filter.occlusion, 0.7, label);
    const link = { href: atlas.imageAddress(image), class: "canvas", "aria-label": name };
    const explanation = "The sum of the filter's map over its strongest image, while a grey square covers each part "
      + "of the image in turn. Dark parts are those that the filter needs.";
    showSection("occlusion", element("div", { class: "beside" },
      element("div", {}, element("a", link, canvas), atlas.scaleNode(filter.occlusion)),
      element("div", {}, element("p", { class: "quiet" }, explanation),
        occlusionTable(data.places, filter.occlusion))));
  }

  function occlusionTable(places, values) {
    const rows = values.map((value, n) =>
      element("tr", {}, element("th", { scope: "row" }, places[n].join(", ")),
        element("td", { "data-part": "occlusion" }, numberNode(value))));
    const heads = ["top, left, bottom, right", "sum"].map((text) => element("th", { scope: "col" }, text));
    const table = element("table", {},
      element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
    const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of the occlusion" };
    return element("details", {},
      element("summary", {}, `All ${values.length} values`), element("div", region, table));
  }

  atlas.showOptionalParts = (current) => {
    showWeights(current);
    showEvolution(current);
    showInvariance(current);
    showOff(current);
    showCarried(current);
    return showOcclusion(current);
  };
})();
