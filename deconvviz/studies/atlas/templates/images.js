"use strict";
/* The images that the atlas shows, some at a time. */

(() => {
  const { el, $, given } = atlas;
  const TOGETHER = 120;
  const SHOWS = {
    all: ["all images", () => true],
    decided: ["explained", (one) => one[3] !== null],
    right: ["named rightly", (one) => one[3]?.[2] === true],
    wrong: ["named wrongly", (one) => one[3]?.[2] === false],
  };
  let images = [];
  let rest = [];

  function card([image, name, label, verdict]) {
    const said = verdict && el("span", { class: verdict[2] === false ? "words wrong" : "words quiet" }, el("span", { class: "says" }, verdict[2] === false ? "says" : verdict[2] ? "✓" : "?"), atlas.named(verdict[0]), atlas.percent(verdict[1]));
    return el("li", { class: "card", "data-image": image }, el("a", { href: atlas.imageAddress(image), "aria-label": name }, atlas.photo(image, ""),
      el("span", { class: "words" }, label >= 0 ? atlas.className(label) : atlas.named(name)), said));
  }

  /** Adds the next ones when the end of the list comes near. */
  function more() {
    $("grid").append(...rest.splice(0, TOGETHER).map(card));
  }
  const watcher = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting) || !rest.length) return;
    more();
    watcher.unobserve($("more")); // and again, since the end may still be in sight
    watcher.observe($("more"));
  }, { rootMargin: "1200px 0px" });

  function arrange() {
    const [, shown] = SHOWS[$("show").value];
    rest = images.filter((one) => shown(one) && ($("class").value === "" || one[2] === Number($("class").value)));
    $("count").textContent = rest.length === images.length ? `${rest.length} images` : `${rest.length} of ${images.length} images`;
    $("grid").replaceChildren();
    more();
    watcher.unobserve($("more"));
    watcher.observe($("more"));
  }

  function controls() {
    const some = Object.entries(SHOWS).filter(([key]) => key === "all" || given("site").images.decided);
    $("show").append(...some.map(([key, [text]]) => el("option", { value: key }, text)));
    const labels = [...new Set(images.map((one) => one[2]))].filter((label) => label >= 0);
    const names = labels.map((label) => [label, atlas.classOf(label)]).sort((a, b) => (a[1] < b[1] ? -1 : 1));
    $("class").append(el("option", { value: "" }, "any"), ...names.map(([label, name]) => el("option", { value: label }, name)));
    for (const id of ["show", "class"]) $(id).addEventListener("change", arrange);
  }

  /** Moves the focus among the pictures. */
  function step(by) {
    const shown = [...$("grid").children];
    const at = shown.findIndex((one) => one.contains(document.activeElement));
    const next = at < 0 ? shown[0] : shown[at + by];
    if (next) next.firstElementChild.focus();
  }

  async function open() {
    const parts = given("site").images.starts.map((_, part) => atlas.imageList(part));
    images = (await Promise.all(parts)).flat();
    atlas.crumbs(el("span", {}, "Images"));
    controls();
    arrange();
    document.documentElement.dataset.ready = "images";
  }

  atlas.key("ArrowRight", "→", "next image", () => step(1));
  atlas.key("ArrowLeft", "←", "image before", () => step(-1));
  open().catch(atlas.complain);
})();
