"""Examples as explanation: training images that are near to an image, that taught its decision, and typical ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.pictures import resized
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.progress import progress_bar
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.examples.last_layer import Curvature, as_floats
from deconvviz.studies.examples.options import SHARE, ExampleOptions
from deconvviz.studies.examples.prototypes import criticisms, kernel_of, prototypes, witness
from deconvviz.studies.examples.result import ExampleRow, Examples, Suspects, name_of
from deconvviz.studies.examples.training_set import (
    Taught,
    TrainingSet,
    checked_outputs,
    checkpoints,
    features_file,
    rates_of,
)
from deconvviz.types import Floats, Ints, Picture, Pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.examples.options import ExampleKeywords

TILE = 96  # pixels of a picture's longer side
TYPICAL = 2000  # images of a class, at most, of which prototypes are chosen: evenly spread over it
FIRST = 32  # suspicious images whose pictures are kept


def examples(
    network: Network,
    pixels: Picture,
    images: Images,
    *,
    preprocess: Preprocess,
    target: int | None = None,
    against: int | None = None,
    name: str = "",
    **options: Unpack[ExampleKeywords],
) -> Examples:
    """Find the training images that explain a decision.

    The rows are the nearest training images by the cosine of their embeddings: of all classes, of the class that is
    explained, and of another one; with snapshots, those that lowered the loss of the decision during the training most,
    and those that raised it (TracIn); those without which the loss would rise or fall most (influence functions of the
    last layer); and prototypes and criticisms of the class.

    Args:
        network: a captured classifier.
        pixels: the image, uint8, uint16 or float32 [H, W, C].
        images: the labelled training images.
        preprocess: how an image becomes the network's input.
        target: the output that is explained; None takes the predicted one.
        against: the output whose nearest images stand beside, such as the true one; None takes the most probable of the
            others that the training images have.
        name: of the image, for the figure.
        options: the fields of `ExampleOptions`: what is shown (`count`), how the network is read (`layer`, `damping`,
            `lengths`, `snapshots`, `model`, `outputs`, `names`), what is kept (`features`, `limit`, `sources`), and how
            it runs (`batch_size`, `precision`, `workers`, `progress`).

    Raises:
        DataError: the training images have no labels, or other classes than the network; an option is out of range.
        MismatchError: the snapshots are of another network, or the file of features of other images.
        DeconvvizError: as `stream_features` raises it.

    Source: nearest, our choice of cosine; Pruthi et al. 2020 (TracIn); Koh and Liang 2017 (influence functions); Kim et
    al. 2016 (prototypes and criticisms).

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> network, plain = dv.capture(model.eval(), (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> scenes = dv.Scenes(40)
    >>> found = dv.examples(network, scenes[7][0], scenes, preprocess=plain, progress=False, count=3)
    >>> int(found.row("nearest").images[0]), float(found.row("nearest").values[0].round(6))
    (7, 1.0)
    """
    how = ExampleOptions(**options)
    of_class = checked_outputs(images, network, how.outputs, how.names)
    network.check_input(preprocess.shape)
    picture = preprocess.picture(pixels)
    x = preprocess.tensor(picture[None], network.device, network.dtype)
    with torch.no_grad():
        probabilities = network.probabilities(x)[0].double().cpu()
    decided = int(probabilities.argmax()) if target is None else target
    if not 0 <= decided < network.outputs:
        raise DataError(f"class {decided} given; the network has classes 0 to {network.outputs - 1}")
    with features_file(how.features) as path:
        training_set = TrainingSet(images, of_class, preprocess, how, path)
        decision = _Decision(training_set, network, x, decided)
        second = _second(probabilities, training_set.outputs, decided) if against is None else against
        decision.add_nearest(second)
        if how.snapshots is not None:
            decision.add_tracin(how.snapshots)
        decision.add_influence()
        decision.add_typical()
    return Examples(
        name=name,
        picture=preprocess.display(picture),
        decided=decided,
        probability=float(probabilities[decided]),
        layer=decision.taught.training.layer,
        total=len(training_set.indices),
        rows=tuple(decision.rows),
        image_names=images.names,
        names=how.names,
        notes=tuple(decision.notes),
    )


def suspects(
    network: Network,
    images: Images,
    *,
    preprocess: Preprocess,
    **options: Unpack[ExampleKeywords],
) -> Suspects:
    """Order training images by their influence on themselves: wrong labels come first.

    With snapshots it is TracIn's self-influence, the sum over epochs of the learning rate times the squared length of
    the image's gradient: a network that has learned a wrong label by heart in the end resisted it before. Without them
    it is that of influence functions where the last layer is small enough for an exact Hessian, otherwise the squared
    length of the gradient.

    Arguments and errors are those of `examples`.

    Source: Pruthi et al. 2020, section 4.1; Koh and Liang 2017, section 5.4.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> network, plain = dv.capture(model.eval(), (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> found = dv.suspects(network, dv.Scenes(40), preprocess=plain, progress=False)
    >>> found.method, len(found.images)
    ('influence', 40)
    """
    how = ExampleOptions(**options)
    of_class = checked_outputs(images, network, how.outputs, how.names)
    network.check_input(preprocess.shape)
    with features_file(how.features) as path:
        training_set = TrainingSet(images, of_class, preprocess, how, path)
        taught = training_set.by(network)
        notes = [_fitted(taught, self_influence=True)] if taught.why_fitted else []
        if how.snapshots is not None:
            method, values = "tracin", torch.zeros(len(training_set.indices), dtype=torch.float64)
            for point in checkpoints(training_set, network, how.snapshots):
                values += point.rate * point.taught.last.squares(point.taught.training, how.lengths).cpu()
            notes += _without_rates(how.snapshots)
        else:
            curvature = Curvature(taught.last, taught.training, taught.penalty or how.damping, SHARE)
            method = "influence" if curvature.exact else "gradient"
            values = (
                curvature.self_influence() if curvature.exact else taught.last.squares(taught.training, how.lengths)
            )
        predicted, probability = _predicted(network, training_set, taught)
    order = np.argsort(-as_floats(values), kind="stable")
    return Suspects(
        method=method,
        images=training_set.indices[order],
        labels=training_set.outputs[order],
        predicted=predicted[order],
        probability=probability[order],
        values=as_floats(values)[order],
        pictures=pictures_at(images, preprocess, training_set.indices[order[:FIRST]]),
        image_names=images.names,
        names=how.names,
        notes=tuple(notes),
    )


def _predicted(network: Network, training_set: TrainingSet, taught: Taught) -> tuple[Ints, Floats]:
    """Return what the network predicts of each training image, int64 [N], and its probability of the label, [N].

    A regression in the place of the last layer may say of each image what its label says: the network itself is asked.
    """
    outputs = taught.training.outputs
    if not taught.why_fitted:
        p = torch.cat([taught.last.probabilities(a) for _, a, _ in taught.training.blocks()])
        return p.argmax(1).cpu().numpy(), as_floats(p.gather(1, outputs[:, None])[:, 0])
    how, readout = training_set.options, network.readout
    feed = Feed(training_set.images, training_set.preprocess, training_set.indices, workers=how.workers)
    predicted, probability = np.zeros(len(feed), np.int64), np.zeros(len(feed))
    size = how.images_at_once(network.device)
    with torch.inference_mode(), how.bar("image", len(feed), "decisions") as bar:
        for places, x in feed.tensors(size, network.device, network.dtype):
            p = readout.probabilities_of(taught.network(x))
            predicted[places] = p.argmax(1).cpu().numpy()
            probability[places] = as_floats(p.gather(1, outputs[places].to(p.device)[:, None])[:, 0])
            bar.update(len(places))
    return predicted, probability


@dataclass
class _Decision:
    """One decision, and the rows of training images that explain it so far."""

    training_set: TrainingSet
    network: Network
    x: Tensor
    decided: int
    rows: list[ExampleRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taught, self.names = self.training_set.by(self.network), self.training_set.options.names
        self.row = self.taught.row(self.x)
        self.y = torch.tensor([self.decided], device=self.row.device)
        if self.taught.why_fitted:
            self.notes.append(_fitted(self.taught))

    def add_nearest(self, second: int | None) -> None:
        """Add the nearest images of all classes, of the class that is explained, and of another one."""
        closeness = similarity(self.taught, self.row)
        unit, outputs = "cosine", self.training_set.outputs
        self._add("nearest", "nearest of all classes", unit, closeness)
        wanted = {"nearest of class": self.decided, "nearest of other class": second}
        for kind, output in wanted.items():
            if output is None or not (outputs == output).any():
                if output is not None:
                    self.notes.append(f"No training image is of the class {name_of(output, self.names)}.")
                continue
            among = np.where(outputs == output, closeness, -np.inf)
            self._add(kind, f"nearest of {name_of(output, self.names)}", unit, among)

    def add_tracin(self, snapshots: Snapshots) -> None:
        """Add the images that lowered the loss of the decision most during the training, and those that raised it."""
        lengths = self.training_set.options.lengths
        values = np.zeros(len(self.training_set.indices))
        for point in checkpoints(self.training_set, self.network, snapshots):
            row, rate = point.taught.row(self.x), point.rate
            values += rate * as_floats(point.taught.last.tracin(point.taught.training, row, self.y, lengths))
        self.notes += _without_rates(snapshots)
        unit = "TracIn" if lengths else "TracIn, embeddings of length 1"
        self._add("tracin for", "taught it", unit, values, above=0)
        self._add("tracin against", "spoke against it", unit, -values, above=0, sign=-1)

    def add_influence(self) -> None:
        """Add the images without which the loss of the decision would rise most, and those without which it falls."""
        how = self.training_set.options
        damping = self.taught.penalty if self.taught.penalty is not None else how.damping
        curvature = Curvature(self.taught.last, self.taught.training, damping, SHARE)
        silent = curvature.exact or not how.progress
        with progress_bar(total=None, unit="step", desc="conjugate gradients", disable=silent) as bar:
            values = as_floats(curvature.influence(self.row, self.y, bar.update))
        solved = "exactly" if curvature.exact else f"by {curvature.steps} steps of conjugate gradients"
        self.notes.append(
            f"The Hessian of the last layer ({self.taught.last.weights.numel():,} parameters) has a damping of "
            f"{curvature.damping:.2g} and is solved {solved}."
        )
        self._add("influence for", "its loss would rise without", "nats", values, above=0)
        self._add("influence against", "its loss would fall without", "nats", -values, above=0, sign=-1)

    def add_typical(self) -> None:
        """Add prototypes and criticisms of the class that is explained."""
        of_class = np.flatnonzero(self.training_set.outputs == self.decided)
        if len(of_class) < 3:
            return
        of_class = of_class[evenly(len(of_class), TYPICAL)]
        table, layer = self.taught.training.table, self.taught.training.layer
        kernel = kernel_of(table.rows(layer, of_class).astype(np.float64))
        typical = prototypes(kernel, min(self.training_set.options.count, len(of_class) // 2))
        rare, called = criticisms(kernel, typical, self.training_set.options.count), name_of(self.decided, self.names)
        near = kernel.mean(1)
        self._row("prototypes", f"prototypes of {called}", "mean kernel", of_class[typical], near[typical])
        self._row("criticisms", f"criticisms of {called}", "witness", of_class[rare], witness(kernel, typical)[rare])

    def _add(self, kind: str, title: str, unit: str, values: Floats, above: float = -np.inf, sign: int = 1) -> None:
        """Add the images with the largest values above a limit."""
        order = np.argsort(-values, kind="stable")[: self.training_set.options.count]
        order = order[values[order] > above]
        self._row(kind, title, unit, order, sign * values[order])

    def _row(self, kind: str, title: str, unit: str, places: Ints, values: Floats) -> None:
        whole = self.training_set
        self.rows.append(
            ExampleRow(
                kind=kind,
                title=title,
                unit=unit,
                images=whole.indices[places],
                labels=whole.outputs[places],
                values=np.asarray(values, np.float64),
                pictures=pictures_at(whole.images, whole.preprocess, whole.indices[places]),
            )
        )


def similarity(taught: Taught, row: Tensor) -> Floats:
    """Return the cosine between an image's embedding, [1, D + 1] with a one behind, and each training image's."""
    x = row[:, :-1]
    parts = []
    for _, a, _ in taught.training.blocks():
        lengths = (a[:, :-1].norm(dim=1) * x.norm()).clamp(min=1e-300)
        parts.append((a[:, :-1] @ x[0]) / lengths)
    return as_floats(torch.cat(parts))


def pictures_at(images: Images, preprocess: Preprocess, indices: Ints) -> Pixels:
    """Return pictures of some images as the network sees them, uint8 [n, h, w, 3], at most TILE pixels long."""
    feed = Feed(images, preprocess, indices)
    height, width = preprocess.shape[1:]
    scale = min(1.0, TILE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    tiles = [resized(feed.display(place), size) for place in range(len(indices))]
    return np.stack(tiles) if tiles else np.zeros((0, *size, 3), np.uint8)


def _second(probabilities: Tensor, outputs: Ints, decided: int) -> int | None:
    """Return the most probable output, other than the decided one, of which there are training images."""
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return next((output for output in order if output != decided and (outputs == output).any()), None)


def _fitted(taught: Taught, self_influence: bool = False) -> str:
    """Say that a regression stands in the place of the network's last layer, and why.

    Where it is right of all images, their influence on themselves hardly tells wrong labels, which is said too.
    """
    right = sum(int((taught.last.probabilities(a).argmax(1) == y).sum()) for _, a, y in taught.training.blocks())
    blind = ""
    if self_influence and right == len(taught.training):
        blind = " Wrong labels are learned like right ones, and influence hardly tells them apart: compare each label "
        blind += "with what the network predicts, or give more images of each class."
    return (
        f"A softmax regression on the mean of each channel of {taught.training.layer} stands in the place of the last "
        f"layer, because {taught.why_fitted}; it classifies {right / len(taught.training):.1%} of the training images "
        f"correctly.{blind}"
    )


def _without_rates(snapshots: Snapshots) -> list[str]:
    """Say where the snapshots do not tell the learning rates."""
    return [] if rates_of(snapshots) else ["The snapshots tell no learning rates: each epoch counts the same."]
