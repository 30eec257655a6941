"""A Lightning callback that records snapshots; needs `pip install 'deconvviz[lightning]'`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deconvviz.errors import DeconvvizError
from deconvviz.results.files import Pathlike
from deconvviz.studies.training.recorder import PAPER_EPOCHS, SnapshotRecorder

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment, unused-ignore]
    except ImportError:
        raise DeconvvizError("Lightning is not installed; pip install 'deconvviz[lightning]'") from None


class SnapshotCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Records the module after each training epoch, with the metrics that were logged.

        Trainer(callbacks=[SnapshotCallback("evolution.h5", network="model")])

    Args:
        path, epochs, options: as for `SnapshotRecorder`; epochs count from 1.
        network: name of the attribute that is the network itself, such as "model"; by default the whole module.
    """

    def __init__(
        self, path: Pathlike, epochs: Sequence[int] = PAPER_EPOCHS, network: str | None = None, **options: Any
    ) -> None:
        self.recorder = SnapshotRecorder(path, epochs, **options)
        self.network = network

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record; only the process of rank 0 writes."""
        if not trainer.is_global_zero:
            return
        model = getattr(pl_module, self.network) if self.network else pl_module
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "epoch"}
        self.recorder(trainer.current_epoch + 1, model, **metrics)
