"""ZFNet, the network of Zeiler and Fergus 2013, and the variants that their tables 2 and 3 compare."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.choices import FIRST_LAYERS
from deconvviz.errors import ModelError, require

CONV = (96, 256, 384, 384, 256)  # maps of layers 1 to 5, figure 3
FC = (4096, 4096)  # units of layers 6 and 7
PAPER_RANGE = (1 / 255,) * 3  # as `std`: inputs of about -128 to 128, which the paper's initial weights expect
PAPER_KERNEL, PAPER_STRIDE = 7, 2  # of the first layer; AlexNet has 11x11 with stride 4
PAPER_RADIUS = 0.1  # the root mean square to which the paper scales larger filters back (section 3)
# Inputs of one unit of each layer in the paper's network: the scale of the initial weights is chosen for them.
PAPER_FAN_IN = {"conv1": 147, "conv2": 2400, "conv3": 2304, "conv4": 3456, "conv5": 3456}
PAPER_FAN_IN |= {"fc6": 9216, "fc7": 4096, "fc8": 4096}
# Kernel, stride and padding of layers 1 and 2. At 224 px they give the paper's maps; small images need finer steps.
GEOMETRY = {
    ("zfnet", 224): ((7, 2, 1), (5, 2, 0)),
    ("zfnet", 96): ((7, 2, 1), (5, 1, 2)),
    ("zfnet", 64): ((7, 2, 1), (5, 1, 2)),
    ("zfnet", 32): ((5, 1, 2), (5, 1, 2)),
} | {("alexnet", size): ((11, 4, 2), (5, 1, 2)) for size in (224, 96, 64)}


class ZFNet(nn.Sequential):
    """Layers conv1 .. conv5 and fc6 .. fc8, and between them relu, pool, norm and dropout with the same numbers.

    Attributes:
        arguments: those of `zfnet`, which build the same network again.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], arguments: Mapping[str, Any]) -> None:
        """Take the layers, by name, and the arguments that made them; see `zfnet`."""
        super().__init__(layers)
        self.arguments = dict(arguments)


def zfnet(
    classes: int = 1000,
    input_size: int = 224,
    *,
    width: float = 1.0,
    conv: Sequence[int] = CONV,
    fc: Sequence[int] = FC,
    remove: Sequence[int] = (),
    first: str = "zfnet",
    dropout: float = 0.5,
) -> ZFNet:
    """Build ZFNet with the paper's initial weights; by default the network of figure 3, with 62,357,608 parameters.

    Layers 1 and 2 are each a convolution, a ReLU, 3x3 max pooling with stride 2 and contrast normalisation across maps,
    in this order. Layers 3 to 5 are a convolution and a ReLU; layer 5 is pooled, too. Layers 6 and 7 are fully
    connected, with dropout.

    Args:
        classes: number of units of the last layer.
        input_size: side of the images in pixels. At 224 the maps are 110, 55, 26, 13, 13, 13, 13, 6 as in the paper;
            at 96, 64 and 32 the first two layers have smaller strides, so that maps of some size are left.
        width: factor on `conv` and `fc`, for small data.
        conv: numbers of maps of layers 1 to 5; (96, 256, 512, 1024, 512) is table 3's wider network.
        fc: numbers of units of layers 6 and 7; table 3 has 2048 and 8192.
        remove: layers to leave out, of 3, 4, 5, 6, 7; table 3 removes (3, 4), (7,), (6, 7) and (3, 4, 6, 7).
        first: "zfnet", or "alexnet", whose layer 1 is 11x11 with stride 4 and whose layer 2 has stride 1 (figure 6).
        dropout: share of the units of layers 6 and 7 that is dropped.

    Raises:
        ModelError: an argument is invalid; the message says what was expected.

    Source: Zeiler and Fergus 2013, figure 3, section 3, section 5.1 and table 3; normalisation as in Krizhevsky et al.
    2012, section 3.3 (5 maps, k 2, alpha 1e-4, beta 0.75), which the paper cites. Weights are drawn with standard
    deviation 0.01, biases are zero; where a layer has fewer inputs than in the paper its deviation grows by the root of
    that ratio, so that a narrow network passes on as much signal as the paper's.

    >>> network = zfnet(classes=10, input_size=64, width=0.1)
    >>> network.conv1
    Conv2d(3, 10, kernel_size=(7, 7), stride=(2, 2), padding=(1, 1))
    >>> network(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 10])
    """
    arguments = {"classes": classes, "input_size": input_size, "width": width, "conv": list(conv), "fc": list(fc)}
    arguments |= {"remove": list(remove), "first": first, "dropout": dropout}
    _check(arguments)
    maps, units = ([max(1, round(n * width)) for n in sizes] for sizes in (conv, fc))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    _convolutions(layers, maps, GEOMETRY[first, input_size], remove)
    with torch.no_grad():
        features = nn.Sequential(layers)(torch.zeros(1, 3, input_size, input_size)).numel()
    layers["flatten"] = nn.Flatten()
    for number, size in zip((6, 7), units, strict=True):
        if number not in remove:
            layers[f"fc{number}"], layers[f"relu{number}"] = nn.Linear(features, size), nn.ReLU()
            layers[f"dropout{number}"] = nn.Dropout(dropout)
            features = size
    layers["fc8"] = nn.Linear(features, classes)
    network = ZFNet(layers, arguments)
    _initialise(network)
    return network


