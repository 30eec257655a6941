"""The pages of an atlas, made of the result files of a network: a folder that any browser opens from the disk."""

from __future__ import annotations

import pathlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import numpy as np

from deconvviz.errors import DataError
from deconvviz.progress import progress_bar
from deconvviz.results.files import atomic
from deconvviz.results.names import Names
from deconvviz.studies.atlas.site.decisions import write_decisions
from deconvviz.studies.atlas.site.folders import make_folder, remove_parts
from deconvviz.studies.atlas.site.images import write_lists, write_pictures
from deconvviz.studies.atlas.site.inputs import DecisionsFile, GalleryFile, ResemblingFile, SiteImages
from deconvviz.studies.atlas.site.layers import strip_rows, write_layer
from deconvviz.types import Pathlike
from deconvviz.version import __version__
from deconvviz.web.colours import ANCHORS
from deconvviz.web.lesson import lesson_values
from deconvviz.web.page import write_page
from deconvviz.web.scripts import write_script
from deconvviz.words import counted

PACKAGE = "deconvviz.studies.atlas"  # holds the templates
PAGES = ("index.html", "layer.html", "filter.html", "images.html", "image.html")
ASSETS = (
    *("atlas.css", "parts.css", "core.js", "parts.js", "paint.js", "keys.js", "search.js", "index.js", "layer.js"),
    *("filter.js", "filter_parts.js", "range.js", "images.js", "image.js"),
)
PLAIN = "!'()*"  # letters that JavaScript's encodeURIComponent leaves as they are
FOLDERS = ("layers", "images", "pictures", "decisions", "assets")  # the site's own; other folders are not touched


@dataclass(frozen=True, kw_only=True)
class Site:
    """A written atlas.

    Attributes:
        index: the page to open.
        pages: number of pages that a reader can visit: one for each layer, filter and image, and two lists.
        filters: number of filters that are shown.
        bytes: size of all files of the site, without the result files.
        seconds: time that this call took.
    """

    index: pathlib.Path
    pages: int
    filters: int
    bytes: int
    seconds: float

    def __repr__(self) -> str:
        filters = max(1, self.filters)
        return (
            f"Site({self.index}: {counted(self.filters, 'filter')}, {counted(self.pages, 'page')}, "
            f"{self.bytes / 1e6:.1f} MB in {self.seconds:.1f} s; {self.bytes / 1e3 / filters:.1f} kB and "
            f"{1e3 * self.seconds / filters:.1f} ms a filter)"
        )


def build_site(
    out: Pathlike,
    galleries: Sequence[Pathlike],
    decisions: Pathlike | None,
    images: SiteImages,
    *,
    title: str,
    command: str,
    note: str,
    without_switches: str = "",
    filter_names: Names = MappingProxyType({}),
    resembling: Pathlike | None = None,
    progress: bool = True,
) -> Site:
    """Write the pages of an atlas; what was made of the same files before is left as it is.

    Args:
        out: the folder.
        galleries: gallery files, one for each layer.
        decisions: a decisions file, or None.
        images: the store's images, which the galleries name by their indices.
        title: of the index page.
        command: that made the atlas, shown on every page.
        note: the text beside projections.
        without_switches: the text beside projections of a deconvnet that has no switches.
        filter_names: layer -> channel -> what the filter detects; the search finds filters by it, and the sentences
            about decisions name it.
        resembling: a file of training images that the explained images resemble, or None.
        progress: whether bars are shown.

    Returns:
        What was written.

    Raises:
        DataError: a file cannot be read or written, or names an image that the store does not have.
    """
    begin = time.monotonic()
    folder = pathlib.Path(out)
    gallery_files = _by_depth(galleries)
    decisions_file = DecisionsFile(decisions) if decisions is not None else None
    used_by_file = [gallery.used_images() for gallery in gallery_files]
    if decisions_file:
        used_by_file.append(decisions_file.images)
    used = np.unique(np.concatenate(used_by_file)).astype(np.int64)
    images.require(used)
    for name in FOLDERS:
        make_folder(folder / name)
    remove_parts(folder, PAGES, FOLDERS)
    for gallery in progress_bar(gallery_files, desc="layers", disable=not progress, leave=False):
        write_layer(folder / "layers" / gallery.folder, gallery, images)
    if decisions_file:
        resembling_file = None if resembling is None else ResemblingFile(resembling)
        write_decisions(folder / "decisions", decisions_file, filter_names, resembling_file)
    write_pictures(folder / "pictures", used, images, progress)
    listed = write_lists(folder / "images", used, images, gallery_files, decisions_file)
    values: dict[str, Any] = {
        "title": title,
        "command": command,
        "note": note,
        "withoutSwitches": without_switches,
        "version": __version__,
        "images": listed,
    }
    values["doubtful"] = decisions_file is not None and "choice" in decisions_file.config
    _write_shared(folder / "assets", values, gallery_files, decisions_file, images.classes)
    write_script(folder / "assets" / "names.js", "names", _shown_names(gallery_files, filter_names))
    _write_pages(folder, values, gallery_files)
    filters = sum(map(len, gallery_files))
    return Site(
        index=folder / "index.html",
        pages=2 + len(gallery_files) + filters + len(used),
        filters=filters,
        bytes=_size(folder),
        seconds=time.monotonic() - begin,
    )


