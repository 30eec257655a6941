"use strict";
/* Keyboard shortcuts: one list, which answers the keyboard and fills the help. */

(() => {
  const { element, byId } = atlas;
  const shortcuts = [];

  /** Adds a shortcut; label: what the help calls the key; action: what it says about it. */
  atlas.onKey = (key, label, action, run) => shortcuts.push({ key, label, action, run });

  /** What has the focus uses the keys itself: a slider, a list, a text, or something that scrolls. */
  const USES_KEYS = "input, select, textarea, [contenteditable], [role=region], .film, dialog[open]";

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest(USES_KEYS) !== null || document.querySelector("dialog[open]")) return;
    const shortcut = shortcuts.find((candidate) => candidate.key === event.key);
    if (!shortcut) return;
    event.preventDefault();
    shortcut.run();
  });

  /** Follows a link, if there is one: the arrow keys do this. */
  atlas.follow = (href) => {
    if (href) location.href = href;
  };

  function showHelp() {
    const rows = shortcuts.map(({ label, action }) =>
      element("tr", {}, element("td", {}, element("kbd", {}, label)), element("td", {}, action)));
    byId("key-table").querySelector("tbody").replaceChildren(...rows);
    byId("keys").showModal();
    atlas.showExample().catch(atlas.showError);
  }

  atlas.onKey("?", "?", "Show how to read these pages, and the keyboard shortcuts", showHelp);
  atlas.onKey("t", "t", "Show projections, patches or both", () => atlas.nextMode());
  for (const id of ["open-keys", "open-help"]) byId(id)?.addEventListener("click", showHelp);
  for (const dialog of document.querySelectorAll("dialog"))
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // a click on the backdrop
    });
})();
