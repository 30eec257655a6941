"""One layer's part of the site: its sprites, and the numbers of its filters in pieces."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deconvviz.arrays import evenly
from deconvviz.studies.atlas.site.folders import STAMP, read_stamp, remove_others, write_stamp
from deconvviz.studies.atlas.site.inputs import GalleryFile, SiteImages, file_digest
from deconvviz.studies.atlas.site.ranges import range_of_filter, range_of_layer
from deconvviz.types import Ints, Mask, Pixels
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

FORMAT = 6  # of the files below; with another number every layer is made again
CHUNK = 64  # filters in a data file
STRIP = 12  # thumbnails of a layer on the index page
# The name that the pages' scripts read -> the name of the gallery's array with one value a filter.
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
_ROWS = ("values", "images", "positions", "boxes", "windows", "neighbours", "similarity")  # arrays of several values


def write_layer(folder: pathlib.Path, gallery: GalleryFile, images: SiteImages) -> bool:
    """Write one layer's folder, unless it was made of the same file.

    The stamp is written last: a folder without it is not complete, and is made again.

    Returns:
        Whether it was made now.

    Raises:
        DataError: a file cannot be read or written.
    """
    stamp = {
        "format": f"{__version__}.{FORMAT}",
        "gallery": file_digest(gallery.path),
        "texts": images.digest,
        "layer": gallery.layer,
    }
    if read_stamp(folder) == stamp:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).unlink(missing_ok=True)
    pictures = gallery.pictures()
    sheets = _write_sheets(folder, gallery, pictures)
    _write_strip(folder / "strip.webp", gallery, pictures)
    write_script(folder / "layer.js", f"layer/{gallery.folder}", _summary(gallery, sheets.descriptions))
    for first in range(0, len(gallery), CHUNK):
        name = f"filters-{first // CHUNK:03d}.js"
        write_script(folder / name, f"filters/{gallery.folder}/{first // CHUNK}", _details(gallery, images, first))
        sheets.files.append(name)
    remove_others(folder, [*sheets.files, "layer.js", "strip.webp"])
    write_stamp(folder, stamp)
    return True


@dataclass
class _Sheets:
    """The sprites of a layer while they are written.

    Attributes:
        folder: where they are written.
        descriptions: name of the sprites -> what a page needs to find one of them, see `Layout.described`.
        files: names of the files.
    """

    folder: pathlib.Path
    descriptions: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def write(
        self, name: str, count: int, size: tuple[int, ...], read: Blocks, side: int = 1, suffix: str = "webp"
    ) -> None:
        """Write `count` blocks of side x side tiles, each of `size` (height, width); small tiles are enlarged."""
        times = enlarged(*size)
        layout = Layout(side * size[0] * times, side * size[1] * times, count, suffix)
        self.files += write_sheets(self.folder, name, layout, lambda first, last: magnified(read(first, last), times))
        self.descriptions[name] = layout.described(name)


def _write_sheets(folder: pathlib.Path, gallery: GalleryFile, pictures: dict[str, Any]) -> _Sheets:
    """Write the sprites: of each filter its patches, projections and weights, and its evolution."""
    sheets, present = _Sheets(folder), gallery.arrays["images"] >= 0
    count, k = present.shape
    for name in ("patches", "projections"):
        sheets.write(name, count, gallery.shapes[name][2:4], _squares_of(pictures[name], present), side_of(k))
    if "wanted" in pictures:
        tiles = pictures["wanted"]
        sheets.write(
            "wanted", count, gallery.shapes["wanted"][2:4], lambda first, last: np.asarray(tiles[first:last])[:, 0]
        )
    if "relevance/patches" in pictures:
        carried = gallery.arrays["relevance/images"] >= 0
        tile = gallery.shapes["relevance/patches"][2:4]
        sheets.write("relevance-patches", count, tile, _squares_of(pictures["relevance/patches"], carried), side_of(k))
    if "filters" in pictures:
        weights = pictures["filters"]
        sheets.write(
            "filters", count, gallery.shapes["filters"][1:3], lambda first, last: weights[first:last], suffix="png"
        )
    for name in ("evolution/patches", "evolution/projections"):
        followed, epochs, *size = gallery.shapes.get(name, (0, 0))
        if followed:
            read = _flattened(pictures[name], epochs)
            sheets.write(name.replace("/", "-"), followed * epochs, (size[0], size[1]), read)
    return sheets


def _squares_of(tiles: Any, present: Mask) -> Blocks:
    """Read tiles [F, k, ...] as one square block for each filter."""
    return lambda first, last: squares(tiles[first:last], present[first:last])


def _flattened(tiles: Any, epochs: int) -> Blocks:
    """Read tiles [G, E, ...] as if they were [G * E, ...]."""

    def read(first: int, last: int) -> Pixels:
        row = first // epochs
        rows = np.asarray(tiles[row : (last - 1) // epochs + 1])
        return rows.reshape(-1, *rows.shape[2:])[first - row * epochs : last - row * epochs]

    return read


def strip_rows(gallery: GalleryFile) -> Ints:
    """Return the rows of at most STRIP filters that are not dead, evenly spread, for a layer's thumbnails."""
    live = np.flatnonzero((gallery.arrays["dead"] == 0) & (gallery.arrays["images"][:, 0] >= 0))
    if not len(live):
        live = np.arange(len(gallery))
    return np.asarray(live[evenly(len(live), STRIP)], np.int64)


