"""Result files: arrays with a schema version, the configuration that made them, and where they came from.

A result is written to a file beside its place and then moved there, so that a reader never sees half of it and a killed
writer leaves the last complete one. The configuration decides which results may be resumed or merged; the sources
(paths, the command, versions) only help to find things again, and may differ.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import h5py
import numpy as np

from deconvviz.errors import DataError, MismatchError
from deconvviz.results.files import READ_ERRORS, one_line, unreadable
from deconvviz.results.schemas import misfit_of_layout, misfit_of_values
from deconvviz.results.sealed import check_seal, refuse_foreign, sealed
from deconvviz.types import Array, Pathlike
from deconvviz.version import __version__
from deconvviz.words import with_article


@dataclass
class Result:
    """What a result file holds.

    Attributes:
        kind: of the result, such as "mined".
        schema: version of this kind's layout.
        config: what must be equal for two results to belong together; JSON values.
        sources: where the model, its weights and the images were, and the command; JSON values.
        arrays: name -> array; a "/" in a name makes a group in the file.
        state: the progress of an unfinished result; JSON values.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Result("squares", 1, {"count": 3}, arrays={"values": np.arange(3) ** 2}).save(f"{folder}/s.h5")
    ...     result = Result.load(f"{folder}/s.h5", "squares", 1)
    >>> result.config, result.arrays["values"]
    ({'count': 3}, array([0, 1, 4]))
    """

    kind: str
    schema: int
    config: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Pathlike) -> None:
        """Write the file atomically; raises DataError where it cannot be written, and changes nothing then."""
        with sealed(path) as file:
            file.attrs["deconvviz"] = self.kind
            file.attrs["schema"] = self.schema
            for name in ("config", "sources", "state"):
                file.attrs[name] = json.dumps(getattr(self, name), sort_keys=True)
            for name, array in sorted(self.arrays.items()):
                # The first bytes of all numbers, then the second ones: smaller, and compressed in less time
                how = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                file.create_dataset(name, data=array, **(how if array.nbytes > 1 << 16 else {}))

    @classmethod
    def load(cls, path: Pathlike, kind: str, schema: int) -> Result:
        """Read a result file.

        Args:
            path: of the file.
            kind: that the file must be of.
            schema: the newest version of its layout that the caller knows.

        Raises:
            DataError: the file is missing, not HDF5, truncated, of another kind, or of a newer schema.
        """
        with reading(path, kind, schema) as file:
            config, sources, state = (json.loads(file.attrs[name]) for name in ("config", "sources", "state"))
            schema_of_file = int(file.attrs["schema"])
            arrays = arrays_below(file)
        misfit = misfit_of_values(kind, arrays)
        if misfit:
            raise DataError(f"{path} is no whole {kind} file: {misfit}; restore it, or remove it and make it again")
        if not all(isinstance(value, dict) for value in (config, sources, state)):
            raise DataError(f"{path} is no whole {kind} file: its settings are no JSON objects; make it again")
        return cls(kind, schema_of_file, config, sources, arrays, state)


@contextlib.contextmanager
def reading(path: Pathlike, kind: str, schema: int) -> Iterator[h5py.File]:
    """Open a result file within a `with` block; an error that h5py raises in the block becomes a DataError.

    Args:
        path: of the file.
        kind: that the file must be of.
        schema: the newest version of its layout that the caller knows.

    Raises:
        DataError: the file is missing, not HDF5, truncated, of another kind, or of a newer schema.
    """
    with _opened(path, f"{kind} file") as (file, _):
        kind_of_file = _kind_in(file)
        if kind_of_file != kind:
            what = f"a file of kind {kind_of_file!r}" if kind_of_file else "an HDF5 file of some other program"
            raise DataError(f"{path} is {what}; expected {with_article(f'{kind} file')}")
        if int(file.attrs["schema"]) > schema:
            raise DataError(f"{path} has schema {file.attrs['schema']}; this deconvviz reads up to {schema}: update it")
        layout = refuse_foreign(file, path)
        current = int(file.attrs["schema"]) == schema  # an older layout is told by its reader
        misfit = misfit_of_layout(kind, layout) if current else ""
        if misfit:
            raise DataError(f"{path} is no whole {kind} file: {misfit}; restore it, or remove it and make it again")
        yield file


def require_file(path: Pathlike, expected: str) -> None:
    """Raise DataError where there is no file of this name; `expected` says what it should be, such as "mined file".

    >>> require_file("m.h5", "mined file")
    Traceback (most recent call last):
    deconvviz.errors.DataError: m.h5 does not exist; expected a mined file
    """
    if not pathlib.Path(path).is_file():
        what = "is a folder" if pathlib.Path(path).is_dir() else "does not exist"
        raise DataError(f"{path} {what}; expected {with_article(expected)}")


@contextlib.contextmanager
def _opened(path: Pathlike, expected: str) -> Iterator[tuple[h5py.File, bool]]:
    """Open an HDF5 file within a `with` block, its seal first; also yield whether it has one."""
    require_file(path, expected)
    try:
        has_seal = check_seal(path)
        with h5py.File(path, "r") as file:
            yield file, has_seal
    except READ_ERRORS as error:
        damaged = (
            f"{path} is no readable {expected} ({one_line(error)}); choose another, or remove it and make it again"
        )
        raise DataError(unreadable(path, error, damaged)) from error


def _kind_in(file: h5py.File) -> str:
    """Return the kind that a file says it is of, "" where another program wrote it."""
    return str(file.attrs.get("deconvviz", file.attrs.get("format", "")))


@contextlib.contextmanager
def whole(path: Pathlike, kind: str) -> Iterator[None]:
    """Turn what is raised where a file lacks something, within a `with` block, into a DataError that says so."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is no whole {kind} file ({one_line(error)}); restore it, or remove it and make it again"
        ) from error


