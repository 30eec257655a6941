"use strict";
/* The parts of a filter page that not every filter has: weights, evolution, invariance, occlusion. */

(() => {
  const { el, $ } = atlas;

  /** Shows a section with what is in it, or hides it. */
  const section = (id, node) => {
    $(id).hidden = node === null;
    $(`${id}-at`).replaceChildren(node ?? "");
  };

  function weights({ layer, data, row, channel }) {
    if (!data.sheets.filters) return section("weights", null);
    const node = el("span", { class: "tile weights", role: "img", "aria-label": `Weights of filter ${channel}` });
    section("weights", atlas.place(node, layer, data.sheets.filters, row));
  }

  /** One tile an epoch, from the first to the last, with the filter's largest activation then. */
  function evolution({ layer, data, channel }) {
    const followed = data.evolution ? data.evolution.channels.indexOf(channel) : -1;
    $("evolution").hidden = followed < 0;
    if (followed < 0) return $("film").replaceChildren();
    const epochs = data.evolution.epochs;
    $("film").replaceChildren(...epochs.map((epoch, n) => {
      const tile = (kind) => {
        const node = el("span", { class: `tile ${kind}`, role: "img", "aria-label": `${kind} at epoch ${epoch}` });
        return atlas.place(node, layer, data.sheets[`evolution-${kind}`], followed * epochs.length + n);
      };
      const value = atlas.exact(data.evolution.values[followed][n]);
      return el("li", { "data-part": "evolution" }, tile("projections"), tile("patches"), el("span", { class: "words" }, el("b", {}, `epoch ${epoch}`), value));
    }));
  }

  /** A bar for each kind of transform: 0 is as different as other pictures, 1 is unchanged. */
  function invariance({ filter }) {
    const kinds = Object.entries(filter.invariance ?? {});
    if (!kinds.length) return section("invariance", null);
    const rows = kinds.map(([kind, score]) =>
      el("tr", { "data-part": "invariance", "data-kind": kind }, el("th", { scope: "row" }, atlas.named(kind)), el("td", {}, atlas.exact(score)),
        el("td", {}, el("span", { class: "meter", "aria-hidden": "true" }, el("i", { style: { width: `${100 * Math.min(1, Math.max(0, score || 0))}%` } })))));
    section("invariance", el("div", {}, el("table", { class: "bars" }, el("tbody", {}, ...rows)),
      el("p", { class: "quiet" }, "0: as different as other pictures; 1: unchanged.")));
  }

  async function occlusion({ data, filter, channel }) {
    if (!filter.occlusion || !data.places || filter.occluded < 0) return section("occlusion", null);
    const [name] = filter.named[filter.occluded];
    const label = `Activation of filter ${channel} while a square hides each part of ${name}`;
    const drawn = await atlas.heated(filter.occluded, data.places, filter.occlusion, 0.7, label);
    const values = filter.occlusion.map((value, n) =>
      el("tr", {}, el("th", { scope: "row" }, data.places[n].join(", ")), el("td", { "data-part": "occlusion" }, atlas.exact(value))));
    section("occlusion", el("div", { class: "beside" },
      el("div", {}, el("a", { href: atlas.imageAddress(filter.occluded), class: "canvas", "aria-label": name }, drawn), atlas.scale(filter.occlusion)),
      el("div", {}, el("p", { class: "quiet" }, "The sum of the filter's map in its strongest picture, while a grey square hides each part in turn: dark is what it needs."),
      el("details", {}, el("summary", {}, `All ${values.length} values`),
        el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of the occlusion" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "top, left, bottom, right"), el("th", { scope: "col" }, "sum"))), el("tbody", {}, ...values)))))));
  }

  atlas.filterParts = (shown) => {
    weights(shown);
    evolution(shown);
    invariance(shown);
    return occlusion(shown);
  };
})();
