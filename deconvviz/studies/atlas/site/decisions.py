"""The decisions of a network: for each image a sheet of explanation maps, and the numbers behind them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deconvviz.results.files import Pathlike
from deconvviz.results.results import reading
from deconvviz.studies.atlas.site.gallery import file_digest
from deconvviz.studies.atlas.site.layers import read_stamp, write_stamp
from deconvviz.version import __version__
from deconvviz.web.colours import coloured
from deconvviz.web.scripts import exact, write_script
from deconvviz.web.sprites import LIMIT, save_picture, tiled

KIND, SCHEMA = "decisions", 1
FORMAT = 1
TILE = 112  # pixels: maps are made this large with care, so that the browser has little left to smooth


class Decisions:
    """A decisions file: its lists at once, its maps image by image.

    config, sources: as they stand in the file. images, targets, probabilities, label_output: its arrays.
    Raises DataError where the file is missing or of another kind.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = pathlib.Path(path)
        with reading(path, KIND, SCHEMA) as file:
            self.config: dict[str, Any] = json.loads(file.attrs["config"])
            self.sources: dict[str, Any] = json.loads(file.attrs["sources"])
            self.images: NDArray[np.int64] = file["images"][()]
            self.targets: NDArray[np.int64] = file["targets"][()]
            self.probabilities: NDArray[np.float64] = file["probabilities"][()]
            self.label_output: NDArray[np.int64] = file["label_output"][()]
            self.occluded: dict[str, NDArray[Any]] = {}
            if "occlusion/probability" in file:
                self.occluded = {n: file[f"occlusion/{n}"][()] for n in ("probability", "square", "places")}

    def __len__(self) -> int:
        return len(self.images)

    def maps(self, row: int) -> NDArray[np.uint8]:
        """Read the maps of one image, uint8 [M, T, h, w]."""
        with reading(self.path, KIND, SCHEMA) as file:
            return np.asarray(file["maps"][row], np.uint8)

    def output(self, number: int) -> str:
        """Return the name of an output of the network, or its number where it has none."""
        names = self.config.get("outputs") or []
        return str(names[number]) if 0 <= number < len(names) else f"output {number}"

    def verdict(self, row: int) -> list[Any]:
        """Return (name of the most probable output, its probability, whether it is the label's, None if unknown)."""
        first = int(np.argmax(self.probabilities[row]))
        output, label = int(self.targets[row, first]), int(self.label_output[row])
        return [self.output(output), float(self.probabilities[row, first]), None if label < 0 else output == label]


def write_decisions(folder: pathlib.Path, decisions: Decisions) -> bool:
    """Write the decisions' folder, unless it was made of the same file; return whether it was made."""
    stamp = {"format": f"{__version__}.{FORMAT}", "decisions": file_digest(decisions.path)}
    if read_stamp(folder) == stamp:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    kept = set()
    for row, image in enumerate(decisions.images):
        name = f"{int(image):07d}"
        maps = decisions.maps(row)
        save_picture(folder / f"{name}.webp", _sheet(maps))
        write_script(folder / f"{name}.js", f"decision/{int(image)}", _described(decisions, row, maps.shape))
        kept |= {f"{name}.webp", f"{name}.js"}
    for left in {path.name for path in folder.iterdir()} - kept:
        (folder / left).unlink()
    write_stamp(folder, stamp)
    return True


def _sheet(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the maps [M, T, h, w] in colour, a row for each target and a column for each method."""
    methods, targets = maps.shape[:2]
    side = max(16, min(TILE, LIMIT // methods, LIMIT // targets))
    tiles = [
        coloured(np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC), np.float64) / 255)
        for target in range(targets)
        for one in maps[:, target]
    ]
    return tiled(np.stack(tiles), methods)


def _described(decisions: Decisions, row: int, shape: tuple[int, ...]) -> dict[str, Any]:
    targets = [int(t) for t in decisions.targets[row]]
    told: dict[str, Any] = {
        "methods": decisions.config["methods"],
        "layer": decisions.config["layer"],
        "targets": targets,
        "names": [decisions.output(t) for t in targets],
        "probabilities": exact(decisions.probabilities[row]),
        "label": int(decisions.label_output[row]),
        "map": list(shape[2:]),
    }
    if decisions.occluded:
        told["occlusion"] = {
            "probability": exact(decisions.occluded["probability"][row].reshape(len(targets), -1)),
            "square": exact(decisions.occluded["square"]),
            "places": exact(decisions.occluded["places"]),
        }
    return told
