"""The pictures of a comparison: patches of matched filters, and maps of both networks for the same decisions."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from deconvviz.arrays import evenly
from deconvviz.cam.explain import cam, constant_maps_allowed
from deconvviz.data.feed import Feed
from deconvviz.studies.comparison.decisions import Decisions
from deconvviz.studies.comparison.responses import Pair, Side
from deconvviz.studies.comparison.result import ExplainedImages, LayerComparison
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import Mined
from deconvviz.studies.mining.strongest import strongest_patches
from deconvviz.types import Ints


def strongest(pair: Pair, side: Side, path: pathlib.Path | None) -> Mined:
    """Mine one of both networks on the images that are looked at: the strongest images of each filter."""
    options = pair.options
    return mine(
        side.network,
        pair.images,
        pair.layers,
        options.k,
        path,
        preprocess=side.preprocess,
        limit=options.limit,
        commit_every=options.commit_every,
        **options.keywords(),
    )


def with_tiles(pair: Pair, layer: LayerComparison, mined: Sequence[Mined]) -> LayerComparison:
    """Return a layer with the strongest patches of both filters of those pairs that are shown.

    Args:
        pair: both networks.
        layer: the matched filters.
        mined: of both networks.
    """
    shown = layer.ranking[: pair.options.filters]
    channels = shown, layer.partner[shown]
    tiles = [
        strongest_patches(Feed(pair.images, side.preprocess), each, layer.layer, numbers, alive)
        for side, each, numbers, alive in zip(
            pair.sides, mined, channels, (layer.alive_before, layer.alive_after), strict=True
        )
    ]
    return replace(layer, shown=shown, tiles_before=tiles[0], tiles_after=tiles[1])


def explained(pair: Pair, decisions: Decisions | None) -> ExplainedImages | None:
    """Explain some decisions by both networks, each image by the same class; None where none is asked for."""
    options = pair.options
    if decisions is None or not options.decisions:
        return None
    places = chosen(decisions, options.decisions)
    targets = np.where(decisions.targets >= 0, decisions.targets, decisions.predicted[0])[places]
    maps = []
    for side in pair.sides:
        explainer = cam(
            options.method,
            side.network,
            options.cam_layer,
            batch_size=options.batch_size,
            precision=options.precision,
            seed=options.seed,
        )
        feed, network = pair.feed(side), side.network
        x = feed.tensor(feed.pictures(places), network.device, network.dtype)
        with constant_maps_allowed():
            each: Any = explainer(x, targets.tolist())
        maps.append(torch.as_tensor(each).detach().float().cpu().numpy())
    feed = pair.feed(pair.before)
    pictures = np.stack([feed.display(int(place)) for place in places])
    return ExplainedImages(images=places, targets=targets, pictures=pictures, maps=np.stack(maps).astype(np.float32))


def chosen(decisions: Decisions, count: int) -> Ints:
    """Return the places of the images to explain: those lost and gained in turn, then others, evenly spread.

    >>> decisions = Decisions(
    ...     images=np.arange(4), targets=np.array([0, 0, 0, 0]), predicted=np.array([[0, 0, 1, 0], [0, 1, 0, 0]]),
    ...     confidence=np.ones((2, 4)), loss=np.zeros((2, 4)), identical=False,
    ... )
    >>> chosen(decisions, 3)
    array([1, 2, 0])
    """
    lost, gained = decisions.lost, decisions.gained
    turns = [place for n in range(max(len(lost), len(gained))) for place in (*lost[n : n + 1], *gained[n : n + 1])]
    differing = np.array(turns[:count], np.int64)
    others = np.setdiff1d(np.arange(len(decisions.targets)), differing)
    return np.concatenate([differing, others[evenly(len(others), count - len(differing))]])
