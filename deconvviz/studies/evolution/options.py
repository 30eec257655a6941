"""EvolutionOptions: which epochs are followed, what is mined at each of them, and how the job runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deconvviz.choices import CHANNEL_CHOICES, RULE_CHOICES
from deconvviz.errors import DataError, require, require_choice
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Pathlike


class EvolutionKeywords(RunKeywords, total=False):
    """The fields of `EvolutionOptions`, as the keyword arguments of `evolve`."""

    epochs: Sequence[int] | None
    choice: str
    crop: str | int
    rule: str
    k: int
    limit: int | None
    work: Pathlike | None


@dataclass(frozen=True, kw_only=True)
class EvolutionOptions(RunOptions):
    """What `evolve` follows, and how it runs: the attributes of `RunOptions` are options too.

    Attributes:
        epochs: the epochs to show; None takes all whose weights are kept.
        choice: which filters are shown, where only their number is given: those that are "active" (have the highest
            mean activation) at the last epoch, "random" ones, or the "first" ones.
        crop: size of the patches, "energy", "receptive-field" or a side in pixels, as for `layer_panels`. The last
            epoch's size is used for all epochs.
        rule: of the projections, one of `choices.RULES`. "auto" chooses it for each layer by the last epoch's network,
            as `layer_panels` does, and takes it for all epochs.
        k: images that are mined for each channel.
        limit: mine only so many images, the first ones; None mines all.
        work: a folder for the mined file of each epoch. With it, an evolution that was interrupted resumes.

    Raises:
        DataError: a value out of its range.
    """

    epochs: Sequence[int] | None = None
    choice: str = "active"
    crop: str | int = "energy"
    rule: str = "auto"
    k: int = 9
    limit: int | None = None
    work: Pathlike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("choice", self.choice, CHANNEL_CHOICES)
        require_choice("rule", self.rule, RULE_CHOICES)
        require(self, DataError, k=(self.k >= 1, "at least 1"))
