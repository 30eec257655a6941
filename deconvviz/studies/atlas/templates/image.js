"use strict";
/* An image and the decision on it: image.html#number. */

(() => {
  const { el, $, given } = atlas;
  let here = null; // { image, about, decision, target }

  function head({ image, about, decision }) {
    document.title = `${about.name}: ${given("site").title}`;
    atlas.crumbs(el("a", { href: "images.html" }, "Images"), atlas.named(about.name));
    $("title").replaceChildren(atlas.named(about.name));
    const first = decision && decision.targets[best(decision)];
    $("tags").replaceChildren(
      el("span", { class: "tag" }, "image ", String(image)), el("span", { class: "tag" }, "class ", atlas.className(about.label)),
      decision && decision.label >= 0 && first !== decision.label ? el("span", { class: "tag wrong" }, "named wrongly") : "");
    $("picture").replaceChildren(atlas.photo(image, about.name));
  }

  const best = (decision) => decision.probabilities.indexOf(Math.max(...decision.probabilities));

  function targets({ decision }) {
    $("decision").hidden = !decision;
    if (!decision) return;
    $("targets").replaceChildren(...decision.targets.map((output, n) => {
      const share = decision.probabilities[n];
      return el("li", {}, el("button", { type: "button", "data-target": n, onclick: () => explain(n) },
        el("span", { class: "words" }, atlas.named(decision.names[n]), output === decision.label ? el("span", { class: "tag" }, "its class") : null, atlas.percent(share)),
        el("span", { class: "meter", "aria-hidden": "true" }, el("i", { style: { width: `${100 * share}%` } }))));
    }));
  }

  /** Shows the maps of one of the explained outputs. */
  async function explain(target) {
    here.target = target;
    for (const button of $("targets").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.target) === target));
    await Promise.all([maps(here), occlusion(here)]);
    document.documentElement.dataset.target = target;
  }

  const strength = () => Number($("strength").value) / 100;

  async function maps({ image, decision, target }) {
    const { methods, targets, names } = decision;
    const cut = (method) => (sheet) => {
      const side = { width: sheet.naturalWidth / methods.length, height: sheet.naturalHeight / targets.length };
      return { x: method * side.width, y: target * side.height, ...side };
    };
    const drawn = await Promise.all(methods.map((method, m) =>
      atlas.mapped(image, atlas.mapSheet(image), cut(m), strength(), `${method} for ${names[target]}`)));
    if (target !== here.target || image !== here.image) return; // another was chosen meanwhile
    $("maps-told").replaceChildren("For ", atlas.named(names[target]), ", at layer ", atlas.named(decision.layer), ". Each map in its own range: dark nothing, yellow most.");
    $("maps-at").replaceChildren(...drawn.map((node, m) => el("li", {}, el("figure", {}, node, el("figcaption", {}, atlas.named(methods[m]))))));
  }

  async function occlusion({ image, decision, target }) {
    $("occlusion").hidden = !decision.occlusion;
    if (!decision.occlusion) return;
    const { probability, square, places } = decision.occlusion;
    const values = probability[target];
    const lowest = values.indexOf(Math.min(...values));
    const name = decision.names[target];
    const drawn = await atlas.heated(image, places, values, strength(), `Probability of ${name} while a square hides each part`);
    if (target !== here.target || image !== here.image) return;
    $("occlusion-told").replaceChildren("The probability of ", atlas.named(name), ` while a grey square of ${square.join(" × ")} pixels is there: dark is what the decision needs.`);
    const covered = atlas.framed(image, "", places[lowest], places[lowest]);
    $("occlusion-at").replaceChildren(
      el("li", {}, el("figure", {}, drawn, el("figcaption", {}, atlas.scale(values)))),
      el("li", {}, el("figure", {}, covered, el("figcaption", {}, "Hiding this leaves ", atlas.percent(values[lowest]), " of ", atlas.percent(decision.probabilities[target])))));
  }

  function drives({ about, decision }) {
    const site = given("site");
    const byLayer = new Map();
    for (const [number, ...unit] of about.drives) byLayer.set(number, [...(byLayer.get(number) ?? []), unit]);
    const rows = [...byLayer].map(([number, units]) => {
      const layer = site.layers[number];
      units.sort((a, b) => a[1] - b[1] || a[0] - b[0]);
      const links = units.map(([channel, rank, value]) =>
        el("a", { href: atlas.filterAddress(layer.name, channel), title: `rank ${rank}, ${value}` }, String(channel), rank === 1 ? el("sup", {}, "1") : null));
      return el("tr", {}, el("th", { scope: "row" }, el("a", { href: atlas.layerAddress(layer.name) }, atlas.named(layer.name))), el("td", {}, el("div", { class: "chips" }, ...links)));
    });
    const told = el("p", { class: "quiet" }, "By rank; ", el("sup", {}, "1"), " marks those that no other image drives more.");
    (decision ? $("below") : $("beside")).append($("drives"));
    $("drives-at").replaceChildren(rows.length ? told : el("p", { class: "quiet" }, "None of those that are shown."), el("table", { class: "drives" }, el("tbody", {}, ...rows)));
  }

  function made({ decision }) {
    const { config, sources } = given("site").decisions ?? {};
    $("made-section").hidden = !decision;
    if (!decision) return;
    const { command, ...others } = sources;
    atlas.provenance(command, config, { where: others });
  }

  /** The images before and after, in the whole list; null for one that is not there. */
  async function around(image) {
    const { starts } = given("site").images;
    const part = starts.findLastIndex((first) => first <= image);
    const near = [part - 1, part, part + 1].filter((p) => p >= 0 && p < starts.length);
    const rows = (await Promise.all(near.map(atlas.imageList))).flat();
    const at = rows.findIndex((row) => row[0] === image);
    if (at < 0) return null;
    const to = (row) => row && { href: atlas.imageAddress(row[0]), title: row[1] };
    return [to(rows[at - 1]), to(rows[at + 1])];
  }

  async function open() {
    const { main } = atlas.address();
    const image = Number(main);
    const beside = /^\d+$/.test(main) ? await around(image) : null;
    if (!beside) return atlas.absent(main);
    const about = await atlas.aboutImage(image);
    const decision = about.decided ? await atlas.decisionData(image) : null;
    if (atlas.address().main !== main) return; // the reader has gone on meanwhile
    here = { image, about, decision, target: 0, around: beside };
    for (const part of [head, targets, drives, made]) part(here);
    atlas.steps(...here.around);
    for (const id of ["maps", "occlusion"]) $(id).hidden = !decision;
    if (decision) await explain(best(decision));
    document.documentElement.dataset.ready = String(image);
  }

  function target(by) {
    const next = here?.target + by;
    if (here?.decision && next >= 0 && next < here.decision.targets.length) explain(next).catch(atlas.complain);
  }

  $("strength").addEventListener("input", () => here?.decision && explain(here.target).catch(atlas.complain));
  atlas.key("ArrowRight", "→", "next image", () => atlas.go(here?.around[1]?.href));
  atlas.key("ArrowLeft", "←", "image before", () => atlas.go(here?.around[0]?.href));
  atlas.key("ArrowDown", "↓", "next class to explain", () => target(1));
  atlas.key("ArrowUp", "↑", "class before", () => target(-1));
  window.addEventListener("hashchange", () => open().catch(atlas.complain));
  open().catch(atlas.complain);
})();
