"""The page about a training that is going on: its state after an epoch, as pictures and as one file."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from deconvviz.choices import SEVERITIES
from deconvviz.figures.tiles import rendered
from deconvviz.studies.diagnosis.finding import quantity
from deconvviz.studies.training.live_figure import draw_curves_of, draw_filters
from deconvviz.types import Pathlike, Pixels
from deconvviz.version import __version__
from deconvviz.web.page import embedded_pixels, write_page
from deconvviz.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.diagnosis.finding import Finding

AGAIN = 15  # seconds after which a browser loads the page anew


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Pictures of some filters of a layer.

    Attributes:
        layer: name of the layer.
        channels: the filters.
        total: filters of the layer.
        pictures: uint8 [n, h, w, 3].
        show: a sentence about what the pictures show.
    """

    layer: str
    channels: tuple[int, ...]
    total: int
    pictures: Pixels
    show: str


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """What is known of a network after an epoch of its training.

    Attributes:
        epoch: its number.
        network: name of the network.
        images: images that were looked at.
        numbers: what the history of the training keeps: "dead_share" and "findings".
        dead: layer -> share of its filters that are dead.
        findings: of the diagnosis, the most severe first.
        accuracy: share of the images that are classified correctly; None where it is not known.
        tiles: pictures of filters.
        history: the metrics of the epochs so far.
        seconds: how long it took to look.
    """

    epoch: int
    network: str
    images: int
    numbers: dict[str, float]
    dead: Mapping[str, float]
    findings: tuple[Finding, ...]
    accuracy: float | None
    tiles: tuple[Tiles, ...]
    history: tuple[Mapping[str, Any], ...]
    seconds: float

    def after(self, seconds: float) -> LiveState:
        """Return the state with the time that it took."""
        return replace(self, seconds=seconds)

    @property
    def counts(self) -> dict[str, int]:
        """Severity -> number of findings, the most severe first."""
        return {each: sum(finding.severity == each for finding in self.findings) for each in SEVERITIES[::-1]}

    @property
    def logged(self) -> dict[str, float]:
        """The numbers that are logged: those of the history, the dead share of each layer, and the counts."""
        layers = {f"dead_share/{layer}": share for layer, share in self.dead.items()}
        counts = {f"findings/{severity}": float(count) for severity, count in self.counts.items()}
        accuracy = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {**self.numbers, **accuracy, **layers, **counts, "seconds": self.seconds}


def write_live_page(path: Pathlike, state: LiveState) -> None:
    """Write the page atomically, as one file; raises DataError where it cannot be written."""
    curves = draw_curves_of(state.history)
    values = {
        "state": state,
        "again": AGAIN,
        "version": __version__,
        "counts": [(severity, count) for severity, count in state.counts.items() if count],
        "filters": embedded_pixels(picture_of(state)),
        "shows": [f"{tiles.layer}: {tiles.show}" for tiles in state.tiles],
        "curves": None if curves is None else embedded_pixels(_pixels(curves)),
        "findings": [
            (finding, finding.place, quantity(finding.value, finding.unit), finding.what) for finding in state.findings
        ],
    }
    write_page(pathlib.Path(path), "live.html", values)


def picture_of(state: LiveState) -> Pixels:
    """Return the picture of the filters and of the share that is dead, uint8 [h, w, 3]."""
    tiles = [(f"{each.layer}: {_words(each)}", each.pictures) for each in state.tiles]
    return _pixels(draw_filters(tiles, state.dead, f"{state.network} after epoch {state.epoch}"))


def _words(tiles: Tiles) -> str:
    shown, total = len(tiles.channels), counted(tiles.total, "filter")
    return total if shown == tiles.total else f"{shown} of {total}, those that fire most"


def _pixels(figure: Figure) -> Pixels:
    content = rendered(figure, "png", "")
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))
