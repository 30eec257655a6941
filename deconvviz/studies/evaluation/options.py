"""EvaluationOptions: what `evaluate` measures, what it explains, and how it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deconvviz.choices import EXPLAINED, MASK_FILLS, METRIC_GROUPS
from deconvviz.errors import DataError, require_choice
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.studies.evaluation.columns import metric_columns

if TYPE_CHECKING:
    from deconvviz.data.truth import Truth
    from deconvviz.types import Ints


class EvaluationKeywords(RunKeywords, total=False):
    """The fields of `EvaluationOptions`, as the keyword arguments of `evaluate`."""

    metrics: Sequence[str]
    fill: str
    steps: int
    truth: Truth | None
    explain: str
    outputs: Ints | None
    shard: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(RunOptions):
    """What `evaluate` measures, what it explains, and how it runs (the fields of `RunOptions`).

    Attributes:
        metrics: groups of metrics; of none only costs and constant maps are noted. "faithfulness": average drop,
            increase and average gain where 100, 50 and 15 % of the pixels are kept. "adcc": complexity, coherency,
            ADCC. "curves": deletion and insertion. "road": remove and debias. "localisation": pointing game, energy,
            IoU, MaxBoxAcc, PxAP; it needs `truth`. "crop": the saliency metric. "infidelity", "sensitivity" (10 more
            explanations), "sparseness". "random-logit": similarity to the map of another class, drawn at random.
        fill: what masked pixels become: "mean", the colour that is zero once normalised, or "black".
        steps: number of steps of the deletion and insertion curves.
        truth: where the object of each image is. An image whose object is unknown counts for the other metrics only.
        explain: "top" for the class that the network finds in each image, or "label" for the class of its label, which
            needs `outputs`.
        outputs: int64 [classes], the output of the network that stands for each class of the images.
        shard: (i, n), i from 0: measure each n-th batch of images from the i-th on; `merge_evaluations` joins the n
            files, whose values are those of one run, in every bit where as many threads compute.

    Raises:
        DataError: an invalid value, or "localisation" without `truth`.

    >>> EvaluationOptions(metrics=["adcc"], batch_size=8).fill
    'mean'
    """

    metrics: Sequence[str] = METRIC_GROUPS[:3]
    fill: str = "mean"
    steps: int = 28
    truth: Truth | None = None
    explain: str = "top"
    outputs: Ints | None = None
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        metric_columns(self.metrics)
        require_choice("fill", self.fill, MASK_FILLS)
        require_choice("explain", self.explain, EXPLAINED)
        index, parts = self.shard or (0, 1)
        if not 0 <= index < parts:
            raise DataError(f"shard {index}/{parts} given; expected i/n with i from 0 to n - 1")
        if "localisation" in self.metrics and self.truth is None:
            raise DataError(
                "localisation needs to know where the object is: give boxes or masks (--truth), or use scenes"
            )