def kind_of(path: Pathlike) -> tuple[str, bool]:
    """Return the kind of a file of deconvviz, and whether a digest tells that it is as it was written.

    Raises:
        DataError: it is damaged, was changed, cannot be read, or is no file of deconvviz.
    """
    with _opened(path, "file of deconvviz") as (file, has_seal):
        refuse_foreign(file, path)
        kind, has_digests = _kind_in(file), "digests" in file
    if not kind:
        raise DataError(f"{path} is an HDF5 file of some other program; give a file of deconvviz")
    return kind, has_seal or has_digests


def read_config(path: Pathlike, kind: str, schema: int) -> dict[str, Any]:
    """Read only the configuration of a result file.

    Raises:
        DataError: the file is missing, not HDF5, truncated, of another kind, or of a newer schema.
    """
    with reading(path, kind, schema) as file:
        config: dict[str, Any] = json.loads(file.attrs["config"])
    return config


def arrays_below(group: h5py.Group) -> dict[str, Array]:
    """Read every dataset below a group: its name within the group -> its array."""
    arrays: dict[str, Array] = {}

    def read(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()])

    group.visititems(read)
    return arrays


def of_group(arrays: Mapping[str, Array], group: str) -> dict[str, Array]:
    """Return the arrays of a group, by their names within it.

    >>> [*of_group({"maps/cam": np.zeros(2), "noise": np.zeros(3)}, "maps")]
    ['cam']
    """
    return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{group}/")}


MOST_LETTERS = 60  # of a value in a message
DIGEST = re.compile("[0-9a-f]{17,}")
SAID = {
    "store_fingerprint": "the images (fingerprint)",
    "images_fingerprint": "the images (fingerprint)",
    "truth_fingerprint": "the ground truth (fingerprint)",
}
"""Settings whose names in a file say little -> what an error calls them."""


def other_network(in_file: str | None, now: str | None) -> str:
    """Return what two networks with different fingerprints differ in, for an error message.

    Args:
        in_file: `graph.digest.architecture` of the one that a file was made with; None where the file does not say.
        now: that of the other one.

    >>> other_network("a", "a"), other_network("a", "b"), other_network(None, "b")
    ('other weights of the same architecture', 'another architecture', 'another network or other weights')
    """
    if in_file is None or now is None:
        return "another network or other weights"
    return "other weights of the same architecture" if in_file == now else "another architecture"


