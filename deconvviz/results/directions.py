"""Directions of a layer's channels, as a file: a matrix, what it reads, and how it was learned."""

from __future__ import annotations

import json
import pathlib
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deconvviz.errors import DataError
from deconvviz.results.files import atomic, one_line
from deconvviz.types import Array, Floats, Pathlike

KIND = "directions"
KEYS = ("deconvviz", "weights", "bias", "about")  # names of the arrays in a file
EXPECTED = "a matrix [directions, channels], .npy, or what `deconvviz directions` wrote, .npz"


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
            raise DataError(f"no file {path}; give {EXPECTED}")
        try:
            with file.open("rb") as opened:
                content = np.load(opened, allow_pickle=False)
                arrays = content if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
        except OSError as error:
            raise DataError(f"{path} cannot be read: {one_line(error)}; give {EXPECTED}") from error
        except (ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            # The error's own text is about pickled objects, and not about what was given.
            raise DataError(
                f"{path} holds no directions: it is no NumPy file of numbers, or it is damaged; give {EXPECTED}"
            ) from error
        return cls._of_matrix(path, arrays) if isinstance(arrays, np.ndarray) else cls._of_arrays(path, arrays)

    @classmethod
    def _of_matrix(cls, path: Pathlike, matrix: Array) -> Directions:
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
            shape = f"an array of {matrix.dtype} of shape {list(matrix.shape)}"
            raise DataError(f"{path} holds {shape}; give {EXPECTED}")
        return cls(weights=matrix.astype(np.float64), bias=np.zeros(len(matrix)))

    @classmethod
    def _of_arrays(cls, path: Pathlike, arrays: dict[str, Array]) -> Directions:
        if not set(KEYS) <= set(arrays) or str(arrays["deconvviz"]) != KIND:
            names = ", ".join(list(arrays)[:5]) + ", ..." * (len(arrays) > 5)
            raise DataError(f"{path} holds no directions but other arrays ({names}); give {EXPECTED}")
        try:
            about = json.loads(str(arrays["about"]))
            weights, bias = (np.asarray(arrays[key], np.float64) for key in ("weights", "bias"))
            return cls(weights=weights, bias=bias, layer=about.pop("layer"), kind=about.pop("kind"), about=about)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path} holds directions that are damaged; learn them anew") from error

    def __repr__(self) -> str:
        share = self.about.get("explained")
        explained = "" if share is None else f", {100 * share:.3g} % explained"
        count, channels = self.weights.shape
        return f"Directions({self.layer or 'any layer'}, {self.kind}, {count} of {channels} channels{explained})"
