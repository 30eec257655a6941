"""The figure and the table of sanity checks show the means that the checks hold."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest

from deconvviz.studies.evaluation.sanity_figure import LONGEST, TITLES, draw_sanity
from deconvviz.studies.evaluation.sanity_result import SIMILARITIES, SanityCheck, save_sanity_checks

LAYERS = ("fc", "features.7.expand3x3_activation.inner")


@pytest.fixture
def checks() -> dict[str, SanityCheck]:
    """Checks of two methods, one of which stays similar to itself: two layers, three images."""
    rng = np.random.default_rng(0)
    found = {}
    for method, level in (("reads", -0.3), ("ignores", 0.8)):
        similarity = {name: level + 0.1 * rng.random((2, 3)) for name in SIMILARITIES}
        found[method] = SanityCheck(randomisation="cascading", layers=LAYERS, similarity=similarity)
    return found


def test_a_panel_for_each_similarity_has_a_line_for_each_method(checks: dict[str, SanityCheck]) -> None:
    figure = draw_sanity(checks, "title", "caption")
    assert [axes.get_title() for axes in figure.axes] == list(TITLES.values())
    for similarity, axes in zip(TITLES, figure.axes, strict=True):
        lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
        for method, check in checks.items():
            assert lines[method] == pytest.approx([1, *check.similarity[similarity].mean(1)])
        names = [text.get_text() for text in axes.get_xticklabels()]
        assert names == ["trained", "fc", LAYERS[1][-LONGEST:]]
        assert axes.get_ylim()[0] < min(lines["reads"]) and axes.get_ylim()[1] > 1
    legend = figure.axes[-1].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["reads", "ignores"]


def test_the_table_has_a_row_for_each_method_and_layer(checks: dict[str, SanityCheck], tmp_path: pathlib.Path) -> None:
    save_sanity_checks(checks, tmp_path / "all.csv")
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["layer"]) for row in rows] == [(name, layer) for name in checks for layer in LAYERS]
    for row in rows:
        check = checks[row["method"]]
        for name in SIMILARITIES:
            expected = check.similarity[name][LAYERS.index(row["layer"])].mean()
            assert float(row[name]) == pytest.approx(float(expected), abs=1e-5)
    assert checks["reads"].passes() and not checks["ignores"].passes()
    assert "passes" in repr(checks["reads"]) and "FAILS" in repr(checks["ignores"])
