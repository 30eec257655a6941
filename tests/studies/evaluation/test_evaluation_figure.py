"""The sheet of an evaluation: images beside each other, a colour bar, whiskers on every colour, and bars of zero."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from deconvviz.studies.evaluation.figure import draw_evaluation
from deconvviz.studies.evaluation.result import Evaluation

IMAGES, SIDE = 4, 16


def sheet(methods: int) -> Figure:
    """Four images; every method has a third of them right, but for the first, whose value is zero."""
    names = [f"method{n}" for n in range(methods)]
    maps = np.add.outer(np.arange(SIDE), np.arange(SIDE)) / 30
    values = {name: np.array([[float(n > 0), 0.5 + 0.1 * i] for i in range(IMAGES)]) for n, name in enumerate(names)}
    evaluation = Evaluation(
        config={},
        sources={},
        values=values,
        columns=("increase_100", "adcc"),
        explained=np.arange(IMAGES),
        labels=np.arange(IMAGES),
        probability=np.full(IMAGES, 0.5),
        names=tuple(f"a/{n}.png" for n in range(IMAGES)),
        classes=(),
        pictures=np.full((IMAGES, SIDE, SIDE, 3), 90, np.uint8),
        maps={name: np.stack([maps] * IMAGES).astype(np.float32) for name in names},
    )
    return draw_evaluation(evaluation, {"increase_100": True}, "", "")


def test_images_stand_beside_each_other_where_there_is_room() -> None:
    for methods, rows in ((2, 2), (8, 4)):
        figure = sheet(methods)
        labels = [text for text in figure.texts if text.get_text().startswith("a/")]
        assert len(labels) == IMAGES and len({round(text.get_position()[1], 3) for text in labels}) == rows
        assert sum(axes.get_ylabel() == "share of the\nmap's range" for axes in figure.axes) == 1
        assert all(axes.get_position().x0 >= 0 and axes.get_position().x1 <= 1 for axes in figure.axes)


def test_bars_of_zero_and_whiskers_are_seen() -> None:
    charts = [axes for axes in sheet(2).axes if axes.containers]
    assert len(charts) == 2
    zeros = [[text.get_text() for text in chart.texts].count("0") for chart in charts]
    assert zeros == [1, 0]
    for chart in charts:
        whiskers = [line for line in chart.collections if line.get_path_effects()]
        assert whiskers
