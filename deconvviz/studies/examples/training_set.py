"""The training images as the last layer sees them: their embeddings, kept in a file, and the regression on them."""

from __future__ import annotations

import contextlib
import copy
import pathlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.capture import capture
from deconvviz.graph.classifier import LinearEnd, linear_end, values_for_scores
from deconvviz.graph.network import Network
from deconvviz.models.labels import outputs_of
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.features import Pooling, stream_features
from deconvviz.run.snapshots import with_weights
from deconvviz.studies.examples.last_layer import LastLayer, TrainingFeatures
from deconvviz.studies.examples.options import SHARE, ExampleOptions
from deconvviz.types import Ints

OWN, POOLED = "all", "mean 1x1"  # how the embedding is kept: as the network's last layer reads it, or a mean a channel


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A network, and what its last layer reads of the training images.

    Attributes:
        network: in the form that runs forward only.
        input_dtype: dtype of the images that it is given.
        pooling: how the embedding becomes a row.
        training: the training images' rows.
        last: the last layer: the network's own, or a regression that is fitted.
        why_fitted: why it is fitted; "" where it is the network's own.
        penalty: of the fit; None where the last layer is the network's own.
    """

    network: Network
    input_dtype: torch.dtype
    pooling: Pooling
    training: TrainingFeatures
    last: LastLayer
    why_fitted: str
    penalty: float | None

    def row(self, x: Tensor) -> Tensor:
        """Return the row of one image [1, C, H, W], with a one behind it: float64 [1, D + 1]."""
        layer = self.training.layer
        with torch.inference_mode():
            value = self.network.activations(x.to(self.network.device, self.input_dtype), [layer])[layer]
            row = self.pooling(self.network.maps(layer, value)).float()
        row = row.clone().to(self.training.device, torch.float64) * self.training.scale
        return functional.pad(row, (0, 1), value=1.0)


class TrainingSet:
    """Labelled images, and how networks see them.

    Attributes:
        images: the dataset.
        indices: int64 [N], those with a known class that are taken.
        outputs: int64 [N], the output that is right for each.
        preprocess: how an image becomes the network's input.
        options: how the job runs.
        path: of the file of embeddings.
    """

    def __init__(
        self,
        images: Images,
        outputs: Ints,
        preprocess: Preprocess,
        options: ExampleOptions,
        path: pathlib.Path,
    ) -> None:
        labels = np.asarray(images.labels)
        chosen = np.flatnonzero(labels >= 0)
        if options.limit is not None:
            chosen = chosen[spread(labels[chosen], options.limit)]
        self.images, self.indices, self.outputs = images, chosen, outputs[labels[chosen]]
        self.preprocess, self.options, self.path = preprocess, options, path

    def by(self, network: Network, beside: str = "") -> Taught:
        """Return what a network's last layer reads of the images; `beside` is added to the name of the file.

        Raises:
            DeconvvizError: as `stream_features` raises it.
        """
        layer = self.options.layer or values_for_scores(network)
        network.layer(layer)
        end, why = _own_end(network, layer)
        pool = POOLED if end is None else OWN
        file = self.path.with_suffix(f".{beside}{self.path.suffix}") if beside else self.path
        run = self.options.keywords()
        table = stream_features(
            network,
            self.images,
            [layer],
            file,
            preprocess=self.preprocess,
            indices=self.indices,
            sources=self.options.sources,
            pool=pool,
            **run,
        )
        device = network.device if network.device.type == "cuda" else "cpu"
        training = TrainingFeatures(table, layer, self.outputs, device)
        penalty = None
        if end is None:
            penalty = self._scaled(training, network.outputs)
            last = LastLayer.fitted(training, network.outputs, penalty)
        else:
            last = LastLayer.of(replace(end, weight=end.weight.to(device), bias=end.bias.to(device)))
        return Taught(
            network=network.forward_only(self.options.precision, keep=[layer]),
            input_dtype=network.dtype,
            pooling=Pooling.parse(pool),
            training=training,
            last=last,
            why_fitted=why,
            penalty=penalty,
        )

    def _scaled(self, training: TrainingFeatures, classes: int) -> float:
        """Scale the features to a root mean square of 1, and return the penalty of a fit."""
        width = training.table.layers[training.layer]
        mean = training.mean_square() - 1  # without the one behind each row
        if mean <= 0:
            raise DataError(f"{training.layer!r} is zero for every training image; choose another layer with -l")
        training.scale = (width / mean) ** 0.5
        if self.options.damping is not None:
            return self.options.damping
        return SHARE * (1 - 1 / classes) / classes  # of the Hessian's diagonal where all classes are equally probable


def _own_end(network: Network, layer: str) -> tuple[LinearEnd | None, str]:
    """Return the network's own last layer where its scores are linear in the embedding, else why they are not."""
    try:
        return linear_end(network, layer), ""
    except CaptureError as error:
        return None, str(error)


