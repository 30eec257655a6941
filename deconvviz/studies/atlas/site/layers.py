"""One layer's part of the site: its sprites, and the numbers of its filters in pieces."""

from __future__ import annotations

import contextlib
import json
import pathlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.results.files import atomic
from deconvviz.studies.atlas.site.gallery import Gallery, Texts, file_digest
from deconvviz.version import __version__
from deconvviz.web.scripts import exact, write_script
from deconvviz.web.sprites import (
    Blocks,
    Layout,
    enlarged,
    magnified,
    save_picture,
    side_of,
    squares,
    tiled,
    write_sheets,
)

FORMAT = 1  # of what is written below: another number has every layer made again
CHUNK = 64  # filters in a data file
STRIP = 12  # thumbnails on the index page
STAMP = "stamp.json"
_COLUMNS = {
    "channels": "channels",
    "maximum": "maximum",
    "mean": "mean_activation",
    "fired": "fired",
    "rate": "firing_rate",
    "dead": "dead",
    "topClass": "top_class",
    "share": "top_class_share",
    "duplicate": "duplicate_of",
}
_ROWS = ("values", "images", "positions", "boxes", "windows", "neighbours", "similarity")


def write_layer(folder: pathlib.Path, gallery: Gallery, texts: Texts) -> bool:
    """Write one layer's folder, unless what stands there was made of the same file; return whether it was made.

    The stamp is written last, so a folder without it is not whole, and is made again.
    Raises DataError where a file cannot be read or written.
    """
    stamp = {
        "format": f"{__version__}.{FORMAT}",
        "gallery": file_digest(gallery.path),
        "texts": texts.digest,
        "layer": gallery.layer,
    }
    if read_stamp(folder) == stamp:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).unlink(missing_ok=True)
    pictures = gallery.pictures()
    sheets = _write_sheets(folder, gallery, pictures)
    _write_strip(folder / "strip.webp", gallery, pictures)
    write_script(folder / "layer.js", f"layer/{gallery.folder}", _summary(gallery, sheets.described))
    for first in range(0, len(gallery), CHUNK):
        name = f"filters-{first // CHUNK:03d}.js"
        write_script(folder / name, f"filters/{gallery.folder}/{first // CHUNK}", _details(gallery, texts, first))
        sheets.files.append(name)
    for left in {path.name for path in folder.iterdir()} - {*sheets.files, "layer.js", "strip.webp"}:
        (folder / left).unlink()  # what a gallery of more filters had, and what a killed run left half done
    write_stamp(folder, stamp)
    return True


