"""The images that the site shows: a file for each picture, the list of all, and which filters each image activates."""

from __future__ import annotations

import math
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from deconvviz.progress import progress_bar
from deconvviz.studies.atlas.site.folders import read_stamp, remove_others, write_stamp
from deconvviz.studies.atlas.site.inputs import DecisionsFile, GalleryFile, SiteImages
from deconvviz.types import Ints
from deconvviz.web.scripts import exact, write_script
from deconvviz.web.sprites import save_picture

FORMAT = 1  # of the pictures; with another number all of them are made again
LISTED = 2048  # images in a file of the list
TOGETHER = 64  # images, on average, in a file with their details
QUALITY = 82  # of the WebP files, of 100


def write_pictures(folder: pathlib.Path, used: Ints, images: SiteImages, progress: bool) -> None:
    """Write each used image once, as folder/THOUSANDS/NUMBER.webp; those that are there stay.

    The stamp holds a digest of three of the pictures. With other images, or another preprocessing, these three differ,
    and all pictures are made again.

    Args:
        folder: where the pictures are written.
        used: int64 [n], indices of the images.
        images: what they look like.
        progress: whether a bar is shown.

    Raises:
        DataError: an image cannot be read, or a picture cannot be written.
    """
    if not _up_to_date(folder, images):
        for path in folder.glob("*/*.webp"):
            path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        samples = [int(used[n]) for n in (0, len(used) // 2, -1)] if len(used) else []
        write_stamp(folder, {"format": FORMAT, "images": samples, "looks": _pictures_digest(samples, images)})
    paths = {int(i): folder / f"{int(i) // 1000:04d}" / f"{int(i):07d}.webp" for i in used}
    missing = {image: path for image, path in paths.items() if not path.is_file()}
    for image, path in progress_bar(missing.items(), desc="pictures", disable=not progress or not missing, leave=False):
        path.parent.mkdir(exist_ok=True)
        save_picture(path, images.picture(image), quality=QUALITY)


def write_lists(
    folder: pathlib.Path,
    used: Ints,
    images: SiteImages,
    galleries: Sequence[GalleryFile],
    decisions: DecisionsFile | None,
) -> dict[str, Any]:
    """Write the list of the images and, for each of them, the filters that it activates most.

    Returns:
        What a page needs to find an image: "starts", the first image of each file of the list; "span", how many
        consecutive indices share a file of details; "total", "used" and "decided", the numbers of images of the
        store, of those that are shown, and of those that are explained.

    Raises:
        DataError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = {int(i): decisions.verdict(row) for row, i in enumerate(decisions.images)} if decisions else {}
    span = TOGETHER * max(1, math.ceil(len(images.names) / max(1, len(used))))
    files = []
    for first in range(0, len(used), LISTED):
        files.append(f"list-{first // LISTED:03d}.js")
        rows = [
            [image, images.names[image], int(images.labels[image]), verdicts.get(image)]
            for image in map(int, used[first : first + LISTED])
        ]
        write_script(folder / files[-1], f"images/{first // LISTED}", rows)
    units_by_image = _units_by_image(galleries)
    details: defaultdict[int, dict[int, Any]] = defaultdict(dict)
    for image in map(int, used):
        details[image // span][image] = {
            "name": images.names[image],
            "label": int(images.labels[image]),
            "drives": units_by_image.get(image, []),
            "decided": image in verdicts,
        }
    for number, details_by_image in details.items():
        files.append(f"about-{number:05d}.js")
        write_script(folder / files[-1], f"about/{number}", details_by_image)
    remove_others(folder, files)
    starts = [int(image) for image in used[::LISTED]]
    return {"starts": starts, "span": span, "total": len(images.names), "used": len(used), "decided": len(verdicts)}


def _units_by_image(galleries: Sequence[GalleryFile]) -> dict[int, list[list[Any]]]:
    """Return image -> rows of (number of the layer, channel, rank from 1, value), in the order of the layers."""
    units_by_image: defaultdict[int, list[list[Any]]] = defaultdict(list)
    for number, gallery in enumerate(galleries):
        values = exact(gallery.arrays["values"])
        for row, images in enumerate(gallery.arrays["images"].tolist()):
            channel = int(gallery.arrays["channels"][row])
            for rank, image in enumerate(images):
                if image >= 0:
                    units_by_image[image].append([number, channel, rank + 1, values[row][rank]])
    return units_by_image


def _up_to_date(folder: pathlib.Path, images: SiteImages) -> bool:
    """Whether the pictures that the stamp names still look as they did."""
    stamp = read_stamp(folder)
    if stamp is None or stamp["format"] != FORMAT:
        return False
    try:
        return bool(_pictures_digest(stamp["images"], images) == stamp["looks"])
    except IndexError:  # it is another store with fewer images
        return False


def _pictures_digest(indices: Sequence[int], images: SiteImages) -> str:
    digest = sha256()
    for index in indices:
        digest.update(np.ascontiguousarray(images.picture(index)).tobytes())
    return digest.hexdigest()
