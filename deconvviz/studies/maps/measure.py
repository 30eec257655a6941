"""From a network and one image to its maps, and from a network to its kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import pictures_of
from deconvviz.cam.tokens import layout_of
from deconvviz.errors import CamError, DataError
from deconvviz.graph.filters import filters_of, layers_behind
from deconvviz.graph.layers import channel_axis
from deconvviz.graph.network import Network
from deconvviz.studies.maps.result import FeatureMaps, Kernels, LayerKernels, LayerMaps
from deconvviz.types import Floats, Pixels


def maps(
    network: Network,
    x: Tensor,
    layers: Sequence[str],
    *,
    tokens: tuple[int, int] | None = None,
    picture: Pixels | None = None,
    name: str = "",
) -> FeatureMaps:
    """Return the maps of one image at some layers: every channel's values, place by place.

    Args:
        network: a captured network.
        x: one image [1, *network.input_shape], on the network's device and of its dtype.
        layers: names from `network.layers`.
        tokens: rows and columns of a transformer's patches, where they cannot be found. Tokens that stand before those
            of the patches, such as a class token, are left out.
        picture: uint8 [H, W, 3], the image as figures show it; by default x with its contrast stretched.
        name: of the image.

    Returns:
        The maps of each layer.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        CaptureError: x has another shape, dtype or device than the network.
        DataError: no layer, x is not one image, a layer has no rows and columns, or `tokens` is given and no layer has
            tokens.

    Source: Zeiler and Fergus 2013, figure 4, shows such maps of single filters; the figure of a whole layer is common
    practice.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> maps(network, torch.rand(1, 3, 32, 32), ["0", "1"])["1"].values.shape
    (8, 28, 28)
    """
    names = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise DataError("no layer given; name one or more of `network.layers`")
    if x.dim() != 4 or len(x) != 1:
        raise DataError(f"x of shape {list(x.shape)} given; expected one image, [1, channels, height, width]")
    layouts = {}
    for layer in names:
        record = network.layer(layer)
        try:
            layouts[layer] = layout_of(
                layer, record.shape, channel_axis(record.node), (int(x.shape[2]), int(x.shape[3])), tokens
            )
        except CamError as error:
            raise DataError(str(error)) from error
    if tokens is not None and all(len(network.layer(layer).shape) != 2 for layer in names):
        raise DataError(
            f"tokens {tokens[0]}x{tokens[1]} given, and no layer asked for has tokens ({', '.join(names)}): their "
            "values have rows and columns already; leave the tokens out"
        )
    with torch.no_grad():
        values = network.activations(x, names)
    return FeatureMaps(
        network=network.name,
        name=name,
        picture=pictures_of(x)[0] if picture is None else picture,
        layers=tuple(
            LayerMaps(
                layer=layer,
                values=layout.maps(values[layer])[0].float().cpu().numpy(),
                extra_tokens=layout.extra,
            )
            for layer, layout in layouts.items()
        ),
    )


def kernels(network: Network, layers: Sequence[str]) -> Kernels:
    """Return the kernels of some layers: pictures where a kernel can be looked at, and the matrix of their norms.

    A single kernel of a deeper layer says little, because its inputs are channels without a colour. Which of them a
    filter reads strongly does: row k of the matrix says it for filter k.

    Args:
        network: a captured network.
        layers: names from `network.layers`; a convolution or linear layer, or what a rectifier, a normalisation or a
            max pooling made of it.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        DataError: no layer, or one that does not come from one convolution or linear layer.

    Source: the pictures of first-layer filters are those of Krizhevsky et al. 2012, figure 3; the matrix is our choice.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 4, 3)), (3, 32, 32))
    >>> [(each.norms.shape, each.pictures is not None) for each in kernels(network, ["0", "2"]).layers]
    [((8, 3), True), ((4, 8), False)]
    """
    names = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    if not names:
        raise DataError("no layer given; name one or more of `network.layers`")
    return Kernels(network=network.name, layers=tuple(_kernels(network, layer) for layer in names))


def _kernels(network: Network, layer: str) -> LayerKernels:
    filters = filters_of(network, layer)
    if filters is None:
        behind = " or ".join(map(repr, layers_behind(network, layer)[:4]))
        raise DataError(
            f"layer {layer!r} has no kernels: it does not come from one convolution or linear layer; take one that does"
            + (f", the nearest before it: {behind}" if behind else "")
        )
    norms: Floats = np.sqrt((filters.effective**2).sum((2, 3)))
    one_input = filters.groups > 1 and filters.weights.shape[1] == 1 and min(filters.weights.shape[2:]) > 1
    there = filters.weights != 0
    return LayerKernels(
        layer=layer,
        norms=norms,
        groups=filters.groups,
        pictures=filters.as_pictures if filters.of_image or one_input else None,
        normalised=filters.normalised,
        connected=None if there.all() else there.mean((2, 3)),
    )
