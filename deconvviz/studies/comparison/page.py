"""A comparison as one page: decisions, calibration, filters side by side, findings, explanations."""

from __future__ import annotations

import pathlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.figures.tiles import rendered
from deconvviz.run.options import RunOptions
from deconvviz.studies.comparison.figure import (
    draw_calibration,
    draw_comparison,
    draw_explained,
    draw_pairs,
)
from deconvviz.studies.comparison.result import RECOGNISED, SHARPER, STATUSES, in_turn, layer_words
from deconvviz.types import Pathlike
from deconvviz.version import __version__
from deconvviz.web.page import FIGURES, keep_figure, write_page
from deconvviz.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.metrics.calibration import Estimate
    from deconvviz.studies.comparison.drift import ExplanationDrift
    from deconvviz.studies.comparison.result import Comparison, ExplainedImages, LayerComparison

PAGE = "index.html"
MARK = "deconvviz compare"  # every page of the command holds it
LISTED = 24  # filters whose numbers a page lists
MAPS = "Each map has its own range; where it is low the image shows in its own colours."


def write_comparison(
    folder: Pathlike,
    comparison: Comparison,
    drift: ExplanationDrift | None = None,
    *,
    images: str,
    command: str,
    progress: bool = False,
) -> pathlib.Path:
    """Write the page of a comparison, its figures and its tables into a folder that exists; return the page's path.

    Args:
        folder: the folder.
        comparison: what is shown.
        drift: how far the explanations of both networks lie apart; None where it was not measured.
        images: where the images came from.
        command: the command that makes the page.
        progress: whether a progress bar is shown on standard error.

    Raises:
        DataError: a file cannot be written.
    """
    place = pathlib.Path(folder)
    (place / FIGURES).mkdir(exist_ok=True)
    comparison.save_json(place / "comparison.json")
    comparison.save_csv(place / "filters.csv")
    comparison.save_changes(place / "findings.csv")
    if drift:
        drift.save_csv(place / "drift.csv")
    pages = _Figures(place, command)
    names, decisions, explained = comparison.config["networks"], comparison.decisions, comparison.explained
    with RunOptions(progress=progress).bar("layer", len(comparison.layers), "figures") as bar:
        layers = []
        for number, layer in enumerate(comparison.layers):
            layers.append(_layer(pages, number, layer))
            bar.update()
    labelled = decisions is not None and bool(decisions.labelled.any())
    values = {
        "names": names,
        "images": images,
        "command": command,
        "version": __version__,
        "config": comparison.config,
        "overview": _overview(pages, comparison),
        "decisions": None if decisions is None else _decisions(comparison),
        "calibration": _calibration(pages, comparison) if labelled else None,
        "layers": layers,
        "changes": comparison.changes,
        "explained": None if explained is None else _explained(pages, comparison, explained),
        "drift": drift,
        "recognised": RECOGNISED,
        "sharper": SHARPER,
        "diagnosed": comparison.config["checks"] is not None,
    }
    write_page(place / PAGE, "comparison.html", values)
    return place / PAGE


class _Figures:
    """The figures of a page: each is a PNG file in the folder, and part of the page itself."""

    def __init__(self, folder: pathlib.Path, command: str) -> None:
        self.folder, self.command = folder, command

    def drawn(self, name: str, figure: Figure, caption: str, alt: str) -> dict[str, str]:
        """Write a figure, and return what the page says about it."""
        return keep_figure(self.folder, name, rendered(figure, "png", f"{caption}\n{self.command}"), alt)


def caption_of(comparison: Comparison) -> str:
    """Return what the figure of a whole comparison shows."""
    labelled = comparison.decisions is not None and bool(comparison.decisions.labelled.any())
    words = (
        "Left: a dot is a filter, at the correlation of its responses with those of its partner; the black bar is the "
        "median, the orange diamond the median of the filters of one number, and the dashed line the limit below which "
        f"filters do not count as the same ({RECOGNISED:g}). Dots stand apart in a row to be seen. Filters that never "
        "varied before the change have no dot. Middle: which share of a layer's filters is gone, new, sharper or "
        "blunter."
    )
    return words + labelled * (
        " Right: how often each network is right among images to which it gives a similar confidence; a larger point "
        "has more images, and on the grey line both are equal. Error: expected calibration error (Guo et al. 2017), in "
        "15 bins."
    )


def _overview(figures: _Figures, comparison: Comparison) -> dict[str, str]:
    before, after = comparison.config["networks"]
    title, caption = in_turn(before, after), caption_of(comparison)
    alt = f"What became of the filters: {'; '.join(map(layer_words, comparison.layers))}"
    return figures.drawn("overview", draw_comparison(comparison, title, caption), caption, alt)


