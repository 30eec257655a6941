"""Files of sequences of vectors: .npy, .npz and HDF5."""

from __future__ import annotations

import pathlib

import h5py
import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError
from deconvviz.results.files import READ_ERRORS, one_line
from deconvviz.results.results import arrays_below
from deconvviz.types import Array, Pathlike

VECTOR_EXTENSIONS = (".npy", ".npz", ".h5", ".hdf5")
EXPECTED = "expected [steps, D], [sequences, steps, D], or an array [steps, D] for each sequence"


def is_vector_file(path: Pathlike) -> bool:
    """Return whether a file is read as sequences of vectors, by its ending."""
    return pathlib.Path(path).suffix.lower() in VECTOR_EXTENSIONS


def read_vectors(path: Pathlike) -> list[NDArray[np.float32]]:
    """Read sequences of vectors.

    Args:
        path: of a .npy file with an array [steps, D] or [sequences, steps, D], or of a .npz or HDF5 file with such
            arrays, which are taken in the order of their names. Sequences may have different numbers of steps.

    Returns:
        float32 [steps, D] for each sequence.

    Raises:
        DataError: the file cannot be read, has no step, vectors of different lengths, or values that are not finite.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/v.npz", a=np.zeros((3, 2)), b=np.ones((5, 2)))
    ...     [sequence.shape for sequence in read_vectors(f"{folder}/v.npz")]
    [(3, 2), (5, 2)]
    """
    if not pathlib.Path(path).is_file():
        raise DataError(f"{path} does not exist; expected a file of vectors")
    try:
        arrays = _arrays_in(pathlib.Path(path))
    except READ_ERRORS as error:
        why = "its sequences are ragged, or it holds objects" if "pickle" in str(error) else one_line(error)
        raise DataError(f"cannot read {path}: {why}; {EXPECTED}, in a .npz or HDF5 file") from error
    sequences = [sequence for name, array in arrays.items() for sequence in _sequences(path, name, array)]
    widths = sorted({sequence.shape[1] for sequence in sequences})
    if len(widths) > 1:
        raise DataError(f"{path} has ragged vectors, of {widths} numbers; give all vectors one length")
    return sequences


def _arrays_in(path: pathlib.Path) -> dict[str, Array]:
    """Return all arrays of a file by their names."""
    if path.suffix.lower() == ".npy":
        return {path.name: np.load(path, allow_pickle=False)}
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in sorted(archive.files)}
    with h5py.File(path, "r") as file:
        return dict(sorted(arrays_below(file).items()))


def _sequences(path: Pathlike, name: str, array: Array) -> list[NDArray[np.float32]]:
    """Return the sequences in one array; raises DataError where it holds none."""
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or not array.size:
        raise DataError(f"{name} of {path} is {array.dtype} {list(array.shape)}; {EXPECTED}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} of {path} has NaN or infinite values; replace them first")
    return [np.asarray(each, np.float32) for each in (array if array.ndim == 3 else array[None])]
