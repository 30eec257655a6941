"use strict";
/* The images that the atlas shows, some at a time. */

(() => {
  const { element, byId, included, nameNode } = atlas;
  const TOGETHER = 120; // images that are added at once
  /* key -> what the list calls it, and whether an image with this verdict, [class, probability, correct, second class,
     log-odds, its probability], is shown */
  const SHOWS = {
    all: ["all images", () => true],
    decided: ["explained", (verdict) => verdict !== null],
    hesitant: ["the network hesitates", (verdict) => verdict !== null && verdict[4] < Math.log(3)],
    right: ["classified correctly", (verdict) => verdict?.[2] === true],
    wrong: ["classified incorrectly", (verdict) => verdict?.[2] === false],
  };
  const SIGNS = new Map([
    [true, ["✓", "classified correctly"]], [false, ["✗", "classified incorrectly"]], [null, ["?", "of unknown class"]],
  ]);
  let images = [];
  let remaining = [];

  function verdictNodes([className, probability, correct, second, logOdds, secondProbability]) {
    const [sign, meaning] = SIGNS.get(correct);
    const first = element("span", { class: correct === false ? "words wrong" : "words quiet" },
      element("span", { class: "sign", title: meaning }, sign), nameNode(className), atlas.percentNode(probability));
    return [first, element("span", { class: "words quiet" }, nameNode(`or ${second}`), atlas.percentNode(secondProbability)),
      element("span", { class: "quiet" }, "log-odds ", atlas.logOddsNode(logOdds))];
  }

  function newCard([image, name, label, verdict]) {
    const title = label >= 0 ? atlas.classNode(label) : nameNode(name);
    return element("li", { class: "card", "data-image": image },
      element("a", { href: atlas.imageAddress(image), "aria-label": name }, atlas.pictureNode(image, ""),
        element("span", { class: "words" }, title), ...(verdict ? verdictNodes(verdict) : [])));
  }

  /** Adds the next images; called when the end of the list comes near the window. */
  function addCards() {
    byId("grid").append(...remaining.splice(0, TOGETHER).map(newCard));
  }
  const endNearWindow = new IntersectionObserver((entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting) || !remaining.length) return;
    addCards();
    observeEnd(); // the end may still be near
  }, { rootMargin: "1200px 0px" });

  function observeEnd() {
    endNearWindow.unobserve(byId("more"));
    endNearWindow.observe(byId("more"));
  }

  /** Of two images the one whose decision is explained comes first, and of these the one that is more doubtful. */
  const byDoubt = ([, , , a], [, , , b]) => (a?.[4] ?? Infinity) - (b?.[4] ?? Infinity) || (a ? 0 : 1) - (b ? 0 : 1) || 0;

  function arrange() {
    const [, isShown] = SHOWS[byId("show").value];
    const wantedClass = byId("class").value;
    remaining = images.filter(([, , label, verdict]) =>
      isShown(verdict) && (wantedClass === "" || label === Number(wantedClass)));
    const total = atlas.counted(images.length, "image");
    byId("count").textContent = remaining.length === images.length ? total : `${remaining.length} of ${total}`;
    byId("grid").replaceChildren();
    addCards();
    observeEnd();
  }

  function showControls() {
    const shows = Object.entries(SHOWS).filter(([key]) => key === "all" || included("site").images.decided);
    byId("show").append(...shows.map(([key, [text]]) => element("option", { value: key }, text)));
    const labels = [...new Set(images.map(([, , label]) => label))].filter((label) => label >= 0);
    const classes = labels.map((label) => [label, atlas.classOf(label)]).sort(([, a], [, b]) => (a < b ? -1 : 1));
    const choices = classes.map(([label, name]) => element("option", { value: label }, name));
    byId("class").append(element("option", { value: "" }, "any class"), ...choices);
    for (const id of ["show", "class"]) byId(id).addEventListener("change", arrange);
  }

  async function open() {
    images = (await atlas.allImages()).sort(byDoubt);
    atlas.showCrumbs(element("span", {}, "Images"));
    showControls();
    arrange();
    document.documentElement.dataset.ready = "images";
  }

  atlas.onKey("ArrowRight", "→", "Go to the next image", () => atlas.stepFocus(byId("grid"), 1));
  atlas.onKey("ArrowLeft", "←", "Go to the previous image", () => atlas.stepFocus(byId("grid"), -1));
  open().catch(atlas.showError);
})();
