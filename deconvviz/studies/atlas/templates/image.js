"use strict";
/* An image and the decision on it: image.html#number. */

(() => {
  const { element, byId, included, nameNode, percentNode } = atlas;
  let current = null; // { image, details, decision, target, neighbours } of the image that is shown

  const mostProbable = ({ probabilities }) => probabilities.indexOf(Math.max(...probabilities));

  function showHead({ image, details, decision }) {
    document.title = `${details.name}: ${included("site").title}`;
    atlas.showCrumbs(element("a", { href: "images.html" }, "Images"), nameNode(details.name));
    byId("title").replaceChildren(nameNode(details.name));
    const isWrong = decision && decision.label >= 0 && decision.targets[mostProbable(decision)] !== decision.label;
    const classTag = details.label < 0 ? ["unknown class"] : ["class ", atlas.classNode(details.label)];
    byId("tags").replaceChildren(
      element("span", { class: "tag" }, "image ", String(image)),
      element("span", { class: "tag" }, ...classTag),
      isWrong ? element("span", { class: "tag wrong" }, "classified incorrectly") : "");
    byId("picture").replaceChildren(atlas.pictureNode(image, details.name));
  }

  function targetButton(decision, n) {
    const probability = decision.probabilities[n];
    const isLabel = decision.targets[n] === decision.label;
    const words = [
      nameNode(decision.names[n]), isLabel ? element("span", { class: "tag" }, "its class") : null,
      percentNode(probability),
    ];
    const bar = element("i", { style: { width: `${100 * probability}%` } });
    return element("button", { type: "button", "data-target": n, onclick: () => explain(n) },
      element("span", { class: "words" }, ...words), element("span", { class: "meter", "aria-hidden": "true" }, bar));
  }

  function showTargets({ decision }) {
    byId("decision").hidden = !decision;
    if (!decision) return;
    showSureness(decision);
    const items = decision.targets.map((_, n) => element("li", {}, targetButton(decision, n)));
    byId("targets").replaceChildren(...items);
  }

  /** Says how sure the network is: a probability near 100 % hides it, log-odds do not. */
  function showSureness(decision) {
    const first = decision.names[mostProbable(decision)];
    const isWrong = decision.label >= 0 && decision.targets[mostProbable(decision)] !== decision.label;
    const [highest, second] = [...decision.probabilities].sort((a, b) => b - a);
    byId("sureness").replaceChildren(
      `The network ${atlas.surenessOf(decision.logOdds)}${isWrong ? ", and it is wrong" : ""}: the class `,
      nameNode(first), " (", percentNode(highest), `) is ${atlas.oddsText(decision.logOdds)} probable as the second class, `,
      nameNode(decision.second), " (", percentNode(second), "; log-odds ", atlas.logOddsNode(decision.logOdds), ").");
  }

  /** Shows the maps of one of the outputs that are explained. */
  async function explain(target) {
    current.target = target;
    for (const button of byId("targets").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.target) === target));
    await Promise.all([showReasons(current), showMaps(current), showOcclusion(current)]);
    document.documentElement.dataset.target = target;
  }

  /** Says because of which filters the network decides for a class, and shows what these filters react to. */
  async function showReasons({ image, decision, target }) {
    byId("because").hidden = !decision.because;
    if (!decision.because) return;
    const { layer: name, rule, sentences, channels } = decision.because;
    const layer = included("site").layers.find((candidate) => candidate.name === name);
    const data = layer && (await atlas.layerData(layer));
    if (!isCurrent(image, target)) return;
    byId("because-sentence").replaceChildren(nameNode(sentences[target], "wrap"));
    byId("because-at").replaceChildren(...channels[target].map(([channel, share]) => reasonNode(layer, data, channel, share)));
    const hasPatches = channels[target].some(([channel]) => data?.channels.includes(channel));
    byId("because-caption").replaceChildren(
      "The score of the class is shared out among the filters of ", nameNode(name), ` (${rule}). A share is what a filter `
      + "adds to the score, as a part of what all filters add and take away.",
      hasPatches ? " The patches are those of the images that activate the filter most." : "");
  }

  /** One filter that decides: its patches as a link to its page, its number, what it detects, and its share. */
  function reasonNode(layer, data, channel, share) {
    const row = data ? data.channels.indexOf(channel) : -1; // -1 where that filter is not shown
    const attributes = { class: "block", role: "img", "aria-label": `Patches of filter ${channel}`, style: { "--side": data?.side } };
    const detected = layer ? atlas.nameOf(layer.name, channel) : "";
    const content = [
      row < 0 ? null : atlas.showBlock(element("span", attributes), layer, data.sheets.patches, row),
      element("span", { class: "words" }, element("b", {}, String(channel)), percentNode(share)),
      detected ? element("span", { class: "words" }, nameNode(detected)) : null,
      share < 0 ? element("span", { class: "quiet" }, "against it") : null,
    ];
    return element("li", { "data-part": "reason", "data-channel": channel },
      row < 0 ? element("span", {}, ...content) : element("a", { href: atlas.filterAddress(layer.name, channel) }, ...content));
  }

  const opacity = () => Number(byId("strength").value) / 100;
  const isCurrent = (image, target) => image === current.image && target === current.target;

  async function showMaps({ image, decision, target }) {
    const { methods, targets, names, layers } = decision;
    const partOf = (column) => (sheet) => {
      const [width, height] = [sheet.naturalWidth / methods.length, sheet.naturalHeight / targets.length];
      return { x: column * width, y: target * height, width, height };
    };
    const canvases = await Promise.all(methods.map((method, column) =>
      atlas.mapOverPicture(image, atlas.mapsFile(image), partOf(column), opacity(), `${method} for ${names[target]}`)));
    if (!isCurrent(image, target)) return; // the reader has chosen another meanwhile
    byId("maps-caption").replaceChildren(
      "These maps explain the score of the class ", nameNode(names[target]),
      ". Each map has its own scale: dark violet is its lowest value, yellow its highest.");
    const caption = (n) => [nameNode(methods[n]), ...(layers[n] ? [" at ", nameNode(layers[n])] : [])];
    byId("maps-at").replaceChildren(...canvases.map((canvas, n) =>
      element("li", {}, element("figure", {}, canvas, element("figcaption", {}, ...caption(n))))));
    byId("maps-scale").replaceChildren(atlas.ownScaleNode());
  }

  async function showOcclusion({ image, decision, target }) {
    byId("occlusion").hidden = !decision.occlusion;
    if (!decision.occlusion) return;
    const { probability, square, places } = decision.occlusion;
    const values = probability[target];
    const lowest = values.indexOf(Math.min(...values));
    const name = decision.names[target];
    const label = `Probability of ${name} while a square covers each part of the image`;
    const whole = decision.probabilities[target];
    const canvas = await atlas.occlusionOverPicture(image, places, values, opacity(), label, whole);
    if (!isCurrent(image, target)) return;
    byId("occlusion-caption").replaceChildren(
      "The probability of the class ", nameNode(name), `, while a grey square of ${square.join(" × ")} pixels covers `
      + "each part of the image in turn. Dark parts are those that the decision needs. The mark on the scale is the "
      + "probability without the square, ", percentNode(whole), ".");
    const framed = atlas.framedPicture(image, "", places[lowest], places[lowest]);
    const comparison = [
      "With the square here, the probability is lowest: ", percentNode(values[lowest]), " instead of ",
      percentNode(whole), ".",
    ];
    byId("occlusion-at").replaceChildren(
      element("li", {}, element("figure", {}, canvas, element("figcaption", {}, atlas.probabilityScaleNode(values, whole)))),
      element("li", {}, element("figure", {}, framed, element("figcaption", {}, ...comparison))));
  }

  /** Lists the filters that have this image among their strongest, layer by layer. */
  function showFilters({ details, decision }) {
    const unitsByLayer = new Map();
    for (const [layerNumber, channel, rank, value] of details.drives)
      unitsByLayer.set(layerNumber, [...(unitsByLayer.get(layerNumber) ?? []), { channel, rank, value }]);
    const rows = [...unitsByLayer].map(([layerNumber, units]) => {
      const { name } = included("site").layers[layerNumber];
      units.sort((a, b) => a.rank - b.rank || a.channel - b.channel);
      const links = units.map(({ channel, rank, value }) =>
        element("a", { href: atlas.filterAddress(name, channel), title: `rank ${rank}, activation ${value}` },
          String(channel), rank === 1 ? element("sup", {}, "1") : null));
      const head = element("a", { href: atlas.layerAddress(name) }, nameNode(name));
      return element("tr", {},
        element("th", { scope: "row" }, head), element("td", {}, element("div", { class: "chips" }, ...links)));
    });
    const explanation = rows.length
      ? ["These filters have this image among their strongest. The mark ", element("sup", {}, "1"),
        " means that no other image activates the filter more."]
      : ["No filter that is shown has this image among its strongest."];
    (decision ? byId("below") : byId("beside")).append(byId("drives"));
    byId("drives-at").replaceChildren(
      element("p", { class: "quiet" }, ...explanation),
      element("table", { class: "drives" }, element("tbody", {}, ...rows)));
  }

  /** Shows the training images whose embeddings are nearest to that of this image. */
  function showResembled({ image, decision }) {
    byId("resembles").hidden = !decision?.resembles;
    if (!decision?.resembles) return;
    const { layer, images } = decision.resembles;
    byId("resembles-at").replaceChildren(...images.map(([name, className, cosine], n) =>
      element("li", {}, element("figure", {},
        element("img", { src: atlas.resembledFile(image, n), alt: `Training image ${name}`, loading: "lazy" }),
        element("figcaption", {}, ...(className ? [nameNode(className), ", "] : []), atlas.numberNode(cosine))))));
    byId("resembles-caption").replaceChildren(
      "Of all training images these are nearest to this one, by the cosine of their embeddings: the mean of each channel of ",
      nameNode(layer), ". The number is the cosine; of an image itself it is 1.");
  }

  function showProvenance({ decision }) {
    byId("made-section").hidden = !decision;
    if (!decision) return;
    const { config, sources: allSources } = included("site").decisions;
    const { command, ...sources } = allSources;
    atlas.showProvenance(command, config, { sources });
  }

  /** The previous and the next image of the whole list as link targets; null where the image is not in the list. */
  async function neighboursOf(image) {
    const { starts } = included("site").images;
    const part = starts.findLastIndex((first) => first <= image);
    const parts = [part - 1, part, part + 1].filter((number) => number >= 0 && number < starts.length);
    const rows = (await Promise.all(parts.map(atlas.imageList))).flat();
    const place = rows.findIndex(([listed]) => listed === image);
    if (place < 0) return null;
    const target = (row) => row && { href: atlas.imageAddress(row[0]), title: row[1] };
    return [target(rows[place - 1]), target(rows[place + 1])];
  }

  async function open() {
    const { subject } = atlas.address();
    const image = Number(subject);
    const neighbours = /^\d+$/.test(subject) ? await neighboursOf(image) : null;
    if (!neighbours) return atlas.showAbsent(subject);
    const details = await atlas.imageDetails(image);
    const decision = details.decided ? await atlas.decisionData(image) : null;
    if (atlas.address().subject !== subject) return; // the reader has left for another image meanwhile
    current = { image, details, decision, target: 0, neighbours };
    for (const showPart of [showHead, showTargets, showResembled, showFilters, showProvenance]) showPart(current);
    atlas.showSteps(...neighbours);
    for (const id of ["maps", "occlusion"]) byId(id).hidden = !decision;
    if (decision) await explain(mostProbable(decision));
    document.documentElement.dataset.ready = String(image);
  }

  function goToTarget(step) {
    const next = current?.target + step;
    if (current?.decision && next >= 0 && next < current.decision.targets.length) explain(next).catch(atlas.showError);
  }

  byId("strength").addEventListener("input", () => current?.decision && explain(current.target).catch(atlas.showError));
  atlas.onKey("ArrowRight", "→", "Go to the next image", () => atlas.follow(current?.neighbours[1]?.href));
  atlas.onKey("ArrowLeft", "←", "Go to the previous image", () => atlas.follow(current?.neighbours[0]?.href));
  atlas.onKey("ArrowDown", "↓", "Explain the next class", () => goToTarget(1));
  atlas.onKey("ArrowUp", "↑", "Explain the previous class", () => goToTarget(-1));
  window.addEventListener("hashchange", () => open().catch(atlas.showError));
  open().catch(atlas.showError);
})();