def _by_depth(paths: Sequence[Pathlike]) -> list[GalleryFile]:
    """Open the gallery files, and sort them by the depth of their layers."""
    if not paths:
        raise DataError("no gallery file was given; an atlas shows at least one layer")
    galleries = sorted((GalleryFile(path) for path in paths), key=lambda g: (int(g.config["depth"]), g.layer))
    repeated = [layer for layer, times in Counter(gallery.layer for gallery in galleries).items() if times > 1]
    if repeated:
        raise DataError(f"several gallery files are of layer {repeated[0]!r}; give one for each layer")
    return galleries


def _write_shared(
    folder: pathlib.Path,
    values: Mapping[str, Any],
    galleries: Sequence[GalleryFile],
    decisions: DecisionsFile | None,
    classes: Sequence[str],
) -> None:
    """Write what the pages share: their scripts and styles, the list of the layers, and the classes."""
    templates = resources.files(PACKAGE) / "templates"
    for name in ASSETS:
        with atomic(folder / name) as temporary:
            temporary.write_bytes((templates / name).read_bytes())
    about_decisions = None
    if decisions:
        config = {key: value for key, value in decisions.config.items() if key != "outputs"}
        about_decisions = {"config": config, "sources": decisions.sources}
    shared = {
        **values,
        "layers": [_about(gallery) for gallery in galleries],
        "size": galleries[0].config["image_size"],
        "decisions": about_decisions,
        "colours": ANCHORS.tolist(),
        "example": example_filter(galleries),
    }
    write_script(folder / "site.js", "site", shared)
    write_script(folder / "classes.js", "classes", list(classes))


def _write_pages(folder: pathlib.Path, values: Mapping[str, Any], galleries: Sequence[GalleryFile]) -> None:
    """Write the pages, the index last: what it links is there before it."""
    strips = [[int(c) for c in gallery.arrays["channels"][strip_rows(gallery)]] for gallery in galleries]
    about_layers = [_about(gallery) for gallery in galleries]
    config = galleries[0].config
    filled = {
        **values,
        **lesson_values(all(gallery.pooled for gallery in galleries)),
        "layers": list(zip(about_layers, strips, strict=True)),
        "config": config,
    }
    for page in reversed(PAGES):
        write_page(folder / page, f"atlas_{page}", {**filled, "size": config["image_size"], "page": page}, PACKAGE)


def _shown_names(galleries: Sequence[GalleryFile], names: Names) -> dict[str, dict[int, str]]:
    """Return layer -> channel -> name, of the filters that are shown and have one."""
    shown = {gallery.layer: set(gallery.arrays["channels"].tolist()) for gallery in galleries}
    return {
        layer: {channel: name for channel, name in names.get(layer, {}).items() if channel in channels}
        for layer, channels in shown.items()
    }


def _about(gallery: GalleryFile) -> dict[str, Any]:
    """Return what every page knows about a layer."""
    arrays = gallery.arrays
    filters_by_class = Counter(int(label) for label in gallery.telling_class if label >= 0)
    channels = arrays["channels"].tolist()
    return {
        "name": gallery.layer,
        "folder": gallery.folder,
        "address": quote(gallery.layer, safe=PLAIN),
        "channels": None if channels == list(range(len(channels))) else channels,
        **{key: gallery.config[key] for key in ("kind", "shape", "parameters", "stride", "receptive_field", "count")},
        "rule": gallery.config["rule"],
        "why": gallery.config.get("why", ""),
        "filters": len(gallery),
        "dead": gallery.dead["shown"],
        "whole": gallery.dead,
        "rectified": gallery.rectified,
        "switches": gallery.switches,
        "duplicates": int((arrays["duplicate_of"] >= 0).sum()),
        "classes": filters_by_class.most_common(),
    }


def example_filter(galleries: Sequence[GalleryFile]) -> tuple[int, int]:
    """Choose the filter that the help reads as an example: (number of its layer, its row in the gallery).

    The layer is the deepest one whose units see less than the whole image, because what they see can be pointed at. The
    filter is that whose images are most of one class.
    """
    sees_part = [
        any(seen < side for seen, side in zip(g.config["receptive_field"], g.config["image_size"], strict=True))
        for g in galleries
    ]
    number = max((n for n, part in enumerate(sees_part) if part), default=len(galleries) - 1)
    arrays = galleries[number].arrays
    return number, int(np.where(arrays["images"][:, 0] >= 0, arrays["top_class_share"], -1).argmax())


def _size(folder: pathlib.Path) -> int:
    """Return the size of the site in bytes."""
    pages = sum((folder / page).stat().st_size for page in PAGES)
    files = (path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file())
    return pages + sum(path.stat().st_size for path in files)