def require_same(
    path: Pathlike,
    in_file: Mapping[str, Any],
    now: Mapping[str, Any],
    advice: str,
    sources: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> None:
    """Check that a file was made with the configuration of today.

    Args:
        path: of the file or folder, for the message.
        in_file: the configuration that the file holds.
        now: the configuration of today; JSON values.
        advice: what the user can do, for the message.
        sources: of the file, and of today. Where both name an "architecture", the message tells other weights from
            another network.

    Raises:
        MismatchError: a setting differs; the message names each of them with both values.

    >>> both = {"architecture": "9f3c"}, {"architecture": "9f3c"}
    >>> require_same("m.h5", {"model_fingerprint": "1b"}, {"model_fingerprint": "2c"}, "remove it", both)
    Traceback (most recent call last):
        ...
    deconvviz.errors.MismatchError: m.h5 was made with other settings (other weights of the same architecture, which \
--weights of a command names: fingerprint 1b in the file, 2c now); remove it
    """
    in_file, now = json.loads(json.dumps(in_file)), json.loads(json.dumps(now))
    differing = [name for name in sorted({*in_file, *now}) if in_file.get(name) != now.get(name)]
    if differing:
        said = {name: f"{SAID.get(name, name)}: " for name in differing}
        if "model_fingerprint" in said:
            what = other_network(*(of.get("architecture") for of in sources))
            if _directions(in_file) != _directions(now):  # they are layers of the network, and change its graph
                what = "a network with other directions of layers"
            named = ", which --weights of a command names" if "weights" in what else ""
            said["model_fingerprint"] = f"{what}{named}: fingerprint "
        parts = [part for name in differing for part in _differing(said[name], in_file.get(name), now.get(name))]
        listed = "; ".join(
            f"{words}{_short(before)} in the file, {_short(present)} now" for words, before, present in parts
        )
        raise MismatchError(f"{path} was made with other settings ({listed}); {advice}")


def _directions(config: Mapping[str, Any]) -> set[str]:
    """Return the layers of a configuration that are directions of another layer, such as "features.7[pca:5]"."""
    layers = config.get("layers")
    return {name for name in layers if "[" in str(name)} if isinstance(layers, list) else set()


def _differing(words: str, before: Any, present: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs between two values of a setting: the words before it, and both values.

    Of two mappings it is each entry that differs, and of two lists what only one of them has.

    >>> [*_differing("preprocess: ", {"crop": 64, "resize": 72}, {"crop": 32, "resize": 72})]
    [('preprocess crop: ', 64, 32)]
    >>> [*_differing("layers: ", ["conv1", "conv2"], ["conv1", "conv3"])]
    [('layers: ', ['conv1', 'conv2'], ['conv1', 'conv3'])]
    """
    if isinstance(before, dict) and isinstance(present, dict):
        for key in sorted({*before, *present}):
            if (key in before, before.get(key)) != (key in present, present.get(key)):
                yield from _differing(f"{words.removesuffix(': ')} {key}: ", before.get(key), present.get(key))
        return
    if isinstance(before, list) and isinstance(present, list):
        only_before = [each for each in before if each not in present]
        only_present = [each for each in present if each not in before]
        if len(before) > 3 and (only_before or only_present):  # short lists, such as means of colours, are told whole
            before, present = only_before or "nothing more", only_present or "nothing more"
    yield words, before, present


def _short(value: Any) -> str:
    """Return a value as a message tells it: the first digits of a fingerprint, and the beginning of what is long.

    >>> _short("0123456789abcdef" * 4), _short(list(range(100)))
    ('0123456789abcdef', '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16...')
    >>> _short({"name": "hide-and-seek", "cells": 4})
    'hide-and-seek (cells=4)'
    """
    if isinstance(value, Mapping) and "name" in value:  # a part of the work with its settings
        settings = ", ".join(f"{name}={each}" for name, each in value.items() if name != "name")
        value = f"{value['name']} ({settings})" if settings else value["name"]
    text = str(value)
    if DIGEST.fullmatch(text):
        return text[:16]
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}..."


def digest_of(value: Any, length: int = 16) -> str:
    """Return the first digits of the SHA-256 of a JSON value: equal values, and only they, have equal digests.

    Args:
        value: what `json.dumps` takes; the order of a dictionary's keys does not matter.
        length: hexadecimal digits that are returned, at most 64.

    >>> digest_of({"k": 9, "layers": ["conv1"]}) == digest_of({"layers": ["conv1"], "k": 9})
    True
    """
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def stamped(sources: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the sources of a result, with the versions of the programs that compute it: the stamp of every file.

    Args:
        sources: where model, weights and images came from, and the command; what it names itself stays.

    >>> sorted(stamped({"images": "photos.h5"})), stamped({"versions": {"torch": "2.6"}})
    (['images', 'versions'], {'versions': {'torch': '2.6'}})
    """
    return {"versions": versions(), **(sources or {})}


def versions() -> dict[str, str]:
    """Return the versions of the programs that compute a result, for its sources."""
    import torch

    return {
        "deconvviz": __version__,
        "torch": str(torch.__version__),  # a plain string, which weights_only loading takes
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
