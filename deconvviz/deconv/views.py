"""UnitViews: what the units of a layer see of their images, and their activations when that is changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from deconvviz.deconv.batches import at_once
from deconvviz.deconv.places import Places
from deconvviz.deconv.plan import make_plan
from deconvviz.deconv.projection import Projection, Unit
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import ProjectionError
from deconvviz.graph.network import Network
from deconvviz.types import Box
from deconvviz.words import counted


class UnitViews:
    """The parts of images that units of one layer see, all of one size, and the units' activations on changed ones.

    Attributes:
        units: (image, layer, channel, (y, x)) each.
        pixels: [N, C, h, w], what each unit sees; zero where its window reaches beyond the image.
        seen: bool [N, h, w], which places are pixels of the image that the unit sees.
        corners: int64 [N, 2], the image's (row, column) at the first place of each view; it may be negative.

    >>> import deconvviz as dv
    >>> network = dv.capture(torch.nn.Conv2d(3, 8, 5), (3, 32, 32))
    >>> views = UnitViews(network, torch.randn(2, 3, 32, 32), [(0, "conv2d", 3, (1, 1)), (1, "conv2d", 4, (0, 9))])
    >>> views.pixels.shape, views.corners.tolist()
    (torch.Size([2, 3, 5, 5]), [[1, 1], [0, 9]])
    """

    def __init__(self, network: Network, images: Tensor, units: Sequence[Unit]) -> None:
        """Cut the views out of their images.

        Args:
            network: a captured network.
            images: [N, C, H, W].
            units: of one layer.

        Raises:
            ProjectionError: units of several layers, or none.
        """
        layers = {unit[1] for unit in units}
        if len(layers) != 1:
            raise ProjectionError(f"units of {counted(len(layers), 'layer')} given; expected units of one layer")
        self.layer, self.units = layers.pop(), tuple(units)
        self.network = network.forward_only(keep=[self.layer])
        self.images = self.network.checked(images)
        self.plan = make_plan(self.network, self.layer)
        self._places = Places.of([unit[0] for unit in units], [unit[3] for unit in units], images.device)
        self._channels = torch.tensor([unit[2] for unit in units]).to(images.device)
        self._cut()

    def _cut(self) -> None:
        """Set pixels, seen and corners."""
        image, height, width = self.network.image, *self.images.shape[2:]
        window = self.plan.windows.get(image)
        if window is None:
            self.pixels = self.images[self._places.index]
            self.seen = self._fields(height, width)
            self.corners = torch.zeros(len(self.units), 2, dtype=torch.int64)
            return
        self.pixels = self._places.cut(self.images, window, (2, 3))
        outside = self._places.outside(window, (2, 3), 4, (height, width))
        seen = torch.zeros(len(self.units), *self.pixels.shape[2:], dtype=torch.bool, device=self.images.device)
        self.seen = ~seen if outside is None else ~(seen | outside[:, 0])
        self.corners = torch.stack(self._places.starts(window), 1).cpu()

    def _fields(self, height: int, width: int) -> Tensor:
        """Return which pixels of a whole image lie in each unit's receptive field, bool [N, height, width].

        A field may be longer than the image, and a unit at the border sees a part of the image all the same.
        """
        field, inside = self.network.layer(self.layer).receptive_field, []
        for axis, (at, length) in enumerate(((self._places.rows, height), (self._places.columns, width))):
            first = (field.offset[axis] + at * field.stride[axis])[:, None]
            pixels = torch.arange(length, device=self.images.device)
            inside.append((first <= pixels) & (pixels < first + field.size[axis]))
        return inside[0][:, :, None] & inside[1][:, None]

    @cached_property
    def batch_size(self) -> int:
        """How many views fit in memory together."""
        return at_once(self.plan, 2, self.images.element_size(), self.images.device)

    @cached_property
    def unchanged(self) -> Tensor:
        """The activations of the units on their views as they are, float64 [N] on the CPU."""
        with torch.inference_mode():
            every = torch.arange(len(self.units), device=self.pixels.device)
            parts = [self.activations(units, self.pixels[units]) for units in torch.split(every, self.batch_size)]
            return torch.cat(parts).double().cpu()

    def activations(self, units: Tensor, pixels: Tensor) -> Tensor:
        """Return the activations of units on changed views.

        Args:
            units: int64 [K], indices into `units`.
            pixels: [K, C, h, w], their views.

        Returns:
            [K].
        """
        channels, places = self._channels[units], self._places.some(units)
        everyone, y, x = places.index, places.rows, places.columns
        if self.network.image not in self.plan.windows:
            values = self.network.activations(pixels, [self.layer])[self.layer]
            return self.network.maps(self.layer, values)[everyone, channels, y, x]
        sweep = Sweep(self.network, self.plan, pixels, places)
        maps = self.network.maps(self.layer, sweep.forward(pixels))
        whole = self.plan.steps[-1] not in self.plan.windows
        return maps[everyone, channels, y, x] if whole else maps[everyone, channels, 0, 0]

    def blurred(self, sigma: float) -> Tensor:
        """Return the views, blurred with a standard deviation in pixels, [N, C, h, w]."""
        size = 2 * round(3 * sigma) + 1
        side = min(size, *(2 * length - 1 for length in self.pixels.shape[2:]))  # reflection needs that much
        blurred: Tensor = gaussian_blur(self.pixels, [side, side], [sigma, sigma])
        return blurred

    def centres(self) -> Tensor:
        """Return the centre of each unit's receptive field in its view, float64 [N, 2], (row, column)."""
        field = self.network.layer(self.layer).receptive_field
        centre = [
            offset + at.double().cpu() * stride + (size - 1) / 2
            for offset, stride, size, at in zip(
                field.offset, field.stride, field.size, (self._places.rows, self._places.columns), strict=True
            )
        ]
        return torch.stack(centre, 1) - self.corners

    def placed(self, projections: Sequence[Projection]) -> Tensor:
        """Return projections of the units on their views, [N, C, h, w]; zero where a projection has no pixels."""
        canvas = torch.zeros_like(self.pixels)
        height, width = canvas.shape[2:]
        for n, (projection, corner) in enumerate(zip(projections, self.corners.tolist(), strict=True)):
            box = Box(*(edge - corner[number % 2] for number, edge in enumerate(projection.window)))
            top, left = max(box.top, 0), max(box.left, 0)
            bottom, right = min(box.bottom, height), min(box.right, width)
            canvas[n, :, top:bottom, left:right] = projection.pixels[
                :, top - box.top : bottom - box.top, left - box.left : right - box.left
            ].to(canvas)
        return canvas
