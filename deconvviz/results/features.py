"""Features: what layers of a network answer to every image of a set, a row an image, in one HDF5 file.

The file (a result of kind "features", schema 1). Attributes: deconvviz, schema, and as JSON config (what must agree
when it is continued) and sources. Datasets: labels [N] int64, classes [K] text, done [1] int64, and layers/NAME [N, D]
float32 or float16 for each layer.

A result file is replaced whole at each commit; features are too large for that. Instead the file is begun at its full
length, with a place for every row, and from then on only numbers in these places are overwritten, never HDF5's own
structure: a writer that is killed at any moment leaves a readable file. Rows are on the disk before `done` counts them.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError, LayerNotFound, nearest
from deconvviz.results.files import Pathlike, Sink, atomic, one_line
from deconvviz.results.results import reading, require_same

KIND, SCHEMA = "features", 1
DTYPES = ("float32", "float16")
Rows = NDArray[np.float32]


class FeatureTable(Protocol):
    """Features of N labelled images: a `Features` file, or `FeatureArrays` in memory."""

    @property
    def layers(self) -> Mapping[str, int]:
        """Name -> D, how many values an image has there; in the order of depth."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], an index into the classes, -1 where unknown."""

    @property
    def classes(self) -> Sequence[str]:
        """The class names; empty where none were given."""

    def rows(self, layer: str, chosen: NDArray[np.int64]) -> Rows:
        """Return the features of the chosen images, float32 [n, D]."""


@dataclass(frozen=True)
class FeatureArrays:
    """Features that are in memory. arrays: layer -> [N, D]; labels: int64 [N]; classes: their names, if any."""

    arrays: Mapping[str, NDArray[np.floating[Any]]]
    labels: NDArray[np.int64]
    classes: Sequence[str] = ()

    @property
    def layers(self) -> Mapping[str, int]:
        return {name: array.shape[1] for name, array in self.arrays.items()}

    def rows(self, layer: str, chosen: NDArray[np.int64]) -> Rows:
        """Return the features of the chosen images, float32 [n, D]; raises LayerNotFound."""
        return np.asarray(self.arrays[known_layer(layer, self.arrays)][chosen], np.float32)


class Features:
    """A file of features, for reading; a file that is being written shows the rows that are done.

    layers: name -> D, values an image; labels: int64 [N]; classes: their names; done: how many rows are there;
    config: the network, the images and the settings; sources: where they were.
    """

    def __init__(self, path: Pathlike) -> None:
        """Read the lists; raises DataError where the file is missing, truncated, or something else."""
        self.path = pathlib.Path(path)
        with reading(path, KIND, SCHEMA) as file:
            self.config, self.sources = (json.loads(file.attrs[name]) for name in ("config", "sources"))
            self.labels: NDArray[np.int64] = file["labels"][:].astype(np.int64)
            self.classes: tuple[str, ...] = tuple(file["classes"].asstr()[:])
            self.done = int(file["done"][0])
            self.layers: dict[str, int] = {name: file[_place(name)].shape[1] for name in self.config["layers"]}
            whole = all(len(file[_place(name)]) == len(self.labels) for name in self.layers)
        if not whole or not 0 <= self.done <= len(self.labels):
            raise DataError(f"{path} is damaged: its lists are not of one length; remove it and make it again")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def complete(self) -> bool:
        """True where every image has its row."""
        return self.done == len(self)

    def rows(self, layer: str, chosen: NDArray[np.int64]) -> Rows:
        """Return the features of the chosen images, float32 [n, D]; no others are read.

        Raises LayerNotFound, and DataError for a row that is not done or cannot be read.
        """
        width = self.layers[known_layer(layer, self.layers)]
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < self.done:
            raise DataError(f"rows {chosen.min()} to {chosen.max()} asked of {self.path}; it has {self.done} so far")
        with reading(self.path, KIND, SCHEMA) as file:
            offset, dtype = _offset(file[_place(layer)], self.path), file[_place(layer)].dtype
            # HDF5 takes 0.1 ms for each row that does not follow the one before
            values = np.memmap(self.path, dtype, "r", offset, (len(self), width))
            return np.asarray(values[chosen], np.float32)

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} [{width}]" for name, width in self.layers.items())
        return f"<Features {self.path}: {self.done} of {len(self)} images; {layers}>"


