"""The figure of a training without labels: its loss, and whether the embedding collapses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deconvviz.figures.history import draw_curves
from deconvviz.figures.page import OWN, Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.types import Floats

PANELS = {"rank": "effective rank", "spread": "spread, 0..1"}


def draw_pretraining(
    history: Sequence[Mapping[str, float]],
    limits: tuple[float, float],
    title: str = "",
    caption: str = "",
    page: Page = OWN,
) -> Figure:
    """Draw three panels over the epochs: the loss with its terms, the effective rank, and the spread, with limits.

    Args:
        history: a record for each epoch, see `Pretrained`; at least one.
        limits: least effective rank and least spread.
        title: text above.
        caption: text below.
        page: what is asked for of the page.
    """
    terms = [name for name in history[0] if name.split("_")[-1] not in (*PANELS, "epoch", "seconds", "collapsed")]
    if len(terms) == 2:  # the loss is its only term
        terms = terms[:1]
    panels = {"loss": {name.replace("_", " "): _points(history, name) for name in terms}}
    for (ending, label), limit in zip(PANELS.items(), limits, strict=True):
        curves = {what: _points(history, f"{what}_{ending}") for what in ("embedding", "projection")}
        level = _points(history, f"embedding_{ending}")
        level[:, 1] = limit
        panels[label] = {**curves, "collapsed below": level}
    return draw_curves(panels, title, caption, page)


def _points(history: Sequence[Mapping[str, float]], name: str) -> Floats:
    return np.array([(record["epoch"], record[name]) for record in history], np.float64)
