"""Features: the values of a network's layers for many images, one row an image, in one HDF5 file.

The file is a result of kind "features", schema 1. Attributes: deconvviz, schema, and as JSON config (what must agree
when it is continued) and sources. Datasets: labels [N] int64, classes [K] text, done [1] int64, and for each layer
layers/NAME [N, D] float32 or float16, and digests/NAME [N, 16] uint8, a BLAKE2 digest of each row, which is checked
when the row is read; older files have none. The attribute lists is a digest over labels, classes and config.

Other result files are replaced as a whole at each commit; features are too large for that. Instead the file is begun at
its full length, with a place for every row, and from then on only numbers in these places are overwritten, never HDF5's
own structure: a writer that is killed at any moment leaves a readable file. Rows are on the disk before `done` counts
them.
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

from deconvviz.choices import FEATURE_DTYPES
from deconvviz.errors import DataError, LayerNotFound, nearest, require_choice
from deconvviz.results.files import Sink, atomic, note_committed, one_line
from deconvviz.results.results import reading, require_same
from deconvviz.results.sealed import DIGEST, digest_of_bytes, digest_of_lists
from deconvviz.types import Ints, Pathlike
from deconvviz.words import counted

KIND, SCHEMA = "features", 1
Rows = NDArray[np.float32]


class FeatureTable(Protocol):
    """Features of N labelled images: a `Features` file, or `FeatureArrays` in memory."""

    @property
    def layers(self) -> Mapping[str, int]:
        """Name of a layer -> D, its number of values for an image; in the order of depth."""

    @property
    def labels(self) -> Ints:
        """int64 [N], an index into the classes, -1 where unknown."""

    @property
    def classes(self) -> Sequence[str]:
        """The class names; empty where none were given."""

    def rows(self, layer: str, indices: Ints) -> Rows:
        """Return the features of some images, float32 [n, D]."""


@dataclass(frozen=True)
class FeatureArrays:
    """Features in memory.

    Attributes:
        arrays: name of a layer -> float [N, D].
        labels: int64 [N], an index into the classes, -1 where unknown.
        classes: the class names; empty where none were given.

    >>> features = FeatureArrays({"conv5": np.zeros((4, 9216))}, np.array([0, 0, 1, 1]), ("cat", "dog"))
    >>> features.layers, features.rows("conv5", np.array([2])).shape
    ({'conv5': 9216}, (1, 9216))
    """

    arrays: Mapping[str, NDArray[np.floating[Any]]]
    labels: Ints
    classes: Sequence[str] = ()

    @property
    def layers(self) -> Mapping[str, int]:
        """Name of a layer -> D, its number of values for an image."""
        return {name: array.shape[1] for name, array in self.arrays.items()}

    def rows(self, layer: str, indices: Ints) -> Rows:
        """Return the features of some images, float32 [n, D]; raises LayerNotFound."""
        return np.asarray(self.arrays[checked_layer(layer, self.arrays)][indices], np.float32)


class Features:
    """A file of features, for reading. A file that is still written has the rows that are done so far.

    Attributes:
        path: path of the file.
        layers: name of a layer -> D, its number of values for an image.
        labels: int64 [N], an index into the classes, -1 where unknown.
        classes: the class names; empty where none were given.
        done: number of rows that are done.
        config: the network, the images and the settings, JSON values.
        sources: where the model and the images came from, JSON values.
    """

    def __init__(self, path: Pathlike) -> None:
        """Read everything but the rows; raises DataError where the file is missing, truncated, or something else."""
        self.path = pathlib.Path(path)
        with reading(path, KIND, SCHEMA) as file:
            self.config, self.sources = (json.loads(file.attrs[name]) for name in ("config", "sources"))
            self.labels: Ints = file["labels"][:].astype(np.int64)
            self.classes: tuple[str, ...] = tuple(file["classes"].asstr()[:])
            self.done = int(file["done"][0])
            self._has_digests = "digests" in file
            told = file.attrs.get("lists")
            same = told is None or told == digest_of_lists([self.classes, self.config], [self.labels])
            self.layers: dict[str, int] = {name: file[_dataset(name)].shape[1] for name in self.config["layers"]}
            lengths_agree = all(len(file[_dataset(name)]) == len(self.labels) for name in self.layers)
        if not same:
            raise DataError(
                f"{path} is damaged or was changed: its lists are not those that were written; restore it, or remove "
                "it and make it again"
            )
        if not lengths_agree or not 0 <= self.done <= len(self.labels):
            raise DataError(f"{path} is damaged: its lists are not of one length; remove it and make it again")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def complete(self) -> bool:
        """Whether every row is done."""
        return self.done == len(self)

    def rows(self, layer: str, indices: Ints) -> Rows:
        """Return the features of some images; no other rows are read.

        Args:
            layer: its name.
            indices: int64 [n], in 0 .. done - 1.

        Returns:
            float32 [n, D].

        Raises:
            LayerNotFound: the file has no such layer.
            DataError: a row is not done yet, or cannot be read.
        """
        width = self.layers[checked_layer(layer, self.layers)]
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.done:
            raise DataError(
                f"rows {indices.min()} to {indices.max()} of {self.path} given; it has {self.done} so far: finish it"
            )
        with reading(self.path, KIND, SCHEMA) as file:
            offset, dtype = _offset(file[_dataset(layer)], self.path), file[_dataset(layer)].dtype
            # HDF5 takes 0.1 ms for each row that does not follow the one before.
            rows = np.memmap(self.path, dtype, "r", offset, (len(self), width))[indices]
            if self._has_digests:
                place = _offset(file[_digests(layer)], self.path)
                told = np.memmap(self.path, np.uint8, "r", place, (len(self), DIGEST))[indices]
                self._refuse_changed(rows, told, indices)
            return np.asarray(rows, np.float32)

    def _refuse_changed(self, rows: NDArray[Any], told: NDArray[np.uint8], indices: Ints) -> None:
        """Raise DataError where a row is not what its digest tells."""
        for index, row, digest in zip(indices.tolist(), rows, told, strict=True):
            if digest_of_bytes(row) != digest.tobytes():
                raise DataError(
                    f"row {index} of {self.path} is damaged or was changed; restore the file, or remove it and make it "
                    "again"
                )

    def __repr__(self) -> str:
        layers = ", ".join(f"{name} [{width}]" for name, width in self.layers.items())
        return f"<Features {self.path}: {self.done} of {counted(len(self), 'row')}; {layers}>"


class FeatureWriter:
    """Writes rows into a features file, in order; `commit` makes them count. `write_features` makes it.

    Attributes:
        path: path of the file.
        row_of: what a row belongs to, for messages, such as "image".
        widths: name of a layer -> D, its number of values for an image.
        row: number of rows that are written.
        committed: number of rows that count.
    """

    def __init__(self, path: Pathlike, row_of: str = "image") -> None:
        """Open a file that has been begun; raises DataError where it cannot be read, or may not be written."""
        self.path, self.row_of, features = pathlib.Path(path), row_of, Features(path)
        self.widths = features.layers
        self.row = self.committed = features.done
        with reading(path, KIND, SCHEMA) as file:
            datasets = {name: file[_dataset(name)] for name in self.widths}
            self._places = {name: (_offset(dataset, path), dataset.dtype) for name, dataset in datasets.items()}
            noted = [name for name in self.widths if "digests" in file]
            self._digests = {name: _offset(file[_digests(name)], path) for name in noted}
            self._done = _offset(file["done"], path)
        try:
            self._file = self.path.open("rb" if features.complete else "r+b", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, values: Mapping[str, NDArray[np.floating[Any]]]) -> None:
        """Write the next rows.

        Args:
            values: name of a layer -> [n, D], the same n for each.

        Raises:
            DataError: the disk refuses them, or a value is not finite in the file's dtype.
        """
        for name, (offset, dtype) in self._places.items():
            with np.errstate(over="ignore"):  # the next lines raise an error that says more
                rows = np.ascontiguousarray(values[name], dtype)
            if not np.isfinite(rows).all():
                raise self._infinite(name, values[name], rows)
            self._write(offset + self.row * self.widths[name] * dtype.itemsize, rows.data.cast("B"))
            if name in self._digests:
                digests = b"".join(digest_of_bytes(row) for row in rows)
                self._write(self._digests[name] + self.row * DIGEST, memoryview(digests))
        self.row += len(rows)

    def commit(self) -> None:
        """Make the rows that were appended count, once they are on the disk."""
        if self.row > self.committed:
            self._sync()
            self._write(self._done, np.array([self.row], "<i8").data.cast("B"))
            self._sync()
            self.committed = self.row
            note_committed(self.path)

    def _write(self, offset: int, data: memoryview) -> None:
        try:
            self._file.seek(offset)
            while len(data):  # an unbuffered file may write a part only
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
            "again: it resumes"
        )

    def _infinite(self, name: str, values: NDArray[Any], rows: NDArray[Any]) -> DataError:
        row = self.row + int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        if np.isfinite(values).all():
            return DataError(
                f"{name} gives {self.row_of} {row} values up to {np.abs(values).max():.3g}, which float16 "
                "cannot hold; keep float32"
            )
        return DataError(f"{name} gives {self.row_of} {row} a value that is not finite; choose other layers or weights")

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.commit()  # also after an error: the rows that are written are not computed again
        finally:
            self._file.close()


def write_features(
    path: Pathlike,
    widths: Mapping[str, int],
    labels: Ints,
    classes: Sequence[str],
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
    dtype: str = "float32",
    row_of: str = "image",
) -> FeatureWriter:
    """Begin a features file, or continue one of the same configuration where it ends.

    Args:
        path: path of the file.
        widths: name of a layer -> D, its number of values for an image.
        labels: int64 [N], an index into the classes, -1 where unknown.
        classes: the class names; empty where none were given.
        config: the network, the images and the settings, which must agree; JSON values.
        sources: where the model and the images came from, JSON values.
        dtype: "float32", or "float16" for half the size.
        row_of: what a row belongs to, for messages.

    Raises:
        MismatchError: the file was written with another configuration.
        DataError: the file cannot be read or written, or the disk is too small for it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with write_features(f"{folder}/f.h5", {"conv5": 3}, np.array([0, 1]), ("cat", "dog"), {}, {}) as writer:
    ...         writer.append({"conv5": np.ones((2, 3))})
    ...     Features(f"{folder}/f.h5").rows("conv5", np.array([1]))
    array([[1., 1., 1.]], dtype=float32)
    """
    require_choice("dtype", dtype, FEATURE_DTYPES)
    settings = {**config, "layers": list(widths), "dtype": dtype}
    if pathlib.Path(path).exists():
        require_same(path, Features(path).config, settings, "remove it or choose another file")
    else:
        _begin(path, widths, labels, classes, settings, sources, row_of)
    return FeatureWriter(path, row_of)


def checked_layer(layer: str, layers: Mapping[str, Any]) -> str:
    """Return the name of a layer that has features; raises LayerNotFound, with the nearest names, for another."""
    if layer not in layers:
        raise LayerNotFound(f"no features of layer {layer!r}; {nearest(layer, layers)}")
    return layer


def _begin(
    path: Pathlike,
    widths: Mapping[str, int],
    labels: Ints,
    classes: Sequence[str],
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
    row_of: str,
) -> None:
    """Write a file with a place for every row; the arguments are those of `write_features`."""
    dtype = np.dtype(config["dtype"])
    size = len(labels) * sum(widths.values()) * dtype.itemsize
    folder = pathlib.Path(os.path.realpath(path)).parent
    free = shutil.disk_usage(folder).free if folder.is_dir() else size
    if free < size:
        raise DataError(
            f"the features of {counted(len(labels), row_of)} take {size / 1e9:.1f} GB, "
            f"{folder} has {free / 1e9:.1f} GB free; "
            "give fewer layers, pool them more, or keep float16"
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
            dataset = file.create_dataset(_dataset(name), (len(labels), width), dtype, fill_time="never")
            dataset[-1:, -1:] = 0  # HDF5 gives a dataset its place in the file with its first value
            noted = file.create_dataset(_digests(name), (len(labels), DIGEST), np.uint8, fill_time="never")
            noted[-1:, -1:] = 0
        as_json = json.loads(json.dumps([list(classes), config]))
        file.attrs["lists"] = digest_of_lists(as_json, [np.asarray(labels, np.int64)])


def _dataset(layer: str) -> str:
    """Return the name of the dataset that holds a layer's features."""
    return f"layers/{layer}"


def _digests(layer: str) -> str:
    """Return the name of the dataset that holds the digests of a layer's rows."""
    return f"digests/{layer}"


def _offset(dataset: h5py.Dataset, path: Pathlike) -> int:
    """Return where in the file a dataset's values begin."""
    offset = dataset.id.get_offset()
    if offset is None:
        raise DataError(f"{path} has been rewritten by another program; remove it and make it again")
    return int(offset)
