"""Which place of one image's maps matches which place of the other's: spatial cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.arrays import widened
from deconvviz.cam.pairs.registry import pair_method
from deconvviz.cam.pairs.similarity import EmbeddingView
from deconvviz.errors import require_choice

MATCHES = ("best", "mutual")


@pair_method("spatial-attention", reads="both", cost="1 forward pass an image", needs="layer")
def spatial_attention(
    a: EmbeddingView, b: EmbeddingView, match: str = "best", weigh: bool = False
) -> tuple[Tensor, Tensor]:
    """m(u) = max over places v of the other image of cos(A(u), B(v)), A and B being the channels of a layer at a place.

    Seyfi, Banitalebi-Dehkordi and Zhang 2022, arXiv 2206.05028, of which we know the abstract only: spatial
    cross-correlations between samples, with which a network is trained. The equation is ours, and so is its use on a
    network that was trained otherwise.
    match: "best"; or "mutual", in which a place counts only where the place that it matches best matches it best in
    turn, and is 0 elsewhere. weigh: the cosine is multiplied by the lengths of both, so that it is the product A(u)
    B(v): places with much in their channels, which count in the embedding, stand out, and those of a plain background,
    which are often alike, do not. `explainer.extras` has for each place the place that it "matches", and the "weights",
    the product with it.
    """
    require_choice("match", match, MATCHES)
    cosines = place_cosines(a.A, b.A)
    lengths = [v.A.to(cosines.dtype).flatten(2).norm(dim=1) for v in (a, b)]
    best, matches = zip(*(each.max(2) for each in (cosines, cosines.transpose(1, 2))), strict=True)
    maps = []
    for n, view in enumerate((a, b)):
        weights = best[n] * lengths[n] * lengths[1 - n].gather(1, matches[n])
        view.extras["matches"], view.extras["weights"] = matches[n], weights
        values = weights if weigh else best[n]
        if match == "mutual":
            values = values * mutual(matches[n], matches[1 - n])
        maps.append(values.view(-1, *view.A.shape[2:]).to(view.x.dtype))
    return maps[0], maps[1]


def place_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the channels at each place of one stack of maps with those at each place of another.

    Args:
        a: floating [N, C, h, w].
        b: floating [N, C, i, j].

    Returns:
        [N, h w, i j], in float32 or wider; 0 where all channels of a place are 0.

    >>> maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])  # two places, each with its own channel
    >>> place_cosines(maps, maps)[0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    first, second = (functional.normalize(maps.to(widened(maps.dtype)).flatten(2), dim=1) for maps in (a, b))
    return first.transpose(1, 2) @ second


def mutual(there: Tensor, back: Tensor) -> Tensor:
    """Return whether the place that each place matches best matches it best in turn.

    Args:
        there: int64 [N, P], for each place of the first maps the place of the second ones.
        back: int64 [N, Q], for each place of the second maps the place of the first ones.

    Returns:
        bool [N, P].

    >>> mutual(torch.tensor([[1, 1]]), torch.tensor([[0, 1]])).tolist()
    [[False, True]]
    """
    return back.gather(1, there) == torch.arange(there.shape[1], device=there.device)
