"""The tables of an attack: a row for each epsilon, and a row for each epsilon and image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.studies.attack.fooled import MEASURES
from deconvviz.studies.attack.registry import LEVELS

if TYPE_CHECKING:
    from deconvviz.studies.attack.result import AttackStudy


def of_epsilons(study: AttackStudy) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """Return the columns of the table of epsilons, and its rows."""
    pixels, pixels_error = study.mean_over_fooled(study.pixels / study.pixel_count)
    length, length_error = study.mean_over_fooled(study.length)
    columns: dict[str, Any] = {
        "epsilon": np.array(study.epsilons),
        "levels": np.array(study.epsilons) * LEVELS,
        "images": [study.done] * len(study.epsilons),
        "accuracy_before": [float(np.mean((study.before == study.own)[: study.done]))] * len(study.epsilons),
        "accuracy": study.accuracy,
        "accuracy_low": study.accuracy_interval[:, 0],
        "accuracy_high": study.accuracy_interval[:, 1],
        "attackable": [int(study.attackable.sum())] * len(study.epsilons),
        "fooled": study.success,
        "fooled_low": study.success_interval[:, 0],
        "fooled_high": study.success_interval[:, 1],
        "pixels_changed": pixels,
        "pixels_changed_95": pixels_error,
        "length": length,
        "length_95": length_error,
        **_of_explanations(study),
    }
    rows = zip(*(_cells(values) for values in columns.values()), strict=True)
    return ("method", *columns), ((study.config["method"], *row) for row in rows)


def _of_explanations(study: AttackStudy) -> dict[str, Any]:
    """Return the columns of the table of epsilons that are about maps and countermeasures."""
    columns: dict[str, Any] = {}
    if study.maps is not None:
        for words, plain in (("", False), ("plain_", True)):
            means, halves = study.similarity(plain)
            for number, name in enumerate(study.fools):
                for measure, label in enumerate(MEASURES):
                    columns[f"{words}{label}:{name}"] = means[:, number, measure]
                    columns[f"{words}{label}_95:{name}"] = halves[:, number, measure]
        flat = study.maps.flat_energy, study.maps.plain_flat_energy
        columns["flat_energy"], columns["plain_flat_energy"] = (study.mean_over_fooled(each)[0] for each in flat)
    if study.countered is not None:
        before, after = study.accuracy_behind()
        for number, name in enumerate(study.countermeasures):
            columns[f"accuracy_before:{name}"] = [float(before[number])] * len(study.epsilons)
            columns[f"accuracy:{name}"] = after[:, number]
        if len(study.countered.agreement_before):
            names = ("agreement_before", "agreement", "agreement_roc_auc")
            columns |= dict(zip(names, study.agreement(), strict=True))
    return columns


def of_images(study: AttackStudy) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """Return the columns of the table of images, and its rows."""
    columns = (
        *("method", "epsilon", "image", "own_class", "class_before", "class_after", "fooled"),
        *("probability_before", "probability_after", "pixels_changed", "length", "largest"),
    )

    def rows() -> Iterator[tuple[Any, ...]]:
        fooled = study.fooled
        for number, epsilon in enumerate(study.epsilons):
            for image in range(study.done):
                classes = (study.own[image], study.before[image], study.after[number, image])
                yield (
                    study.config["method"],
                    epsilon,
                    study.names[image],
                    *(study.class_name(each) for each in classes),
                    int(fooled[number, image]),
                    float(study.probability_before[image]),
                    float(study.probability_after[number, image]),
                    int(study.pixels[number, image]),
                    float(study.length[number, image]),
                    float(study.largest[number, image]),
                )

    return columns, rows()


def _cells(values: Any) -> list[Any]:
    """Return a column as a table has it: what is not known is empty."""
    return ["" if isinstance(v, float) and np.isnan(v) else v for v in np.asarray(values).tolist()]