def _layer(figures: _Figures, number: int, layer: LayerComparison) -> dict[str, Any]:
    """Draw the pairs of a layer, and return what the page says about the layer."""
    figure = None
    if len(layer.shown):
        caption = (
            "Each block is a pair of matched filters: the strongest patches of the filter before at the left, those of "
            "its partner after at the right; a dead filter has none. Patches are the receptive field, at most half of "
            "the image's side. A pair with a filter that is gone or new, one that is sharper, one that is blunter and "
            "one of the others follow each other, the least alike first. Sharpness is that before; its change has the "
            "half width of its 95 % interval over the images."
        )
        name = f"pairs-{number:02d}-{re.sub(r'[^A-Za-z0-9.]+', '_', layer.layer)[:60]}"
        figure = figures.drawn(
            name, draw_pairs(layer, f"Layer {layer.layer}", caption), caption, f"Patches of {layer.layer}"
        )
    alive = layer.alive_before
    return {
        "name": layer.layer,
        "filters": len(layer.partner),
        "own": len(layer.kept_number),
        "matched": float(layer.correlation[alive].mean()) if alive.any() else None,
        "same": float(layer.same[alive].mean()) if alive.any() else None,
        "dead": [int((~each).sum()) for each in (layer.alive_before, layer.alive_after)],
        "lists": [
            (word, channels[:LISTED], max(len(channels) - LISTED, 0))
            for word, channels in ((word, getattr(layer, name).tolist()) for name, word in STATUSES.items())
        ],
        "figure": figure,
    }


def _decisions(comparison: Comparison) -> dict[str, Any]:
    """Return what the page says about what both networks decide."""
    decisions = comparison.decisions
    assert decisions is not None
    values: dict[str, Any] = {"agreement": _percent(decisions.agreement), "rows": [], "identical": decisions.identical}
    if decisions.labelled.any():
        errors = [each.error for each in decisions.reliability]
        losses = [f"{decisions.loss[side][decisions.labelled].mean():.3f}" for side in range(2)]
        values |= {"labelled": int(decisions.labelled.sum()), "lost": len(decisions.lost)}
        values |= {"gained": len(decisions.gained)}
        values["rows"] = [
            ("Classified correctly", *map(_percent, decisions.accuracy), _points(decisions.difference)),
            ("Mean log-loss (nats)", *losses, _plain(decisions.loss_change)),
            ("Expected calibration error", *(f"{each:.3f}" for each in errors), _plain(decisions.calibration_change)),
        ]
    return values


def _calibration(figures: _Figures, comparison: Comparison) -> dict[str, Any]:
    decisions, names = comparison.decisions, comparison.config["networks"]
    assert decisions is not None
    caption = (
        "Images are sorted by the probability of the class that the network names, in 15 bins; the larger a point, the "
        "more images. A point below the grey line is a network that is more confident than it is right (Guo et al. "
        "2017, figure 1)."
    )
    figure = draw_calibration(decisions, "Reliability", caption)
    leanings = [each.overconfidence for each in decisions.reliability]
    return {
        "figure": figures.drawn("calibration", figure, caption, "Accuracy against confidence of both networks"),
        "leanings": [
            f"{name}: on average {100 * abs(value):.1f} points {'more' if value > 0 else 'less'} confident than right"
            for name, value in zip(names, leanings, strict=True)
        ],
    }


def _explained(figures: _Figures, comparison: Comparison, explained: ExplainedImages) -> dict[str, Any]:
    """Return what the page says about explanations: a sheet of maps, and what both networks say of each image."""
    decisions = comparison.decisions
    assert decisions is not None
    rows = []
    for place, target, likeness in zip(explained.images, explained.targets, explained.correlations, strict=True):
        verdicts = [
            f"{_called(comparison, int(decisions.predicted[side, place]))} "
            f"({100 * decisions.confidence[side, place]:.0f} %)"
            for side in range(2)
        ]
        rows.append(
            (
                comparison.names[place],
                _called(comparison, int(target)),
                *verdicts,
                "a constant map" if np.isnan(likeness) else f"{likeness:.2f}",
            )
        )
    caption = f"{comparison.config['method']}, the same class for both networks. {MAPS}"
    texts = [row[1] for row in rows]
    figure = draw_explained(explained, texts, "The same decisions, explained", caption)
    alt = f"Maps of both networks over {counted(len(rows), 'image')}"
    return {"figure": figures.drawn("explained", figure, caption, alt), "rows": rows}


def _called(comparison: Comparison, number: int) -> str:
    return comparison.class_names[number] if comparison.class_names else f"class {number}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(change: Estimate) -> str:
    low, high = 100 * change.low, 100 * change.high
    return f"{100 * change.value:+.1f} percentage points ({low:+.1f} to {high:+.1f})"


def _plain(change: Estimate) -> str:
    if np.isnan(change.low):
        return f"{change.value:+.3f} (of one image the interval is unknown)"
    return f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
