"""The views of a recurrent network as one page, with its figures and tables: a folder that opens offline."""

from __future__ import annotations

import base64
import pathlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.figures.tiles import rendered
from deconvviz.studies.recurrent import caption_figure, figure, texts
from deconvviz.studies.recurrent.naming import activity_words, layer_words, shown_token
from deconvviz.studies.recurrent.tables import text_of
from deconvviz.types import Pathlike
from deconvviz.version import __version__
from deconvviz.web.page import FIGURES, keep_figure, write_page
from deconvviz.web.scripts import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.studies.recurrent.caption_result import Caption
    from deconvviz.studies.recurrent.result import LayerViews, RecurrentViews
    from deconvviz.types import Ints

PAGE = "index.html"
MOST_UNITS = 256  # of a layer whose activity is in the page
DRAWN = 600  # steps of the figure of a cell
LISTED = 12  # rows of a table, tokens of a group


def write_views(
    folder: Pathlike, views: RecurrentViews | None, caption: Caption | None, *, read: str, command: str
) -> pathlib.Path:
    """Write the page of some views, its figures and its tables into a folder; return the page's path.

    Args:
        folder: is made where it does not exist.
        views: of sequences; None where there are none.
        caption: of an image; None where there is none.
        read: where the sequences or the image came from.
        command: the command that makes the page.

    Raises:
        DataError: a file cannot be written.
    """
    place = pathlib.Path(folder)
    (place / FIGURES).mkdir(parents=True, exist_ok=True)
    figures = _Figures(place, command)
    values: dict[str, Any] = {
        "name": views.network if views is not None else caption.network if caption is not None else "",
        "read": read,
        "command": command,
        "version": __version__,
        "views": None if views is None else _views(figures, views),
        "data": "null" if views is None else literal(_data(views)),
        "caption": None if caption is None else _caption(figures, caption),
    }
    if views is not None:
        views.save_tables(place)
    if caption is not None:
        caption.save_csv(place / "caption.csv")
    write_page(place / PAGE, "recurrent.html", values)
    return place / PAGE


class _Figures:
    """The figures of a page: each is a PNG file in the folder, and part of the page itself."""

    def __init__(self, folder: pathlib.Path, command: str) -> None:
        self.folder, self.command = folder, command

    def drawn(self, name: str, figure: Figure, alt: str) -> dict[str, str]:
        """Write a figure, and return what the page says about it."""
        plain = re.sub(r"[^A-Za-z0-9.]+", "_", name)
        return keep_figure(self.folder, plain, rendered(figure, "png", f"{alt}\n{self.command}"), alt)


def _views(figures: _Figures, views: RecurrentViews) -> dict[str, Any]:
    """Return what the page says about sequences."""
    return {
        "kind": views.kind,
        "activity": activity_words(views.kind),
        "sequences": len(views.sequences.lengths),
        "steps": len(views.sequences),
        "tokens": len(views.sequences.vocabulary),
        "shown": min(len(views.layers[0].activity), len(views.sequences)),
        "config": views.config,
        "layers": [_layer(figures, views, layer) for layer in views.layers],
        "relevance": _relevance(figures, views) if views.relevance else None,
        "skipped": [(view, why) for view, why in views.skipped.items()],
    }


def _layer(figures: _Figures, views: RecurrentViews, layer: LayerViews) -> dict[str, Any]:
    """Draw the figures of a layer, and return what the page says about it."""
    words = layer_words(layer.name)
    best = layer.best
    unit = best[1] if best is not None else int(layer.activity.std(0).argmax())
    overview = figure.draw_recurrent(views, layer)
    cell = texts.draw_cell(views, layer, unit, 0, DRAWN)
    return {
        "name": layer.name,
        "words": words,
        "units": layer.units,
        "unit": unit,
        "overview": figures.drawn(f"layer-{layer.name}", overview, figure.caption_of(views, layer)),
        "cell": figures.drawn(f"cell-{layer.name}", cell, f"Text coloured by unit {unit} of {words}"),
        "groups": _groups(views, layer),
        "gates": [
            (gate, *(f"{100 * share:.0f} %" for share in shares.mean(0))) for gate, shares in layer.gates.items()
        ],
        "tracked": [
            (name, int(each), f"{tracking.correlation[each]:+.3f}", f"{tracking.p[each]:.3f}", f"{tracking.chance:.3f}")
            for name, tracking in layer.tracked.items()
            for each in tracking.order[:3]
        ],
        "together": _together(views, layer),
    }


def _groups(views: RecurrentViews, layer: LayerViews) -> list[tuple[str, str, str]]:
    """Return (number, tokens, units) of each group as text, the tokens by how often they occur."""
    described = []
    groups = np.concatenate([layer.token_groups, layer.unit_groups])
    for group in range(int(groups.max(initial=-1)) + 1):
        tokens = np.flatnonzero(layer.token_groups == group)
        tokens = tokens[np.argsort(-layer.counts[tokens], kind="stable")]
        words = [shown_token(views.sequences.vocabulary[token]) for token in tokens]
        described.append(
            (str(group), _some(words) or "no token", _some(list(map(str, np.flatnonzero(layer.unit_groups == group)))))
        )
    return described