def read_stamp(folder: pathlib.Path) -> Any:
    """Return what the folder was made of, or None where it is not whole."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / STAMP).read_text("utf-8"))
    return None


def write_stamp(folder: pathlib.Path, stamp: dict[str, Any]) -> None:
    """Say that the folder is whole and what it was made of."""
    with atomic(folder / STAMP) as temporary:
        temporary.write_text(json.dumps(stamp, sort_keys=True) + "\n", "utf-8")


@dataclass
class _Sheets:
    """The sprites of a layer as they are written. described: what a page needs of each; files: their names."""

    folder: pathlib.Path
    described: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def write(
        self, name: str, count: int, size: tuple[int, ...], read: Blocks, side: int = 1, suffix: str = "webp"
    ) -> None:
        """Write `count` blocks of side x side tiles of `size` (height, width) each; small tiles are enlarged."""
        times = enlarged(*size)
        layout = Layout(side * size[0] * times, side * size[1] * times, count, suffix)
        self.files += write_sheets(self.folder, name, layout, lambda first, last: magnified(read(first, last), times))
        self.described[name] = layout.described(name)


def _write_sheets(folder: pathlib.Path, gallery: Gallery, pictures: dict[str, Any]) -> _Sheets:
    """Write the sprites: of each filter its patches, projections and weights, and how it came to be."""
    sheets, present = _Sheets(folder), gallery.arrays["images"] >= 0
    count, k = present.shape
    for name in ("patches", "projections"):
        sheets.write(name, count, gallery.shapes[name][2:4], _blocks(pictures[name], present), side_of(k))
    if "filters" in pictures:
        weights = pictures["filters"]
        sheets.write("filters", count, gallery.shapes["filters"][1:3], lambda a, b: weights[a:b], suffix="png")
    for name in ("evolution/patches", "evolution/projections"):
        followed, epochs, *size = gallery.shapes.get(name, (0, 0))
        if followed:
            sheets.write(name.replace("/", "-"), followed * epochs, (size[0], size[1]), _flat(pictures[name], epochs))
    return sheets


def _blocks(tiles: Any, present: NDArray[np.bool_]) -> Blocks:
    """Read tiles [F, k, ...] as one block for each filter."""
    return lambda first, last: squares(tiles[first:last], present[first:last])


def _flat(tiles: Any, across: int) -> Blocks:
    """Read tiles [G, E, ...] as if they were [G * E, ...]."""

    def read(first: int, last: int) -> NDArray[np.uint8]:
        start = first // across
        some = np.asarray(tiles[start : (last - 1) // across + 1])
        return some.reshape(-1, *some.shape[2:])[first - start * across : last - start * across]

    return read


def strip_rows(gallery: Gallery) -> NDArray[np.intp]:
    """Return some live filters, evenly from the first to the last, for the thumbnails of a layer."""
    live = np.flatnonzero((gallery.arrays["dead"] == 0) & (gallery.arrays["images"][:, 0] >= 0))
    if not len(live):
        live = np.arange(len(gallery))
    evenly = np.linspace(0, len(live) - 1, min(STRIP, len(live))).round().astype(int)
    return np.asarray(live[np.unique(evenly)], np.intp)


def _write_strip(path: pathlib.Path, gallery: Gallery, pictures: dict[str, Any]) -> None:
    """Write the thumbnails: the strongest patch of each filter, and above it its projection."""
    rows = strip_rows(gallery)
    best = [np.stack([pictures[name][int(row)][0] for row in rows]) for name in ("projections", "patches")]
    times = enlarged(*best[0].shape[1:3])
    save_picture(path, np.concatenate([magnified(tiled(tiles, len(rows)), times, 0) for tiles in best]))


def _summary(gallery: Gallery, sheets: dict[str, Any]) -> dict[str, Any]:
    """Return what the layer page needs of all filters at once."""
    arrays, k = gallery.arrays, gallery.shapes["patches"][1]
    nearest = arrays["similarity"][:, 0] if arrays["similarity"].shape[1] else np.full(len(gallery), np.nan)
    summary: dict[str, Any] = {
        "name": gallery.layer,
        "config": gallery.config,
        "sources": gallery.sources,
        "k": k,
        "side": side_of(k),
        "sheets": sheets,
        "chunk": CHUNK,
        "nearest": exact(nearest),
        **{name: exact(arrays[array]) for name, array in _COLUMNS.items()},
    }
    if "evolution-patches" in sheets:
        summary["evolution"] = {name: exact(a) for name, a in gallery.below("evolution").items()}
    if "occlusion/places" in arrays:
        summary["places"] = exact(arrays["occlusion/places"])
    return summary


def _details(gallery: Gallery, texts: Texts, first: int) -> dict[str, Any]:
    """Return everything about the filters from `first` on, one chunk of them, with the images that they name."""
    last = min(first + CHUNK, len(gallery))
    arrays = gallery.arrays
    rows = {name: exact(arrays[name][first:last]) for name in _ROWS}
    invariance = {
        kind: exact(a[first:last]) for kind, a in gallery.below("invariance").items() if len(a) == len(gallery)
    }
    filters = []
    for n in range(last - first):
        one: dict[str, Any] = {name: rows[name][n] for name in _ROWS}
        if invariance:
            one["invariance"] = {kind: values[n] for kind, values in invariance.items()}
        if "occlusion/values" in arrays:
            one["occlusion"] = exact(arrays["occlusion/values"][first + n])
            one["occluded"] = int(arrays["occlusion/image"][first + n])
        filters.append(one)
    shown = {i for one in filters for i in (*one["images"], one.get("occluded", -1)) if i >= 0}
    return {"filters": filters, "images": {i: [texts.names[i], int(texts.labels[i])] for i in sorted(shown)}}
