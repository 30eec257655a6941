"""Find the images that a network classifies incorrectly, and where it sees the true and the predicted class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deconvviz.cam.explain import Explainer, constant_maps_allowed
from deconvviz.data.feed import Feed
from deconvviz.graph.network import Network
from deconvviz.metrics.intervals import correlation
from deconvviz.models.labels import class_label, names_of_outputs, shown_classes
from deconvviz.run.options import RunOptions
from deconvviz.studies.evaluation.mistakes_result import Mistake, Mistakes
from deconvviz.types import Ints

ILLUSTRATED = 8  # mistakes whose maps are kept for a figure


def find_mistakes(
    network: Network,
    feed: Feed,
    explainer: Explainer,
    outputs: Ints,
    names: Sequence[str] = (),
    batch_size: int = 16,
    progress: bool = False,
) -> Mistakes:
    """Explain every image that is classified incorrectly, for its true class and for the predicted one.

    Args:
        network: a captured network.
        feed: the images; those without a class are left out.
        explainer: makes the maps.
        outputs: int64 [classes], the output that stands for each class of the images; see `models.labels.outputs_of`.
        names: of the network's outputs. Without them an output is called as its class is, or by its number.
        batch_size: images in one pass.
        progress: whether a progress bar is shown on standard error.

    Returns:
        The mistakes in the order of the feed, with the maps of the first 8.

    Source: the error analysis of Gkartzonika et al. 2022 (L-CAM), arXiv 2209.11189.
    """
    labelled = np.flatnonzero(feed.labels >= 0)
    records: list[Mistake] = []
    maps: list[Tensor] = []
    bar = RunOptions(progress=progress).bar("image", len(labelled), "mistakes")
    for places, images in feed.tensors(batch_size, network.device, network.dtype, labelled):
        bar.update(len(places))
        with torch.no_grad():
            probabilities = network.probabilities(images).float().cpu()
        true, predicted = torch.from_numpy(outputs[feed.labels[places]]), probabilities.argmax(1)
        incorrect = (true != predicted).nonzero().flatten()
        if not len(incorrect):
            continue
        with constant_maps_allowed():  # an image's number within the batch would mislead
            maps_true, maps_predicted = (
                explainer(images[incorrect], classes[incorrect].tolist()).float().cpu() for classes in (true, predicted)
            )
        for row, map_true, map_predicted in zip(incorrect.tolist(), maps_true, maps_predicted, strict=True):
            records.append(
                Mistake(
                    image=int(feed.indices[places[row]]),
                    name=feed.name(int(places[row])),
                    true=int(true[row]),
                    predicted=int(predicted[row]),
                    p_true=float(probabilities[row, true[row]]),
                    p_predicted=float(probabilities[row, predicted[row]]),
                    overlap=correlation(map_true, map_predicted),
                )
            )
            if len(maps) < ILLUSTRATED:
                maps.append(torch.stack([map_true, map_predicted]))
    bar.close()
    preprocess = feed.preprocess
    pictures = [preprocess.display(preprocess.picture(feed.images[r.image][0])) for r in records[: len(maps)]]
    return Mistakes(
        records=tuple(records),
        labelled=len(labelled),
        output_names=_output_names(names, outputs, feed.images.classes, network.outputs),
        **({"maps": torch.stack(maps).numpy(), "pictures": np.stack(pictures)} if maps else {}),
    )


def _output_names(names: Sequence[str], outputs: Ints, classes: Sequence[str], count: int) -> tuple[str, ...]:
    """Return a name for each of `count` outputs: the known ones, else their classes' names, else their numbers."""
    known_names = names_of_outputs(count, names if len(names) == count else (), classes, outputs)
    class_names = dict(zip(outputs.tolist(), shown_classes(classes), strict=False))
    return known_names or tuple(class_names.get(index, class_label(index)) for index in range(count))
