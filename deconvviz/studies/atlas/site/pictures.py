"""The images that the site shows: each as a file of its own, the list of all, and what each one drives."""

from __future__ import annotations

import math
import pathlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deconvviz.errors import DataError
from deconvviz.studies.atlas.site.decisions import Decisions
from deconvviz.studies.atlas.site.gallery import Gallery, Texts
from deconvviz.studies.atlas.site.layers import read_stamp, write_stamp
from deconvviz.web.scripts import exact, write_script
from deconvviz.web.sprites import save_picture

FORMAT = 1
LISTED = 2048  # images in a file of the list
TOGETHER = 64  # images, on average, in a file about them
Picture = Callable[[int], NDArray[np.uint8]]


def write_pictures(folder: pathlib.Path, used: NDArray[np.int64], picture: Picture, progress: bool) -> None:
    """Write each used image once, as folder/THOUSANDS/NUMBER.webp; those that are there stay.

    picture: image -> uint8 [H, W, 3]. The stamp knows what three of them look like, so that other preprocessing or
    other images have all of them made again. Raises DataError where one cannot be read or written.
    """
    if not _known(folder, picture):
        _clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
        some = [int(used[n]) for n in (0, len(used) // 2, -1)] if len(used) else []
        write_stamp(folder, {"format": FORMAT, "images": some, "looks": _looks(some, picture)})
    wanted = {int(i): folder / f"{int(i) // 1000:04d}" / f"{int(i):07d}.webp" for i in used}
    missing = {i: path for i, path in wanted.items() if not path.is_file()}
    for image, path in tqdm(missing.items(), "pictures", disable=not progress or not missing, leave=False):
        path.parent.mkdir(exist_ok=True)
        save_picture(path, picture(image), quality=82)


def write_lists(
    folder: pathlib.Path, used: NDArray[np.int64], texts: Texts, galleries: Sequence[Gallery], found: Decisions | None
) -> dict[str, Any]:
    """Write the list of the images and, for each, which filters it drives; return how a page finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = {int(image): found.verdict(row) for row, image in enumerate(found.images)} if found else {}
    span = TOGETHER * max(1, math.ceil(len(texts.names) / max(1, len(used))))
    files = []
    for first in range(0, len(used), LISTED):
        some = [int(i) for i in used[first : first + LISTED]]
        files.append(f"list-{first // LISTED:03d}.js")
        rows = [[i, texts.names[i], int(texts.labels[i]), verdicts.get(i)] for i in some]
        write_script(folder / files[-1], f"images/{first // LISTED}", rows)
    driven = _driven(galleries)
    about: defaultdict[int, dict[int, Any]] = defaultdict(dict)
    for image in map(int, used):
        about[image // span][image] = {
            "name": texts.names[image],
            "label": int(texts.labels[image]),
            "drives": driven.get(image, []),
            "decided": image in verdicts,
        }
    for number, told in about.items():
        files.append(f"about-{number:05d}.js")
        write_script(folder / files[-1], f"about/{number}", told)
    for left in {path.name for path in folder.iterdir()} - set(files):
        (folder / left).unlink()
    starts = [int(i) for i in used[::LISTED]]
    return {"starts": starts, "span": span, "used": len(used), "decided": len(verdicts)}


def _driven(galleries: Sequence[Gallery]) -> dict[int, list[list[Any]]]:
    """Return image -> rows of (number of the layer, channel, rank from 1, value), in the order of the layers."""
    driven: defaultdict[int, list[list[Any]]] = defaultdict(list)
    for number, gallery in enumerate(galleries):
        values = exact(gallery.arrays["values"])
        for row, images in enumerate(gallery.arrays["images"].tolist()):
            channel = int(gallery.arrays["channels"][row])
            for rank, image in enumerate(images):
                if image >= 0:
                    driven[image].append([number, channel, rank + 1, values[row][rank]])
    return driven


def checked(used: NDArray[np.int64], texts: Texts) -> NDArray[np.int64]:
    """Return `used`; raises DataError where the store does not have as many images, names or labels."""
    count = len(texts.names)
    if len(texts.labels) != count or (len(used) and used.max() >= count):
        most = int(used.max()) if len(used) else -1
        raise DataError(
            f"the galleries name images up to {most}, and the store has {count} names and {len(texts.labels)} labels; "
            "give the images that the galleries were made of"
        )
    return used


def _known(folder: pathlib.Path, picture: Picture) -> bool:
    """Whether the images that the stamp knows still look as they did."""
    stamp = read_stamp(folder)
    if stamp is None or stamp["format"] != FORMAT:
        return False
    try:
        return bool(_looks(stamp["images"], picture) == stamp["looks"])
    except IndexError:  # the store is another, and smaller
        return False


def _looks(images: Sequence[int], picture: Picture) -> str:
    found = sha256()
    for image in images:
        found.update(np.ascontiguousarray(picture(image)).tobytes())
    return found.hexdigest()


def _clear(folder: pathlib.Path) -> None:
    """Remove the pictures of other images; nothing else is touched."""
    for path in folder.glob("*/*.webp"):
        path.unlink()
