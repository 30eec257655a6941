"""What there is to measure: names, titles, directions, units and papers of the per-image metrics."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.registry import Registry


@dataclass(frozen=True)
class Metric:
    """One metric as a table shows it.

    Attributes:
        name: its key in METRICS.
        title: its heading in tables.
        higher_is_better: its direction: False where a small value is the good one.
        unit: what the value of one image is, such as "fraction" or "0 or 1".
        source: the paper.
    """

    name: str
    title: str
    higher_is_better: bool
    unit: str
    source: str


METRICS: Registry[Metric] = Registry("metric")


def register(name: str, title: str, higher_is_better: bool, unit: str, source: str) -> Metric:
    """Add a metric to METRICS and return it; the arguments are the attributes of `Metric`.

    Raises:
        DeconvvizError: the name is taken.
    """
    return METRICS.add(name, Metric(name, title, higher_is_better, unit, source))
