"""The explainers of an evaluation, from the names and options of methods, and how a file describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deconvviz.cam.explain import Explainer, cam
from deconvviz.cam.learned.base import LearnedExplainer
from deconvviz.cam.learned.files import digest
from deconvviz.cam.registry import METHODS
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.lengths import REFERENCE
from deconvviz.run.options import RunOptions

MASKED_IMAGES = 32  # in one pass, where no batch size is given


def by_method(methods: Mapping[str, Mapping[str, Any]] | Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the options of each method; DataError where there is no method.

    >>> by_method(["grad-cam"])
    {'grad-cam': {}}
    """
    options = dict(methods) if isinstance(methods, Mapping) else {name: {} for name in methods}
    if not options:
        raise DataError("no method given; name at least one")
    return options


def explainers_by_method(
    network: Network,
    options_by_method: Mapping[str, Mapping[str, Any]],
    layers: Sequence[str],
    preprocess: Preprocess,
    settings: RunOptions,
) -> dict[str, Explainer]:
    """Return an explainer for each method; raises DeconvvizError where one of them, an option or a layer is unknown."""
    return {
        name: cam(
            name,
            network,
            METHODS[name].layers_for(layers),
            batch_size=settings.images_at_once(network.device, MASKED_IMAGES),
            precision=settings.precision,
            seed=settings.seed,
            preprocess=preprocess,
            **method_options,
        )
        for name, method_options in options_by_method.items()
    }


def described(explainer: Explainer, options: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return a method's options as JSON holds them; a digest stands for a trained explainer.

    Default lengths in pixels are among them where they are not those of 224 px, which older files leave out.
    """
    lengths, usual = (explainer.method.lengths_of(sides, {}) for sides in (size, (REFERENCE, REFERENCE)))
    found = {name: value for name, value in lengths.items() if value != usual[name]} | dict(options)
    trained = explainer.options.get("explainer")
    return {**found, "explainer": digest(trained)} if isinstance(trained, LearnedExplainer) else found
