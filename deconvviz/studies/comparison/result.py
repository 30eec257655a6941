"""Comparison: what a change did to a network's filters, findings, decisions and explanations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.metrics.calibration import Estimate
from deconvviz.metrics.intervals import NORMAL_95, correlation
from deconvviz.notebook import Shown
from deconvviz.results.files import atomic
from deconvviz.results.results import Result, whole
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.studies.comparison.decisions import Decisions
from deconvviz.studies.diagnosis.comparison import Change
from deconvviz.types import Array, Floats, Ints, Mask, Pathlike, Pixels
from deconvviz.words import between, counted

if TYPE_CHECKING:
    import pandas as pd

KIND, SCHEMA = "comparison", 2
RECOGNISED = 0.5  # correlation from which a filter counts as one of the other network: our choice
SHARPER = 0.05  # rise of the Gini index from which a filter counts as sharper: our choice
GONE, NEW, SHARP, BLUNT, KEPT = "gone", "new", "sharper", "blunter", "kept"
COLUMNS = (
    *("layer", "filter", "partner", "correlation", "same_number", "best_before", "best_after"),
    *("alive_before", "alive_after", "sharpness_before", "sharpness_after", "sharpness_error"),
    *("weight_cosine", "status"),
)
CHANGE_COLUMNS = ("change", "check", "kind", "layer", "severity", "before", "after")
PER_FILTER = (
    *("partner", "correlation", "same", "best_before", "best_after", "alive_before", "alive_after"),
    *("sharpness_before", "sharpness_after", "sharpness_error", "weight_cosine"),
)
PICTURES = ("shown", "tiles_before", "tiles_after")


@dataclass(frozen=True, kw_only=True)
class LayerComparison:
    """The C filters of one layer before and after a change.

    Attributes:
        layer: name of the layer.
        partner: int64 [C], the filter after that each filter before is matched with, one to one.
        correlation: float64 [C], the correlation of the responses of both.
        same: float64 [C], that of each filter before with the filter after of the same number.
        best_before: float64 [C], the largest correlation of each filter before with any filter after.
        best_after: float64 [C], the largest correlation of each filter after with any filter before.
        alive_before: bool [C], whether the response of a filter before varies over places and images.
        alive_after: bool [C], the same of each filter after.
        sharpness_before: float64 [C], the Gini index of each filter's largest responses to the images, before.
        sharpness_after: float64 [C], the same of each filter after.
        sharpness_error: float64 [C], the standard error of `sharpened`, over the images that were chosen; NaN where
            they are fewer than three: no filter is sharper or blunter then.
        weight_cosine: float64 [C], cosine between the weights of the filters of one number; NaN where there are none.
        shown: int64 [n], the filters before whose pairs have pictures.
        tiles_before: uint8 [n, k, side, side, 3], the strongest patches of these; grey where there are
            fewer, and of a dead filter.
        tiles_after: uint8 [n, k, side, side, 3], those of their partners.
    """

    layer: str
    partner: Ints
    correlation: Floats
    same: Floats
    best_before: Floats
    best_after: Floats
    alive_before: Mask
    alive_after: Mask
    sharpness_before: Floats
    sharpness_after: Floats
    sharpness_error: Floats
    weight_cosine: Floats
    shown: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    tiles_before: Pixels = field(default_factory=lambda: np.zeros((0, 1, 1, 1, 3), np.uint8))
    tiles_after: Pixels = field(default_factory=lambda: np.zeros((0, 1, 1, 1, 3), np.uint8))

    @property
    def kept_number(self) -> Ints:
        """int64, the filters that are matched with the filter of their own number."""
        return np.flatnonzero(self.partner == np.arange(len(self.partner)))

    @property
    def gone(self) -> Ints:
        """int64, filters before that varied, and that no filter after resembles: no correlation reaches 0.5."""
        return np.flatnonzero(self.alive_before & (self.best_before < RECOGNISED))

    @property
    def new(self) -> Ints:
        """int64, filters after that vary, and that no filter before resembles: no correlation reaches 0.5."""
        return np.flatnonzero(self.alive_after & (self.best_after < RECOGNISED))

    @property
    def sharpened(self) -> Floats:
        """float64 [C], by how much the Gini index of each filter before rose to that of its partner."""
        return self.sharpness_after[self.partner] - self.sharpness_before

    @property
    def sharper(self) -> Ints:
        """int64, filters before whose partner is recognisable, and whose Gini index rose by 0.05 or more.

        The 95 % interval of the rise lies above zero.
        """
        return np.flatnonzero(self._recognised & (self.sharpened >= self._clear_change))

    @property
    def blunter(self) -> Ints:
        """int64, filters before whose partner is recognisable, and whose Gini index fell by 0.05 or more.

        The 95 % interval of the fall lies above zero.
        """
        return np.flatnonzero(self._recognised & (self.sharpened <= -self._clear_change))

    @property
    def _clear_change(self) -> Floats:
        """float64 [C], the change of the Gini index from which it counts."""
        return np.maximum(SHARPER, np.nextafter(NORMAL_95 * self.sharpness_error, np.inf))

    @property
    def _recognised(self) -> Mask:
        return np.asarray(self.correlation >= RECOGNISED)

    def status(self, channel: int) -> str:
        """Return what became of a filter before, in a word or two: "gone", "new", "sharper", "blunter" or "kept".

        A pair of which one is gone and the other new is "gone, new".
        """
        words = [GONE] * (channel in self.gone) + [NEW] * (int(self.partner[channel]) in self.new)
        words += [SHARP] * (channel in self.sharper) + [BLUNT] * (channel in self.blunter)
        return ", ".join(words) or KEPT

    @property
    def ranking(self) -> Ints:
        """int64 [C], the filters before in the order in which a page shows them.

        A pair with one that is gone or new, one that is sharper, one that is blunter, one of the others, and so on in
        turn; of each kind those first that are least alike, and pairs that are dead before and after last.
        """
        everyone = np.arange(len(self.partner))
        pairs = np.isin(everyone, self.gone) | np.isin(self.partner, self.new)
        kinds = [pairs, np.isin(everyone, self.sharper) & ~pairs, np.isin(everyone, self.blunter) & ~pairs]
        kind = np.select(kinds, [0, 1, 2], 3)
        dead = ~(self.alive_before | self.alive_after[self.partner])
        likeness = np.lexsort((self.correlation.round(9), dead))
        turn = np.empty(len(everyone), np.int64)
        for each in range(4):
            of_kind = likeness[kind[likeness] == each]
            turn[of_kind] = np.arange(len(of_kind))
        return np.lexsort((kind, turn, dead))


@dataclass(frozen=True, kw_only=True)
class ExplainedImages:
    """How both networks explain the same decisions on n images.

    Attributes:
        images: int64 [n], places of the images among those that were looked at.
        targets: int64 [n], the class whose score both explain: that of the image, else that which the first names.
        pictures: uint8 [n, h, w, 3].
        maps: float32 [2, n, h, w], in 0..1, before and after.
    """

    images: Ints
    targets: Ints
    pictures: Pixels
    maps: Array

    @property
    def correlations(self) -> Floats:
        """float64 [n], the Pearson correlation of both maps of each image; NaN where one is the same everywhere."""
        constant = (self.maps.max((2, 3)) == self.maps.min((2, 3))).any(0)
        values = [correlation(before, after) for before, after in zip(*self.maps, strict=True)]
        return np.where(constant, np.nan, np.array(values, np.float64))


@dataclass(frozen=True, kw_only=True)
class Comparison(Shown, drawn_by="draw_comparison"):
    """Two networks of one architecture side by side: before and after a change.

    Attributes:
        config: the networks, the images and the settings, JSON values.
        sources: where they came from, and the versions of the software.
        layers: the filters of each layer.
        decisions: what both decide; None where the network returns no scores of classes.
        changes: findings that went away, came, grew or shrank.
        explained: how both explain some decisions; None where none were explained.
        names: names of the images that were looked at.
        class_names: names of the outputs; empty where they are unknown.

    >>> one = np.ones(1)
    >>> layer = LayerComparison(
    ...     layer="conv1", partner=np.array([0]), correlation=one, same=one, best_before=one, best_after=one,
    ...     alive_before=one > 0, alive_after=one > 0, sharpness_before=0.2 * one, sharpness_after=0.4 * one,
    ...     sharpness_error=0.05 * one, weight_cosine=one,
    ... )
    >>> Comparison(config={"networks": ["epoch 1", "epoch 9"], "images": 3}, layers=(layer,))
    Comparison of epoch 1 (before) and epoch 9 (after) on 3 images
      conv1: 1 filter, 1 with its own number; mean correlation 1.00; 0 gone, 0 new, 1 sharper, 0 blunter
    """

    config: dict[str, Any]
    sources: dict[str, Any] = field(default_factory=dict)
    layers: tuple[LayerComparison, ...] = ()
    decisions: Decisions | None = None
    changes: tuple[Change, ...] = ()
    explained: ExplainedImages | None = None
    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The numbers of the comparison as JSON values: of the decisions, of each layer, and each change."""
        return {
            "networks": self.config["networks"],
            "images": self.config["images"],
            "decisions": None if self.decisions is None else _decision_numbers(self.decisions),
            "layers": [_layer_numbers(layer) for layer in self.layers],
            "findings": [_change_row(change) for change in self.changes],
            "explanations": None
            if self.explained is None
            else {
                "method": self.config.get("method"),
                "images": [self.names[i] for i in self.explained.images],
                "correlations": [None if np.isnan(each) else float(each) for each in self.explained.correlations],
            },
        }

    def save_json(self, path: Pathlike) -> None:
        """Write the numbers, atomically; raises DataError where the file cannot be written."""
        content = {"kind": KIND, "schema": SCHEMA, "config": self.config, "sources": self.sources, **self.numbers}
        with atomic(path) as temporary:
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True)
            temporary.write_text(text + "\n", "utf-8")

    def save_csv(self, path: Pathlike) -> None:
        """Write a table with a row for each filter before; raises DataError where it cannot be written."""
        write_csv(path, "compared filters", COLUMNS, self._rows())

    def save_changes(self, path: Pathlike) -> None:
        """Write a table with a row for each finding that came, went, grew or shrank; DataError as for `save_csv`."""
        write_csv(path, "changed findings", CHANGE_COLUMNS, [list(_change_row(each).values()) for each in self.changes])

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `save_csv` writes as a data frame; DataError where pandas is not installed."""
        return to_frame("compared filters", COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for layer in self.layers:
            for channel, partner in enumerate(layer.partner.tolist()):
                cosine = float(layer.weight_cosine[channel])
                yield (
                    *(layer.layer, channel, partner, float(layer.correlation[channel]), float(layer.same[channel])),
                    *(float(layer.best_before[channel]), float(layer.best_after[partner])),
                    *(int(layer.alive_before[channel]), int(layer.alive_after[partner])),
                    *(float(layer.sharpness_before[channel]), float(layer.sharpness_after[partner])),
                    float(layer.sharpness_error[channel]),
                    *("" if np.isnan(cosine) else cosine, layer.status(channel)),
                )

    def save(self, path: Pathlike) -> None:
        """Write the HDF5 file atomically; raises DataError where it cannot be written."""
        arrays: dict[str, Array] = {}
        for layer in self.layers:
            arrays |= {f"layers/{layer.layer}/{name}": getattr(layer, name) for name in (*PER_FILTER, *PICTURES)}
        for group, part in (("decisions", self.decisions), ("explained", self.explained)):
            values = {} if part is None else {each.name: getattr(part, each.name) for each in fields(part)}
            arrays |= {f"{group}/{name}": value for name, value in values.items() if name != "identical"}
        state = {
            "layers": [layer.layer for layer in self.layers],
            "identical": self.decisions is not None and self.decisions.identical,
            "changes": [_change_row(change) for change in self.changes],
            "names": list(self.names),
            "class_names": list(self.class_names),
        }
        Result(KIND, SCHEMA, self.config, self.sources, arrays, state).save(path)

    @classmethod
    def load(cls, path: Pathlike) -> Comparison:
        """Read the file that `save` wrote; raises DataError where it cannot be read or is something else."""
        file = Result.load(path, KIND, SCHEMA)
        with whole(path, KIND):
            state = file.state
            groups: dict[str, dict[str, Any]] = {"decisions": {}, "explained": {}}
            groups |= {f"layers/{layer}": {} for layer in state["layers"]}
            for name, array in file.arrays.items():
                group, _, last = name.rpartition("/")
                groups[group][last] = array
            decisions, explained = groups["decisions"], groups["explained"]
            layers = [{"layer": name, **groups[f"layers/{name}"]} for name in state["layers"]]
            return cls(
                config=file.config,
                sources=file.sources,
                layers=tuple(LayerComparison(**layer) for layer in layers),
                decisions=Decisions(**decisions, identical=state["identical"]) if decisions else None,
                changes=tuple(Change(**row) for row in state["changes"]),
                explained=ExplainedImages(**explained) if explained else None,
                names=tuple(state["names"]),
                class_names=tuple(state["class_names"]),
            )

    def __repr__(self) -> str:
        before, after = self.config["networks"]
        lines = [f"Comparison of {in_turn(before, after)} on {counted(self.config['images'], 'image')}"]
        lines += [f"  {words}" for words in decision_words(self.decisions)]
        lines += [f"  {layer_words(layer)}" for layer in self.layers]
        lines += [f"  {change}" for change in self.changes[:8]]
        left = len(self.changes) - 8
        return "\n".join(lines + ([f"  and {left} more findings that changed"] if left > 0 else []))


def in_turn(before: str, after: str) -> str:
    """Return the names of two networks, with which is which.

    >>> in_turn("epoch 1", "epoch 9"), in_turn("a.pth (before)", "a.pth (after)")
    ('epoch 1 (before) and epoch 9 (after)', 'a.pth (before) and a.pth (after)')
    """
    told = before.endswith(" (before)") and after.endswith(" (after)")  # as two of one name are told apart
    return f"{before} and {after}" if told else f"{before} (before) and {after} (after)"


def decision_words(decisions: Decisions | None) -> list[str]:
    """Return what two networks decide, in lines of text; none where they return no scores."""
    if decisions is None:
        return []
    lines = [f"both name the same class of {100 * decisions.agreement:.1f} % of the images"]
    if decisions.labelled.any():
        (before, after), change, loss = decisions.accuracy, decisions.difference, decisions.loss_change
        errors, shift = [each.error for each in decisions.reliability], decisions.calibration_change
        lines += [
            f"accuracy {100 * before:.1f} % -> {100 * after:.1f} %: {100 * change.value:+.1f} points "
            f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]; {len(decisions.lost)} lost, "
            f"{len(decisions.gained)} gained of {decisions.labelled.sum()}",
            f"log-loss {loss.value:+.3f} nats {between(loss.low, loss.high, '+.3f')}",
            f"calibration error {errors[0]:.3f} -> {errors[1]:.3f}: {shift.value:+.3f} "
            f"{between(shift.low, shift.high, '+.3f')}",
        ]
    return lines


def layer_words(layer: LayerComparison) -> str:
    """Return what became of the filters of a layer, in a line."""
    counts = ((len(getattr(layer, name)), word) for name, word in STATUSES.items())
    alive = layer.alive_before
    mean = f"{layer.correlation[alive].mean():.2f}" if alive.any() else "not defined"
    return (
        f"{layer.layer}: {counted(len(layer.partner), 'filter')}, {len(layer.kept_number)} with its own number; "
        f"mean correlation {mean}; {', '.join(f'{count} {word}' for count, word in counts)}"
    )


STATUSES: Mapping[str, str] = {"gone": GONE, "new": NEW, "sharper": SHARP, "blunter": BLUNT}
"""Attribute of `LayerComparison` -> what its filters are called."""


def _layer_numbers(layer: LayerComparison) -> dict[str, Any]:
    alive = layer.alive_before
    return {
        "layer": layer.layer,
        "filters": len(layer.partner),
        "own_number": len(layer.kept_number),
        "mean_correlation": float(layer.correlation[alive].mean()) if alive.any() else None,
        "mean_same_number": float(layer.same[alive].mean()) if alive.any() else None,
        "dead_before": int((~layer.alive_before).sum()),
        "dead_after": int((~layer.alive_after).sum()),
        **{word: getattr(layer, name).tolist() for name, word in STATUSES.items()},
    }


def _decision_numbers(decisions: Decisions) -> dict[str, Any]:
    numbers: dict[str, Any] = {"agreement": decisions.agreement, "labelled": int(decisions.labelled.sum())}
    if not decisions.labelled.any():
        return numbers
    return numbers | {
        "accuracy": list(decisions.accuracy),
        "difference": list(decisions.difference),
        "lost": len(decisions.lost),
        "gained": len(decisions.gained),
        "log_loss_change": _known(decisions.loss_change),
        "calibration_error": [each.error for each in decisions.reliability],
        "calibration_change": _known(decisions.calibration_change),
    }


def _known(change: Estimate) -> list[float | None]:
    """Return a number and the ends of its interval; None where it is unknown, for which JSON has no number."""
    return [None if np.isnan(each) else each for each in change]


def _change_row(change: Change) -> dict[str, str]:
    return {name: getattr(change, name) for name in CHANGE_COLUMNS}
