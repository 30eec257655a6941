"""PairMaps: what a pair explainer returns, two stacks of maps that a notebook shows over the pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from deconvviz.arrays import pictures_of
from deconvviz.notebook import Shown
from deconvviz.types import Pixels
from deconvviz.words import counted

SHOWN = 3  # pairs whose pictures are kept


@dataclass(frozen=True, kw_only=True, eq=False)
class PairMaps(Shown, drawn_by="draw_pair"):
    """The maps of both images of some pairs; `map_a, map_b = maps` takes the two apart.

    Attributes:
        a: [N, H, W] in 0..1, where the first images are like the second ones.
        b: [N, H, W] in 0..1, where the second images are like the first ones.
        similarity: [N], the cosine of the embeddings.
        method: name of the method.
        embedding: name of the layer of the embedding.
        pictures_a: uint8 [n, H, W, 3], the first images of the first few pairs, each with its contrast stretched.
        pictures_b: uint8 [n, H, W, 3], their second images.
    """

    a: Tensor
    b: Tensor
    similarity: Tensor
    method: str
    embedding: str
    pictures_a: Pixels
    pictures_b: Pixels

    @classmethod
    def of(
        cls, maps: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor], similarity: Tensor, names: tuple[str, str]
    ) -> PairMaps:
        """Return maps with what a notebook shows of them.

        Args:
            maps: of both images, [N, H, W] each.
            x: both images, [N, C, H, W] each, as the network takes them.
            similarity: [N].
            names: of the method and of the layer.
        """
        first, second = (pictures_of(images[:SHOWN]) for images in x)
        return cls(
            a=maps[0],
            b=maps[1],
            similarity=similarity,
            method=names[0],
            embedding=names[1],
            pictures_a=first,
            pictures_b=second,
        )

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.a, self.b))

    def __len__(self) -> int:
        return len(self.a)

    def __repr__(self) -> str:
        pairs = counted(len(self), "pair")
        similar = ", ".join(f"{value:.3f}" for value in self.similarity[:8].tolist())
        more = ", ..." if len(self) > 8 else ""
        return (
            f"{self.method} of {self.embedding}: maps of {pairs}, {self.a.shape[-2]}x{self.a.shape[-1]}, "
            f"cosine {similar}{more}"
        )
