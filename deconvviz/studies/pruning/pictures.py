"""Pictures of filters that went and of filters that stayed: their weights, or the patches that they respond to most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deconvviz.arrays import evenly
from deconvviz.data.feed import Feed
from deconvviz.errors import DataError
from deconvviz.graph.filters import filters_of
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.strongest import strongest_patches
from deconvviz.studies.pruning.result import FilterPictures, PrunedGroup, PruningStudy
from deconvviz.types import Floats, Ints, Mask, Pixels

if TYPE_CHECKING:
    from deconvviz.studies.pruning.run import PruningRun

LAYERS, PATCHES, MINED_IMAGES = 3, 3, 200  # layers, patches of a filter, and images that are mined for them


def filter_pictures(run: PruningRun, study: PruningStudy) -> dict[str, FilterPictures]:
    """Return pictures of the first pruned layer that filters an image, and of further pruned layers, evenly spread.

    Args:
        run: the network, the images and the mined file, if there is one.
        study: which filters stay.
    """
    names = [name for name, group in study.groups.items() if not group.kept.all()]
    first = [name for name in names[:1] if (filters := filters_of(run.network, name)) and filters.of_image]
    others = [name for name in names if name not in first]
    deeper = [others[place] for place in evenly(len(others), LAYERS - len(first))]
    pictures_by_layer = {}
    for name in first:
        filters = filters_of(run.network, name)
        assert filters is not None
        channels, is_kept = _chosen(study.groups[name], name, run.how.shown)
        tiles = np.stack([_as_picture(filters.as_pictures[channel]) for channel in channels])
        pictures_by_layer[name] = FilterPictures(channels=channels, kept=is_kept, tiles=tiles[:, None], weights=True)
    return pictures_by_layer | _with_patches(run, study, deeper)


def _chosen(group: PrunedGroup, layer: str, count: int) -> tuple[Ints, Mask]:
    """Return filters that went, and as many that stayed, evenly spread over their scores, the lowest first."""
    units = group.layers[layer]
    order = np.argsort(group.scores[units], kind="stable")
    is_kept = group.kept[units][order]
    parts = [order[is_kept == stays] for stays in (False, True)]
    parts = [part[evenly(len(part), count)] for part in parts]
    return np.concatenate(parts), np.repeat([False, True], [len(part) for part in parts])


def _as_picture(weights: Floats) -> Pixels:
    """Return a filter as a colour picture, uint8 [h, w, 3]: grey where a weight is 0, each filter on its own scale."""
    largest = np.abs(weights).max() or 1.0
    picture = np.round(127.5 + 127.5 * weights / largest).astype(np.uint8)
    return np.repeat(picture, 3, 2) if picture.shape[2] == 1 else picture


def _with_patches(run: PruningRun, study: PruningStudy, names: list[str]) -> dict[str, FilterPictures]:
    """Return the strongest patches of filters of some layers, from the mined file or from a few images."""
    values = {name: run.subject.value_behind(name) for name in names}
    if not values:
        return {}
    mined, images, preprocess = run.mined, run.feeds.measured.images, run.feeds.measured.preprocess
    if mined is None:
        layers = [*values.values()]
        about = run.how.keywords()
        mined = mine(run.network, images, layers, PATCHES, preprocess=preprocess, limit=MINED_IMAGES, **about)
    pictures_by_layer = {}
    for name, value in values.items():
        within = next((each for each in (value, name) if each in mined), None)
        if within is None:
            raise DataError(f"the mined file has no layer {value!r}; mine it, or leave --mined out")
        channels, is_kept = _chosen(study.groups[name], name, run.how.shown)
        alive = np.ones(len(study.groups[name].layers[name]), bool)
        tiles = strongest_patches(Feed(images, preprocess), mined, within, channels, alive)[:, :PATCHES]
        pictures_by_layer[name] = FilterPictures(channels=channels, kept=is_kept, tiles=tiles, weights=False)
    return pictures_by_layer
