"""A page about a training, written anew after each epoch: filters, dead ones, findings, curves."""

from __future__ import annotations

import contextlib
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from deconvviz.data.datasets import open_images
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, DeconvvizError, require
from deconvviz.graph.capture import capture
from deconvviz.graph.network import Network
from deconvviz.models.labels import outputs_of
from deconvviz.run.options import RunOptions
from deconvviz.studies.diagnosis.diagnose import CHECKS, diagnose_subject
from deconvviz.studies.diagnosis.options import DiagnosisOptions
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.studies.training.live_page import LiveState, Tiles, write_live_page
from deconvviz.studies.training.writers import active_run, log, require_writer
from deconvviz.types import Ints, Pathlike

LIMIT = 200  # images that are looked at after each epoch: with fewer, nearly dead filters are not told
QUICK = ("dead", "dominating", "saturated", "noise", "duplicates", "rank", "chance")
TILES, PATCHES = 64, 16  # filters of the first layer, and of the last one with rows and columns, that are shown


class LiveDiagnosis:
    """Diagnoses a network after each epoch of its training, and writes a page about it.

    `SnapshotRecorder(..., diagnose=...)` calls it. The page is one file, written atomically, which a browser loads anew
    by itself. What it costs is bounded by `limit` and `every`, and is written on the page. It neither draws random
    numbers of the training's generators nor changes the network. Where it fails, one line warns, and the training goes
    on.

    Attributes:
        images: what the network is judged by.
        page: path of the page; None until a recorder names it.
        limit: how many of the images are looked at, evenly chosen.
        every: it looks after each so many epochs.
        checks: names of the checks of `deconvviz diagnose`.
        layers: the layers that are looked at; empty for those that `diagnose` looks at.
        preprocess: how an image becomes the network's input; None where the recorder's training says so.
        class_names: names of the network's outputs; empty where they are those of the images' classes.
        writers: what the numbers and the picture are logged to.
        step: what the next numbers are logged at; None for the epoch.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> live = dv.LiveDiagnosis("scenes:40", preprocess=dv.Preprocess(resize=32, crop=32), checks=("dead",))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = dv.SnapshotRecorder(f"{folder}/evolution.h5", diagnose=live)
    ...     _ = record(1, model, loss=2.3)
    ...     sorted(dv.Snapshots(f"{folder}/evolution.h5").history[0]), live.page.name
    (['dead_share', 'epoch', 'findings', 'loss'], 'evolution.live.html')
    """

    def __init__(
        self,
        images: Any,
        page: Pathlike | None = None,
        *,
        preprocess: Preprocess | None = None,
        limit: int = LIMIT,
        every: int = 1,
        checks: Sequence[str] = QUICK,
        layers: Sequence[str] = (),
        class_names: Sequence[str] = (),
        writers: Sequence[Any] = (),
        **run: Any,
    ) -> None:
        """Open the images; the arguments are the attributes.

        Args:
            images: labelled images, or where they are, as for `open_images`.
            page: path of the page, which ends in .html; None takes the recorder's file, with the ending .live.html.
            preprocess: how an image becomes the network's input; None takes what the recorder's training says.
            limit: how many of the images are looked at, evenly chosen.
            every: look after each so many epochs.
            checks: names of the checks.
            layers: names of the layers to look at.
            class_names: names of the network's outputs.
            writers: TensorBoard's `SummaryWriter`, runs of Weights & Biases, or Lightning's loggers. A run of Weights &
                Biases that is active is logged to also where it is not named.
            run: `batch_size`, `precision`, `workers` and `seed` of `RunOptions`.

        Raises:
            DataError: the images cannot be opened, the page's folder does not exist, or a value is out of its range.
            DeconvvizError: a check does not exist.
        """
        self.images = open_images(images)
        self.page = None if page is None else pathlib.Path(page)
        self.preprocess, self.limit, self.every = preprocess, limit, every
        self.checks, self.layers, self.class_names = tuple(checks), tuple(layers), tuple(class_names)
        self.writers = list(writers)
        self.step: int | None = None
        self.run = RunOptions(**{**run, "progress": False})
        self._warned: set[str] = set()
        require(self, DataError, limit=(limit >= 1, "at least 1"), every=(every >= 1, "at least 1"))
        if page is not None and (not str(page).endswith(".html") or not pathlib.Path(page).resolve().parent.is_dir()):
            raise DataError(f"page {page} given; expected a name that ends in .html, in a folder that exists")
        for name in self.checks:
            _ = CHECKS[name]
        self.add_writers(())

    def add_writers(self, writers: Sequence[Any]) -> None:
        """Log to more writers; raises DataError for an object that cannot write."""
        self.writers = [*self.writers, *(each for each in writers if not any(each is known for known in self.writers))]
        for writer in self.writers:
            require_writer(writer)

    def __call__(
        self,
        epoch: int,
        model: nn.Module,
        history: Sequence[Mapping[str, Any]] = (),
        preprocess: Preprocess | None = None,
    ) -> dict[str, float]:
        """Look at the network after an epoch, write the page, and log the numbers.

        Args:
            epoch: its number.
            model: the network; it stays as it is.
            history: the metrics of the epochs so far, this one the last.
            preprocess: how an image becomes its input, where the attribute is None.

        Returns:
            "dead_share", the share of the filters of all layers that are dead, and "findings", how many there are;
            empty where nothing was looked at, or it failed.
        """
        if epoch % self.every:
            return {}
        began = time.monotonic()
        try:
            with _undisturbed(model):
                state = self._state(epoch, model, history, preprocess)
                state = state.after(time.monotonic() - began)
                if self.page is not None:
                    write_live_page(self.page, state)
                for writer in [*self.writers, *active_run(self.writers)]:
                    log(writer, state, epoch if self.step is None else self.step)
        except Exception as error:  # whatever it is: the training is worth more than its page
            self._warn(epoch, error)
            return {}
        return state.numbers

    def _warn(self, epoch: int, error: Exception) -> None:
        """Say once, on one line, why there is no diagnosis."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(f"no diagnosis after epoch {epoch}, the training goes on: {reason}", stacklevel=4)

    def _state(
        self, epoch: int, model: nn.Module, history: Sequence[Mapping[str, Any]], preprocess: Preprocess | None
    ) -> LiveState:
        settings = self.preprocess or preprocess
        if settings is None:
            raise DataError("it is not known how images are prepared; give LiveDiagnosis(..., preprocess=...)")
        network = capture(model, settings.shape)
        options = DiagnosisOptions(
            layers=self.layers,
            limit=self.limit,
            outputs=self._outputs(network),
            names=self.class_names,
            **self.run.keywords(),
        )
        subject = Subject(network, self.images, settings, options)
        diagnosis = diagnose_subject(subject, self.checks)
        dead = {layer: responses.constant for layer, responses in subject.responses.items()}
        numbers = {
            "dead_share": float(np.concatenate(list(dead.values())).mean()),
            "findings": float(len(diagnosis.findings)),
        }
        return LiveState(
            epoch=epoch,
            network=network.name,
            images=len(subject.feed),
            numbers=numbers,
            dead={layer: float(mask.mean()) for layer, mask in dead.items()},
            findings=diagnosis.findings,
            accuracy=subject.accuracy,
            tiles=tuple(self._tiles(subject)),
            history=tuple({**row, **(numbers if row is history[-1] else {})} for row in history),
            seconds=0.0,
        )

    def _outputs(self, network: Network) -> Ints | None:
        """Return the output that stands for each class of the images; None where that is not known."""
        try:
            return outputs_of(self.images.classes, network.width, self.class_names) if self.images.classes else None
        except DeconvvizError:  # no scores of classes, or other classes: the checks that need them are left out
            return None

    def _tiles(self, subject: Subject) -> Iterator[Tiles]:
        """Yield pictures of filters: those of the first layer, and of the last one with rows and columns."""
        spatial = [name for name in subject.responses if subject.network.layer(name).units[1] > 1]
        for layer, most in (*((name, TILES) for name in spatial[:1]), *((name, PATCHES) for name in spatial[1:][-1:])):
            firing = subject.responses[layer].firing.mean(0)
            some = np.arange(len(firing)) if len(firing) <= most else np.sort(np.argsort(-firing, kind="stable")[:most])
            channels = some.tolist()
            yield Tiles(
                layer=layer,
                channels=tuple(channels),
                total=len(firing),
                pictures=subject.tiles(layer, channels),
                show=subject.tiles_show(layer),
            )


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Keep the generators of random numbers as they are, and say nothing: the page says it."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an accuracy near chance, after the first epoch
            yield
    finally:
        np.random.set_state(state)
