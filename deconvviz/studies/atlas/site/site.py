"""The atlas: what the result files of a network hold, as a folder of pages that any browser opens from the disk."""

from __future__ import annotations

import pathlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike, atomic
from deconvviz.studies.atlas.site.decisions import Decisions, write_decisions
from deconvviz.studies.atlas.site.gallery import Gallery, Texts
from deconvviz.studies.atlas.site.layers import strip_rows, write_layer
from deconvviz.studies.atlas.site.pictures import checked, write_lists, write_pictures
from deconvviz.version import __version__
from deconvviz.web.colours import ANCHORS
from deconvviz.web.page import write_page
from deconvviz.web.scripts import write_script

PAGES = ("index.html", "layer.html", "filter.html", "images.html", "image.html")
ASSETS = (
    *("atlas.css", "parts.css", "core.js", "parts.js", "paint.js", "keys.js", "search.js", "index.js", "layer.js"),
    *("filter.js", "filter_parts.js", "images.js", "image.js"),
)
PLAIN = "!'()*"  # which JavaScript's encodeURIComponent leaves as they are
OWN = ("layers", "images", "pictures", "decisions", "assets")  # folders of the site; the others are not looked at


@dataclass(frozen=True)
class Site:
    """A written atlas.

    index: the page to open. pages: addresses that it answers to: a page each for layers, filters and images.
    filters: shown. bytes: of all files of the site, without the result files. seconds: this call took.
    """

    index: pathlib.Path
    pages: int
    filters: int
    bytes: int
    seconds: float

    def __repr__(self) -> str:
        each = max(1, self.filters)
        return (
            f"Site({self.index}: {self.filters} filters, {self.pages} pages, {self.bytes / 1e6:.1f} MB in "
            f"{self.seconds:.1f} s; {self.bytes / 1e3 / each:.1f} kB and {1e3 * self.seconds / each:.1f} ms a filter)"
        )


def build_site(
    out: Pathlike,
    galleries: Sequence[Pathlike],
    decisions: Pathlike | None,
    picture: Callable[[int], NDArray[np.uint8]],
    names: Sequence[str],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    title: str,
    command: str,
    note: str,
    progress: bool = True,
) -> Site:
    """Write the atlas into the folder `out`; what was made of the same files before is left as it is.

    Args:
        galleries: gallery files, one a layer. decisions: a decisions file, or None.
        picture: image of the store -> as the network is given it, uint8 [H, W, 3].
        names, labels, classes: of the store; label -1 is unknown.
        title, command: of the whole; note: what stands beside projections.
        progress: show bars.

    Raises DataError where a file cannot be read or written, or names images that the store does not have.
    """
    begin = time.monotonic()
    folder = pathlib.Path(out)
    texts = Texts(names, np.asarray(labels, np.int64), classes)
    opened = _in_order(galleries)
    found = Decisions(decisions) if decisions is not None else None
    shown = [gallery.used() for gallery in opened] + ([found.images] if found else [])
    used = checked(np.unique(np.concatenate(shown)).astype(np.int64), texts)
    for name in OWN:
        _make(folder / name)
    _sweep(folder)
    for gallery in tqdm(opened, "layers", disable=not progress, leave=False):
        write_layer(folder / "layers" / gallery.folder, gallery, texts)
    if found:
        write_decisions(folder / "decisions", found)
    write_pictures(folder / "pictures", used, picture, progress)
    images = write_lists(folder / "images", used, texts, opened, found)
    told = {"title": title, "command": command, "note": note, "version": __version__, "images": images}
    _write_shell(folder, told, opened, found, texts)
    filters = sum(map(len, opened))
    pages = 2 + len(opened) + filters + len(used)
    return Site(folder / "index.html", pages, filters, _size(folder), time.monotonic() - begin)


def _in_order(paths: Sequence[Pathlike]) -> list[Gallery]:
    if not paths:
        raise DataError("no gallery file was given; an atlas shows at least one layer")
    found = sorted((Gallery(path) for path in paths), key=lambda g: (int(g.config["depth"]), g.layer))
    twice = [layer for layer, times in Counter(g.layer for g in found).items() if times > 1]
    if twice:
        raise DataError(f"several gallery files are of layer {twice[0]!r}; give one for each layer")
    return found


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from error


def _sweep(folder: pathlib.Path) -> None:
    """Remove what a killed call left half written."""
    left = [path for page in PAGES for path in folder.glob(f".{page}.*.part")]
    for path in (*left, *(path for name in OWN for path in (folder / name).rglob(".*.part"))):
        path.unlink(missing_ok=True)


def _write_shell(
    folder: pathlib.Path, told: dict[str, Any], galleries: list[Gallery], found: Decisions | None, texts: Texts
) -> None:
    """Write what the pages share: their code, the list of the layers, the classes; then the pages, the index last."""
    templates = resources.files("deconvviz.studies.atlas") / "templates"
    for name in ASSETS:
        with atomic(folder / "assets" / name) as temporary:
            temporary.write_bytes((templates / name).read_bytes())
    layers = [_about(gallery) for gallery in galleries]
    size = galleries[0].config["image_size"]
    decided = (
        {"config": {k: v for k, v in found.config.items() if k != "outputs"}, "sources": found.sources}
        if found
        else None
    )
    shared = {**told, "layers": layers, "size": size, "decisions": decided, "colours": ANCHORS.tolist()}
    write_script(folder / "assets" / "site.js", "site", shared)
    write_script(folder / "assets" / "classes.js", "classes", list(texts.classes))
    strips = [[int(c) for c in gallery.arrays["channels"][strip_rows(gallery)]] for gallery in galleries]
    values = {**told, "layers": list(zip(layers, strips, strict=True)), "size": size, "config": galleries[0].config}
    for page in reversed(PAGES):
        write_page(folder / page, f"atlas_{page}", {**values, "page": page}, "deconvviz.studies.atlas")


def _about(gallery: Gallery) -> dict[str, Any]:
    """Return what every page knows about a layer."""
    arrays = gallery.arrays
    best = Counter(int(label) for label in arrays["top_class"] if label >= 0)
    shown = arrays["channels"].tolist()
    return {
        "name": gallery.layer,
        "folder": gallery.folder,
        "address": quote(gallery.layer, safe=PLAIN),
        "channels": None if shown == list(range(len(shown))) else shown,
        **{key: gallery.config[key] for key in ("kind", "shape", "parameters", "stride", "receptive_field", "count")},
        "filters": len(gallery),
        "dead": int((arrays["dead"] != 0).sum()),
        "duplicates": int((arrays["duplicate_of"] >= 0).sum()),
        "classes": best.most_common(),
    }


def _size(folder: pathlib.Path) -> int:
    pages = sum((folder / page).stat().st_size for page in PAGES)
    return pages + sum(p.stat().st_size for name in OWN for p in (folder / name).rglob("*") if p.is_file())
