"""What the pages are made of: the images of a store, the gallery files and the decisions file."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.results.files import one_line
from deconvviz.results.results import Result, reading
from deconvviz.results.tiles import load_gallery
from deconvviz.studies.atlas.result import DECISIONS_KIND, DECISIONS_SCHEMA, RESEMBLING_KIND, RESEMBLING_SCHEMA
from deconvviz.types import Array, Floats, Ints, Pathlike, Pixels
from deconvviz.web.scripts import folder_name

PICTURES = (
    *("patches", "projections", "filters", "wanted"),
    *("evolution/patches", "evolution/projections", "relevance/patches"),
)
REQUIRED = (
    *("channels", "values", "images", "positions", "boxes", "windows", "patches", "projections", "fired"),
    *("firing_rate", "maximum", "mean_activation", "dead", "top_class", "top_class_share", "neighbours"),
    *("similarity", "duplicate_of"),
)


@dataclass(frozen=True, kw_only=True)
class SiteImages:
    """The images of a store, as the pages name and show them.

    Attributes:
        names: of the N images.
        labels: int64 [N], an index into the classes, -1 where it is unknown.
        classes: names of the classes.
        picture: index of an image -> the picture as the network receives it, uint8 [H, W, 3].
    """

    names: Sequence[str]
    labels: Ints
    classes: Sequence[str]
    picture: Callable[[int], Pixels]

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of names, labels and classes."""
        digest = sha256(np.asarray(self.labels, np.int64).tobytes())
        for text in (*self.names, "\0classes", *self.classes):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()

    def require(self, used: Ints) -> None:
        """Raise DataError unless the store has all images that are used, with as many labels as names."""
        count = len(self.names)
        if len(self.labels) != count or (len(used) and used.max() >= count):
            last = int(used.max()) if len(used) else -1
            raise DataError(
                f"the galleries name images up to {last}, and the store has {count} names and {len(self.labels)} "
                "labels; give the images that the galleries were made of"
            )


class GalleryFile:
    """The gallery of one layer. Its pictures are read when they are needed, and not kept.

    Attributes:
        path: of the file.
        config: the configuration in the file; with the "rule" of the projections, and "why" it was chosen.
        sources: where model and images were, and the command.
        arrays: name -> array, for every array that is not pictures.
        shapes: name -> shape, of the pictures that the file has.

    Raises:
        DataError: the file is missing, of another kind, or lacks one of the required arrays.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = pathlib.Path(path)
        gallery = load_gallery(path)
        missing = [name for name in REQUIRED if name not in gallery.arrays]
        if missing:
            raise DataError(f"{path} has no {', '.join(missing)}; make the gallery of this layer again")
        self.config, self.sources = {**gallery.config, "rule": gallery.rule}, gallery.sources
        self._whole = gallery.whole
        if gallery.why:
            self.config["why"] = gallery.why
        self.shapes = {name: tuple(gallery.arrays[name].shape) for name in PICTURES if name in gallery.arrays}
        self.arrays: dict[str, Array] = {n: array for n, array in gallery.arrays.items() if n not in PICTURES}

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return str(self.config["layer"])

    @property
    def folder(self) -> str:
        """Name of the folder that holds the layer's part of the site."""
        return folder_name(int(self.config["depth"]), self.layer)

    def __len__(self) -> int:
        return len(self.arrays["channels"])

    @property
    def rectified(self) -> bool:
        """Whether the layer's values come from rectifiers; taken for granted in a file of an earlier version."""
        return bool(self._whole.get("rectified", True))

    @property
    def switches(self) -> bool:
        """Whether the deconvnet has switches in front of the layer; as above."""
        return bool(self._whole.get("switches", True))

    @property
    def pooled(self) -> bool:
        """Whether the network has max pooling; as above."""
        return bool(self._whole.get("pooled", True))

    @property
    def off_names(self) -> dict[str, str]:
        """Number of an output, as text -> its name, of those that fall where a filter is switched off."""
        return dict(self._whole.get("off_names", {}))

    @property
    def dead(self) -> dict[str, int]:
        """Numbers of dead filters: "shown" among those that are shown, "dead" among the "channels" of the layer.

        A file of an earlier version knows of the filters that it shows only.
        """
        shown = int((self.arrays["dead"] != 0).sum())
        return {
            "shown": shown,
            "dead": int(self._whole.get("dead", shown)),
            "channels": int(self._whole.get("channels", len(self))),
        }

    @property
    def same_class(self) -> Ints:
        """How many of each filter's strongest images are of its most frequent class, int64 [F]."""
        present = (self.arrays["images"] >= 0).sum(1)
        return np.asarray(np.rint(self.arrays["top_class_share"] * present), np.int64)

    @property
    def telling_class(self) -> Ints:
        """The most frequent class where it tells something, int64 [F]: else -1.

        A class of a single image tells something only where the filter has no other image.
        """
        alone = (self.same_class < 2) & ((self.arrays["images"] >= 0).sum(1) > 1)
        return np.asarray(np.where(alone, -1, self.arrays["top_class"]), np.int64)

    def pictures(self) -> dict[str, Any]:
        """Read the pictures: name -> what returns uint8 [n, ...] for a slice or a list of rows."""
        arrays = load_gallery(self.path).arrays
        return {name: arrays[name] for name in self.shapes}

    def used_images(self) -> Ints:
        """Return the images that its filters show, ascending."""
        others = ("occlusion/image", "relevance/images", "range/images")
        more = [self.arrays[name].ravel() for name in others if name in self.arrays]
        images = np.unique(np.concatenate([self.arrays["images"].ravel(), *more]))
        return np.asarray(images[images >= 0], np.int64)

    def group(self, name: str) -> dict[str, Array]:
        """Return the arrays of a group: the name within the group -> array."""
        return {key.split("/", 1)[1]: array for key, array in self.arrays.items() if key.startswith(f"{name}/")}


