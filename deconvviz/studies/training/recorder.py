"""Record snapshots of a network while it is trained, in any training loop."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.exporting import unwrapped
from deconvviz.models.weights import plain_state
from deconvviz.results.results import require_same, stamped
from deconvviz.results.snapshots import Snapshots, write_epoch
from deconvviz.types import Array, Pathlike

if TYPE_CHECKING:
    from deconvviz.studies.training.live import LiveDiagnosis

PAPER_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)  # Zeiler and Fergus 2013, figure 4


class SnapshotRecorder:
    """Records a network's weights at some epochs, and the metrics of every epoch, in one file.

    Call the recorder at the end of each epoch of your own training loop; `deconvviz evolve` reads the file. Each call
    writes the file atomically: a crash loses at most the epoch that was being written.

    Attributes:
        path: of the HDF5 file.
        epochs: the epochs whose weights are kept; those of the last recorded epoch always are.
        dtype: dtype in which floating-point weights are stored; None keeps their own.
        config: what the training is, JSON values.
        sources: where it came from, JSON values.
        live: what looks at the network after each epoch and writes a page about it; None where nothing does.

    Source: Zeiler and Fergus 2013, figure 4.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> model = nn.Conv2d(3, 8, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recorder = dv.SnapshotRecorder(f"{folder}/evolution.h5", epochs=(1, 3))
    ...     for epoch in range(1, 4):
    ...         _ = recorder(epoch, model, loss=1 / epoch)  # after the epoch's steps
    ...     snapshots = dv.Snapshots(f"{folder}/evolution.h5")
    >>> snapshots.epochs, [record["loss"] for record in snapshots.history[:2]]
    ((1, 3), [1.0, 0.5])
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
        diagnose: Any = None,
        writers: Sequence[Any] = (),
    ) -> None:
        """Begin a file, or continue one.

        Args:
            path: path of the HDF5 file.
            epochs: the epochs whose weights are kept, from 1, or 0 for the untrained network; by default those of the
                paper's figure 4.
            config: what the training is, JSON values. A file of another training is not continued. `deconvviz evolve`
                reads "model", the network's name as commands take it, and "preprocess", as `Preprocess.as_dict` gives
                it.
            sources: where the training came from, JSON values: the command, paths.
            dtype: dtype in which floating-point weights are stored, such as torch.float16 for half the space; None
                keeps their own.
            resume: whether an existing file is continued. Where a training goes back to an earlier epoch, its snapshots
                replace those of that epoch and of the later ones.
            diagnose: labelled images, or where they are, by which the network is diagnosed after each epoch: a page
                beside the file, NAME.live.html, shows filters, dead ones, findings and curves. It looks at 200 images;
                a `LiveDiagnosis` says otherwise. How images are prepared it reads in "preprocess" of `config`.
            writers: what the numbers and the picture of the page are logged to as well, see `LiveDiagnosis`.

        Raises:
            DataError: `path` exists and `resume` is not set, its folder does not exist, an epoch is negative or none is
                given, the images of `diagnose` cannot be opened, or writers are given without it.
        """
        if not epochs or min(epochs) < 0:
            raise DataError(f"epochs {list(epochs)} given; expected at least one, from 0 (before training)")
        self.path, self.epochs, self.dtype = pathlib.Path(path), frozenset(epochs), dtype
        self.config = {**(config or {})}
        self.sources = stamped(sources)
        if self.path.exists() and not resume:
            raise DataError(f"{path} exists; choose another name, or continue it with resume=True")
        if not self.path.resolve().parent.is_dir():
            raise DataError(f"cannot write {path}: there is no folder {self.path.resolve().parent}; create it first")
        self.live = self._live(diagnose, writers)

    def _live(self, diagnose: Any, writers: Sequence[Any]) -> LiveDiagnosis | None:
        """Return what looks at the network after each epoch."""
        if diagnose is None and not writers:
            return None
        from deconvviz.studies.training.live import LiveDiagnosis  # what draws is imported where something is drawn

        if diagnose is None:
            raise DataError(f"{len(writers)} writers given and nothing to log; give images with diagnose=")
        live = diagnose if isinstance(diagnose, LiveDiagnosis) else LiveDiagnosis(diagnose)
        live.page = live.page or self.path.with_suffix(".live.html")
        live.add_writers(writers)
        return live

    def __call__(self, epoch: int, model: nn.Module, **metrics: float) -> bool:
        """Record the end of an epoch.

        Args:
            epoch: its number, from 1, or 0 for the untrained network.
            model: the network.
            metrics: any numbers, such as loss=0.3, accuracy=0.9.

        Returns:
            Whether the epoch is one of `epochs`. The weights of the last recorded epoch are kept also where it is not.

        Raises:
            MismatchError: the file belongs to another network or another training.
            DataError: the file cannot be written.
        """
        model = unwrapped(model)
        state = plain_state(model)
        shapes = ";".join(f"{name}{tuple(tensor.shape)}" for name, tensor in state.items())
        network = f"{type(model).__name__} {sha256(shapes.encode()).hexdigest()[:12]}"
        config = {**self.config, "network": network}
        if self.path.exists():
            require_same(self.path, Snapshots(self.path).config, config, "record to another file")
        lasting = epoch in self.epochs
        metrics = {**metrics, **self._seen(epoch, model, metrics)}
        weights = {name: self._array(tensor) for name, tensor in state.items()}
        record = {"epoch": epoch, **{name: float(value) for name, value in metrics.items()}}
        write_epoch(self.path, record, weights, config, self.sources, until_next=not lasting)
        return lasting

    def _seen(self, epoch: int, model: nn.Module, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return what the diagnosis adds to the metrics of an epoch; nothing where there is none."""
        if self.live is None:
            return {}
        earlier = Snapshots(self.path).history if self.path.exists() else []
        history = [row for row in earlier if row["epoch"] < epoch] + [{"epoch": epoch, **metrics}]
        settings = self.config.get("preprocess")
        return self.live(epoch, model, history, None if settings is None else Preprocess.from_dict(settings))

    def _array(self, tensor: torch.Tensor) -> Array:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point() and self.dtype is not None:
            tensor = tensor.to(self.dtype)
        if tensor.dtype == torch.bfloat16:  # numpy has no such dtype
            tensor = tensor.float()
        return tensor.contiguous().numpy()
