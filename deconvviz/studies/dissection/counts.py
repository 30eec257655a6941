"""The sums of the second pass: where channels fire, which concepts are there, and where pictures show concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.studies.dissection.firing import Axis, firing
from deconvviz.studies.dissection.looking import ConceptPlanes
from deconvviz.studies.dissection.result import Dissection
from deconvviz.types import Array


def on_device(array: Array, device: torch.device) -> Tensor:
    """Return a copy of an array as a tensor on a device."""
    return torch.from_numpy(array).to(device, copy=True)


@dataclass
class Counts:
    """The sums of the second pass as tensors on the network's device; they are added to in place.

    Attributes:
        thresholds: layer -> float32 [C].
        fires: layer -> int32 [C, P], pictures in which a channel fires at a place.
        both: layer -> int64 [C, 1 + K], common pixels; the first column stands for pixels without a concept.
        shown: int32 [1 + K, P], pictures that have a concept at a place.
        axes: layer -> how its maps are resized.
    """

    thresholds: Mapping[str, Tensor]
    fires: Mapping[str, Tensor]
    both: dict[str, Tensor]
    shown: Tensor
    axes: Mapping[str, tuple[Axis, Axis]]

    @classmethod
    def of(
        cls, dissection: Dissection, planes: ConceptPlanes, shapes: Mapping[str, tuple[int, int]], device: torch.device
    ) -> Counts:
        """Move what was counted before to a device.

        Args:
            dissection: in its second pass.
            planes: the concepts, of which those of the dissection are the first.
            shapes: layer -> rows and columns of its maps.
            device: of the network.
        """
        concept_count, places = len(planes.concepts), len(planes.rows) * len(planes.columns)
        begun = bool(dissection.concepts)
        fires, both, thresholds, axes = {}, {}, {}, {}
        height, width = planes.feed.preprocess.shape[1:]
        for name, layer in dissection.layers.items():
            assert layer.thresholds is not None  # in the second pass
            channels = len(layer.fires)
            thresholds[name] = on_device(layer.thresholds, device)
            fires[name] = on_device(layer.fires if begun else np.zeros((channels, places), np.int32), device)
            common = layer.both if begun else np.zeros((channels, concept_count), np.int64)
            both[name] = functional.pad(on_device(common, device), (1, 0))
            rows, columns = shapes[name]
            axes[name] = (
                Axis.of(rows, height, planes.rows, device),
                Axis.of(columns, width, planes.columns, device),
            )
        shown_counts = on_device(dissection.shown if begun else np.zeros((concept_count, places), np.int32), device)
        return cls(thresholds, fires, both, functional.pad(shown_counts, (0, 0, 1, 0)), axes)

    def add_concepts(self, concepts: Tensor, known: int) -> None:
        """Add the concepts of a batch: int64 [N, Q, rows, columns], numbers up to `known`."""
        new = 1 + known - len(self.shown)
        if new:
            self.shown = functional.pad(self.shown, (0, 0, 0, new))
            self.both = {name: functional.pad(both, (0, new)) for name, both in self.both.items()}
        places = torch.arange(self.shown.shape[1], device=concepts.device)
        _add_ones(self.shown, concepts.flatten(2) * self.shown.shape[1] + places)

    def add_maps(self, layer: str, maps: Tensor, concepts: Tensor) -> None:
        """Add the maps of a batch [N, C, h, w] with its concepts, int64 [N, Q, rows, columns]."""
        fires, both = self.fires[layer], self.both[layer]
        planes = concepts.flatten(2)
        for images, channels, places in firing(maps, self.thresholds[layer], *self.axes[layer]):
            _add_ones(fires, channels * fires.shape[1] + places)
            _add_ones(both, channels[:, None] * both.shape[1] + planes[images, :, places])

    def on_host(self, dissection: Dissection, planes: ConceptPlanes, done: int, images: int) -> Dissection:
        """Return a dissection with these sums."""
        layers = {
            name: replace(layer, fires=_copied(self.fires[name]), both=_copied(self.both[name][:, 1:]))
            for name, layer in dissection.layers.items()
        }
        return replace(
            dissection,
            layers=layers,
            concepts=tuple(planes.concepts),
            shown=_copied(self.shown[1:]),
            done=done,
            images=images,
        )


def _add_ones(counts: Tensor, places: Tensor) -> None:
    """Add one to each of some places of counts, in place; a place that comes twice is counted twice."""
    places = places.flatten()
    counts.view(-1).scatter_add_(0, places, torch.ones_like(places, dtype=counts.dtype))


def _copied(counts: Tensor) -> Array:
    array: Array = counts.contiguous().cpu().numpy().copy()
    return array
