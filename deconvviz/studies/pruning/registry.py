"""The registry of criteria: each is a function from a network to a score for every unit; the lowest go first.

To add a criterion, write a function in a file of `criteria/` and register it:

    @criterion("l1")
    def l1(subject: PruningSubject, greedy: bool = False) -> Scores: ...

Its docstring is shown to users: the formula, and where it comes from. Its further parameters are its options.
"""

from __future__ import annotations

import inspect
import os
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.cam.learned.described import require_explainer_of
from deconvviz.declarations import Declaration, declarations
from deconvviz.errors import DataError, PruningError
from deconvviz.registry import Registry, require_options
from deconvviz.types import Floats

if TYPE_CHECKING:
    from deconvviz.studies.pruning.subject import PruningSubject

Scores = Mapping[str, Floats]
"""Name of a group of `PruningSubject.chosen` -> float64 [units], the score of each unit: the lowest go first."""
Formula = Callable[..., Scores]
NEEDS = ("", "images", "labels")
FILES = ("weights", "similarity", "responses", "explanations")
"""The files of `criteria/`."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A registered criterion. Calling it with a network scores the units of every group that is to be pruned.

    Attributes:
        name: by which it is asked for.
        formula: `formula(subject, **options)` returns the scores.
        needs: what it cannot do without: nothing but the weights, "images", or images with "labels".
        decides: whether it says by itself how many units stay: those with a score above 0. Shares that the user gives
            count instead.
        trained: method of the trained explainer without which it cannot score, the option "explainer"; "" for none.
    """

    name: str
    formula: Formula
    needs: str = ""
    decides: bool = False
    trained: str = ""

    @property
    def source(self) -> str:
        """The formula and the paper."""
        return inspect.cleandoc(self.formula.__doc__ or "")

    @property
    def options(self) -> Mapping[str, Any]:
        """The options and their defaults."""
        parameters = [*inspect.signature(self.formula).parameters.values()][1:]
        return {parameter.name: parameter.default for parameter in parameters}

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, those that are not given by their defaults, before any work.

        Raises:
            DataError: the criterion does not have an option, a value is out of its range, or an explainer is missing.
            CamError: the explainer is one of another method.
        """
        require_options(self.name, self.options, options)
        every = {**self.options, **options}
        if self.name in CHECKS:
            CHECKS[self.name](**every)
        require_trained(self.name, self.trained, every)
        return every

    def require_labels(self, known: bool) -> None:
        """Raise DataError where the criterion needs the class of each image and it is not known."""
        require_labels(self.name, self.needs, known)

    def require(self, subject: PruningSubject) -> None:
        """Raise DataError where the criterion needs images or labels that the subject does not have."""
        if self.needs and subject.feed is None:
            raise DataError(f"criterion {self.name!r} looks at images, and none were given; give some, or take l1")
        self.require_labels(subject.labelled)

    def __call__(self, subject: PruningSubject, **options: Any) -> Scores:
        """Return the scores of every group that is to be pruned.

        Raises:
            DataError: images or labels are missing, or an option is out of its range.
            PruningError: the criterion gave a group no score for each unit.
        """
        self.require(subject)
        scores = self.formula(subject, **self.checked(options))
        for name in subject.chosen:
            found, units = np.shape(scores.get(name, ())), subject.groups.groups[name].units
            if found != (units,) or np.isnan(scores[name]).any():
                raise PruningError(f"criterion {self.name!r} scored {name!r} with {found}; expected {units} numbers")
        return scores


CRITERIA: Registry[Criterion] = Registry("criterion")
CHECKS: dict[str, Callable[..., None]] = {}
"""Name of a criterion -> what raises DataError for a value of its options that is out of its range."""


def criterion(name: str, needs: str = "", decides: bool = False, trained: str = "") -> Callable[[Formula], Formula]:
    """Register a function as a criterion.

    Args:
        name: by which it is asked for.
        needs: one of `NEEDS`.
        decides: whether units with a score above 0 stay, and the others go, where no share is given.
        trained: method of the trained explainer that its option `explainer` holds or names; "" for none.
    """

    def register(formula: Formula) -> Formula:
        CRITERIA.add(name, Criterion(name=name, formula=formula, needs=needs, decides=decides, trained=trained))
        return formula

    return register


def checks(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register what refuses values of the options of a criterion: it is called before any work, with all of them."""

    def register(check: Callable[..., None]) -> Callable[..., None]:
        CHECKS[name] = check
        return check

    return register


def require_trained(name: str, method: str, options: Mapping[str, Any]) -> None:
    """Refuse a missing explainer, and a file of another method; it needs no torch where a file is given.

    Args:
        name: of the criterion.
        method: of the explainer that it needs; "" for none.
        options: of the criterion: "explainer" is the path of a file, or the explainer itself.

    Raises:
        DataError: the explainer is missing, or the file is no explainer.
        CamError: it is one of another method.

    >>> require_trained("explanations", "bump", {})
    Traceback (most recent call last):
    deconvviz.errors.DataError: criterion 'explanations' needs a bump explainer of the network: deconvviz train-cam \
bump MODEL IMAGES -o bump.pth; give its file as the option explainer=bump.pth
    """
    given = options.get("explainer")
    if method and given is None:
        raise DataError(
            f"criterion {name!r} needs a {method} explainer of the network: deconvviz train-cam {method} MODEL IMAGES "
            f"-o {method}.pth; give its file as the option explainer={method}.pth"
        )
    if method and isinstance(given, str | os.PathLike):
        require_explainer_of(given, [method])


def require_labels(name: str, needs: str, known: bool) -> None:
    """Raise DataError where a criterion needs "labels", and the class of each image is not known."""
    if needs == "labels" and not known:
        raise DataError(
            f"criterion {name!r} needs the class of each image, and the images have none that the network knows; give "
            "labelled images, such as a folder of classes, or take l1"
        )


@cache
def criterion_declarations() -> dict[str, Declaration]:
    """Return the criteria by name, as their sources declare them: nothing is imported for it.

    >>> list(criterion_declarations())[:3]
    ['l1', 'l2', 'random']
    """
    folder = pathlib.Path(__file__).parent / "criteria"
    return declarations([folder / f"{name}.py" for name in FILES], "criterion")
