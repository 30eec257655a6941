"""Methods that mask the image without regard to a layer, and those that fuse several layers or scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.backend import Make
from deconvviz.cam.engine import View
from deconvviz.cam.methods.shared import channel_masks, mean, significant
from deconvviz.cam.occluder import Occluder, filling
from deconvviz.cam.registry import METHODS, method
from deconvviz.cam.shaping import min_max
from deconvviz.errors import require_choice
from deconvviz.lengths import SQUARE, STRIDE


@method("rise", needs="image", passes="1 + masks forward")
def rise(v: View, masks: int = 4000, cells: int = 7, share: float = 0.5) -> Tensor:
    """(1 / (N p1)) sum_i p(x * M_i) M_i over random masks. Petsiuk et al. 2018, arXiv 1806.07421, equation 6.

    masks: N, 4000 for VGG-16 and 8000 for ResNet-50 in the paper; cells: of the grid, s; share: p1 of them.
    """
    make = random_masks(v, masks, cells, share)
    return v.combined(v.masked(masks, make), make) / (masks * share)


@method("d-rise", needs="image", passes="1 + masks forward")
def d_rise(v: View, masks: int = 5000, cells: int = 16, share: float = 0.5) -> Tensor:
    """(1 / (N p1)) sum_i max_j s(d, d_ij) M_i over random masks, with the boxes d_ij of the masked image.

    Petsiuk et al. 2021 (CVPR), arXiv 2006.03204, equations 3 to 5: s is overlap x cosine of the class probabilities x
    objectness. Explains a box; for any other target s is its probability, which is RISE. The division by N p1 is
    RISE's, and changes the scale only. masks, cells: 5000 and 16 in the paper.
    """
    make = random_masks(v, masks, cells, share)
    return v.combined(v.masked(masks, make, v.scorer.agreement), make) / (masks * share)


def random_masks(v: View, count: int, cells: int, share: float) -> Make:
    """Return what makes smooth random masks: grids of cells that are on by chance, enlarged, cut at a random place."""
    height, width = v.size
    generator = torch.Generator().manual_seed(v.seed)
    grids = (torch.rand(count, 1, cells, cells, generator=generator) < share).to(v.x.device)
    steps = [math.ceil(side / cells) for side in (height, width)]
    shifts = [torch.randint(step, (count,), generator=generator).to(v.x.device) for step in steps]
    down, across = (torch.arange(side, device=v.x.device) for side in (height, width))

    def make(_: Tensor, variants: Tensor) -> Tensor:
        size = [(cells + 1) * step for step in steps]
        large = functional.interpolate(grids[variants].to(v.x.dtype), size=size, mode="bilinear", align_corners=False)
        rows, columns = (shifts[0][variants, None] + down)[:, :, None], (shifts[1][variants, None] + across)[:, None]
        return large[torch.arange(len(variants), device=large.device)[:, None, None], 0, rows, columns]

    return make


@method("occlusion", needs="image", lengths={"square": SQUARE, "stride": STRIDE}, passes="1 + windows forward")
def occlusion(v: View, square: int, stride: int, fill: float | str | Tensor = 0.0, border: str = "flush") -> Tensor:
    """The fall of p under a square at each place, mean over the windows that cover a pixel.

    Zeiler and Fergus 2013, section 4.2 (a grey square; its size and stride are not given there). square, stride: in
    pixels; by default 1/7 and 1/14 of the image's shorter side.
    fill: what is put there: a number in units of the normalised image (0 is the mean colour), images, "blur" or
    "noise"; border: whether the last windows lie "flush" with the image's border or windows reach "beyond" it.
    """
    side = (min(square, v.size[0]), min(square, v.size[1]))
    occluder = Occluder(v.size, side, (stride, stride), border)
    scores = occluder.scores(v, filling(v, fill))
    return occluder.averaged(significant((v.p[:, None] - scores).to(v.x.dtype), scores))


@method("sise", needs="layers", passes="up to layers * (1 + K) forward, layers tail backward")
def sise(views: Sequence[View], mu: float = 0.0) -> Tensor:
    """Layers' masks, chosen by their gradients and scored on the image, fused from the first layer to the last.

    Sattarzadeh et al. 2021 (AAAI), arXiv 2010.00672; layers: the last of each block. mu: share of the largest mean
    gradient below which a map is left out.
    """
    maps = []
    for v in views:
        beta = mean(v.g)
        maps.append(block_map(v, beta > mu * beta.amax(1, keepdim=True).clamp(min=0)))
    fused = maps[0]
    for layer in maps[1:]:
        fused = (fused + layer) * torch.sigmoid(100 * (layer - otsu(layer)[:, None, None]))
    return fused


@method("ada-sise", needs="layers", passes="up to layers * (1 + K) forward, layers tail backward")
def ada_sise(views: Sequence[View]) -> Tensor:
    """SISE with the share of maps found by Otsu's threshold on each layer's gradients, and hard masks in the fusion.

    Sudhakar et al. 2021, arXiv 2102.07799, as third parties have it.
    """
    maps = []
    for v in views:
        beta = mean(v.g).clamp(min=0)
        beta = beta / beta.amax(1, keepdim=True).clamp(min=1e-30)
        maps.append(block_map(v, (beta > otsu_of_positive(beta)[:, None]) & (beta > 0)))
    fused = maps[0]
    for layer in maps[1:]:
        fused = (fused + layer) * (layer > otsu(layer)[:, None, None])
    return fused


@method("refine-cam", needs="layers", passes="layers forward, layers tail backward")
def refine_cam(views: Sequence[View], base: str = "grad-cam++") -> Tensor:
    """The product over layers of up(mm(ReLU(map))), of maps of another method of one layer.

    Gildenblat 2026, arXiv 2605.14641, as pytorch-grad-cam and torch-cam have it: deep layers say where, shallow ones
    draw the outline. base: the method. A layer without a map makes the whole one empty.
    """
    require_choice("base", base, [each.name for each in METHODS.values() if each.needs == "layer"])
    fused = torch.ones_like(views[0].x[:, 0])
    for v in views:
        fused = fused * v.up(min_max(METHODS[base].formula(v).relu()))
    return fused


def block_map(v: View, keep: Tensor) -> Tensor:
    """mm(sum_k p(x * M_k) M_k / sum M_k) over the kept channels, [N, H, W]."""
    masks, varied = channel_masks(v)
    keep = keep & varied
    scores = v.masked(keep.shape[1], masks, keep=keep)

    def shared_out(images: Tensor, channels: Tensor) -> Tensor:
        channel_mask = masks(images, channels)
        return channel_mask / channel_mask.sum((1, 2), keepdim=True)

    return min_max(v.combined(scores, shared_out))


def otsu(maps: Tensor) -> Tensor:
    """Return Otsu's threshold of each map [N, ...], [N]; a constant map's is its value."""
    from skimage import filters

    thresholds = [
        float(filters.threshold_otsu(values))  # type: ignore[no-untyped-call]
        for values in maps.detach().float().cpu().numpy()
    ]
    return torch.tensor(thresholds, device=maps.device, dtype=maps.dtype)


def otsu_of_positive(values: Tensor) -> Tensor:
    """Return Otsu's threshold of the positive values of each row [N, K], [N]; zero where there are none."""
    thresholds = [float(otsu(row[row > 0][None])[0]) if bool((row > 0).any()) else 0.0 for row in values]
    return torch.tensor(thresholds, device=values.device, dtype=values.dtype)
