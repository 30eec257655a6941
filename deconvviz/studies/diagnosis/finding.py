"""What a diagnosis says: a finding with its evidence, and the registry of the checks that make findings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.registry import Registry

if TYPE_CHECKING:
    from deconvviz.studies.diagnosis.subject import Subject

Kind = Literal["bars", "line", "histogram", "tiles", "scatter"]
Needs = Literal["labels", "truth", "snapshots", "outputs"]
TILE_SIDE = 112  # pixels of a tile of a finding's figure


@dataclass(frozen=True)
class Evidence:
    """What a figure of a finding shows.

    Attributes:
        kind: how it is drawn, and which arrays there are:
            "bars": values [n]; "histogram": values [n]; "line": x [n], y [series, n]; "scatter": x [n], y [n];
            "tiles": pictures uint8 [n, h, w, 3].
        labels: of the bars, series or tiles.
        x, y: what the axes are, with units.
        mark: the threshold, drawn as a line; None for none.
    """

    kind: Kind
    arrays: dict[str, NDArray[Any]]
    labels: tuple[str, ...] = ()
    x: str = ""
    y: str = ""
    mark: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a network, or worth a look.

    Attributes:
        check: which check found it; severity: as that check's docstring defines it.
        layer, channels: where; no channels where the layer as a whole is meant.
        what: one sentence, with the numbers.
        value, threshold, unit: what was measured, the limit that it passed, and what both count.
        source: where the threshold comes from: a paper and its section, or "measured: ...".
        remedy: what to try.
        evidence: what to look at.
    """

    check: str
    severity: Severity
    layer: str
    channels: tuple[int, ...]
    what: str
    value: float
    threshold: float
    unit: str
    source: str
    remedy: str
    evidence: Evidence


Check = Callable[["Subject"], Iterator[Finding]]


@dataclass(frozen=True)
class CheckEntry:
    """One check: `function(subject)` yields its findings; `needs` is what it cannot do without."""

    name: str
    title: str
    function: Check
    needs: tuple[Needs, ...] = ()

    @property
    def docstring(self) -> str:
        """What the check measures, and when it speaks up how loudly."""
        return inspect.cleandoc(self.function.__doc__ or "")

    def __call__(self, subject: Subject) -> Iterator[Finding]:
        """Yield the check's findings."""
        return self.function(subject)


CHECKS: Registry[CheckEntry] = Registry("check")


def check(name: str, title: str, needs: tuple[Needs, ...] = ()) -> Callable[[Check], Check]:
    """Register a check under `name`; its docstring says what it measures, and its severities."""

    def register(function: Check) -> Check:
        CHECKS.add(name, CheckEntry(name, title, function, needs))
        return function

    return register


def graded(value: float, limits: tuple[float, float, float]) -> Severity | None:
    """Return the highest severity whose limit `value` reaches, the limits in SEVERITIES' order; None below all."""
    found: Severity | None = None
    for severity, limit in zip(SEVERITIES, limits, strict=True):
        found = severity if value >= limit else found
    return found
