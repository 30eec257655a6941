"""ExampleOptions: how many examples are shown, how the network is read, and how the job runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions

if TYPE_CHECKING:
    from torch import nn

    from deconvviz.results.snapshots import Snapshots
    from deconvviz.types import Ints, Pathlike

SHARE = 0.1  # of the mean of the Hessian's diagonal: the damping, unless it is given


class ExampleKeywords(RunKeywords, total=False):
    """The fields of `ExampleOptions`, as the keyword arguments of `examples` and `suspects`."""

    count: int
    layer: str | None
    features: Pathlike | None
    limit: int | None
    damping: float | None
    lengths: bool
    outputs: Ints | None
    names: tuple[str, ...]
    snapshots: Snapshots | None
    model: nn.Module | None
    sources: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(RunOptions):
    """How training images are compared with an image, or with themselves, and how the job runs.

    Attributes:
        count: images in a row of the figure.
        layer: the embedding; None takes the layer that the classifier reads.
        features: path of a file that keeps the training images' embeddings, so that an interrupted job resumes and a
            second image needs no second pass; those of snapshots stand beside it. None uses temporary files.
        limit: number of training images that are taken, spread over the classes; None for all.
        damping: what is added to the diagonal of the Hessian of the mean loss, and the penalty of a regression that is
            fitted; None takes 0.1 of the mean of the diagonal, as Grosse et al. 2023 (arXiv 2308.03296) do (from memory
            of the paper).
        lengths: whether TracIn keeps the lengths of embeddings, as its paper has it. By default their cosine takes the
            place of their product: long embeddings would come first whatever they show (our choice; of 150 wrong labels
            planted among 3000 CIFAR-10 images, 70 came among the first 150, and 42 with lengths; the
            choice was made on these images, so that 70 flatters it).
        outputs: int64 [classes], the output of each class of the images; None finds it by name or order.
        names: of the network's outputs.
        snapshots: of the training, for TracIn.
        model: with snapshots, a module of the kind that was trained; it stays as it is.
        sources: where the model and the images came from, for the file of features.

    Raises:
        DataError: a value out of its range.
    """

    count: int = 8
    layer: str | None = None
    features: Pathlike | None = None
    limit: int | None = None
    damping: float | None = None
    lengths: bool = False
    outputs: Ints | None = None
    names: tuple[str, ...] = ()
    snapshots: Snapshots | None = None
    model: nn.Module | None = None
    sources: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            count=(self.count >= 1, "at least 1"),
            limit=(self.limit is None or self.limit >= 2, "at least 2"),
            damping=(self.damping is None or self.damping > 0, "a number above 0"),
        )
