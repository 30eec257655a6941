"""From a network and pairs of images to the places that match: spatial cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deconvviz.arrays import pictures_of
from deconvviz.cam.arguments import as_input
from deconvviz.cam.pairs.explain import pair
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.studies.pairs.match_result import Matches
from deconvviz.types import Pixels
from deconvviz.words import counted


def match_places(
    network: Network,
    a: Any,
    b: Any,
    layer: str | None = None,
    *,
    maps: str | None = None,
    preprocess: Preprocess | None = None,
    names: Sequence[tuple[str, str]] = (),
    pictures: Pixels | None = None,
) -> Matches:
    """Find for each place of one image the place of another image that a network takes for most alike.

    Two places are alike where the cosine of a layer's channels at them is near 1.

    Args:
        network: a captured network.
        a: the first images, float [N, C, H, W], or pictures that `preprocess` prepares.
        b: the second images, as many.
        layer: name of the layer of the embedding; by default the one that the classifier reads.
        maps: name of the layer whose channels are compared; by default the last one with rows and columns before the
            embedding.
        preprocess: how pictures become inputs.
        names: of both images of each pair; by default "a 0", "b 0" and so on.
        pictures: uint8 [N, 2, H, W, 3], both images as figures show them; by default what the network receives, with
            the contrast of each stretched.

    Raises:
        DeconvvizError: a layer does not exist or has no rows and columns, or the images do not fit.

    Source: the spatial cross-attention of Seyfi, Banitalebi-Dehkordi and Zhang 2022, arXiv 2206.05028, of which we know
    the abstract only; that it is the cosine of channels, and its use on any network, is ours.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> network = dv.capture(nn.Sequential(*body, nn.Linear(4, 5)).eval(), (3, 8, 8))
    >>> image = torch.rand(1, 3, 8, 8)
    >>> matches = match_places(network, image, image)
    >>> matches.size, matches.places.shape
    ((6, 6), (1, 2, 36))
    """
    explainer = pair("spatial-attention", network, layer, maps=maps, preprocess=preprocess)
    with torch.no_grad():
        x = as_input(a, network, preprocess), as_input(b, network, preprocess)
    found = explainer(*x, raw=True)
    if names and len(names) != len(found):
        raise DataError(f"names of {counted(len(names), 'pair')} given; there are {len(found)}")
    assert explainer.layer is not None
    return Matches(
        network=network.name,
        layer=explainer.layer,
        size=(int(found.a.shape[1]), int(found.a.shape[2])),
        names=tuple(names) or tuple((f"a {number}", f"b {number}") for number in range(len(found))),
        pictures=np.stack([pictures_of(images) for images in x], 1) if pictures is None else pictures,
        places=explainer.extras["matches"].cpu().numpy(),
        cosines=torch.stack([*found], 1).flatten(2).double().cpu().numpy(),
        weights=explainer.extras["weights"].double().cpu().numpy(),
    )
