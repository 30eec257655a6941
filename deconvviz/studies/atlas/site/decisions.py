"""The decisions of a network in the site: for each image a sheet of explanation maps, and the numbers behind them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvviz.cam.catalogue import OF_LAYERS, learned_declarations, method_declarations
from deconvviz.results.names import Names
from deconvviz.studies.atlas.site.folders import read_stamp, remove_others, write_stamp
from deconvviz.studies.atlas.site.inputs import DecisionsFile, ResemblingFile, file_digest
from deconvviz.types import Pixels
from deconvviz.version import __version__
from deconvviz.web.colours import coloured
from deconvviz.web.scripts import exact, write_script
from deconvviz.web.sprites import LIMIT, save_picture, tiled
from deconvviz.words import because

FORMAT = 4  # of the files below; with another number all of them are made again
TILE = 112  # pixels of a map's side: enlarged here with care, so that the browser has little left to smooth
SMALLEST = 16  # pixels of a map's side, however many maps a sheet has


def write_decisions(
    folder: pathlib.Path,
    decisions: DecisionsFile,
    names: Names = MappingProxyType({}),
    resembling: ResemblingFile | None = None,
) -> bool:
    """Write the folder of the decisions, unless it was made of the same file.

    Args:
        folder: where they are written.
        decisions: the file.
        names: layer -> channel -> what it detects; for the sentences.
        resembling: the training images that the images resemble; None where none were given.

    Returns:
        Whether it was made now.

    Raises:
        DataError: a file cannot be read or written.
    """
    stamp: dict[str, Any] = {"format": f"{__version__}.{FORMAT}", "decisions": file_digest(decisions.path)}
    names_of_layer = names.get(decisions.reasons_layer, {})
    if names_of_layer:
        stamp["names"] = {str(channel): name for channel, name in names_of_layer.items()}
    if resembling is not None:
        stamp["resembling"] = file_digest(resembling.path)
    if read_stamp(folder) == stamp:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for row, image in enumerate(decisions.images):
        name = f"{int(image):07d}"
        maps = decisions.maps(row)
        save_picture(folder / f"{name}.webp", _sheet(maps))
        numbers = _numbers(decisions, row, maps.shape, names_of_layer)
        written |= {f"{name}.webp", f"{name}.js"}
        if resembling is not None and int(image) in resembling.rows:
            numbers["resembles"] = _resembled(resembling, resembling.rows[int(image)])
            for place, picture in enumerate(resembling.pictures[resembling.rows[int(image)]]):
                save_picture(folder / f"{name}-like-{place}.webp", picture)
                written.add(f"{name}-like-{place}.webp")
        write_script(folder / f"{name}.js", f"decision/{int(image)}", numbers)
    remove_others(folder, written)
    write_stamp(folder, stamp)
    return True


def at_layer(method: str) -> bool:
    """Return whether a method explains at a layer; the others explain at the pixels, or have layers of their own.

    >>> at_layer("grad-cam"), at_layer("guided")
    (True, False)
    """
    declared = method_declarations().get(method)
    return (
        declared is not None
        and method not in learned_declarations()
        and declared.keywords.get("needs", "layer") in OF_LAYERS
    )


def _sheet(maps: NDArray[np.uint8]) -> Pixels:
    """Return the maps [M, T, h, w] in colour, a row for each target and a column for each method."""
    methods, targets = maps.shape[:2]
    side = max(SMALLEST, min(TILE, LIMIT // methods, LIMIT // targets))
    enlarged = [
        np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC), np.float64)
        for target in range(targets)
        for values in maps[:, target]
    ]
    return tiled(np.stack([coloured(values / 255) for values in enlarged]), methods)


def _numbers(decisions: DecisionsFile, row: int, shape: tuple[int, ...], names: Mapping[int, str]) -> dict[str, Any]:
    """Return what the page of an image needs of its decision, by the names that the page's script reads."""
    targets = [int(target) for target in decisions.targets[row]]
    verdict = decisions.verdict(row)
    numbers: dict[str, Any] = {
        "second": verdict.second,
        "logOdds": verdict.log_odds,
        "methods": decisions.config["methods"],
        "layers": [decisions.config["layer"] if at_layer(method) else None for method in decisions.config["methods"]],
        "targets": targets,
        "names": [decisions.output_name(target) for target in targets],
        "probabilities": exact(decisions.probabilities[row]),
        "label": int(decisions.label_output[row]),
        "map": list(shape[2:]),
    }
    if decisions.occlusion:
        numbers["occlusion"] = {
            "probability": exact(decisions.occlusion["probability"][row].reshape(len(targets), -1)),
            "square": exact(decisions.occlusion["square"]),
            "places": exact(decisions.occlusion["places"]),
        }
    if decisions.because:
        numbers["because"] = _reasons(decisions, row, names)
    return numbers


def _resembled(resembling: ResemblingFile, row: int) -> dict[str, Any]:
    """Return the embedding, and of each training image its name, its class and the cosine."""
    images = zip(resembling.names[row], resembling.classes[row], exact(resembling.cosine[row]), strict=True)
    return {"layer": resembling.layer, "images": [list(each) for each in images]}


def _reasons(decisions: DecisionsFile, row: int, names: Mapping[int, str]) -> dict[str, Any]:
    """Return the layer and, for each target, a sentence and the channels that decide, with their shares."""
    layer = decisions.reasons_layer
    sentences, channels = [], []
    for target, numbers, shares in zip(
        decisions.targets[row], *(decisions.because[name][row] for name in ("channels", "shares")), strict=True
    ):
        share_of = np.zeros(numbers.max() + 1)
        share_of[numbers[numbers >= 0]] = shares[numbers >= 0]
        sentences.append(because(decisions.output_name(int(target)), share_of.tolist(), layer, names))
        channels.append([[n, s] for n, s in zip(numbers.tolist(), exact(shares), strict=True) if n >= 0])
    return {"layer": layer, "rule": decisions.config["because"]["rule"], "sentences": sentences, "channels": channels}
