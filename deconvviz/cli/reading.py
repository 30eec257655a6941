"""How a filter of the demo is read: the parts of the generated objects on which its projections lie."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from deconvviz.arrays import evenly
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.results.tiles import GREY, Gallery, load_gallery
from deconvviz.types import Box, Floats, Mask, Pixels
from deconvviz.web.sprites import magnified, squares

READ = 16  # filters, evenly spread over the layer, among which the clearest is looked for
ENLARGED = 2  # times, in the picture of the example
PLACES = re.compile(r"\b(left|right|front|rear|middle|upper|lower|top|side|\d+)\b")  # which one of several alike parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """A filter, and the part of the objects on which most of its projections lie.

    Attributes:
        layer: name of the filter's layer.
        channel: its number.
        images: how many images it has.
        part: of the parts of the object, that which holds the largest share of most projections, such as "wheel".
        agreeing: of how many projections it holds the largest share.
        classes: of the images of these projections, each once, in the order of the alphabet.
        projections: uint8 [h, w, 3], side by side in a square.
        patches: uint8 [h, w, 3], likewise.
    """

    layer: str
    channel: int
    images: int
    part: str
    agreeing: int
    classes: tuple[str, ...]
    projections: Pixels
    patches: Pixels


def clearest_filter(path: pathlib.Path, scenes: Scenes) -> Reading:
    """Find the filter of a layer of which most projections lie on one kind of part.

    Args:
        path: a gallery file of the layer, made of the generated scenes.
        scenes: which know where their parts are.
    """
    gallery = load_gallery(path)
    preprocess = Preprocess.from_dict(gallery.config["mined"]["preprocess"])
    rows = evenly(len(gallery.arrays["channels"]), READ)
    parts = {int(row): _parts_of_filter(gallery, int(row), scenes, preprocess) for row in rows}
    row = max(parts, key=lambda each: _clarity(parts[each], scenes))
    part, agreeing = Counter(parts[row].values()).most_common(1)[0] if parts[row] else ("", 0)
    present = gallery.arrays["images"][[row]] >= 0
    pictures = [
        magnified(squares(gallery.arrays[name][[row]], present), ENLARGED)[0] for name in ("projections", "patches")
    ]
    return Reading(
        layer=str(gallery.config["layer"]),
        channel=int(gallery.arrays["channels"][row]),
        images=int(present.sum()),
        part=part,
        agreeing=agreeing,
        classes=tuple(sorted({scenes.classes[scenes.labels[i]] for i, name in parts[row].items() if name == part})),
        projections=pictures[0],
        patches=pictures[1],
    )


def _clarity(part_by_image: Mapping[int, str], scenes: Scenes) -> tuple[int, int]:
    """Return how many projections agree on a part, and in pictures of how many classes: more than one tells more."""
    if not part_by_image:
        return 0, 0
    part, agreeing = Counter(part_by_image.values()).most_common(1)[0]
    return agreeing, len({int(scenes.labels[image]) for image, name in part_by_image.items() if name == part})


def _parts_of_filter(gallery: Gallery, row: int, scenes: Scenes, preprocess: Preprocess) -> dict[int, str]:
    """Return image -> the kind of part that holds the largest share of the filter's projection in it."""
    tiles = gallery.arrays["projections"][row].astype(np.float64) - GREY
    strongest = {}
    for rank, image in enumerate(gallery.arrays["images"][row].tolist()):
        if image >= 0:
            window = Box(*gallery.arrays["windows"][row, rank].tolist())
            shares = part_shares((tiles[rank] ** 2).sum(-1), window, scenes.scene(image).parts, preprocess)
            if shares:
                strongest[image] = max(shares, key=lambda kind: shares[kind])
    return strongest


def part_shares(energy: Floats, window: Box, parts: Mapping[str, Mask], preprocess: Preprocess) -> dict[str, float]:
    """Return the share of a projection's energy on each kind of part: "front wheel" and "rear wheel" are both "wheel".

    Args:
        energy: float64 [h, w], squares of the projection in a window, a number for each pixel.
        window: the window, in pixels of the network's input.
        parts: name -> bool [H, W], where the part is in the picture as it is stored.
        preprocess: how a picture becomes the network's input.

    Returns:
        Kind of part -> its share; parts that the window does not show are left out.
    """
    shares: defaultdict[str, float] = defaultdict(float)
    for name, mask in parts.items():
        seen = window.of(preprocess.mask(mask))
        if seen.shape == energy.shape and seen.any():
            shares[" ".join(PLACES.sub("", name).split())] += float(energy[seen].sum() / max(energy.sum(), 1e-12))
    return dict(shares)
