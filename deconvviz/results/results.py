"""Result files: arrays with a schema version, the configuration that made them, and where they came from.

A result is written whole to a file beside its place and then moved there, so a reader never sees half of one and a
killed writer leaves the last complete one. The configuration decides what may be continued or merged with what; the
sources (paths, the command, versions) only help to find things again and may differ.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError, MismatchError
from deconvviz.results.files import Pathlike, Sink, atomic, one_line
from deconvviz.version import __version__

Array = NDArray[Any]


@dataclass
class Result:
    """What a result file holds.

    Attributes:
        kind: what sort of result, such as "mined".
        schema: version of this kind's layout.
        config: what must agree for two results to belong together; JSON values.
        sources: where model, weights, images and command were; JSON values.
        arrays: name -> array; a "/" in a name makes a group.
        state: progress of an unfinished result; JSON values.
    """

    kind: str
    schema: int
    config: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Pathlike) -> None:
        """Write the file atomically; raises DataError where it cannot be written, and then changes nothing."""
        with atomic(path) as temporary, Sink(temporary) as sink, h5py.File(sink, "w") as file:
            file.attrs["deconvviz"] = self.kind
            file.attrs["schema"] = self.schema
            for name in ("config", "sources", "state"):
                file.attrs[name] = json.dumps(getattr(self, name), sort_keys=True)
            for name, array in sorted(self.arrays.items()):
                large = array.nbytes > 1 << 16
                file.create_dataset(
                    name, data=array, compression="gzip" if large else None, compression_opts=1 if large else None
                )

    @classmethod
    def load(cls, path: Pathlike, kind: str, schema: int) -> Result:
        """Read a result file.

        Raises:
            DataError: it is missing, no HDF5, truncated, of another kind, or of a newer schema.
        """
        with reading(path, kind, schema) as file:
            config, sources, state = (json.loads(file.attrs[name]) for name in ("config", "sources", "state"))
            found = int(file.attrs["schema"])
            arrays = arrays_below(file)
        return cls(kind, found, config, sources, arrays, state)


@contextlib.contextmanager
def reading(path: Pathlike, kind: str, schema: int) -> Iterator[h5py.File]:
    """Open a file of this kind to read it; what h5py raises meanwhile becomes a DataError.

    Raises:
        DataError: it is missing, no HDF5, truncated, of another kind, or of a newer schema.
    """
    if not pathlib.Path(path).is_file():
        what = "is a folder" if pathlib.Path(path).is_dir() else "does not exist"
        raise DataError(f"{path} {what}; expected a {kind} file")
    try:
        with h5py.File(path, "r") as file:
            found = str(file.attrs.get("deconvviz", file.attrs.get("format", "")))
            if found != kind:
                what = f"a file of kind {found!r}" if found else "an HDF5 file of some other program"
                raise DataError(f"{path} is {what}; expected a {kind} file")
            if int(file.attrs["schema"]) > schema:
                raise DataError(
                    f"{path} has schema {file.attrs['schema']}; this deconvviz reads up to {schema}: update it"
                )
            yield file
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"{path} is no readable {kind} file ({one_line(error)}); choose another, or remove it and make it again"
        ) from error


def arrays_below(group: h5py.Group) -> dict[str, Array]:
    """Read every dataset below a group: its name within the group -> its array."""
    found: dict[str, Array] = {}

    def read(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()])

    group.visititems(read)
    return found


def require_same(path: Pathlike, found: Mapping[str, Any], wanted: Mapping[str, Any], advice: str) -> None:
    """Raise MismatchError, naming each setting that differs, unless both configurations are equal."""
    found, wanted = json.loads(json.dumps(found)), json.loads(json.dumps(wanted))
    differing = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if differing:
        shown = "; ".join(f"{name}: {found.get(name)} in the file, {wanted.get(name)} now" for name in differing)
        raise MismatchError(f"{path} was made otherwise ({shown}); {advice}")


def digest_of(value: Any, length: int = 16) -> str:
    """Return the first digits of the SHA-256 of a JSON value: equal values, and only they, have equal digests.

    Args:
        value: what `json.dumps` takes; the order of a dictionary's keys does not matter.
        length: hexadecimal digits that are returned, at most 64.

    >>> digest_of({"k": 9, "layers": ["conv1"]}) == digest_of({"layers": ["conv1"], "k": 9})
    True
    """
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def versions() -> dict[str, str]:
    """Return the versions of what computes a result, for its provenance."""
    import torch

    return {
        "deconvviz": __version__,
        "torch": str(torch.__version__),  # a plain string, which weights_only loading takes
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