def _convolutions(
    layers: OrderedDict[str, nn.Module],
    maps: Sequence[int],
    geometry: Sequence[tuple[int, int, int]],
    remove: Sequence[int],
) -> None:
    """Add layers 1 to 5. A pooling window may begin in the map and hang over its end: 110 -> 55 positions, not 54."""
    channels = 3
    for number, size in enumerate(maps, 1):
        if number in remove:
            continue
        kernel, stride, padding = geometry[number - 1] if number <= 2 else (3, 1, 1)
        layers[f"conv{number}"] = nn.Conv2d(channels, size, kernel, stride, padding)
        layers[f"relu{number}"] = nn.ReLU()
        channels = size
        if number <= 2:
            _pool(layers, number)
            # torch divides alpha by the number of maps, and the paper's formula does not
            layers[f"norm{number}"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)
    _pool(layers, 5)


def _pool(layers: OrderedDict[str, nn.Module], number: int) -> None:
    """Add the pooling of a layer."""
    layers[f"pool{number}"] = nn.MaxPool2d(3, 2, ceil_mode=True)


def _initialise(network: nn.Module) -> None:
    """Draw the initial weights; `zfnet` says how."""
    for name, module in network.named_children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=0.01 * math.sqrt(PAPER_FAN_IN[name] / fan_in))
            assert isinstance(module.bias, Tensor)
            nn.init.zeros_(module.bias)


def _check(arguments: Mapping[str, Any]) -> None:
    """Raise ModelError for the first argument of `zfnet` that is invalid."""
    first, conv, fc = arguments["first"], arguments["conv"], arguments["fc"]
    sizes = [size for name, size in GEOMETRY if name == first]
    require(
        arguments,
        ModelError,
        first=(first in FIRST_LAYERS, " or ".join(FIRST_LAYERS)),
        input_size=(arguments["input_size"] in sizes, f"{', '.join(map(str, sizes))} px, for the layers of {first}"),
        classes=(arguments["classes"] >= 1, "at least 1"),
        width=(0 < arguments["width"] < math.inf, "a positive factor"),
        conv=(len(conv) == 5 and min(conv, default=0) >= 1, "5 positive numbers of maps"),
        fc=(len(fc) == 2 and min(fc, default=0) >= 1, "2 positive numbers of units"),
        remove=(set(arguments["remove"]) <= {3, 4, 5, 6, 7}, "layers that can be left out: 3, 4, 5, 6 and 7"),
        dropout=(0 <= arguments["dropout"] < 1, "a share from 0 to below 1"),
    )
