"""How far the explanations of one network are from those of another of the same architecture, as a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from deconvviz.cam.learned.base import LearnedExplainer
from deconvviz.cam.learned.bump import Bump, bump_of
from deconvviz.cam.learned.files import fitting
from deconvviz.cam.learned.reading import BumpReader
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.network import Network
from deconvviz.metrics.intervals import NORMAL_95, standard_error
from deconvviz.results.tables import write_csv
from deconvviz.run.options import RunOptions
from deconvviz.types import Floats, Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords


@dataclass(frozen=True, kw_only=True)
class ExplanationDrift:
    """Where a bump explainer sees two networks look, image by image, and how far the two lie apart.

    Attributes:
        first: float64 [N, 3], of the first network: row and column of the bump's centre, and sigma, in pixels.
        second: float64 [N, 3], of the other network.
        size: rows and columns of the images.
        names: of the images, [N].

    >>> first = np.array([[16.0, 16.0, 4.0], [16.0, 16.0, 4.0]])
    >>> drift = ExplanationDrift(first=first, second=first + [[0, 0, 0], [0, 8, 0]], size=(32, 32), names=("a", "b"))
    >>> drift.distances.round(3), drift.shifts
    (array([0.   , 0.627]), array([0.  , 0.25]))
    >>> drift
    ExplanationDrift(2 images: distance 0.314 ± 0.615, centres 0.125 of the side apart, widths x 1.00)
    """

    first: Floats
    second: Floats
    size: tuple[int, int]
    names: tuple[str, ...]

    @property
    def distances(self) -> Floats:
        """float64 [N], the Hellinger distance of both bumps as normal distributions: 0 for the same, 1 far apart.

        sqrt(1 - BC) with the Bhattacharyya coefficient BC = 2 s t / (s^2 + t^2) exp(-d^2 / 4 (s^2 + t^2)) of two
        round Gaussians of widths s and t whose centres are d apart. Source: Bhattacharyya 1943, Bulletin of the
        Calcutta Mathematical Society 35.
        """
        s, t = self.first[:, 2], self.second[:, 2]
        apart = np.square(self.first[:, :2] - self.second[:, :2]).sum(1)
        both = np.square(s) + np.square(t)
        return np.asarray(np.sqrt(np.maximum(1 - 2 * s * t / both * np.exp(-apart / (4 * both)), 0)))

    @property
    def shifts(self) -> Floats:
        """float64 [N], how far the centres are apart, in shares of the shorter side of the image."""
        return np.asarray(np.linalg.norm(self.first[:, :2] - self.second[:, :2], axis=1) / min(self.size))

    @property
    def widths(self) -> Floats:
        """float64 [N], sigma of the other network's bump over that of the first one's."""
        return self.second[:, 2] / self.first[:, 2]

    @property
    def mean(self) -> float:
        """The drift: the mean distance over the images, in 0..1."""
        return float(self.distances.mean())

    @property
    def half_width(self) -> float:
        """Half the width of its 95 % interval, 1.96 standard errors over the images; NaN for a single image."""
        return NORMAL_95 * standard_error(self.distances)

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each image: both bumps, their distance and the shift of the centre."""
        columns = [f"{what}_{which}" for which in ("first", "second") for what in ("row", "column", "sigma")]
        values = np.column_stack([self.first, self.second, self.distances, self.shifts]).tolist()
        rows = [[name, *numbers] for name, numbers in zip(self.names, values, strict=True)]
        write_csv(path, "explanation drift", ["image", *columns, "distance", "shift"], rows)

    def __repr__(self) -> str:
        ratio = float(np.exp(np.log(self.widths).mean()))
        return (
            f"ExplanationDrift({counted(len(self.first), 'image')}: distance {self.mean:.3f} ± {self.half_width:.3f}, "
            f"centres {self.shifts.mean():.3g} of the side apart, widths x {ratio:.2f})"
        )


def explanation_drift(
    network: Network,
    other: Network,
    images: Images,
    explainer: LearnedExplainer | Pathlike,
    *,
    preprocess: Preprocess,
    **run: Unpack[RunKeywords],
) -> ExplanationDrift:
    """Measure how far the explanations of two networks lie apart: before and after pruning, or of two epochs.

    One bump explainer, which was trained for the first network, reads the layers of both. Explained is the class that
    the first network decides for, in both, so that what moves is the explanation and not the class. The same network
    twice has drift 0. A drift has two causes, which it cannot tell apart: the network looks elsewhere, or its maps
    changed so that the explainer, which never learnt such maps, reads them wrongly.

    Args:
        network: a captured network, which the explainer was trained for.
        other: a captured network of the same architecture, such as the first one pruned (masked) or trained further.
        images: images to explain.
        explainer: a bump (`deconvviz train-cam bump`), or the path of its file.
        preprocess: as both networks take images.
        run: the fields of `RunOptions`.

    Returns:
        Both networks' bumps of each image, their distances, and the mean distance with its interval.

    Raises:
        CamError: an explainer of another method.
        CaptureError: the preprocessing does not fit a network.
        DataError: an invalid option, or damaged files of the explainer.
        MismatchError: the explainer was trained for another network than the first one, or does not fit the other.

    Source: the explainer is that of Ganjdanesh, Gao, Huang 2022, arXiv 2209.02869; the distance is our choice.

    >>> import deconvviz as dv
    >>> from deconvviz.cam.learned.base import LEARNED
    >>> maps = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.ReLU())
    >>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10))
    >>> network = dv.capture(torch.nn.Sequential(maps, head).eval(), (3, 32, 32))
    >>> bump = LEARNED["bump"]({"0": (4, 7, 7)}, 10, width=4)
    >>> bump.input_shape = (3, 32, 32)
    >>> preprocess = dv.Preprocess(resize=36, crop=32)
    >>> explanation_drift(network, network, dv.Scenes(8), bump, preprocess=preprocess, progress=False).mean
    0.0
    """
    options = RunOptions(**run)
    first, second = network, other
    found = fitting(explainer, Bump.name, first)
    assert isinstance(found, Bump)
    readers = [BumpReader(found, each) for each in (first, second)]
    for each in (first, second):
        each.check_input(preprocess.shape)
    layers, parts = readers[0].layers, []
    feed = Feed(images, preprocess, workers=options.workers)
    passes = [each.forward_only(options.precision, keep=layers) for each in (first, second)]
    with torch.no_grad(), options.bar("image", len(feed), "drift") as bar:
        for places, x in feed.tensors(options.images_at_once(first.device), first.device, passes[0].dtype):
            classes = None
            for reader, forward in zip(readers, passes, strict=True):
                values, output = forward.observed(x, layers)
                classes = forward.readout.scores(output).argmax(1) if classes is None else classes
                bumps = bump_of(reader.numbers(values, classes), found.size)
                parts.append(bumps.double().cpu().numpy())
            bar.update(len(places))
    return ExplanationDrift(
        first=np.concatenate(parts[::2]),
        second=np.concatenate(parts[1::2]),
        size=found.size,
        names=tuple(images.names),
    )
