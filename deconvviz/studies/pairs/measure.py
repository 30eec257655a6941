"""From a network and pairs of images to the maps of several methods, and to how well each explains the likeness."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import pictures_of
from deconvviz.cam.arguments import as_input
from deconvviz.cam.explain import constant_maps_allowed
from deconvviz.cam.pairs.explain import PairExplainer, pair
from deconvviz.cam.pairs.maps import PairMaps
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.metrics.pairs import pair_change, pair_deletion, pair_insertion, pair_max_sensitivity
from deconvviz.studies.pairs.options import PairOptions
from deconvviz.studies.pairs.result import COLUMNS, PairStudy
from deconvviz.types import Floats, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.pairs.options import PairKeywords

Pair = tuple[Tensor, Tensor]


def explain_pairs(
    network: Network,
    a: Any,
    b: Any,
    methods: Sequence[str],
    layer: str | None = None,
    *,
    maps: str | None = None,
    preprocess: Preprocess | None = None,
    method_options: Mapping[str, Mapping[str, Any]] | None = None,
    names: Sequence[tuple[str, str]] = (),
    pictures: Pixels | None = None,
    **options: Unpack[PairKeywords],
) -> PairStudy:
    """Explain pairs of images by several methods, and measure how well each explains why they are alike.

    Args:
        network: a captured network.
        a: the first images, float [N, C, H, W], or pictures that `preprocess` prepares.
        b: the second images, as many.
        methods: names of methods for pairs.
        layer: name of the layer of the embedding; by default the one that the classifier reads.
        maps: for interaction-cam, name of the layer whose maps are weighted.
        preprocess: how pictures become inputs; it also says what black and white are.
        method_options: method -> its options.
        names: of both images of each pair; by default "a 0", "b 0" and so on.
        pictures: uint8 [N, 2, H, W, 3], both images as figures show them; by default what the network receives, with
            the contrast of each stretched.
        options: `metrics`, `steps`, `fill` and `sensitivity` of `PairOptions`; `batch_size`, `precision`, `seed` and
            `progress` of `RunOptions`.

    Raises:
        DeconvvizError: a method, an option or a layer does not exist, the layer is no embedding, or the images do not
            fit.

    Source: Sammani et al. 2022, arXiv 2206.09753.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> model = nn.Sequential(*body, nn.Linear(4, 5)).eval()
    >>> network, a, b = dv.capture(model, (3, 8, 8)), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    >>> study = explain_pairs(network, a, b, ["interaction-cam"], metrics=True, progress=False)
    >>> study.maps["interaction-cam"].shape, bool(study.column("interaction-cam", "simultaneous_deletion")[0] <= 1)
    ((1, 2, 8, 8), True)
    """
    settings = PairOptions(**options)
    if not methods:
        raise DataError("no method given; `deconvviz pair --list` lists them")
    explainers = [
        pair(
            method,
            network,
            layer,
            maps=maps,
            batch_size=settings.batch_size,
            precision=settings.precision,
            seed=settings.seed,
            preprocess=preprocess,
            **(method_options or {}).get(method, {}),
        )
        for method in methods
    ]
    with torch.no_grad():
        x = as_input(a, network, preprocess), as_input(b, network, preprocess)
    explanations, values = _measured(explainers, x, preprocess, settings)
    first = explanations[0]
    count = len(first)
    if names and len(names) != count:
        raise DataError(f"names of {counted(len(names), 'pair')} given; there are {count}")
    return PairStudy(
        network=network.name,
        embedding=first.embedding,
        names=tuple(names) or tuple((f"a {number}", f"b {number}") for number in range(count)),
        similarity=first.similarity.double().cpu().numpy(),
        pictures=np.stack([pictures_of(images) for images in x], 1) if pictures is None else pictures,
        maps={each.method: torch.stack([*each], 1).float().cpu().numpy() for each in explanations},
        values=values,
    )


def _measured(
    explainers: Sequence[PairExplainer], x: Pair, preprocess: Preprocess | None, settings: PairOptions
) -> tuple[list[PairMaps], dict[str, Floats]]:
    """Return what each method makes of the pairs, and method -> its values, float64 [N, columns]."""
    explanations, values = [], {}
    with settings.bar("method", len(explainers), "explaining") as bar, constant_maps_allowed():
        for explainer in explainers:
            started = time.perf_counter()
            maps = explainer(*x)
            seconds = (time.perf_counter() - started) / len(maps)
            passes = explainer.passes
            images = 2 * len(maps)
            row = {
                "forward_passes": (passes["forward"] + passes["tail"]) / images,
                "backward_passes": (passes["backward"] + passes["tail backward"]) / images,
                "seconds": seconds,
            }
            columns = {name: np.full(len(maps), value) for name, value in row.items()}
            columns |= _metrics(explainer, x, maps, preprocess, settings)
            missing = np.full(len(maps), np.nan)
            values[maps.method] = np.stack([columns.get(name, missing) for name in COLUMNS], 1)
            explanations.append(maps)
            bar.update()
    return explanations, values


def _metrics(
    explainer: PairExplainer, x: Pair, maps: PairMaps, preprocess: Preprocess | None, settings: PairOptions
) -> dict[str, Floats]:
    """Return the metrics that are asked for, name -> float64 [N]."""
    pair_maps, measured = (maps.a, maps.b), {}
    if settings.metrics:
        fill = _fill(preprocess, settings.fill)
        embed = explainer.network.forward_only(settings.precision)
        at_once = settings.images_at_once(x[0].device)
        deleted = pair_deletion(embed, x, pair_maps, settings.steps, fill, at_once).areas
        inserted = pair_insertion(embed, x, pair_maps, settings.steps, batch_size=at_once).areas
        change = pair_change(embed, x, pair_maps, fill, at_once)
        measured = {
            "simultaneous_insertion": inserted[0],
            "simultaneous_deletion": deleted[0],
            "conditional_insertion": inserted[1],
            "conditional_deletion": deleted[1],
            "simultaneous_drop": change.drop_simultaneous,
            "simultaneous_increase": change.increase_simultaneous,
            "conditional_drop": change.drop_conditional,
            "conditional_increase": change.increase_conditional,
        }
    if settings.sensitivity:
        explain = lambda a, b: (*explainer(a, b),)  # noqa: E731
        measured["max_sensitivity"] = pair_max_sensitivity(
            explain, x, pair_maps, settings.sensitivity, seed=settings.seed
        )
    return {name: value.numpy() for name, value in measured.items()}


def _fill(preprocess: Preprocess | None, fill: str) -> Tensor | float:
    """Return the fill of masked pixels in normalised space; raises DataError where nothing says what black is."""
    if fill == "mean":
        return 0.0
    if preprocess is None:
        raise DataError("fill 'black' given without a preprocess, which says what black is; give preprocess=")
    return preprocess.level(0.0)