class Verdict(NamedTuple):
    """What a network predicts for an image.

    Attributes:
        output: name of the most probable output.
        probability: of that output, in 0..1.
        correct: whether it is the output of the image's label; None where that is unknown.
        second: name of the second most probable output.
        log_odds: natural logarithm of how many times as probable the first output is as the second; infinite where
            the second one's probability is 0.
        second_probability: of the second output, in 0..1.
    """

    output: str
    probability: float
    correct: bool | None
    second: str
    log_odds: float
    second_probability: float


class ResemblingFile:
    """A file of training images that the explained images resemble.

    Attributes:
        path: of the file.
        layer: name of the embedding.
        rows: index of an image -> its row in the arrays.
        cosine: float32 [D, k].
        pictures: uint8 [D, k, h, w, 3].
        names: of the training images, D lists of k.
        classes: of them, "" where it is unknown.

    Raises:
        DataError: the file is missing or of another kind.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = pathlib.Path(path)
        result = Result.load(path, RESEMBLING_KIND, RESEMBLING_SCHEMA)
        self.layer = str(result.config["layer"])
        self.rows = {int(image): row for row, image in enumerate(result.arrays["images"])}
        self.cosine, self.pictures = result.arrays["cosine"], result.arrays["pictures"]
        self.names: list[list[str]] = result.state["names"]
        self.classes: list[list[str]] = result.state["classes"]


class DecisionsFile:
    """A decisions file: its lists are read at once, its maps image by image.

    Attributes:
        path: of the file.
        config: the configuration in the file.
        sources: where model and images were, and the command.
        names: of the network's outputs; empty where they are unknown.
        images: int64 [D], indices of the images.
        targets: int64 [D, T], the outputs that are explained.
        probabilities: float64 [D, T], of the targets.
        label_output: int64 [D], the output of the image's label, -1 where it is unknown.
        occlusion: "probability", "square" and "places" as in the file; empty where it has none.
        because: "channels" and "shares" as in the file, the channels that decide; empty where it has none.

    Raises:
        DataError: the file is missing or of another kind.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = pathlib.Path(path)
        with reading(path, DECISIONS_KIND, DECISIONS_SCHEMA) as file:
            self.config: dict[str, Any] = json.loads(file.attrs["config"])
            self.sources: dict[str, Any] = json.loads(file.attrs["sources"])
            self.names: list[str] = json.loads(file.attrs["state"]).get("names") or self.config.get("outputs") or []
            self.images: Ints = file["images"][()]
            self.targets: Ints = file["targets"][()]
            self.probabilities: Floats = file["probabilities"][()]
            self.label_output: Ints = file["label_output"][()]
            self.occlusion: dict[str, Array] = {}
            if "occlusion/probability" in file:
                self.occlusion = {name: file[f"occlusion/{name}"][()] for name in ("probability", "square", "places")}
            self.because: dict[str, Array] = {}
            if "because/channels" in file:
                self.because = {name: file[f"because/{name}"][()] for name in ("channels", "shares")}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def reasons_layer(self) -> str:
        """Name of the layer whose channels give the reasons; "" where the file has none."""
        return str(self.config["because"]["layer"]) if self.because else ""

    def maps(self, row: int) -> NDArray[np.uint8]:
        """Read the maps of one image, uint8 [M, T, h, w], for M methods and T targets."""
        with reading(self.path, DECISIONS_KIND, DECISIONS_SCHEMA) as file:
            return np.asarray(file["maps"][row], np.uint8)

    def output_name(self, output: int) -> str:
        """Return the name of an output of the network, or "output N" where it has no name."""
        return str(self.names[output]) if 0 <= output < len(self.names) else f"output {output}"

    def verdict(self, row: int) -> Verdict:
        """Return what the network predicts for one image."""
        best, next_best = np.argsort(-self.probabilities[row], kind="stable")[:2]
        first, second = self.probabilities[row, [best, next_best]]
        output, label = int(self.targets[row, best]), int(self.label_output[row])
        return Verdict(
            output=self.output_name(output),
            probability=float(first),
            correct=None if label < 0 else output == label,
            second=self.output_name(int(self.targets[row, next_best])),
            log_odds=float(np.log(first / second)) if second > 0 else float("inf"),
            second_probability=float(second),
        )


def file_digest(path: Pathlike) -> str:
    """Return the SHA-256 of a file in hex; raises DataError where it cannot be read."""
    digest = sha256()
    try:
        with pathlib.Path(path).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise DataError(f"cannot read {path}: {one_line(error)}; make it again") from error
    return digest.hexdigest()
