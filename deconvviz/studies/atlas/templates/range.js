"use strict";
/* The whole range of a filter: images from its weakest to its strongest, a histogram, and whether the top misleads. */

(() => {
  const { element, byId, nameNode, numberNode } = atlas;
  const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;

  /** An image's part around the filter's strongest unit, with what stands above it. */
  function shownItem({ filter }, [image, value, window], heading) {
    const [name, label] = filter.imageNames[image];
    return element("li", { "data-part": "range", "data-image": image },
      element("a", { href: atlas.imageAddress(image), "aria-label": `${heading}: ${name}` },
        element("span", { class: "quiet" }, heading),
        atlas.pictureTile(image, window, `Part of ${name}`),
        element("span", { class: "words" }, numberNode(value), atlas.classNode(label))));
  }

  const quantileText = (quantile) =>
    ({ 0: "weakest", 1: "strongest" })[quantile] ?? percent(quantile);

  function quantileStrip(current) {
    const { quantiles, images } = current.filter.range;
    return element("ol", { class: "ranged" },
      ...quantiles.map((quantile, n) => shownItem(current, images[n], quantileText(quantile))));
  }

  function weakestStrip(current) {
    const { quantiles, images } = current.filter.range;
    const weakest = images.slice(quantiles.length);
    const values = weakest.map(([, value]) => value);
    const equal = values.length > 1 && values[0] === values[values.length - 1];
    return element("div", {}, element("h3", {}, "Its weakest images"),
      element("p", { class: "quiet" }, equal
        ? "It is equally weak on all of these, and perhaps on others." : "The weakest image comes first.",
      values[0] === 0 ? " Where the filter is zero everywhere, the middle of the image is shown." : ""),
      element("ol", { class: "ranged few" }, ...weakest.map((shown, n) => shownItem(current, shown, String(n + 1)))));
  }

  /** The bins that images lie in, as [from, to, number of images, whether it is the bin of the zeros, left, width]. */
  function binsOf({ data, filter }) {
    const { edges } = data.range;
    return filter.range.bars.flatMap(([first, left, width, counts]) => counts.map((count, n) =>
      [edges[first + n], edges[first + n + 1], count, 2 * (first + n) === edges.length - 2, left + n * width, width]));
  }

  function histogram(current, bins) {
    const { range } = current.filter;
    const nearest = current.data.range.edges[current.data.range.edges.length / 2];
    const most = Math.max(...bins.map(([, , count]) => count));
    const total = bins.reduce((sum, [, , count]) => sum + count, 0);
    const zeros = bins.find(([, , , isZero]) => isZero)?.[2] ?? 0;
    const bars = bins.filter(([, , count]) => count).map(([, , count, isZero, left, width]) => {
      const height = Math.max(count, 0.012 * most); // a bar of a single image is seen too
      return element("rect", { x: left, y: most - height, width: 0.94 * width, height, class: isZero ? "zeros" : "" });
    });
    const onZero = zeros ? `; on ${zeros} it is zero` : "";
    const words = `Histogram of the largest activation on each of ${atlas.counted(total, "image")}${onZero}`;
    const picture = element("svg", {
      viewBox: `0 0 ${range.width} ${most}`, preserveAspectRatio: "none", role: "img", "aria-label": words }, ...bars);
    const ticks = range.ticks.map(([place, text]) =>
      element("span", { style: { left: `${(100 * place) / range.width}%` } }, text));
    return element("figure", { class: "histogram" },
      element("span", { class: "quiet most", "aria-hidden": "true" }, atlas.counted(most, "image")),
      picture, element("span", { class: "ticks", "aria-hidden": "true" }, ...ticks),
      element("figcaption", {}, "largest activation on an image, logarithmic"),
      element("p", { class: "quiet" }, "On how many of all ", numberNode(total, total.toLocaleString("en")),
        " images the filter's largest activation lies in each quarter of an octave.",
        ...(zeros ? [` It is zero, or nearer to zero than ${Number(nearest.toPrecision(2))}, on `,
          numberNode(zeros, zeros.toLocaleString("en")), " (grey)."] : [])));
  }

  function histogramTable(bins) {
    const rows = bins.filter(([, , count]) => count).map(([from, to, count]) =>
      element("tr", { "data-part": "bar" }, element("td", {}, numberNode(from)), element("td", {}, numberNode(to)),
        element("td", {}, numberNode(count))));
    const heads = ["from", "to", "images"].map((text) => element("th", { scope: "col" }, text));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
    const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of the histogram" };
    return element("details", {}, element("summary", {}, "All bars"), element("div", region, table));
  }

  /** Whether the strongest images mislead, and the two numbers that say so. */
  function verdict({ data, row, filter }) {
    const [ofUpper, ofTop] = filter.range.likeness;
    const number = (value, part) => element("span", { "data-part": part }, numberNode(value, value.toFixed(2)));
    if (!Number.isFinite(ofUpper) || !Number.isFinite(ofTop))
      return element("p", { class: "quiet" }, "Whether its strongest images mislead is not known: fewer than two images "
        + "activate it, or it is strong on no other image of its upper range.");
    const numbers = [" The images of its upper range are like its strongest ones by ", number(ofUpper, "upper"),
      "; the strongest ones are like each other by ", number(ofTop, "top"), "."];
    if (!data.range.misleads[row])
      return element("p", { class: "quiet" }, "Its strongest images do not mislead.", ...numbers);
    return element("p", { class: "note", "data-part": "misleads" },
      element("b", {}, "Its strongest images mislead:"), " it responds strongly to other things as well.", ...numbers);
  }

  function meaning({ data }) {
    const { limit, strong, upper: [low, high] } = data.range;
    return element("details", {}, element("summary", {}, "How this is measured"), element("p", { class: "quiet" },
      "Likeness is the cosine between the values of all other filters of the layer at this filter's strongest unit, less "
      + `their means: at 1 two images are alike, at 0 they have nothing in common. Of the upper range are the images at `
      + `${percent(low)} to ${percent(high)} on which the filter's largest activation is at least ${percent(strong)} of that `
      + "on its strongest image. Its strongest images mislead where the first likeness is less than "
      + `${percent(limit)} of the second (our choice).`));
  }

  atlas.showRange = (current) => {
    const { data, filter, layer } = current;
    byId("range").hidden = !filter.range?.images.length;
    if (byId("range").hidden) return byId("range-at").replaceChildren();
    const { sampled } = data.range;
    const every = sampled === layer.count ? `all ${sampled.toLocaleString("en")}` : `${sampled.toLocaleString("en")} randomly sampled`;
    const bins = binsOf(current);
    byId("range-at").replaceChildren(
      verdict(current), meaning(current),
      element("p", { class: "quiet" }, `Images from ${every}, evenly from its weakest to its strongest, cut around the filter's `
        + "strongest unit. Above each stands the share of these images on which the filter is weaker, below it its "
        + "largest activation there."),
      quantileStrip(current),
      element("div", { class: "split" }, weakestStrip(current),
        element("div", {}, element("h3", {}, "How strong it is on all images"), histogram(current, bins), histogramTable(bins))));
  };

  /** Marks a filter whose strongest images mislead. */
  atlas.misleadingTag = (data, row) =>
    data.range?.misleads[row] ? element("span", { class: "tag wrong", "data-part": "misleading" }, "strongest images mislead") : "";
})();
