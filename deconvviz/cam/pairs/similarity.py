"""The score of a pair, the cosine of two embeddings, and what a method is given of each of the two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deconvviz.arrays import cosine
from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View
from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.targets import Scorer, Target
from deconvviz.graph.scores import Readout

Bounds = tuple[Tensor, Tensor]
"""The values of black and of white, [C] each, as the network takes them."""


@dataclass(frozen=True, kw_only=True)
class Similarity(Scorer):
    """Reads off embeddings how alike they are to those of the other images.

    Attributes:
        references: floating [N, D], the embeddings of the other images.
    """

    references: Tensor

    def logit(self, output: Any, images: Tensor) -> Tensor:
        """Return [M], the cosine of each embedding [M, D] with that of its pair; images: int64 [M]."""
        return cosine(output, self.references[images])

    def target(self, image: int, count: int) -> Target:
        """Return what reads off how alike `count` embeddings are to that of one image's pair."""
        return lambda output: cosine(output, self.references[image].expand(count, -1))


class CapturedEmbedding(Captured):
    """A network that returns embeddings, for the engine: there are no classes to be read off."""

    def readout(self, output: Any) -> Readout | None:
        """Return None."""
        return None


class EmbeddingView(View):
    """A batch of images whose score is how alike each is to another image: the cosine of their embeddings."""

    def __init__(
        self,
        backend: Captured,
        forward: Captured,
        x: Tensor,
        layer: str | None,
        how: ExplainOptions,
    ) -> None:
        """Look at images; `facing` says which images they are compared with. Arguments are those of `View`."""
        super().__init__(backend, forward, x, layer, Similarity(references=torch.zeros(0, 0)), how)

    def facing(self, other: EmbeddingView) -> None:
        """Compare each image with that of another view, whose embedding is a constant from now on."""
        self.scorer = Similarity(references=other.output)

    @property
    def black_and_white(self) -> Bounds | None:
        """The values of black and of white; None where they are unknown."""
        return None if self.preprocess is None else self.preprocess.bounds()

    @property
    def references(self) -> Tensor:
        """The embeddings of the other images, [N, D]."""
        assert isinstance(self.scorer, Similarity)
        return self.scorer.references
