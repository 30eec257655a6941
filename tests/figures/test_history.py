"""The curves of a training: which panel a metric is in, and which lines the legend names."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

import deconvviz as dv
from deconvviz.figures.history import draw_curves


def test_what_is_measured_layer_by_layer_has_a_panel_for_each_figure() -> None:
    record = {"epoch": 1, "lr": 0.1, "loss": 2.0, "accuracy": 0.5, "mask_cosine/features.0": 0.2}
    record |= {"mask_cosine/features.3": -0.1, "sparse_connections/all_layers": 123456}
    figure = dv.draw_history(SimpleNamespace(history=[record, {**record, "epoch": 2}]))
    lines = {axes.get_ylabel(): [line.get_label() for line in axes.lines] for axes in figure.axes}
    assert lines == {
        "value": ["loss"],
        "share of images": ["accuracy"],
        "mask cosine": ["features.0", "features.3"],
        "sparse connections": ["all layers"],
    }
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert tops[0] == tops[1] == tops[2] > figure.axes[3].get_position().y1 > 0  # three in a row


def test_the_legend_names_some_of_many_lines() -> None:
    curves = {f"layer{n}": np.array([[1.0, n], [2.0, n]]) for n in range(50)}
    (axes,) = draw_curves({"value": curves}, "", "").axes
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(axes.lines) == 50 and len(named) == 8 and named[0] == "layer0" and named[-1] == "layer49"
