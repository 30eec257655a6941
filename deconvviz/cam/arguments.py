"""What people hand to `cam`: layers as modules, images as arrays or pictures, classes and methods by other names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deconvviz.arrays import stacked
from deconvviz.cam.catalogue import own_name
from deconvviz.cam.registry import METHODS, Method
from deconvviz.cam.targets import Target
from deconvviz.data.decode import pixels
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CaptureError, DataError, LayerNotFound, TargetError
from deconvviz.graph.choose import last_maps
from deconvviz.graph.network import Network
from deconvviz.models.labels import names_of_outputs, output_named
from deconvviz.types import Picture


def method_named(name: str) -> Method:
    """Return a method by its name, however it is written: "grad-cam", "GradCAM", "layer_cam", "GradCAMpp".

    Raises:
        DeconvvizError: no method has this name; the message lists the nearest ones.

    >>> method_named("GradCAM++").name, method_named("ScoreCAM").name, method_named("Saliency").name
    ('grad-cam++', 'score-cam', 'gradient')
    """
    return METHODS[own_name(name, METHODS)]


def layer_names(network: Network | nn.Module, layer: Any, wanted: bool) -> list[str]:
    """Return the names of layers that were given by name or as modules.

    Args:
        network: what is explained.
        layer: a name, a module, several of them, or None; an empty sequence is None too.
        wanted: whether the method needs a layer: None then is the last one with rows and columns.

    Raises:
        LayerNotFound: a module does not belong to the network.
    """
    if layer is None or (isinstance(layer, list | tuple) and not layer):
        return [last_maps(network)] if wanted and isinstance(network, Network) else []
    several = list(layer) if isinstance(layer, list | tuple | nn.ModuleList) else [layer]
    return [each if isinstance(each, str) else _name_of_module(network, each) for each in several]


def _name_of_module(network: Network | nn.Module, module: Any) -> str:
    name = None
    if isinstance(module, nn.Module):
        names = {} if isinstance(network, Network) else {m: name for name, m in network.named_modules()}
        name = network.module_names.get(module) if isinstance(network, Network) else names.get(module)
    if name is None:
        raise LayerNotFound(
            f"a layer of type {type(module).__name__} given, which is no part of the captured model; give its name, "
            "such as 'layer4', or one of the model's own modules"
        )
    return str(name)


def as_input(x: Any, network: Network | nn.Module, preprocess: Preprocess | None) -> Tensor:
    """Return images as the network takes them, [N, C, H, W].

    Args:
        x: a float tensor or array [N, C, H, W] that is prepared already; or pictures that are not: a PIL image, an
            array uint8 or uint16 [H, W, C] or [N, H, W, C], or a list of pictures, which `preprocess` prepares.
        network: the network.
        preprocess: how a picture becomes an input; by default it is resized and cropped to the network's input, and
            normalised by ImageNet's mean and deviation.

    Raises:
        DataError: x is anything else, or no image.
    """
    if isinstance(x, Tensor | np.ndarray) and x.ndim and not len(x):
        raise DataError(f"no image given, but an array of shape {tuple(x.shape)}; expected one or more, [N, C, H, W]")
    if isinstance(x, Tensor) and x.is_floating_point():
        return x
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        dtype = network.dtype if isinstance(network, Network) else torch.float32
        return torch.from_numpy(np.ascontiguousarray(x)).to(_device(network), dtype)
    if preprocess is None:
        if not isinstance(network, Network):
            raise DataError("pictures given for a model that is not captured; give a float tensor [N, C, H, W]")
        preprocess = Preprocess.to_fit(network.input_shape)
    ready = stacked([preprocess.picture(picture) for picture in _pictures(x, len(preprocess.mean))])
    return preprocess.tensor(ready, _device(network), network.dtype if isinstance(network, Network) else torch.float32)


def _device(network: Network | nn.Module) -> torch.device:
    if isinstance(network, Network):
        return network.device
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _pictures(x: Any, channels: int) -> list[Picture]:
    """Return pictures [H, W, C]; one whose channels, 1, 3 or those of the network, come first is turned."""
    if isinstance(x, Tensor):
        x = x.cpu().numpy()
    integers = isinstance(x, np.ndarray) and x.dtype in (np.uint8, np.uint16)
    if (integers and x.ndim == 4) or (isinstance(x, list | tuple) and x):
        return [picture for each in x for picture in _pictures(each, channels)]
    if integers and x.ndim == 3:
        counts = (1, 3, channels)
        if x.shape[2] not in counts and x.shape[0] in counts:
            x = np.moveaxis(x, 0, 2)
        if x.shape[2] in counts:
            grey = x.shape[2] == 1 < channels
            return [np.repeat(x, 3, 2) if grey else np.ascontiguousarray(x)]
    if isinstance(x, Image.Image):
        return [pixels(x)]
    what = f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
    raise DataError(
        f"images as {what} given; expected a float tensor [N, C, H, W] as the network takes it, or pictures: PIL "
        "images, or uint8 or uint16 [H, W, C]"
    )


def as_target(target: Any, network: Network | nn.Module, classes: Sequence[str]) -> Target:
    """Return a target with the numbers of classes in the place of their names.

    Args:
        target: see `cam.targets`; a class may also be given by its name.
        network: the network.
        classes: names of its outputs; without them, 1000 outputs have those of ImageNet.

    Raises:
        TargetError: no class has this name.
    """
    if isinstance(target, str):
        return output_named(target, _names(network, classes))
    if isinstance(target, list | tuple) and any(isinstance(each, str) for each in target):
        names = _names(network, classes)
        return [output_named(each, names) if isinstance(each, str) else int(each) for each in target]
    by_number: Target = target
    return by_number


def _names(network: Network | nn.Module, classes: Sequence[str]) -> Sequence[str]:
    if classes or not isinstance(network, Network):
        return classes
    try:
        return names_of_outputs(network.width)
    except CaptureError as error:
        raise TargetError(f"a class was given by its name: {error}") from error
