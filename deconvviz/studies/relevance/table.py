"""From the relevance of one batch to the table of the images in which each channel weighed most, on the device.

Nothing here waits for the device, as in `mining.reduction`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deconvviz.studies.mining.reduction import ranking_keys, values_and_images
from deconvviz.studies.mining.topk import TopK
from deconvviz.studies.relevance.result import Shares


@dataclass(frozen=True)
class RelevanceTable:
    """What a job holds of one layer's relevance between two commits, as tensors on the network's device.

    Attributes:
        keys: int64 [C, k], the shares and their images, see `mining.reduction.ranking_keys`, descending.
        places: int64 [C, k], the position with the largest relevance on the map, y * columns + x.
        total: float64 [classes, C], sum of the shares over the images of each class.
        squares: float64 [classes, C], sum of their squares.
        decided: int64 [classes], images.
        parts: float64 [5], sums over the images: the scores, and what they are the sum of, see `SharedScores.parts`.
        broken: int64 [], images whose relevance is not finite; they count nowhere else.
        columns: columns of the layer's maps.
    """

    keys: Tensor
    places: Tensor
    total: Tensor
    squares: Tensor
    decided: Tensor
    parts: Tensor
    broken: Tensor
    columns: int

    @classmethod
    def of(cls, top: TopK, shares: Shares, columns: int, device: torch.device | str) -> RelevanceTable:
        """Move what was found before to a device."""

        def moved(array: object) -> Tensor:
            return torch.as_tensor(np.asarray(array)).to(device, copy=True)

        return cls(
            ranking_keys(torch.from_numpy(top.values), torch.from_numpy(top.images)).to(device),
            moved(top.positions[..., 0] * columns + top.positions[..., 1]),
            moved(shares.total),
            moved(shares.squares),
            moved(shares.decided),
            moved(shares.parts),
            moved(shares.broken),
            columns,
        )

    def with_batch(
        self, relevance: Tensor, images: Tensor, classes: Tensor, scores: Tensor, parts: Tensor
    ) -> RelevanceTable:
        """Return the table with one batch added.

        Args:
            relevance: [N, C, H, W], of the units.
            images: int64 [N], indices into the store, none of which is in the table.
            classes: int64 [N], whose scores were shared out.
            scores: [N], these scores.
            parts: float64 [N, 4], what they are the sum of.
        """
        sums = relevance.flatten(2).sum(2, dtype=torch.float64)
        finite = sums.isfinite().all(1) & scores.isfinite()
        shares = sums / sums.abs().sum(1, keepdim=True)
        shares = torch.where(finite[:, None] & shares.isfinite(), shares, 0)  # no relevance at all: no share
        values = torch.where(shares > 0, shares, -torch.inf).T.float()
        places = torch.where(finite[:, None, None, None], relevance, 0).flatten(2).argmax(2).T
        k, counted = self.keys.shape[1], finite.double()
        keys, slots = torch.cat([self.keys, ranking_keys(values, images)], 1).topk(k, 1)
        of_batch = torch.cat([scores.double()[:, None], parts], 1)
        return RelevanceTable(
            keys,
            torch.cat([self.places, places], 1).gather(1, slots),
            self.total.index_add(0, classes, shares),
            self.squares.index_add(0, classes, shares.square()),
            self.decided.index_add(0, classes, finite.long()),
            self.parts + torch.where(counted[:, None] > 0, of_batch, 0).sum(0),
            self.broken + (~finite).sum(),
            self.columns,
        )

    def found(self) -> tuple[TopK, Shares]:
        """Return the table and the sums on the host."""
        values, images = values_and_images(self.keys.cpu().numpy())
        positions = np.stack(np.divmod(self.places.cpu().numpy(), self.columns), 2)
        positions[images < 0] = -1
        total, squares, decided, parts = (
            sums.cpu().numpy() for sums in (self.total, self.squares, self.decided, self.parts)
        )
        return TopK(values, images, positions), Shares(total, squares, decided, parts, int(self.broken))
