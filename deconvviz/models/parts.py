"""Parts of models: MODEL#PART is one of the model's modules, which takes images by itself."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from torch import nn

from deconvviz.errors import ModelError, nearest

WITH_PART = re.compile(r"(?P<model>.+)#(?P<part>[\w.]+)")


def split_part(spec: str) -> tuple[str, str]:
    """Return the name of a model without its part, and the part; "" where it names none.

    >>> split_part("torchvision:retinanet_resnet50_fpn#backbone"), split_part("demo")
    (('torchvision:retinanet_resnet50_fpn', 'backbone'), ('demo', ''))
    """
    match = WITH_PART.fullmatch(spec)
    if match is None or pathlib.Path(spec.removeprefix("hf:")).is_dir():  # a folder may be called so
        return spec, ""
    return match["model"], match["part"]


def part_of(model: nn.Module, part: str) -> nn.Module:
    """Return a part of a model by the name of its module.

    Raises:
        ModelError: the model has no such module; the message lists the nearest ones.

    >>> part_of(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3)), "1")
    Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
    """
    names: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
    if part not in names:
        raise ModelError(f"{type(model).__name__} has no part {part!r}; {nearest(part, names)}")
    return names[part]


def settings_of_part(model: nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
    """Return how images are prepared for a part of a model.

    A detector of torchvision takes images as they are, and resizes and normalises them itself; its parts take what
    that makes of them, which is here put into a square. Other parts take what their models do.

    Args:
        model: the whole model.
        settings: the arguments of `Preprocess` for it.
    """
    own: Any = getattr(model, "transform", None)
    if not (hasattr(own, "image_mean") and hasattr(own, "min_size")):
        return settings
    fixed = getattr(own, "fixed_size", None)
    side = (int(fixed[1]), int(fixed[0])) if fixed else int(own.min_size[-1])
    normalised = {"mean": tuple(own.image_mean), "std": tuple(own.image_std)}
    return {**normalised, "resize": side, "crop": side, "fit": "stretch" if fixed else "cover"}
