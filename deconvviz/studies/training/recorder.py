"""Recording snapshots of a network while it is trained, in anyone's training loop."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import nn

from deconvviz.errors import DataError
from deconvviz.results.files import Pathlike
from deconvviz.results.results import require_same, versions
from deconvviz.results.snapshots import Snapshots, write_epoch

PAPER_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)  # figure 4


class SnapshotRecorder:
    """Keeps a network's weights at chosen epochs, and the metrics of every epoch, in one file.

        recorder = SnapshotRecorder("evolution.h5")
        for epoch in range(1, 65):
            ...
            recorder(epoch, model, loss=loss, accuracy=accuracy)

    Each call commits atomically: a crash loses at most the epoch that was being written.

    Source: Zeiler and Fergus 2013, figure 4.
    """

    def __init__(
        self,
        path: Pathlike,
        epochs: Sequence[int] = PAPER_EPOCHS,
        *,
        config: Mapping[str, Any] | None = None,
        sources: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        resume: bool = False,
    ) -> None:
        """Begin or continue a file.

        Args:
            path: of the HDF5 file.
            epochs: whose weights are kept; by default those of the paper's figure.
            config: what the training is, JSON values; a file of another config is not continued.
            sources: where it came from, JSON values: the command, paths.
            dtype: floats are stored so, torch.float16 to halve the file; by default as they are.
            resume: continue an existing file. A training that goes back to an earlier epoch records over what
                followed it.

        Raises:
            DataError: `path` exists and `resume` is not set; epochs that are none.
        """
        if not epochs or min(epochs) < 0:
            raise DataError(f"epochs {list(epochs)} given; expected at least one, from 0 (before training)")
        self.path, self.epochs, self.dtype = pathlib.Path(path), frozenset(epochs), dtype
        self.config = {**(config or {})}
        self.sources = {**(sources or {}), "versions": versions()}
        if self.path.exists() and not resume:
            raise DataError(f"{path} exists; choose another name, or continue it with resume=True")
        if not self.path.resolve().parent.is_dir():
            raise DataError(f"cannot write {path}: there is no folder {self.path.resolve().parent}; create it first")

    def __call__(self, epoch: int, model: nn.Module, **metrics: float) -> bool:
        """Record the end of an epoch; return whether its weights were kept.

        epoch: from 1, or 0 for the untrained network; metrics: any numbers, such as loss=0.3, accuracy=0.9.
        Raises MismatchError where the file belongs to another network or config, DataError where it cannot be written.
        """
        state = model.state_dict()
        shapes = ";".join(f"{name}{tuple(tensor.shape)}" for name, tensor in state.items())
        network = f"{type(model).__name__} {sha256(shapes.encode()).hexdigest()[:12]}"
        config = {**self.config, "network": network}
        if self.path.exists():
            require_same(self.path, Snapshots(self.path).config, config, "record to another file")
        kept = epoch in self.epochs
        tensors = {name: self._array(tensor) for name, tensor in state.items()} if kept else None
        record = {"epoch": epoch, **{name: float(value) for name, value in metrics.items()}}
        write_epoch(self.path, record, tensors, config, self.sources)
        return kept

    def _array(self, tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point() and self.dtype is not None:
            tensor = tensor.to(self.dtype)
        if tensor.dtype == torch.bfloat16:  # numpy has none
            tensor = tensor.float()
        return tensor.contiguous().numpy()
