"""Snapshots of a network during training, in one HDF5 file.

The file is a result of kind "snapshots", schema 1. Attributes: deconvviz, schema, and as JSON config (what must agree
when it is continued), sources, history (one record of metrics for every epoch) and epochs (those whose weights are
kept). A group epochs/NNNNN for each of these, with one dataset a tensor and the attribute sha256.

To add an epoch, a new file with the old content and the epoch is written beside the file and moved to its place: after
a crash at any moment the last whole file is still there.
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
from deconvviz.notebook import Shown
from deconvviz.results.results import arrays_below, reading
from deconvviz.results.sealed import sealed
from deconvviz.types import Array, Pathlike
from deconvviz.words import counted

KIND, SCHEMA = "snapshots", 1


class Snapshots(Shown, drawn_by="draw_history"):
    """A file of snapshots, for reading. `SnapshotRecorder` writes it during a training.

    Attributes:
        path: path of the file.
        epochs: the epochs whose weights are kept, ascending; 0 is the untrained network. The last epoch that was
            recorded is always among them.
        until_next: the last one where it is kept only until the next is recorded, else None.
        history: a record of metrics for every epoch, such as {"epoch": 3, "loss": 1.2, "accuracy": 0.61}.
        config: the network and the training, JSON values.
        sources: where the training came from, JSON values.
    """

    def __init__(self, path: Pathlike) -> None:
        """Read everything but the weights; raises DataError where the file is missing, truncated, or something else."""
        self.path = pathlib.Path(path)
        with reading(path, KIND, SCHEMA) as file:
            self.config, self.sources, self.history = (
                json.loads(file.attrs[name]) for name in ("config", "sources", "history")
            )
            self.epochs: tuple[int, ...] = tuple(json.loads(file.attrs["epochs"]))
            self.until_next: int | None = json.loads(file.attrs.get("until_next", "null"))
            missing = [epoch for epoch in self.epochs if _group(epoch) not in file]
        if missing:
            raise DataError(f"{path} is damaged: the weights of epoch {missing[0]} are missing; record it again")

    def weights(self, epoch: int) -> dict[str, Array]:
        """Return the state dict of an epoch, name -> array.

        Raises:
            DataError: the file holds no such epoch, or its weights are damaged.
        """
        if epoch not in self.epochs:
            raise DataError(f"{self.path} holds no epoch {epoch}; it has {', '.join(map(str, self.epochs)) or 'none'}")
        with reading(self.path, KIND, SCHEMA) as file:
            tensors = arrays_below(file[_group(epoch)])
            intact = file[_group(epoch)].attrs["sha256"] == _digest(tensors)
        if not intact:
            raise DataError(
                f"epoch {epoch} of {self.path} is damaged: its weights are not those recorded; "
                "choose other epochs with --epochs, or record the training again"
            )
        return tensors

    def __repr__(self) -> str:
        epochs = ", ".join(map(str, self.epochs)) or "none"
        return f"<Snapshots {self.path}: weights of epochs {epochs}; metrics of {counted(len(self.history), 'epoch')}>"


def write_epoch(
    path: Pathlike,
    record: Mapping[str, Any],
    tensors: Mapping[str, Array] | None,
    config: Mapping[str, Any],
    sources: Mapping[str, Any],
    until_next: bool = False,
) -> None:
    """Add an epoch to a snapshots file, or begin one. What the file holds of that epoch and of later ones is dropped.

    Args:
        path: path of the file.
        record: the metrics of the epoch, JSON values, with its number as "epoch".
        tensors: the weights, name -> array; None keeps the metrics only.
        config: the network and the training, JSON values.
        sources: where the training came from, JSON values.
        until_next: whether the weights are kept only until the next epoch is written.

    Raises:
        DataError: the file cannot be read or written; it then stays as it is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_epoch(f"{folder}/s.h5", {"epoch": 1, "loss": 0.5}, {"weight": np.ones(3)}, {}, {})
    ...     Snapshots(f"{folder}/s.h5").weights(1)["weight"]
    array([1., 1., 1.])
    """
    epoch = int(record["epoch"])
    old = Snapshots(path) if pathlib.Path(path).exists() else None
    lasting = [number for number in old.epochs if number != old.until_next] if old else []
    earlier = [number for number in lasting if number < epoch]
    history = [row for row in (old.history if old else ()) if row["epoch"] < epoch] + [dict(record)]
    epochs = earlier + [epoch] * (tensors is not None)
    with sealed(path) as file:
        file.attrs.update(deconvviz=KIND, schema=SCHEMA)
        values: dict[str, Any] = {"config": config, "sources": sources, "history": history, "epochs": epochs}
        values |= {"until_next": epoch} if until_next and tensors is not None else {}
        file.attrs.update({name: json.dumps(value, sort_keys=True) for name, value in values.items()})
        groups = file.create_group("epochs")
        if old:
            with h5py.File(path, "r") as before:
                for number in earlier:
                    before.copy(_group(number), groups)
        if tensors is not None:
            group = file.create_group(_group(epoch))
            for name, tensor in tensors.items():
                group.create_dataset(name, data=tensor)
            group.attrs["sha256"] = _digest(tensors)


def _group(epoch: int) -> str:
    """Return the name of the group that holds an epoch's weights."""
    return f"epochs/{epoch:05d}"


def _digest(tensors: Mapping[str, Array]) -> str:
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
