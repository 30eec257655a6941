"use strict";
/* What every page stands on: data that arrives as scripts, addresses, elements and numbers.
   Names come from files and classes: they become text nodes and attributes, never markup. */

const atlas = (() => {
  const arrived = new Map();
  const waiting = new Map();

  /** Called by each data file. */
  function put(key, value) {
    arrived.set(key, value);
  }

  /** Loads a data file once and resolves to what it put under `key`; a page from the disk may not fetch. */
  function get(key, file) {
    if (arrived.has(key)) return Promise.resolve(arrived.get(key));
    if (!waiting.has(key)) {
      waiting.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = file;
        script.onload = () => (arrived.has(key) ? resolve(arrived.get(key)) : reject(new Error(`${file} has no ${key}`)));
        script.onerror = () => reject(new Error(`${file} is missing: make the atlas again`));
        document.head.append(script);
      }));
    }
    return waiting.get(key);
  }

  /** What an assets script put that the page loaded itself. */
  const given = (key) => arrived.get(key);

  const number3 = (n) => String(n).padStart(3, "0");
  const number7 = (n) => String(n).padStart(7, "0");

  const layerData = (layer) => get(`layer/${layer.folder}`, `layers/${layer.folder}/layer.js`);

  /** Everything about one filter, and the names and labels of the images it shows. */
  async function filterData(layer, data, row) {
    const part = Math.floor(row / data.chunk);
    const file = `layers/${layer.folder}/filters-${number3(part)}.js`;
    const chunk = await get(`filters/${layer.folder}/${part}`, file);
    return { ...chunk.filters[row % data.chunk], named: chunk.images };
  }

  /** One part of the list of images: rows of [image, name, label, verdict]. */
  const imageList = (part) => get(`images/${part}`, `images/list-${number3(part)}.js`);

  async function aboutImage(image) {
    const part = Math.floor(image / given("site").images.span);
    const file = `images/about-${String(part).padStart(5, "0")}.js`;
    return (await get(`about/${part}`, file))[image];
  }

  const decisionData = (image) => get(`decision/${image}`, `decisions/${number7(image)}.js`);
  const picture = (image) => `pictures/${String(Math.floor(image / 1000)).padStart(4, "0")}/${number7(image)}.webp`;
  const mapSheet = (image) => `decisions/${number7(image)}.webp`;

  /** The address after #: what it names, then &-separated settings. */
  function address() {
    const [main, ...rest] = location.hash.slice(1).split("&");
    const settings = {};
    for (const one of rest) {
      const [key, value = ""] = one.split("=");
      settings[decoded(key)] = decoded(value);
    }
    return { main: decoded(main), settings };
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // a stray % is only a name that will not be found
    }
  }

  /** "layer:channel" -> its two parts; a layer's name may hold colons itself. */
  function unit(text) {
    const colon = text.lastIndexOf(":");
    return colon < 0 ? [text, null] : [text.slice(0, colon), Number(text.slice(colon + 1))];
  }

  const layerAddress = (name, settings = {}) => {
    const more = Object.entries(settings).filter(([, value]) => value !== "" && value != null);
    return `layer.html#${encodeURIComponent(name)}${more.map(([k, v]) => `&${k}=${encodeURIComponent(v)}`).join("")}`;
  };
  const filterAddress = (name, channel) => `filter.html#${encodeURIComponent(name)}:${channel}`;
  const imageAddress = (image) => `image.html#${image}`;

  /** Makes an element; on... are listeners, style is a map of properties, children are texts or elements. */
  function el(tag, settings = {}, ...children) {
    const svg = tag === "svg" || tag === "rect";
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(settings)) {
      if (value == null || value === false) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "style") for (const [name, set] of Object.entries(value)) node.style.setProperty(name, set);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child != null));
    return node;
  }

  /** A name from outside: shortened by the style sheet, whole in its title, its direction its own affair. */
  const named = (text, kind = "name") => el("bdi", { class: kind, title: text }, text);

  const classOf = (label) => (label >= 0 ? given("classes")[label] ?? `class ${label}` : null);
  const className = (label) => (label >= 0 ? named(classOf(label)) : el("span", { class: "quiet" }, "no class"));

  /** Four digits of a number; for the eye only. */
  function short(value) {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : String(value);
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  }

  /** A number to read, which holds the whole one: as its value and in its title. */
  const exact = (value, shown = short(value)) => el("data", { value: String(value), title: String(value) }, shown);

  /** A share as per cent, never rounded to all or nothing. */
  function percent(share) {
    const hundred = 100 * share;
    if (!Number.isFinite(share)) return exact(share, "–");
    if (hundred > 0 && hundred < 0.01) return exact(share, "< 0.01 %");
    if (hundred < 100 && hundred > 99.99) return exact(share, "> 99.99 %");
    return exact(share, `${hundred > 99 ? Number(hundred.toFixed(2)) : Number(hundred.toPrecision(3))} %`);
  }

  /** One fact of a list: its name and what it is. */
  const fact = (name, ...what) => el("div", {}, el("dt", {}, name), el("dd", {}, ...what));

  const $ = (id) => document.getElementById(id);

  /** Says on the page what went wrong; the last resort. */
  function complain(error) {
    const message = error instanceof Error ? error.message : String(error);
    $("content").prepend(el("p", { class: "note", role: "alert" }, message));
  }

  return {
    put, get, given, layerData, filterData, imageList, aboutImage, decisionData, picture, mapSheet, number3, address,
    unit, layerAddress, filterAddress, imageAddress, el, named, classOf, className, short, exact, percent, fact, $,
    complain,
  };
})();
