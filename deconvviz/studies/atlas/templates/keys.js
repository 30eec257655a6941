"use strict";
/* Keys: one list, which answers the keyboard and fills the help. */

(() => {
  const { el, $ } = atlas;
  const keys = [];

  /** Has a key do something; label: how it is called in the help. */
  atlas.key = (key, label, does, act) => keys.push({ key, label, does, act });

  /** Whether the arrows belong to what has the focus: a slider, a list, a text, what scrolls. */
  const busy = (target) => target.closest("input, select, textarea, [contenteditable], [role=region], .film, dialog[open]") !== null;

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || busy(event.target)) return;
    const found = keys.find((one) => one.key === event.key);
    if (!found || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    found.act();
  });

  /** Follows a link, if there is one: what the arrow keys do. */
  atlas.go = (href) => {
    if (href) location.href = href;
  };

  function help() {
    const rows = keys.map((one) => el("tr", {}, el("td", {}, el("kbd", {}, one.label)), el("td", {}, one.does)));
    $("key-table").querySelector("tbody").replaceChildren(...rows);
    $("keys").showModal();
  }

  atlas.key("?", "?", "shows the keys", help);
  atlas.key("t", "t", "projections, both, patches", atlas.toggle);
  $("open-keys").addEventListener("click", help);
  for (const dialog of document.querySelectorAll("dialog"))
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
})();
