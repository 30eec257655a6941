"use strict";
/* What every page needs: data that arrives as scripts, addresses, elements and numbers.
   Names of layers, classes and files come from outside: they become text nodes and attributes, never markup. */

const atlas = (() => {
  const valuesByKey = new Map();
  const promisesByKey = new Map();

  /** Every data file calls this. */
  function put(key, value) {
    valuesByKey.set(key, value);
  }

  /** Loads a data file once; resolves to the value that it puts under `key`. A page from the disk may not use fetch. */
  function load(key, file) {
    if (valuesByKey.has(key)) return Promise.resolve(valuesByKey.get(key));
    if (!promisesByKey.has(key)) {
      promisesByKey.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = file;
        script.onload = () => {
          if (valuesByKey.has(key)) resolve(valuesByKey.get(key));
          else reject(new Error(`The file ${file} does not contain ${key}. Make the atlas again.`));
        };
        script.onerror = () => reject(new Error(`The file ${file} is missing. Make the atlas again.`));
        document.head.append(script);
      }));
    }
    return promisesByKey.get(key);
  }

  /** The value of a data file that the page itself includes: "site" or "classes". */
  const included = (key) => valuesByKey.get(key);

  const padded = (number, digits) => String(number).padStart(digits, "0");

  const layerData = (layer) => load(`layer/${layer.folder}`, `layers/${layer.folder}/layer.js`);

  /** Everything about one filter; `imageNames` maps the images that it shows to their name and label. */
  async function filterData(layer, data, row) {
    const chunkNumber = Math.floor(row / data.chunk);
    const file = `layers/${layer.folder}/filters-${padded(chunkNumber, 3)}.js`;
    const chunk = await load(`filters/${layer.folder}/${chunkNumber}`, file);
    return { ...chunk.filters[row % data.chunk], imageNames: chunk.images };
  }

  /** One part of the list of images: rows of [image, name, label, verdict]. */
  const imageList = (part) => load(`images/${part}`, `images/list-${padded(part, 3)}.js`);

  /** The whole list of images. */
  async function allImages() {
    const parts = included("site").images.starts.map((_, part) => imageList(part));
    return (await Promise.all(parts)).flat();
  }

  async function imageDetails(image) {
    const part = Math.floor(image / included("site").images.span);
    const detailsByImage = await load(`about/${part}`, `images/about-${padded(part, 5)}.js`);
    return detailsByImage[image];
  }

  const decisionData = (image) => load(`decision/${image}`, `decisions/${padded(image, 7)}.js`);
  const pictureFile = (image) => `pictures/${padded(Math.floor(image / 1000), 4)}/${padded(image, 7)}.webp`;
  const mapsFile = (image) => `decisions/${padded(image, 7)}.webp`;
  const resembledFile = (image, n) => `decisions/${padded(image, 7)}-like-${n}.webp`;

  /** The address after #: what the page shows, then settings, separated by &. */
  function address() {
    const [subject, ...pairs] = location.hash.slice(1).split("&");
    const settings = {};
    for (const pair of pairs) {
      const [key, value = ""] = pair.split("=");
      settings[decoded(key)] = decoded(value);
    }
    return { subject: decoded(subject), settings };
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // a stray % makes a name that does not exist, and the page says so
    }
  }

  /** Splits "layer:channel" into its two parts; the name of a layer may contain colons too. */
  function splitUnit(text) {
    const colon = text.lastIndexOf(":");
    return colon < 0 ? [text, null] : [text.slice(0, colon), Number(text.slice(colon + 1))];
  }

  function layerAddress(name, settings = {}) {
    const pairs = Object.entries(settings).filter(([, value]) => value !== "" && value != null);
    const suffix = pairs.map(([key, value]) => `&${key}=${encodeURIComponent(value)}`).join("");
    return `layer.html#${encodeURIComponent(name)}${suffix}`;
  }
  const filterAddress = (name, channel) => `filter.html#${encodeURIComponent(name)}:${channel}`;
  const imageAddress = (image) => `image.html#${image}`;

  const SVG_TAGS = ["svg", "rect"];

  /** Makes an element. Attributes on... are listeners, style is a map of properties; children are texts or nodes. */
  function element(tag, attributes = {}, ...children) {
    const isSvg = SVG_TAGS.includes(tag);
    const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value == null || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") {
        for (const [property, setting] of Object.entries(value)) node.style.setProperty(property, setting);
      } else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child != null));
    return node;
  }

  /** A name from outside: the style sheet shortens it, its title holds all of it, and it has its own text direction. */
  const nameNode = (text, className = "name") => element("bdi", { class: className, title: text }, text);

  /** What a filter detects, where names were given; else nothing. */
  const nameOf = (layer, channel) => included("names")?.[layer]?.[channel] ?? "";

  const classOf = (label) => (label >= 0 ? included("classes")[label] ?? `class ${label}` : null);
  const classNode = (label) =>
    label >= 0 ? nameNode(classOf(label)) : element("span", { class: "quiet" }, "no class");

  /** A number with four significant digits. */
  function rounded(value) {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : String(value);
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  }

  /** A rounded number that keeps the exact one as its value and in its title. */
  const numberNode = (value, text = rounded(value)) =>
    element("data", { value: String(value), title: String(value) }, text);

  /** A share in per cent, which is never rounded to 0 % or to 100 %. */
  function percentNode(share) {
    const percent = 100 * share;
    if (!Number.isFinite(share)) return numberNode(share, "–");
    if (percent > 0 && percent < 0.01) return numberNode(share, "< 0.01 %");
    if (percent < 100 && percent > 99.99) return numberNode(share, "> 99.99 %");
    const digits = percent > 99 ? percent.toFixed(2) : percent.toPrecision(3);
    return numberNode(share, `${Number(digits)} %`);
  }

  /** Log-odds with one digit, or two where they are small. */
  const logOddsNode = (value) => numberNode(value, Number.isFinite(value) ? value.toFixed(value < 1 ? 2 : 1) : "∞");

  /** How sure a decision is: [the smallest log-odds, what the network does]. The odds are 1, 3, 20 and 1000 to 1. */
  const SURENESS = [[0, "hesitates"], [Math.log(3), "leans towards one class"], [Math.log(20), "is fairly sure"],
    [Math.log(1000), "is sure"]];

  /** Says in words what the log-odds between the first two classes mean: how sure the network is. */
  const surenessOf = (logOdds) => SURENESS.findLast(([smallest]) => logOdds >= smallest)?.[1] ?? SURENESS[0][1];

  /** How many times as probable the first class is as the second: "1.3 times", "about 20,000 times", "10^9 times". */
  function oddsText(logOdds) {
    const odds = Math.exp(logOdds);
    if (!Number.isFinite(logOdds)) return "beyond measure more";
    if (odds < 10) return `${Number(odds.toPrecision(2))} times as`;
    if (odds < 1e6) return `about ${Number(odds.toPrecision(2)).toLocaleString("en")} times as`;
    return `about 10^${Math.round(logOdds / Math.LN10)} times as`;
  }

  /** What a unit can see, of an image: it may be the whole image, and more than that. */
  function seenText([height, width]) {
    const size = included("site").size;
    const sides = `${height} × ${width} px`;
    if (height < size[0] || width < size[1]) return `${sides} of ${size.join(" × ")}`;
    return `the whole image (its reach of ${sides} is no smaller than the image of ${size.join(" × ")})`;
  }

  /** The name for the numbers of a layer's shape. */
  const shapeName = (shape) => (shape.length === 3 ? "Filters × rows × columns" : "Shape of the layer");

  /** A number of things: "1 filter", "3 filters". */
  const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  /** One fact of a list: its name and its value. */
  const fact = (name, ...value) => element("div", {}, element("dt", {}, name), element("dd", {}, ...value));

  const byId = (id) => document.getElementById(id);

  /** Shows an error on the page. */
  function showError(error) {
    const message = error instanceof Error ? error.message : String(error);
    byId("content").prepend(element("p", { class: "note", role: "alert" }, message));
  }

  return {
    put, included, padded, layerData, filterData, imageList, allImages, imageDetails, decisionData, pictureFile,
    mapsFile, resembledFile, address, splitUnit, layerAddress, filterAddress, imageAddress, element, nameNode, nameOf, classOf, classNode,
    rounded, numberNode, percentNode, logOddsNode, surenessOf, oddsText, seenText, shapeName, counted, fact, byId, showError,
  };
})();
