"""Directions of a layer's channels, as a file: a matrix, what it reads, and how it was learned."""

from __future__ import annotations

import json
import pathlib
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deconvviz.errors import DataError
from deconvviz.results.files import atomic, one_line
from deconvviz.types import Floats, Pathlike

KIND = "directions"


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Directions of one layer, each a row of weights for the layer's channels.

    Attributes:
        weights: float64 [directions, channels].
        bias: float64 [directions], added to each reading.
        layer: name of the layer; "" for a plain matrix, which fits any layer with so many channels.
        kind: how they were learned, one of `choices.DIRECTIONS`; "matrix" for a plain matrix.
        about: how they were learned: the fingerprints of network and images, samples, seed and so on.
    """

    weights: Floats
    bias: Floats
    layer: str = ""
    kind: str = "matrix"
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Pathlike) -> None:
        """Write a NumPy file, whole or not at all; raises DataError for another ending than .npz.

        It holds `weights` and `bias`, and as JSON what else is known.
        """
        if not str(path).endswith(".npz"):
            raise DataError(f"{path} given; expected a name that ends in .npz")
        note = json.dumps({"kind": self.kind, "layer": self.layer, **self.about}, sort_keys=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, deconvviz=KIND, weights=self.weights, bias=self.bias, about=note)

    @classmethod
    def load(cls, path: Pathlike) -> Directions:
        """Read directions: a file that `save` wrote, or a matrix [directions, channels] in a .npy file.

        Raises:
            DataError: the file is missing, damaged or something else.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/axes.npy", np.eye(3)[:2])
        ...     Directions.load(f"{folder}/axes.npy").weights.shape
        (2, 3)
        """
        file = pathlib.Path(path)
        if not file.is_file():
            raise DataError(f"no file {path}; give a matrix, .npy, or what `deconvviz directions` wrote, .npz")
        try:
            with file.open("rb") as opened:
                content = np.load(opened, allow_pickle=False)
                if isinstance(content, np.ndarray):
                    weights = np.asarray(content, np.float64)
                    return cls(weights=weights, bias=np.zeros(len(weights)))
                about = json.loads(str(content["about"])) if str(content["deconvviz"]) == KIND else {}
                return cls(
                    weights=np.asarray(content["weights"], np.float64),
                    bias=np.asarray(content["bias"], np.float64),
                    layer=about.pop("layer"),
                    kind=about.pop("kind"),
                    about=about,
                )
        except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} holds no directions: {one_line(error)}; expected .npy or .npz") from error

    def __repr__(self) -> str:
        share = self.about.get("explained")
        explained = "" if share is None else f", {100 * share:.3g} % explained"
        count, channels = self.weights.shape
        return f"Directions({self.layer or 'any layer'}, {self.kind}, {count} of {channels} channels{explained})"
