"""Snapshots of a network during training, in one HDF5 file.

The file (a result of kind "snapshots", schema 1). Attributes: deconvviz, schema, and as JSON config (what must agree
when it is continued), sources, history (one record of metrics for every epoch) and epochs (those whose weights are
kept). A group epochs/NNNNN for each of these, with one dataset a tensor and the attribute sha256.

To add an epoch, a new file with the old content and the epoch is written beside the file and moved to its place: a
crash at any moment leaves the last whole one.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import h5py
import numpy as np

from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike, Sink, atomic
from deconvviz.results.results import Array, arrays_below, reading

KIND, SCHEMA = "snapshots", 1
Tensors = dict[str, Array]


class Snapshots:
    """A file of snapshots, for reading.

    epochs: those whose weights are kept, ascending; history: the metrics of every epoch recorded, such as
    {"epoch": 3, "loss": 1.2, "accuracy": 0.61}; config: which network and training they belong to; sources: how they
    came about.
    """

    def __init__(self, path: Pathlike) -> None:
        """Read the lists; raises DataError where the file is missing, truncated, or something else."""
        self.path = pathlib.Path(path)
        with reading(path, KIND, SCHEMA) as file:
            self.config, self.sources, self.history = (
                json.loads(file.attrs[name]) for name in ("config", "sources", "history")
            )
            self.epochs: tuple[int, ...] = tuple(json.loads(file.attrs["epochs"]))
            missing = [epoch for epoch in self.epochs if _name(epoch) not in file]
        if missing:
            raise DataError(f"{path} is damaged: the weights of epoch {missing[0]} are missing; record it again")

    def weights(self, epoch: int) -> Tensors:
        """Return the state dict of an epoch, name -> array; raises DataError where it is not there or was damaged."""
        if epoch not in self.epochs:
            raise DataError(f"{self.path} holds no epoch {epoch}; it has {', '.join(map(str, self.epochs)) or 'none'}")
        with reading(self.path, KIND, SCHEMA) as file:
            found = arrays_below(file[_name(epoch)])
            whole = file[_name(epoch)].attrs["sha256"] == _digest(found)
        if not whole:
            raise DataError(
                f"epoch {epoch} of {self.path} is damaged: its weights are not those recorded; "
                "choose other epochs with --epochs, or record the training again"
            )
        return found

    def __repr__(self) -> str:
        epochs = ", ".join(map(str, self.epochs)) or "none"
        return f"<Snapshots {self.path}: weights of epochs {epochs}; metrics of {len(self.history)} epochs>"


def write_epoch(
    path: Pathlike,
    record: Mapping[str, Any],
    tensors: Mapping[str, Array] | None,
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
) -> None:
    """Add one epoch to a snapshots file, or begin one; what it holds of that epoch and later ones goes.

    record: the metrics, JSON values, with "epoch" among them; tensors: the weights, or None to keep only the metrics.
    Raises DataError where the file cannot be read or written, and then leaves it as it is.
    """
    epoch = int(record["epoch"])
    old = Snapshots(path) if pathlib.Path(path).exists() else None
    kept = [number for number in (old.epochs if old else ()) if number < epoch]
    history = [row for row in (old.history if old else ()) if row["epoch"] < epoch] + [dict(record)]
    epochs = kept + [epoch] * (tensors is not None)
    with atomic(path) as temporary, Sink(temporary) as sink, h5py.File(sink, "w") as file:
        file.attrs.update(deconvviz=KIND, schema=SCHEMA)
        values = {"config": config, "sources": sources, "history": history, "epochs": epochs}
        file.attrs.update({name: json.dumps(value, sort_keys=True) for name, value in values.items()})
        groups = file.create_group("epochs")
        if old:
            with h5py.File(path, "r") as before:
                for number in kept:
                    before.copy(_name(number), groups)
        if tensors is not None:
            group = file.create_group(_name(epoch))
            for name, tensor in tensors.items():
                group.create_dataset(name, data=tensor)
            group.attrs["sha256"] = _digest(tensors)


def _name(epoch: int) -> str:
    return f"epochs/{epoch:05d}"


def _digest(tensors: Mapping[str, Array]) -> str:
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
