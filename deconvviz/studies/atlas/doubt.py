"""Which decisions of a network are worth explaining: those on which it hesitates, and some that are wrong."""

from __future__ import annotations

import numpy as np
import torch

from deconvviz.data.feed import Feed
from deconvviz.data.sampling import spread
from deconvviz.graph.network import Network
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.types import Floats, Ints, Mask

CANDIDATES = 2000  # images, evenly spread over the classes, among which doubtful decisions are looked for
WRONG_SHARE = 3  # of so many explained decisions one is wrong, where there are as many


def doubtful_images(inputs: AtlasInputs, network: Network, count: int, options: RunOptions) -> Ints:
    """Find the images on which a network hesitates most, and some that it classifies incorrectly.

    Args:
        inputs: the images, how they are prepared, and which output stands for which class.
        network: gives the scores.
        count: how many images are wanted.
        options: `batch_size` and `progress`.

    Returns:
        int64 [min(count, N)], indices of images of the store, ascending; see `most_doubtful`.
    """
    candidates = spread(np.asarray(inputs.store.labels), max(CANDIDATES, count))
    feed = Feed(inputs.store, inputs.preprocess, candidates)
    original = inputs.network
    log_odds, wrong = np.zeros(len(feed)), np.zeros(len(feed), bool)
    with torch.inference_mode(), options.bar("image", len(feed), "looking for doubtful decisions") as bar:
        for places, x in feed.tensors(options.images_at_once(original.device), original.device, original.dtype):
            values, classes = network.readout.log_probabilities(network.scores(x)).double().cpu().topk(2)
            log_odds[places] = (values[:, 0] - values[:, 1]).numpy()
            if inputs.outputs is not None:
                labels = feed.labels[places]
                outputs = np.where(labels >= 0, inputs.outputs[labels], classes[:, 0].numpy())
                wrong[places] = outputs != classes[:, 0].numpy()
            bar.update(len(places))
    return np.asarray(candidates[most_doubtful(log_odds, wrong, count)], np.int64)


def most_doubtful(log_odds: Floats, wrong: Mask, count: int) -> Ints:
    """Choose decisions to explain.

    A third of them are wrong ones, of which the network was surest; all others are those with the smallest log-odds
    between the first two classes, right or wrong.

    Args:
        log_odds: float64 [N], natural logarithm of how many times as probable the first class is as the second.
        wrong: bool [N], whether the first class is known not to be the image's.
        count: how many are chosen; all where there are fewer.

    Returns:
        int64 [min(count, N)], ascending.

    Source: our choice.

    >>> most_doubtful(np.array([9.0, 0.1, 7.0, 3.0]), np.array([False, False, True, False]), count=3)
    array([1, 2, 3])
    """
    surest_mistakes = np.flatnonzero(wrong)[np.argsort(-log_odds[wrong], kind="stable")][: count // WRONG_SHARE]
    others = np.setdiff1d(np.arange(len(log_odds)), surest_mistakes)
    others = others[np.argsort(log_odds[others], kind="stable")][: count - len(surest_mistakes)]
    return np.sort(np.concatenate([surest_mistakes, others]).astype(np.int64))