class FeatureWriter:
    """Writes rows into a features file, in order; `commit` makes them count. Made by `write_features`."""

    def __init__(self, path: Pathlike) -> None:
        """Open a file that has been begun; raises DataError where it cannot be read, or may not be written."""
        self.path, self.begun = pathlib.Path(path), Features(path)
        self.row = self.committed = self.begun.done
        with reading(path, KIND, SCHEMA) as file:
            places = {name: file[_place(name)] for name in self.begun.layers}
            self._places = {name: (_offset(found, path), found.dtype) for name, found in places.items()}
            self._done = _offset(file["done"], path)
        try:
            self._file = self.path.open("rb" if self.begun.complete else "r+b", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, values: Mapping[str, NDArray[np.floating[Any]]]) -> None:
        """Write the next rows: layer -> [n, D], the same n for each.

        Raises DataError where the disk refuses them, or for a value that is not finite (in the file's dtype).
        """
        for name, (offset, dtype) in self._places.items():
            with np.errstate(over="ignore"):  # told below
                rows = np.ascontiguousarray(values[name], dtype)
            if not np.isfinite(rows).all():
                raise self._infinite(name, values[name], rows)
            self._write(offset + self.row * self.begun.layers[name] * dtype.itemsize, rows.data.cast("B"))
        self.row += len(rows)

    def commit(self) -> None:
        """Make the rows count that were appended, once they are on the disk."""
        if self.row > self.committed:
            self._sync()
            self._write(self._done, np.array([self.row], "<i8").data.cast("B"))
            self._sync()
            self.committed = self.row

    def _write(self, offset: int, data: memoryview) -> None:
        try:
            self._file.seek(offset)
            while len(data):  # a raw file may take a part only
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(
            f"cannot write {self.path}: {one_line(error)}; free some space or change its permissions, then run it "
            "again: it goes on where it was"
        )

    def _infinite(self, name: str, values: NDArray[Any], rows: NDArray[Any]) -> DataError:
        image = self.row + int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        if np.isfinite(values).all():
            return DataError(
                f"{name} gives image {image} values up to {np.abs(values).max():.3g}, which float16 "
                "cannot hold; keep float32"
            )
        return DataError(f"{name} gives image {image} a value that is not finite; choose other layers or weights")

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.commit()  # what a job that was interrupted has done is done
        finally:
            self._file.close()


def write_features(
    path: Pathlike,
    widths: Mapping[str, int],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
    dtype: str = "float32",
) -> FeatureWriter:
    """Begin a features file, or continue one of the same configuration where it stands.

    Args:
        widths: layer -> D, values an image.
        labels: int64 [N]; classes: their names.
        config: what must agree, JSON values; sources: where things were, JSON values.
        dtype: "float32" or "float16" (half the size).

    Raises:
        MismatchError: the file was made with another configuration.
        DataError: the file cannot be read or written, or the disk is too small for it.
    """
    if dtype not in DTYPES:
        raise DataError(f"dtype {dtype!r} given; expected {' or '.join(DTYPES)}")
    settings = {**config, "layers": list(widths), "dtype": dtype}
    if pathlib.Path(path).exists():
        require_same(path, Features(path).config, settings, "remove it or choose another file")
    else:
        _begin(path, widths, labels, classes, settings, sources, dtype)
    return FeatureWriter(path)


def known_layer(layer: str, layers: Mapping[str, Any]) -> str:
    """Return the name of a layer that is there; raises LayerNotFound with the nearest names."""
    if layer not in layers:
        raise LayerNotFound(f"no features of layer {layer!r}; {nearest(layer, layers)}")
    return layer


def _begin(
    path: Pathlike,
    widths: Mapping[str, int],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
    dtype: str,
) -> None:
    size = len(labels) * sum(widths.values()) * np.dtype(dtype).itemsize
    folder = pathlib.Path(os.path.realpath(path)).parent
    free = shutil.disk_usage(folder).free if folder.is_dir() else size
    if free < size:
        raise DataError(
            f"the features of {len(labels)} images take {size / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; "
            "ask for fewer layers, pool them more, or keep float16"
        )
    # Aligned, the eight bytes of `done` lie in one sector of the disk, which is written whole or not at all.
    with (
        atomic(path) as temporary,
        Sink(temporary) as sink,
        h5py.File(sink, "w", alignment_threshold=8, alignment_interval=8) as file,
    ):
        file.attrs.update(deconvviz=KIND, schema=SCHEMA)
        file.attrs.update({n: json.dumps(v, sort_keys=True) for n, v in (("config", config), ("sources", sources))})
        file["labels"] = np.asarray(labels, np.int64)
        file["classes"] = np.array(list(classes), h5py.string_dtype())
        file["done"] = np.zeros(1, "<i8")
        for name, width in widths.items():
            found = file.create_dataset(_place(name), (len(labels), width), np.dtype(dtype), fill_time="never")
            found[-1:, -1:] = 0  # a dataset gets its place with its first value


def _place(layer: str) -> str:
    return f"layers/{layer}"


def _offset(dataset: h5py.Dataset, path: Pathlike) -> int:
    """Return where in the file a dataset's values begin."""
    offset = dataset.id.get_offset()
    if offset is None:
        raise DataError(f"{path} has been rewritten by another program; remove it and make it again")
    return int(offset)
