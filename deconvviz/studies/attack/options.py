"""AttackOptions: what is attacked, how far a pixel may go, and how the job runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deconvviz.choices import ATTACK_LOSSES, EDGE_STAGES, EDGES, EXPLAINED, GOALS, TOWARDS
from deconvviz.errors import CamError, DataError, require, require_choice
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.studies.attack.registry import TRAINED
from deconvviz.types import Ints, Pathlike

if TYPE_CHECKING:
    from deconvviz.cam.learned.base import LearnedExplainer

NO_LABELS = (
    "an attack away from the label needs one for every image, and outputs that stand for them; attack the top class "
    "instead"
)
KINDS = {"bit-depth": (1, 8), "median": (2, 15)}
"""Countermeasure -> the least and the largest number that it takes: bits of a colour, and pixels of a window's side."""


def squeezer(text: str) -> tuple[str, int]:
    """Read a countermeasure.

    Raises:
        DataError: it is none, or its number is out of its range.

    >>> squeezer("median=3")
    ('median', 3)
    """
    kind, _, number = text.partition("=")
    least, most = KINDS.get(kind, (0, -1))
    if not (number.isdecimal() and least <= int(number) <= most):
        raise DataError(
            f"countermeasure {text!r} given; expected bit-depth=N, N from 1 to 8, or median=N, N from 2 to 15"
        )
    return kind, int(number)


class AttackKeywords(RunKeywords, total=False):
    """The fields of `AttackOptions`, as the keyword arguments of `attack`."""

    epsilons: Sequence[float] | None
    away_from: str
    outputs: Sequence[int] | Ints | None
    target: int | None
    loss: str
    method_options: Mapping[str, Any]
    limit: int | None
    keep: int | None
    commit_every: int
    fools: Sequence[str]
    layer: str | None
    explainer: LearnedExplainer | Pathlike | None
    goal: str
    edges: str
    edge_stages: str
    towards: str
    countermeasures: Sequence[str]
    agreement: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class AttackOptions(RunOptions):
    """What is attacked and how: the attributes of `RunOptions` are options too. An attack is computed in fp32.

    Attributes:
        epsilons: how far a pixel may go, as shares of the way from black to white, 0 to 1; None takes the method's own.
        away_from: the class that the network shall not find any more: the image's "label", or the class that it finds
            in the unchanged image, "top".
        outputs: int64 [classes], the network's output that stands for each class of the images; "label" needs it.
        target: the class that the network shall find; None lets it be any other.
        loss: what the attack raises, one of `choices.ATTACK_LOSSES`; an attack may have its own.
        method_options: options of the method.
        limit: take only so many images, spread over the classes and over the dataset; None takes all.
        keep: of so many of them, evenly spread, the changed pixels are kept; None keeps all.
        commit_every: batches between two commits to the file.
        fools: names of interpreters whose maps are measured before and after, and which the attack fools together.
        layer: whose maps the interpreter "cam" and the methods of `agreement` read; None takes the last one with rows
            and columns.
        explainer: of the interpreter "real-time-masking", or its file.
        goal: "both": another class, and a map like the one before; "explanation": the same class, and another map;
            "decision": another class, whatever the map is. Without `fools` it is "decision".
        edges: where the attack may change pixels, one of `choices.EDGES`: anywhere; "weights", by the strength of the
            edge (AdvEdge); "threshold", where an edge is strong enough (AdvEdge+).
        edge_stages: whether edges hold in the "first" stage, of the decision alone, or in "both".
        towards: where the map moves with the goal "explanation": "away" from the one before, to a "corner", or to its
            "mirror" image.
        countermeasures: what images pass through before the network sees them again, such as "bit-depth=4", "median=3".
        agreement: explanation methods, two or more, whose agreement on each image is measured, before and after.

    Raises:
        DataError: a value out of its range, or options that do not fit together.
        CamError: an interpreter needs a trained explainer, and none is given.

    >>> AttackOptions(epsilons=(2 / 255,)).epsilons_or(0.5), AttackOptions().epsilons_or(0.5)
    ((0.00784313725490196,), (0.5,))
    """

    epsilons: Sequence[float] | None = None
    away_from: str = "label"
    outputs: Sequence[int] | Ints | None = None
    target: int | None = None
    loss: str = "cross-entropy"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    keep: int | None = None
    commit_every: int = 20
    fools: Sequence[str] = ()
    layer: str | None = None
    explainer: LearnedExplainer | Pathlike | None = None
    goal: str = "both"
    edges: str = "none"
    edge_stages: str = "first"
    towards: str = "away"
    countermeasures: Sequence[str] = ()
    agreement: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("away from", self.away_from, EXPLAINED)
        require_choice("loss", self.loss, ATTACK_LOSSES)
        require_choice("goal", self.goal, GOALS)
        require_choice("edges", self.edges, EDGES)
        require_choice("edge stages", self.edge_stages, EDGE_STAGES)
        require_choice("towards", self.towards, TOWARDS)
        require(
            self,
            DataError,
            precision=(self.precision == "fp32", "fp32: attacks need exact gradients"),
            target=(self.target is None or self.target >= 0, "0 or more"),
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            keep=(self.keep is None or self.keep >= 0, "0 or more"),
            commit_every=(self.commit_every >= 1, "at least 1"),
        )
        for epsilon in self.epsilons or ():
            if not (math.isfinite(epsilon) and 0 <= epsilon <= 1):
                raise DataError(
                    f"epsilon {epsilon:g} given; expected a share of the way from black to white, from 0 to 1, such as "
                    "0.03 or 8/255"
                )
        if self.epsilons is not None and (not len(self.epsilons) or sorted(set(self.epsilons)) != list(self.epsilons)):
            raise DataError(f"epsilons {list(self.epsilons)} given; expected one or more, rising")
        self._check_explanations()

    def _check_explanations(self) -> None:
        """Raise DataError where what is said of explanations does not fit together."""
        for text in self.countermeasures:
            squeezer(text)
        if TRAINED in self.fools and self.explainer is None:
            raise CamError(
                f"{TRAINED} has to be trained first: deconvviz train-cam {TRAINED} MODEL IMAGES -o masking.pth; give "
                "its file as the explainer"
            )
        if TRAINED not in self.fools and self.explainer is not None:
            raise DataError(f"an explainer given, which {TRAINED} alone reads; name that among the interpreters")
        if self.edges != "none" and not self.fooling:
            raise DataError(
                f"edges {self.edges} given without an explanation to fool; name interpreters, such as cam, and the "
                "goal both or explanation"
            )
        if len(set(self.fools)) < len(self.fools):
            raise DataError(f"interpreters {', '.join(self.fools)} given; name each once")
        if self.fooling and self.goal == "explanation" and self.target is not None:
            raise DataError(
                f"target {self.target} given, and an attack on the explanation alone keeps the class; take the goal "
                "both"
            )
        if len(self.agreement) == 1:
            raise DataError(f"agreement of {self.agreement[0]} alone asked for; name two methods or more")

    @property
    def fooling(self) -> bool:
        """Whether the attack changes maps, or holds them, besides the decision."""
        return bool(self.fools) and self.goal != "decision"

    def epsilons_or(self, own: float) -> tuple[float, ...]:
        """Return the epsilons, or the method's own where none are given."""
        return (own,) if self.epsilons is None else tuple(map(float, self.epsilons))
