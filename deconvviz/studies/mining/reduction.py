"""From the maps of one batch to a table of the strongest images, and to how each channel behaved."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deconvviz.studies.mining.result import MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK
from deconvviz.types import Ints


def reduced(before: MinedLayer, maps: Tensor, images: Ints) -> MinedLayer:
    """Reduce the maps of one batch to what mining keeps of them.

    Only a map whose maximum exceeds the weakest entry of the table so far is searched for its position: images come in
    ascending order, so one that ties with that entry would stand behind it.

    Args:
        before: what the layer's earlier images gave.
        maps: [N, C, H, W], on any device and of any float dtype.
        images: int64 [N], indices into the store, ascending and beyond those of the earlier images.

    Returns:
        The batch's own table and activity; `before.merge` joins them with the earlier ones.

    >>> layer = MinedLayer(name="conv", top=TopK.empty(1, k=2), activity=Activity.empty(1))
    >>> batch = reduced(layer, torch.tensor([[[[0.0, 3.0]]], [[[5.0, 1.0]]]]), np.array([7, 8]))
    >>> batch.values.tolist(), batch.images.tolist(), batch.positions.tolist()
    ([[5.0, 3.0]], [[8, 7]], [[[0, 0], [0, 1]]])
    """
    maximum, mean, broken, maps = _summarised(maps)
    values = maximum.cpu().numpy().T
    channels, places = np.nonzero(values > before.values[:, -1][:, None])
    positions = np.full((*values.shape, 2), -1, np.int64)
    candidates = np.full_like(values, -np.inf)
    if len(channels):
        searched = maps[torch.from_numpy(places).to(maps.device), torch.from_numpy(channels).to(maps.device)]
        strongest = searched.flatten(1).argmax(1).cpu().numpy()
        positions[channels, places] = np.stack(np.divmod(strongest, maps.shape[3]), 1)
        candidates[channels, places] = values[channels, places]
    activity = Activity(
        images=len(images),
        fired=(maximum > 0).sum(0).cpu().numpy(),
        total=mean.double().sum(0).cpu().numpy(),
        maximum=values.max(1),
        broken=broken.sum(0).cpu().numpy(),
    )
    table = TopK.of(candidates, np.broadcast_to(images, values.shape), positions, before.top.k)
    return MinedLayer(name=before.name, top=table, activity=activity)


def _summarised(maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each map's maximum and mean [N, C], its number of NaN and infinite values [N, C], and maps without these.

    The sum runs as fast as reading the maps once; a sum of bf16 is taken in fp32 and rounded once.
    """
    positions = maps[0, 0].numel()
    maximum, mean = maps.amax((2, 3)).float(), maps.sum((2, 3)).float() / positions
    if bool(torch.isfinite(mean).all() and torch.isfinite(maximum).all()):
        return maximum, mean, torch.zeros_like(maximum, dtype=torch.int64), maps
    broken = ~torch.isfinite(maps)
    finite = maps.masked_fill(broken, -torch.inf)
    mean = maps.masked_fill(broken, 0).sum((2, 3)).float() / positions
    return finite.amax((2, 3)).float(), mean, broken.sum((2, 3)), finite
