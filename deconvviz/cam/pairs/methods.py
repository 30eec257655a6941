"""Methods that explain why a network takes two images for alike, each a formula.

z is an embedding, s the cosine of the two, x\\w an image without window w (filled), w|x the window alone. A view of one
image has s as its score, in which the other image's embedding is a constant.

All are those of Sammani et al. 2022, arXiv 2206.09753, by its release (fawazsammani/explain-cl, and its first version);
where the release has a fault, the docstring says what is done instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deconvviz.arrays import cosine, widened
from deconvviz.cam.methods.shared import mean, significant
from deconvviz.cam.occluder import Occluder
from deconvviz.cam.pairs.draws import covers, generator_of, random_box
from deconvviz.cam.pairs.registry import pair_method
from deconvviz.cam.pairs.similarity import EmbeddingView
from deconvviz.errors import DataError, require_choice
from deconvviz.lengths import PAIR_SQUARE, PAIR_STRIDE

REDUCTIONS = ("mean", "max", "attention")


@pair_method(
    "conditional-occlusion",
    reads="each",
    cost="442 forward passes an image: one for each window",
    lengths={"square": PAIR_SQUARE, "stride": PAIR_STRIDE},
)
def conditional_occlusion(v: EmbeddingView, square: int, stride: int, fill: float = 0.0) -> Tensor:
    """The fall of s under a square at each place of one image, s - cos(f(x\\w), z_other); mean over windows of a pixel.

    Sammani et al. 2022. square, stride: in pixels; by default 64 and 8 of 224. fill: in units of the normalised
    image; 0 is the mean colour. The release stretches the grid of windows over the image, which moves the map towards
    its border; here a pixel has the mean of the windows that cover it.
    """
    occluder = _occluder(v, square, stride)
    scores = occluder.scores(v, fill)
    return occluder.averaged(significant((v.y[:, None] - scores).to(v.x.dtype), torch.ones_like(scores)))


@pair_method(
    "context-agnostic",
    reads="each",
    cost="883 forward passes an image: two for each window",
    lengths={"square": PAIR_SQUARE, "stride": PAIR_STRIDE},
)
def context_agnostic(v: EmbeddingView, square: int, stride: int, fill: float = 0.0) -> Tensor:
    """cos(f(w|x) - f(x\\w), z_other): what a window has that the rest has not; mean over windows of a pixel.

    Sammani et al. 2022. Options and the mean over windows are those of conditional-occlusion.
    """
    occluder = _occluder(v, square, stride)

    def embedding(output: Tensor, _: Tensor) -> Tensor:
        return output.to(widened(output.dtype))

    without = occluder.scores(v, fill, embedding)
    alone = occluder.scores_alone(v, fill, embedding)
    return occluder.averaged(cosine(alone - without, v.references[:, None]).to(v.x.dtype))


@pair_method("pairwise-occlusion", reads="both", cost="101 forward passes an image: one for each draw")
def pairwise_occlusion(
    a: EmbeddingView,
    b: EmbeddingView,
    draws: int = 100,
    area: Sequence[float] = (0.1, 0.3),
    ratio: Sequence[float] = (1.0, 1.5),
    fill: float = 0.0,
    temperature: float | None = None,
    relative: bool = True,
) -> tuple[Tensor, Tensor]:
    """Boxes erased in both images at random: softmax over draws of the fall of s, added where the embedding shrank.

    Sammani et al. 2022. area: of a box, in shares of the image; ratio: its height over its width. Of each draw the
    weight goes to the box of the image whose embedding became the shorter.
    temperature: that the falls are divided by; None takes their standard deviation, because the softmax of small falls
    is nearly flat (1 in the release). relative: lengths are shares of the whole image's, so that an image with a short
    embedding does not take every draw; the release compares bare lengths. Every second draw has the boxes of the one
    before, exchanged: then exchanging the images exchanges the maps, and equal images have equal maps. The boxes are
    kept; the release takes pixels that are black for erased ones.
    """
    if draws < 2 or (temperature is not None and temperature <= 0):
        raise DataError(f"draws {draws} and temperature {temperature} given; expected 2 or more, and a positive number")
    first, second = _boxes(draws, a.size, area, ratio, a.seed)
    exchanged = [torch.stack([p, q], 1).flatten(0, 1)[:draws] for p, q in ((first, second), (second, first))]
    erased = [covers(boxes.to(a.x.device), a.size) for boxes in exchanged]  # bool [draws, H, W] of each image
    z = [_embeddings_without(v, masks, fill) for v, masks in zip((a, b), erased, strict=True)]  # [N, draws, D]
    fall = a.y[:, None] - cosine(*z)
    scale = fall.std(1, keepdim=True).clamp(min=1e-12) if temperature is None else temperature
    weight = (fall / scale).softmax(1)
    lengths = [embeddings.norm(dim=2) for embeddings in z]
    if relative:
        whole = [v.output.to(lengths[0].dtype).norm(dim=1)[:, None].clamp(min=1e-30) for v in (a, b)]
        lengths = [length / of_all for length, of_all in zip(lengths, whole, strict=True)]
    shorter = [lengths[0] < lengths[1], lengths[1] < lengths[0]]
    maps = [
        torch.einsum("nd,dhw->nhw", weight * mine, masks.to(weight.dtype)).to(a.x.dtype)
        for mine, masks in zip(shorter, erased, strict=True)
    ]
    return maps[0], maps[1]


@pair_method(
    "interaction-cam", reads="both", cost="1 forward pass an image, and one back from the embedding", needs="layer"
)
def interaction_cam(
    a: EmbeddingView, b: EmbeddingView, reduce: str = "mean", interact: bool = False
) -> tuple[Tensor, Tensor]:
    """L = sum_k j_k A_k ReLU(ds/dA_k), element by element; j_k = r(A of one image)_k r(A of the other)_k.

    Sammani et al. 2022. reduce: how r reduces a map to a number: "mean"; "max"; or "attention", the mean weighted by
    softmax(q . A at each place), q being the mean. interact: the gradients are replaced by the largest entries of the
    rows (of the columns, for the other image) of sum over places G_a G_b^T [K, K], as the release's later version.
    The release's first version multiplies a whole map by one number, which scaling to 0..1 undoes. What the release
    calls Grad-CAM is LayerCAM: this one with j = 1.
    """
    require_choice("reduce", reduce, REDUCTIONS)
    joint = (_reduced(a.A, reduce) * _reduced(b.A, reduce))[:, :, None, None]
    gradients = [a.g, b.g]
    if interact:
        products = torch.einsum("nkhw,nlhw->nkl", a.g, b.g)
        gradients = [products.amax(axis)[:, :, None, None] for axis in (2, 1)]
    maps = [(joint * v.A * g.relu()).sum(1) for v, g in zip((a, b), gradients, strict=True)]
    return maps[0], maps[1]


def _reduced(maps: Tensor, how: str) -> Tensor:
    """Return one number for each map, [N, K, h, w] -> [N, K]."""
    if how == "mean":
        return mean(maps)
    if how == "max":
        return maps.amax((2, 3))
    vectors = maps.flatten(2)
    attention = torch.einsum("nk,nkp->np", vectors.mean(2), vectors).softmax(1)
    return torch.einsum("np,nkp->nk", attention, vectors)


def _occluder(v: EmbeddingView, square: int, stride: int) -> Occluder:
    return Occluder(v.size, (min(square, v.size[0]), min(square, v.size[1])), (stride, stride))


def _boxes(
    draws: int, size: tuple[int, int], area: Sequence[float], ratio: Sequence[float], seed: int
) -> tuple[Tensor, Tensor]:
    """Draw as many pairs of boxes as half of the draws need, rounded up, int64 [n, 4] each."""
    for name, (low, high), most in (("area", area, 1.0), ("ratio", ratio, float("inf"))):
        if not 0 < low <= high <= most:
            raise DataError(f"{name} {low:g} to {high:g} given; expected rising positive numbers, an area up to 1")
    generators = [generator_of(seed, 3, draw) for draw in range(2 * ((draws + 1) // 2))]
    boxes = torch.tensor([random_box(size, area, ratio, generator) for generator in generators])
    return boxes[0::2], boxes[1::2]


def _embeddings_without(v: EmbeddingView, erased: Tensor, fill: float) -> Tensor:
    """Return the embeddings of images with places filled, [N, draws, D]; erased: bool [draws, H, W]."""
    keep = (~erased).to(v.base.dtype)
    return v.masked(len(erased), lambda _, draws: keep[draws], lambda z, _: z.to(widened(z.dtype)), fill)