def _write_strip(path: pathlib.Path, gallery: GalleryFile, pictures: dict[str, Any]) -> None:
    """Write the thumbnails: the strongest patch of each filter, and above it its projection."""
    rows = strip_rows(gallery)
    strongest = [np.stack([pictures[name][int(row)][0] for row in rows]) for name in ("projections", "patches")]
    times = enlarged(*strongest[0].shape[1:3])
    save_picture(path, np.concatenate([magnified(tiled(tiles, len(rows)), times, 0) for tiles in strongest]))


def _summary(gallery: GalleryFile, sheets: dict[str, Any]) -> dict[str, Any]:
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
        "sameClass": gallery.same_class.tolist(),
        "tellingClass": gallery.telling_class.tolist(),
        **{name: exact(arrays[array]) for name, array in _COLUMNS.items()},
    }
    if "evolution-patches" in sheets:
        summary["evolution"] = {name: exact(array) for name, array in gallery.group("evolution").items()}
    if "occlusion/places" in arrays:
        summary["places"] = exact(arrays["occlusion/places"])
    if "range/likeness" in arrays:
        summary["range"] = range_of_layer(arrays)
    return summary


def _off(gallery: GalleryFile, row: int) -> list[list[Any]]:
    """Return the name of each class that falls without a filter, and its probability with it and without it."""
    names = gallery.off_names
    columns = (gallery.arrays[f"off/{name}"][row].tolist() for name in ("classes", "before", "after"))
    return [
        [names.get(str(output), f"output {output}"), before, after]
        for output, before, after in zip(*columns, strict=True)
        if output >= 0
    ]


def _images_of(details: Mapping[str, Any]) -> list[int]:
    """Return the images that a filter's page shows."""
    carried = [image for image, _ in details.get("carried", ())]
    ranged = [shown[0] for shown in details.get("range", {}).get("images", ())]
    return [image for image in (*details["images"], details.get("occluded", -1), *carried, *ranged) if image >= 0]


def _details(gallery: GalleryFile, images: SiteImages, first: int) -> dict[str, Any]:
    """Return everything about CHUNK filters from `first` on, with name and label of the images that they show."""
    last = min(first + CHUNK, len(gallery))
    arrays = gallery.arrays
    rows = {name: exact(arrays[name][first:last]) for name in _ROWS}
    scores_by_kind = {
        kind: exact(scores[first:last])
        for kind, scores in gallery.group("invariance").items()
        if len(scores) == len(gallery)
    }
    filters: list[dict[str, Any]] = []
    for n in range(last - first):
        details: dict[str, Any] = {name: rows[name][n] for name in _ROWS}
        if scores_by_kind:
            details["invariance"] = {kind: scores[n] for kind, scores in scores_by_kind.items()}
        if "occlusion/values" in arrays:
            details["occlusion"] = exact(arrays["occlusion/values"][first + n])
            details["occluded"] = int(arrays["occlusion/image"][first + n])
        if "off/classes" in arrays:
            details["off"] = _off(gallery, first + n)
        if "relevance/images" in arrays:
            decided = arrays["relevance/images"][first + n]
            details["carried"] = [
                [i, s]
                for i, s in zip(decided.tolist(), exact(arrays["relevance/shares"][first + n]), strict=True)
                if i >= 0
            ]
        if "range/likeness" in arrays:
            details["range"] = range_of_filter(arrays, first + n)
        filters.append(details)
    used = {image for details in filters for image in _images_of(details)}
    names = {image: [images.names[image], int(images.labels[image])] for image in sorted(used)}
    return {"filters": filters, "images": names}
