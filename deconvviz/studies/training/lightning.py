"""A Lightning callback that records snapshots; it needs `pip install lightning`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deconvviz.errors import DeconvvizError, missing_library
from deconvviz.studies.training.recorder import PAPER_EPOCHS, SnapshotRecorder
from deconvviz.types import Pathlike

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment, unused-ignore]
    except ImportError:
        raise DeconvvizError(missing_library("lightning")) from None


class SnapshotCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Records the module after each training epoch, with the metrics that were logged.

        from deconvviz.studies.training.lightning import SnapshotCallback
        Trainer(callbacks=[SnapshotCallback("evolution.h5", network="model")])

    Attributes:
        recorder: the `SnapshotRecorder` that writes the file.
        network: name of the module's attribute that is the network itself; None for the whole module.
    """

    def __init__(
        self, path: Pathlike, epochs: Sequence[int] = PAPER_EPOCHS, network: str | None = None, **options: Any
    ) -> None:
        """Begin a file, or continue one.

        Args:
            path: path of the HDF5 file.
            epochs: the epochs whose weights are kept, from 1.
            network: name of the module's attribute that is the network itself, such as "model"; None records the
                whole module.
            options: `config`, `sources`, `dtype`, `resume`, `diagnose` and `writers` of `SnapshotRecorder`. With
                `diagnose`, the trainer's loggers get the numbers and the picture of the page too.

        Raises:
            DataError: as `SnapshotRecorder` does.
        """
        self.recorder = SnapshotRecorder(path, epochs, **options)
        self.network = network

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the epoch; of several processes only that of rank 0 writes."""
        if not trainer.is_global_zero:
            return
        model = getattr(pl_module, self.network) if self.network else pl_module
        if self.recorder.live is not None:
            self.recorder.live.add_writers(trainer.loggers)
            self.recorder.live.step = trainer.global_step
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "epoch"}
        self.recorder(trainer.current_epoch + 1, model, **metrics)
