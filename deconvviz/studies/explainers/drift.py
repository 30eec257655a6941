"""How far the explanations of one network are from those of another of the same architecture, as a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from deconvviz.cam.learned.bump import Bump, bump_of
from deconvviz.cam.learned.files import fitting
from deconvviz.cam.learned.reading import BumpReader
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.network import Network
from deconvviz.run.options import RunOptions
from deconvviz.studies.explainers.result import ExplanationDrift
from deconvviz.types import Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords


def explanation_drift(
    network: Network,
    other: Network,
    images: Images,
    explainer: Bump | Pathlike,
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
