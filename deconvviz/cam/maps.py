"""Maps: what an explainer returns, a tensor that a notebook shows over the pictures it was made of."""

from __future__ import annotations

import copy
import html
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deconvviz.arrays import pictures_of
from deconvviz.notebook import Shown
from deconvviz.types import Pixels
from deconvviz.words import counted

SHOWN = 6  # images whose pictures are kept


class Maps(Tensor, Shown, drawn_by="draw_maps"):
    """Maps in 0..1 as a tensor, [N, H, W] or [N, layers, H, W]: whatever is computed from it is a plain tensor.

    So is what is copied, pickled or saved of it.

    Attributes:
        method: name of the method.
        layers: names of the layers that were explained.

    >>> maps = Maps.of(torch.ones(1, 2, 2), torch.zeros(1, 3, 2, 2), "grad-cam", ["conv"], lambda: ["class 7"])
    >>> maps.summary, type(maps[0]).__name__, maps.pictures.shape
    ('grad-cam of conv: maps of 1 image, 2x2', 'Tensor', (1, 2, 2, 3))
    """

    method: str
    layers: tuple[str, ...]
    _targets: Callable[[], Sequence[str]]
    _images: Tensor
    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl  # its operations give plain tensors

    @classmethod
    def of(
        cls, maps: Tensor, images: Tensor, method: str, layers: Sequence[str], targets: Callable[[], Sequence[str]]
    ) -> Maps:
        """Return maps with what a notebook shows of them.

        Args:
            maps: [N, H, W] or [N, layers, H, W] in 0..1.
            images: [N, C, H, W], as the network takes them; the first few are copied.
            method: name of the method.
            layers: names of the layers.
            targets: returns what was explained of each image, in words. It is asked when that is looked at: the
                numbers of classes are on the device.
        """
        with_images = maps.as_subclass(cls)
        with_images.method, with_images.layers, with_images._targets = method, tuple(layers), targets
        with_images._images = images[:SHOWN].detach().clone()
        return with_images

    @property
    def targets(self) -> tuple[str, ...]:
        """What was explained of each image, in words; empty where that is a function."""
        return tuple(self._targets())

    @property
    def pictures(self) -> Pixels:
        """uint8 [n, H, W, 3], the first images, each with its contrast stretched to its range."""
        return pictures_of(self._images)

    @property
    def summary(self) -> str:
        """What the maps are, in one line."""
        where = f" of {', '.join(self.layers)}" if self.layers else ""
        images = counted(self.shape[0], "image")
        return f"{self.method}{where}: maps of {images}, {self.shape[-2]}x{self.shape[-1]}"

    def text_as_html(self) -> str:
        """Return the line below the picture: what the maps are, not their values."""
        return f"<pre>{html.escape(self.summary)}</pre>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return copy.deepcopy(self.as_subclass(Tensor), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain: Any = self.as_subclass(Tensor)
        return plain.__reduce_ex__(protocol)
