"""Units of a generator: where they fire against masks of its images, and what becomes of the image without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deconvviz.errors import DataError
from deconvviz.metrics.intervals import NORMAL_95, standard_error
from deconvviz.studies.latent.model import Generator, Rows, batches, pictures
from deconvviz.studies.latent.result import Units
from deconvviz.studies.mining.topk import TopK
from deconvviz.types import Floats, Ints

Segmenter = Callable[[Tensor], Mapping[str, Tensor]]
"""Images, float32 [N, C, H, W] in 0..1 -> name of a part -> bool [N, H, W], where it is."""
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995)  # of a unit's values: the thresholds that are tried
SIDE = 64  # pixels: larger masks are compared with units at this side
TOP, TRIED, EDITED = 9, 8, 3  # images of a unit; images on which all units are removed; images that are shown edited


def checked_masks(segment: Segmenter, images: Tensor) -> dict[str, Tensor]:
    """Return the masks of images; raises DataError where a segmenter returns anything else."""
    try:
        masks = segment(images)
    except Exception as error:  # the user's code may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(f"the segmenter raised {reason}; it is given float32 {list(images.shape)} in 0..1") from error
    if not isinstance(masks, Mapping) or not masks:
        empty = " that is empty" if isinstance(masks, Mapping) else ""
        given_words = f"{type(masks).__name__}{empty}"
        raise DataError(f"the segmenter returned {given_words}; expected a dict of name -> bool tensor [N, H, W]")
    wanted_shape = (len(images), *images.shape[2:])
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or tuple(mask.shape) != wanted_shape or mask.dtype != torch.bool:
            given_words = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise DataError(
                f"the segmenter returned {given_words} for {name!r}; expected a bool tensor {list(wanted_shape)}"
            )
    return {str(name): mask for name, mask in masks.items()}


def overlaps(maps: Tensor, masks: Tensor, thresholds: Tensor) -> Tensor:
    """Return the IoU of where units fire with parts, float64 [Q, U, M].

    Args:
        maps: float [N, U, h, w], resized bilinearly to the masks.
        masks: bool [N, M, H, W].
        thresholds: float [Q, U]; a unit fires where its map is above.

    Source: Bau et al. 2017, section 2.2.
    """
    both = torch.zeros(*thresholds.shape, masks.shape[1], dtype=torch.float64)
    fires = torch.zeros(thresholds.shape, dtype=torch.float64)
    for image, parts in zip(maps, masks, strict=True):
        large = F.interpolate(image[None], tuple(parts.shape[1:]), mode="bilinear", align_corners=False)[0].flatten(1)
        fired = (large > thresholds[:, :, None]).float()
        both += (fired @ parts.flatten(1).float().T).double()
        fires += fired.sum(2).double()
    union = fires[:, :, None] + masks.sum((0, 2, 3)).double() - both
    return torch.where(union > 0, both / union, 0.0)


def compared(maps: Tensor, masks: Tensor) -> tuple[Floats, Floats]:
    """Return the IoU of every unit with every part [U, M], and the largest one of any unit by chance [M].

    A threshold out of QUANTILES is chosen for each pair by the first half of the images; the IoU is that of the second
    half. For chance, the masks are those of the next image.

    Source: the threshold of each pair follows Bau et al. 2019 (GAN Dissection, section 3.1), who choose it by
    information and not by IoU; quantiles and halves are our choice.
    """
    half = len(maps) // 2
    values = maps.transpose(0, 1).flatten(1)
    thresholds = torch.from_numpy(np.quantile(values.numpy(), QUANTILES, axis=1)).float()

    def best(parts: Tensor) -> Floats:
        best_thresholds = overlaps(maps[:half], parts[:half], thresholds).argmax(0)
        return np.asarray(overlaps(maps[half:], parts[half:], thresholds).gather(0, best_thresholds[None])[0].numpy())

    return best(masks), best(masks.roll(1, 0)).max(0, initial=0)


class UnitViews:
    """Looks at the units of one layer of a generator.

    Attributes:
        layer: its name.
        count: number of its units.
    """

    def __init__(self, generator: Generator, layer: str, segment: Segmenter | None, size: int) -> None:
        self.generator, self.layer, self.segment, self.size = generator, layer, segment, size
        generator.network.layer(layer).require_channels()
        self.count = generator.network.layer(layer).units[0]

    @torch.no_grad()
    def top(self, z: Rows) -> TopK:
        """Return the samples in which each unit is most active; "images" are the indices of samples."""
        network, table, done = self.generator.network, TopK.empty(self.count, TOP), 0
        for rows in batches(z, self.size):
            maps = network.maps(self.layer, network.activations(self.generator.z(rows), [self.layer])[self.layer])
            largest, places = maps.flatten(2).max(2)
            positions = torch.stack([places // maps.shape[3], places % maps.shape[3]], 2).transpose(0, 1)
            indices = np.broadcast_to(np.arange(done, done + len(rows)), (self.count, len(rows)))
            values = largest.T.float().cpu().numpy()
            table = table.merge(TopK.of(values, indices, positions.cpu().numpy(), TOP))
            done += len(rows)
        return table

    @torch.no_grad()
    def maps_and_masks(self, z: Rows) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
        """Return the maps [N, U, h, w] of samples, the masks [N, M, H, W] of their images, and the parts' names."""
        network, maps, masks, names = self.generator.network, list[Tensor](), list[Tensor](), tuple[str, ...]()
        for rows in batches(z, self.size):
            value_by_layer, out = network.observed(self.generator.z(rows), [self.layer])
            maps.append(network.maps(self.layer, value_by_layer[self.layer]).float().cpu())
            if self.segment is not None:
                mask_by_part = checked_masks(self.segment, self.generator.scaled(out))
                if masks and tuple(mask_by_part) != names:
                    parts = f"{', '.join(names)} and then {', '.join(mask_by_part)}"
                    raise DataError(f"the segmenter returned the parts {parts}; expected the same ones for all images")
                names = tuple(mask_by_part)
                masks.append(_small(torch.stack(list(mask_by_part.values()), 1)).cpu())
        return torch.cat(maps), torch.cat(masks) if masks else None, names

    def set_to(self, rows: Rows, unit: int, value: float) -> Tensor:
        """Return the images [N, C, H, W] of samples with a unit set to a value at all its places."""
        network = self.generator.network
        layer, tail = network.split(self.layer, self.generator.z(rows))
        edited = layer.clone()
        network.maps(self.layer, edited)[:, unit] = value
        with torch.no_grad():
            return self.generator.scaled(tail(edited))

    def changes(self, z: Rows) -> Floats:
        """Return how much an image changes without each unit: mean absolute change of a pixel in 0..1, float64 [U]."""
        before = self.generator.images(z)
        return np.array([float((self.set_to(z, unit, 0.0) - before).abs().mean()) for unit in range(self.count)])

    def effects(self, z: Rows, unit: int, level: float) -> tuple[Floats, Floats]:
        """Return what a unit does to each part's area, float64 [M, 3] twice: the mean and its 95 % interval.

        The first is what goes when the unit is set to 0, the second what there is more when it is at `level`
        everywhere than when it is 0, in shares of the image.

        Source: GAN Dissection, section 3.2, equation 4 for the second.
        """
        assert self.segment is not None
        removed, inserted = list[Floats](), list[Floats]()
        for rows in batches(z, self.size):
            plain = self._areas(self.generator.images(rows))
            off, on = (self._areas(self.set_to(rows, unit, value)) for value in (0.0, level))
            removed.append(plain - off)
            inserted.append(on - off)
        return _with_interval(np.concatenate(removed)), _with_interval(np.concatenate(inserted))

    def _areas(self, images: Tensor) -> Floats:
        assert self.segment is not None
        masks = checked_masks(self.segment, images)
        return np.stack([mask.double().mean((1, 2)).cpu().numpy() for mask in masks.values()], 1)

    def measured(self, z: Rows, masked: int, shown: int) -> Units:
        """Return all of it.

        Args:
            z: all samples.
            masked: how many of them are compared with masks and edited.
            shown: units that are switched off and on.
        """
        table = self.top(z)
        maps, masks, names = self.maps_and_masks(z[:masked])
        empty = np.zeros((self.count, 0)), np.zeros(0)
        iou, chance = compared(maps, masks) if masks is not None else empty
        change = self.changes(z[:TRIED])
        order = np.argsort(-(iou.max(1) if len(names) else change), kind="stable")
        shown_units = np.asarray(order[:shown], np.int64)
        levels = [_level(maps[:, unit].numpy()) for unit in shown_units]
        pairs = zip(shown_units.tolist(), levels, strict=True)
        effects = [self.effects(z[:masked], unit, level) for unit, level in pairs if self.segment is not None]
        none = np.zeros((len(shown_units), 0, 3))
        return Units(
            layer=self.layer,
            parts=names,
            iou=iou,
            chance=chance,
            change=change,
            top_values=table.values,
            top_samples=table.images,
            chosen=shown_units,
            levels=np.array(levels),
            removed=np.stack([each[0] for each in effects]) if effects else none,
            inserted=np.stack([each[1] for each in effects]) if effects else none,
            images=np.stack([self._shown(z, table.images[unit]) for unit in shown_units]),
            edited=np.stack([self._edited(z, table.images[u], u, v) for u, v in zip(shown_units, levels, strict=True)]),
        )

    def _shown(self, z: Rows, samples: Ints) -> NDArray[np.uint8]:
        return pictures(self.generator.images(z[np.maximum(samples, 0)]))

    def _edited(self, z: Rows, samples: Ints, unit: int, level: float) -> NDArray[np.uint8]:
        """Return [EDITED, 3, H, W, C]: a unit's strongest samples as they are, without it, and with it on."""
        rows = z[np.maximum(samples[:EDITED], 0)]
        forms = (self.generator.images(rows), self.set_to(rows, unit, 0.0), self.set_to(rows, unit, level))
        return np.stack([pictures(form) for form in forms], 1)


def _small(masks: Tensor) -> Tensor:
    """Return masks [N, M, H, W] with sides of SIDE pixels at most: a pixel is covered where at least half of it is."""
    size = min(masks.shape[2], SIDE), min(masks.shape[3], SIDE)
    if tuple(masks.shape[2:]) == size:
        return masks
    return F.adaptive_avg_pool2d(masks.float(), size) >= 0.5


def _level(values: NDArray[np.float32]) -> float:
    """Return the value at which a unit counts as on: the mean of the tenth of its values that are largest."""
    tenth = -(-values.size // 10)  # at least one; behind a rectifier most values may be equal, and are not all taken
    return float(np.sort(values, axis=None)[-tenth:].mean(dtype=np.float64))


def _with_interval(values: Floats) -> Floats:
    """Return the means [M, 3] of values [N, M], with the ends of their 95 % intervals."""
    means = values.mean(0)
    half = NORMAL_95 * np.array([standard_error(column) for column in values.T])
    return np.stack([means, means - half, means + half], 1)
