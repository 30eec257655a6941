"""What a check reports: findings with their evidence, the number that it measured, and what it could not check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.notebook import Shown
from deconvviz.types import Array

Kind = Literal["bars", "line", "histogram", "tiles", "scatter", "matrix"]
Need = Literal["labels", "truth", "snapshots", "outputs"]
SHARE = "share "  # what the unit of a share begins with; it is told in percent
JOINED = ("% ", "times", "px", "percentage points", "points")  # such units follow the number without brackets
TILE_SIDE = 112  # pixels of a tile in the figure of a finding


@dataclass(frozen=True, kw_only=True)
class TileSet:
    """Tiles of a figure that belong together, such as filters that are alike; they stand next to each other.

    Attributes:
        tiles: how many of them there are.
        label: what is written below the set.
    """

    tiles: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the figure of a finding shows.

    Attributes:
        kind: how it is drawn. It decides which arrays there are: "bars" and "histogram" have values [n]; "line" has
            x [n] and y [series, n]; "scatter" has x [n] and y [n]; "tiles" has pictures, uint8 [n, h, w, 3]; "matrix"
            has values [rows, n], NaN where there is none, and columns [n], the number of each column.
        arrays: name -> array.
        labels: names of the bars, the series, the tiles or the rows, in their order.
        x: what the horizontal axis shows, with its unit; what the pictures show, where they are tiles.
        y: what the vertical axis shows, with its unit; what the colours of a matrix show.
        mark: a limit, drawn as a dashed line; None where there is none.
        mark_name: what the limit is called; empty for "threshold".
        named: numbers of the bars that the finding names; they have another colour.
        sets: the tiles that belong together, in the order of the tiles, which they hold all; empty where each stands
            for itself.
    """

    kind: Kind
    arrays: dict[str, Array]
    labels: tuple[str, ...] = ()
    x: str = ""
    y: str = ""
    mark: float | None = None
    mark_name: str = ""
    named: tuple[int, ...] = ()
    sets: tuple[TileSet, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """What a finding says about one layer.

    Attributes:
        layer: name of the layer.
        severity: of the finding in this layer.
        channels: the channels that are meant, as in `Finding`.
        value: what was measured, in the finding's unit.
        what: what was found in this layer.
    """

    layer: str
    severity: Severity
    channels: tuple[int, ...]
    value: float
    what: str


@dataclass(frozen=True, kw_only=True)
class Finding(Shown, drawn_by="draw_finding"):
    """One thing that is wrong with a network, or worth a look.

    A check reports what it found layer by layer. `diagnose` makes one finding of those that say the same about several
    layers: it then speaks of the worst layer, and `layers` has a row for each.

    Attributes:
        check: name of the check.
        kind: which of the check's findings it is, in a word, where a check has several; only those of one kind are
            joined.
        severity: "note", "warning" or "serious", that of the worst layer; the check's docstring says where each begins.
        layer: name of the layer, the worst of several; empty where the finding is about the images.
        channels: the channels that are meant, the worst first where they differ; empty where the layer as a whole is.
        what: what was found, in sentences with the numbers.
        value: what was measured.
        threshold: the limit that the value passed.
        unit: what value and threshold count.
        source: where the threshold comes from: a paper and its section, or "measured: ..." and on what.
        remedy: what to try.
        evidence: what the figure shows.
        layers: a row for each layer that the finding is about, the worst first.
        more_evidence: what the figures of the next-worst layers show, in the order of `layers`; of a few layers only.
        title: its heading; empty where that of the check says what was found.
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
    kind: str = ""
    layers: tuple[LayerRow, ...] = ()
    more_evidence: tuple[Evidence, ...] = ()
    title: str = ""

    @property
    def rows(self) -> tuple[LayerRow, ...]:
        """`layers`, or the one row of a finding that was not joined."""
        own = LayerRow(
            layer=self.layer, severity=self.severity, channels=self.channels, value=self.value, what=self.what
        )
        return self.layers or (own,)

    @property
    def place(self) -> str:
        """Where it was found, in words: the layer, how many layers, or the images."""
        if len(self.rows) > 1:
            return f"{len(self.rows)} layers"
        return f"layer {self.layer}" if self.layer else "the images"

    @property
    def beyond(self) -> float:
        """How many times the value is beyond its threshold, as a logarithm; 0 where a quotient means nothing.

        A value of 0, where lower is worse, counts as a millionth of the threshold: nothing is further beyond.
        """
        pair = (self.value or self.threshold / 1e6, self.threshold)
        return abs(math.log(pair[0] / pair[1])) if min(pair) > 0 and math.isfinite(max(pair)) else 0.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a check measured, in one number; two networks are compared by it.

    Attributes:
        value: the number; None where there was nothing to measure.
        unit: what it counts, and of which layer or class.
    """

    value: float | None
    unit: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Why a check, or a part of it, was not made.

    Attributes:
        reason: the reason, in words.
        part: whether only a part of the check was not made.
    """

    reason: str
    part: bool = False

    def __str__(self) -> str:
        return f"in part: {self.reason}" if self.part else self.reason


@dataclass(frozen=True, kw_only=True)
class CheckRun:
    """What a check returns.

    Attributes:
        findings: what passed a threshold, layer by layer.
        measured: what was measured, also where it passed no threshold. None where the check has no such number; the
            diagnosis then takes the value of the strongest finding.
        skipped: why the check, or a part of it, was not made; None where all of it was.
    """

    findings: tuple[Finding, ...] = ()
    measured: Measured | None = None
    skipped: Skipped | None = None

    @classmethod
    def not_made(cls, reason: str) -> CheckRun:
        """Return the run of a check that could not be made at all.

        >>> str(CheckRun.not_made("the layer has no rows and columns").skipped)
        'the layer has no rows and columns'
        """
        return cls(skipped=Skipped(reason=reason))


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One class of the images, and the other class that it is most often taken for.

    Attributes:
        name: the class.
        images: how many of its images were looked at.
        right: how many of them are classified correctly.
        neighbour: the other output that they are most often taken for; of several, the most probable one.
        taken: how many of them are taken for the neighbour.
        neighbour_images: how many images of the neighbour were looked at; where there are none, it is not known which
            channels respond to it.
        probability: the mean probability that the network gives them for the neighbour.
        layer: the last layer with rows and columns.
        shared: channels of that layer that respond to both classes, the strongest in both first.
        place: the number of the class among the images' classes.
        output: the number of the neighbour among the network's outputs.
    """

    name: str
    images: int
    right: int
    neighbour: str
    taken: int
    probability: float
    layer: str
    shared: tuple[int, ...]
    place: int
    output: int
    neighbour_images: int = 0

    @property
    def share(self) -> float:
        """The part of the class's images that are taken for the neighbour, in 0..1."""
        return self.taken / self.images


def graded(value: float, limits: tuple[float, float, float]) -> Severity | None:
    """Return the highest severity whose limit a value reaches; None where it reaches none.

    Args:
        value: what was measured.
        limits: for a note, a warning and serious. Where they fall, a lower value is worse.

    >>> graded(0.2, (0.01, 0.1, 0.5)), graded(0.2, (0.25, 0.18, 0.1)), graded(0.2, (0.5, 0.6, 0.7))
    ('warning', 'note', None)
    """
    sign = 1 if limits[0] <= limits[-1] else -1
    reached = [severity for severity, limit in zip(SEVERITIES, limits, strict=True) if sign * value >= sign * limit]
    return reached[-1] if reached else None


def verb(count: int, singular: str = "is", plural: str = "are") -> str:
    """Return the verb that agrees with a number of things.

    >>> f"{1} of 20 filters {verb(1)} dead", f"{3} of 20 filters {verb(3)} dead"
    ('1 of 20 filters is dead', '3 of 20 filters are dead')
    """
    return singular if count == 1 else plural


def number(value: float, unit: str) -> str:
    """Return a value as text without its unit; a share, which is kept as a number in 0..1, in percent.

    >>> number(0.302, "share of the layer's filters"), number(3.14159, "px")
    ('30.2 %', '3.14')
    """
    return f"{100 * value:.3g} %" if unit.startswith(SHARE) else f"{value:.3g}"


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit as text; a share in percent.

    Args:
        value: as a finding or a check has it.
        unit: the same, such as "share of the layer's filters".

    >>> quantity(0.302, "share of the layer's filters"), quantity(60.0, "% of the class's images")
    ("30.2 % of the layer's filters", "60 % of the class's images")
    >>> quantity(3.1, "times the median"), quantity(0.25, "effective / theoretical field")
    ('3.1 times the median', '0.25 (effective / theoretical field)')
    """
    if unit.startswith(SHARE) or unit.startswith(JOINED):
        return f"{number(value, unit)} {unit.removeprefix(SHARE)}"
    return f"{value:.3g} ({unit})" if unit else f"{value:.3g}"