def checked_outputs(images: Images, network: Network, outputs: Ints | None, names: tuple[str, ...]) -> Ints:
    """Return the output of each class of the training images.

    Raises:
        DataError: the images have no labels, all have the same one, or classes and outputs cannot be matched.
    """
    labels = np.asarray(images.labels)
    if not (labels >= 0).any():
        raise DataError("the training images have no labels; give a store or a folder with a sub-folder for each class")
    if len(np.unique(labels[labels >= 0])) < 2:
        raise DataError("all training images are of one class; give images of two classes or more")
    if outputs is not None:
        return outputs
    classes = images.classes or tuple(map(str, range(int(labels.max()) + 1)))
    return outputs_of(classes, network.width, names)


@contextlib.contextmanager
def features_file(path: Any) -> Iterator[pathlib.Path]:
    """Yield the path of the file of embeddings; a temporary one where none is given."""
    if path is not None:
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder, "features.h5")


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot of the training as TracIn reads it.

    Attributes:
        epoch: its number.
        rate: the learning rate of the epoch; 1 where the snapshots do not say.
        taught: the network with the weights after that epoch.
    """

    epoch: int
    rate: float
    taught: Taught


def checkpoints(training_set: TrainingSet, network: Network, snapshots: Snapshots) -> Iterator[Checkpoint]:
    """Yield the snapshots of a training one after the other, but for that of the untrained network.

    Args:
        training_set: the training images; its options hold a module of the kind that was trained, which stays as it is.
        network: the network that is explained, whose device and precision are taken.
        snapshots: the weights.

    Raises:
        DataError: no model, no snapshot of a trained network, or a last layer whose input is not the embedding.
        MismatchError: the snapshots are of another network.
    """
    epochs, model = trained_epochs(snapshots), training_set.options.model
    if model is None:
        raise DataError("snapshots given without a model; give the module that was trained as `model`")
    model, rates = copy.deepcopy(model), rates_of(snapshots)
    for epoch in epochs:
        with_weights(model, snapshots, epoch, "give the model that was trained")
        at_epoch = capture(model, training_set.preprocess.shape)
        taught = training_set.by(at_epoch.to(network.device), beside=f"epoch{epoch:05d}")
        if taught.why_fitted:
            raise DataError(
                f"TracIn needs the last layer's own gradients, and {taught.why_fitted}; leave --snapshots out, or -l"
            )
        yield Checkpoint(epoch, rates.get(epoch, 1.0), taught)


def trained_epochs(snapshots: Snapshots) -> tuple[int, ...]:
    """Return the epochs of a file whose weights are kept, without the untrained network; raises DataError for none."""
    epochs = tuple(epoch for epoch in snapshots.epochs if epoch > 0)
    if not epochs:
        raise DataError(f"{snapshots.path} holds no weights of a trained epoch; record some with --snapshot-epochs")
    return epochs


def rates_of(snapshots: Snapshots) -> dict[int, float]:
    """Return the learning rate of each epoch, where a training of deconvviz noted it; empty where one is missing."""
    rates = {int(record["epoch"]): float(record["lr"]) for record in snapshots.history if record.get("lr")}
    return rates if all(epoch in rates for epoch in trained_epochs(snapshots)) else {}
