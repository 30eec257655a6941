"""Transfer: how far learned features help on other images, against those of the same network with random weights."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deconvviz.data.datasets import Images
from deconvviz.data.parallel import cores
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.results.features import Features
from deconvviz.run.features import StreamKeywords, stream_features
from deconvviz.studies.probing.few_images import FEW, train_on_few
from deconvviz.studies.probing.measure import draw_splits, probe
from deconvviz.studies.probing.result import ProbeResult, Transfer
from deconvviz.studies.probing.settings import ProbeSettings
from deconvviz.studies.probing.starts import Start
from deconvviz.studies.training.recipe import Recipe
from deconvviz.types import Floats, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.training.options import TrainingKeywords


class Stream(Protocol):
    """What makes the file of a network's features, in the place of `stream_features`."""

    def __call__(self, name: str, network: Network, indices: Ints, out: Pathlike) -> Features:
        """Write the features of some images, int64 [n], by the network of that name, and open the file."""


def transfer(
    networks: Mapping[str, Network],
    images: Images,
    layers: Sequence[str],
    settings: ProbeSettings | None = None,
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    limit: int | None = None,
    sources: Mapping[str, Any] | None = None,
    stream: Stream | None = None,
    starts: Mapping[str, Start] | None = None,
    recipe: Recipe = FEW,
    **options: Unpack[StreamKeywords],
) -> Transfer:
    """Probe the same layers of several networks on the same splits of the same images.

    The features of `networks` stay as they are: the difference between the networks is what their features are worth.
    From each of `starts` a whole network is trained on the same images as well: from a random start, as the paper's
    untrained network is, or from trained weights.

    Args:
        networks: name -> captured network, such as {"trained": ..., "random": ...}.
        images: labelled images; those of unknown class are left out.
        layers: names of layers that each network has.
        settings: probes, images of a class, splits and costs.
        out: path of a file for the first network's features; those of the others stand beside it, with their names, as
            in features.random.h5. The files are kept, and calling again with the same arguments resumes. None uses
            temporary files.
        preprocess: how an image becomes the networks' input.
        limit: number of images of each class, at most, drawn by the settings' seed.
        sources: where the model and the images came from, for the files.
        stream: what makes the file of a network's features; None for `stream_features`, which makes it here.
        starts: name -> from where a whole network is trained on the images of each split, as `from_scratch` and
            `fine_tuned` give it. Its results are beside `out` too, as in features.networks.h5.
        recipe: how these networks are trained.
        options: those of `stream_features`, such as pool="mean 1x1", batch_size=8 and progress=False.

    Returns:
        The result of each network's probes, and of the networks that were trained as a whole.

    Raises:
        DeconvvizError: as `stream_features` and `probe` raise it.

    Source: Zeiler and Fergus 2013, section 5.2, tables 4 and 5 and figure 9.

    >>> from torch import nn
    >>> import deconvviz as dv
    >>> plain, settings = dv.Preprocess(resize=32, crop=32), ProbeSettings(per_class=(3,), splits=2, costs=(1.0,))
    >>> networks = {}
    >>> for name in ("one", "other"):
    ...     model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU())
    ...     networks[name] = dv.capture(model.eval(), plain.shape)
    >>> result = dv.transfer(networks, dv.Scenes(60), ["1"], settings, preprocess=plain, pool="max 2x2", progress=False)
    >>> {name: probes.layers for name, probes in result.by_network.items()}
    {'one': {'1': 32}, 'other': {'1': 32}}
    """
    settings = settings or ProbeSettings()
    labels = np.asarray(images.labels)
    indices = some_of_each(labels, limit, settings.seed)
    settings.check_library()
    draw_splits(labels[indices], settings, images.classes)  # before the work: too few images are found out now
    by_network: dict[str, ProbeResult] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = pathlib.Path(folder, "features.h5") if out is None else pathlib.Path(out)
        for number, (name, network) in enumerate(networks.items()):
            file = first.with_suffix(f".{name}{first.suffix}") if number else first
            if stream is None:
                features = stream_features(
                    network, images, layers, file, preprocess=preprocess, indices=indices, sources=sources, **options
                )
            else:
                features = stream(name, network, indices, file)
            by_network[name] = probe(features, layers, settings, options.get("progress", True))
        by_start: dict[str, Floats] = {}
        if starts:
            how: TrainingKeywords = {"device": next(iter(networks.values())).device, "sources": sources}
            how |= {"workers": options.get("workers", cores()), "progress": options.get("progress", True)}
            file = first.with_suffix(f".networks{first.suffix}")
            by_start = train_on_few(starts, images, indices, settings, recipe, file, preprocess=preprocess, **how)
    return Transfer(by_network=by_network, by_start=by_start)


def some_of_each(labels: Ints, limit: int | None, seed: int = 0) -> Ints:
    """Return the images of known class, ascending, or at most `limit` of each class, drawn at random.

    Args:
        labels: int64 [N], -1 where the class is unknown.
        limit: number of images of each class; None for all.
        seed: what they are drawn from.

    Raises:
        DataError: the limit is below 1.

    >>> some_of_each(np.array([0, 1, -1, 1]), None)
    array([0, 1, 3])
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} given; expected at least 1 image of each class")
    rng = np.random.default_rng([seed, len(labels)])
    members = [rng.permutation(np.flatnonzero(labels == label))[:limit] for label in np.unique(labels[labels >= 0])]
    return np.sort(np.concatenate(members)) if members else np.zeros(0, np.int64)
