"""The registry of checks: each has a name, a title, and a list of what it cannot do without.

To add a check, write a function in `checks/` that takes a `Subject` and returns a `CheckRun`, and register it:

    @check("dead", "Dead and nearly dead filters")
    def dead(subject: Subject) -> CheckRun: ...

Its docstring is shown to users: it says what is measured, where each severity begins, and where the limits come from.
"""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from deconvviz.declarations import Declaration, declarations
from deconvviz.registry import Registry
from deconvviz.studies.diagnosis.finding import CheckRun, Need

if TYPE_CHECKING:
    from deconvviz.studies.diagnosis.subject import Subject

Check = Callable[["Subject"], CheckRun]


@dataclass(frozen=True, kw_only=True)
class CheckEntry:
    """A registered check. Calling it with a subject runs it.

    Attributes:
        name: by which it is asked for.
        title: a short heading.
        function: what measures; it is only called with a subject that has all that the check needs.
        needs: what the check cannot do without.
    """

    name: str
    title: str
    function: Check
    needs: tuple[Need, ...] = ()

    @property
    def docstring(self) -> str:
        """What the check measures, and where each severity begins."""
        return inspect.cleandoc(self.function.__doc__ or "")

    def __call__(self, subject: Subject) -> CheckRun:
        """Run the check; where the subject lacks something that it needs, return why it was not made."""
        for need in self.needs:
            reason = subject.lacks(need)
            if reason is not None:
                return CheckRun.not_made(reason)
        return self.function(subject)


CHECKS: Registry[CheckEntry] = Registry("check")
# The files of `checks/` in the order in which the checks are made: what puts the others in doubt, then the cheap and
# general ones.
FILES = (
    "images",
    "filters",
    "pairs",
    "spectrum",
    "responses",
    "aliasing",
    "receptive_field",
    "removable",
    "unsettled",
    "classes",
    "class_channels",
    "outside",
)


@cache
def check_declarations() -> dict[str, Declaration]:
    """Return the checks by name, in their order, as their sources declare them: nothing is imported for it."""
    folder = pathlib.Path(__file__).parent / "checks"
    return declarations([folder / f"{name}.py" for name in FILES], "check")


def check(name: str, title: str, needs: tuple[Need, ...] = ()) -> Callable[[Check], Check]:
    """Register a function as a check.

    Args:
        name: by which it is asked for.
        title: a short heading.
        needs: what it cannot do without: "labels" (the classes of the images), "outputs" (which output of the network
            stands for which class), "truth" (where the objects are) or "snapshots" (of the training).
    """

    def register(function: Check) -> Check:
        CHECKS.add(name, CheckEntry(name=name, title=title, function=function, needs=needs))
        return function

    return register