def _some(words: list[str]) -> str:
    more = len(words) - 2 * LISTED
    return "  ".join(words[: 2 * LISTED]) + (f"  and {more} more" if more > 0 else "")


def _together(views: RecurrentViews, layer: LayerViews) -> dict[str, Any] | None:
    """Return what the page says about units that are on together."""
    together = layer.together
    if together is None:
        return None

    def told(start: int, stop: int) -> tuple[str, str]:
        sequence, first = views.where(start)
        return f"sequence {sequence}, steps {first}–{first + stop - start - 1}", text_of(views, start, stop)

    rows = zip(together.ranges.tolist(), together.counts.tolist(), together.others.tolist(), strict=True)
    return {
        "chosen": told(together.start, together.stop),
        "units": ", ".join(map(str, together.units.tolist())) or "none",
        "count": len(together.units),
        "rows": [(*told(*each), count, others) for each, count, others in rows],
    }


def _relevance(figures: _Figures, views: RecurrentViews) -> dict[str, Any]:
    drawn = texts.draw_relevance(views)
    words = [texts.relevance_words(views, each) for each in views.relevance]
    return {"figure": figures.drawn("relevance", drawn, "; ".join(words)), "words": words}


def _caption(figures: _Figures, caption: Caption) -> dict[str, Any]:
    drawn = caption_figure.draw_caption(caption)
    alt = f"An image, and a map for each word of {caption.text!r}"
    rows = []
    for place, word in enumerate(caption.words):
        before = float(caption.of_words[place].sum())
        numbers = (caption.scores[place], caption.of_image[place], before, caption.kept[place])
        rows.append((word, f"{100 * caption.probabilities[place]:.0f} %", *(f"{each:+.2f}" for each in numbers)))
    words = caption_figure.caption_words(caption)
    return {"figure": figures.drawn("caption", drawn, alt), "text": caption.text, "rows": rows, "words": words}


def _data(views: RecurrentViews) -> dict[str, Any]:
    """Return what the page's script reads: the tokens, and of each layer activities and passages."""
    sequences, shown_steps = views.sequences, len(views.layers[0].activity)
    return {
        "tokens": [sequences.token(step) for step in range(shown_steps)],
        "vocabulary": list(sequences.vocabulary),
        "spaced": bool(sequences.words or not sequences.vocabulary),
        "starts": [int(start) for start in sequences.starts if start < shown_steps],
        "layers": [_layer_data(views, layer) for layer in views.layers],
    }


def _layer_data(views: RecurrentViews, layer: LayerViews) -> dict[str, Any]:
    units = page_units(layer)
    most = 1.0 if views.kind != "RNN" else float(np.abs(layer.activity).max(initial=0)) or 1.0
    levels = np.round(np.clip(layer.activity[:, units] / most, -1, 1) * 127).astype(np.int8)
    return {
        "name": layer_words(layer.name),
        "units": units.tolist(),
        "most": most,
        "levels": base64.b64encode(np.ascontiguousarray(levels.T).tobytes()).decode(),
        "passages": [_passages(views, layer, unit) for unit in units.tolist()],
        "facts": [_facts(views, layer, unit) for unit in units.tolist()],
    }


def page_units(layer: LayerViews) -> Ints:
    """Return the units whose activity is in the page: all, or of a large layer those that vary most."""
    if layer.units <= MOST_UNITS:
        return np.arange(layer.units)
    return np.asarray(np.sort(np.argsort(-layer.activity.std(0), kind="stable")[:MOST_UNITS]), np.int64)


def _passages(views: RecurrentViews, layer: LayerViews, unit: int) -> list[list[Any]]:
    """Return [activity, sequence, place, tokens or places, which of them is the strongest] of each passage."""
    passages = []
    for value, step in zip(layer.top_values[unit].tolist(), layer.top_steps[unit].tolist(), strict=True):
        if step < 0:
            continue
        start, stop = views.passage(step)
        numbers = views.sequences.ids if views.sequences.vocabulary else views.sequences.places
        passages.append([round(value, 3), *views.where(step), numbers[start:stop].tolist(), step - start])
    return passages


def _facts(views: RecurrentViews, layer: LayerViews, unit: int) -> str:
    """Return what is known of a unit, in one sentence."""
    parts = []
    for name, tracking in layer.tracked.items():
        parts.append(f"{name} r = {tracking.correlation[unit]:+.2f} (p = {tracking.p[unit]:.3f})")
    if layer.counts.any():
        moved = (
            f"{shown_token(views.sequences.vocabulary[token])} {layer.mean[token, unit]:+.2f}"
            for token in layer.strongest_tokens(unit, 4)
        )
        parts.append(f"strongest expected responses: {', '.join(moved)}")
    for gate, shares in layer.gates.items():
        parts.append(f"{gate} gate shut {100 * shares[unit, 0]:.0f} %, open {100 * shares[unit, 1]:.0f} % of steps")
    return "; ".join(parts)
