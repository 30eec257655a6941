"""The metrics without a truth, and those of all images together, as `evaluate` measures them on the demo network."""

from __future__ import annotations

import csv
import math
import pathlib
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

import deconvviz as dv
from deconvviz import metrics
from deconvviz.cli.main import cli
from deconvviz.data.truth import OBJECT, open_truth
from deconvviz.errors import DataError
from deconvviz.studies.evaluation.agreement import agreement, rankable
from deconvviz.studies.evaluation.measure import evaluate
from deconvviz.studies.evaluation.metric_groups import directions
from deconvviz.studies.evaluation.of_all_images import pixel_curves, save_thresholds_csv
from deconvviz.studies.evaluation.on_ray import merge_evaluations
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.studies.evaluation.thresholds_figure import TITLES, draw_thresholds

COUNT = 3
GROUPS = ["localisation", "crop", "infidelity", "sensitivity", "sparseness", "random-logit"]


@pytest.fixture(scope="module")
def subject() -> tuple[dv.Network, dv.Scenes, dv.Preprocess]:
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    return dv.capture(loaded.model, preprocess.shape), dv.Scenes(COUNT, seed=31), preprocess


def run(subject: tuple[dv.Network, dv.Scenes, dv.Preprocess], **options: Any) -> Evaluation:
    network, scenes, preprocess = subject
    about = {"preprocess": preprocess, "truth": open_truth(None, scenes), "progress": False, "metrics": GROUPS}
    return evaluate(network, scenes, ["grad-cam", "gradient"], ["relu5"], **(about | options))


@pytest.fixture(scope="module")
def evaluation(subject: tuple[dv.Network, dv.Scenes, dv.Preprocess]) -> Evaluation:
    return run(subject)


def test_each_column_is_its_metric(
    subject: tuple[dv.Network, dv.Scenes, dv.Preprocess], evaluation: Evaluation
) -> None:
    """Of one image at a time, from the functions that have replicas of their own."""
    network, scenes, preprocess = subject
    truth = open_truth(None, scenes)
    assert truth is not None

    def scores(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(network(x), 1)

    squares = metrics.random_squares(64, 64)
    for method in ("grad-cam", "gradient"):
        explainer = dv.cam(method, network, "relu5" if method == "grad-cam" else None)
        crops, maps, masks = [], [], []
        for n in range(COUNT):
            x = preprocess(scenes[n][0])[None]
            target = torch.tensor([int(evaluation.explained[n])])
            map_ = explainer(x, target.tolist())
            row = dict(zip(evaluation.columns, evaluation.values[method][n], strict=True))
            crops.append(metrics.saliency_metric(scores, x, map_, target)[0].numpy())
            effects = metrics.effects_of_squares(scores, x, target, squares)
            assert row["infidelity"] == pytest.approx(float(metrics.infidelity(map_, effects, squares)), rel=1e-3)
            explain = partial(explainer, target=target.tolist())
            changes = metrics.max_sensitivity(explain, x, map_)
            assert row["max_sensitivity"] == pytest.approx(float(changes), rel=0.05, abs=1e-5)
            assert row["sparseness"] == pytest.approx(float(metrics.sparseness(map_)), abs=1e-4)
            other = metrics.other_classes(target, 10, np.array([n]))
            expected = float(metrics.random_logit(map_, explainer(x, other.tolist())))
            assert row["random_logit"] == pytest.approx(expected, abs=1e-3)
            maps.append(map_.numpy().ravel())
            masks.append(preprocess.mask(truth.masks(n)[OBJECT]).ravel())
        table = np.array(crops)
        best = table.mean(0).argmin()
        assert np.allclose(evaluation.column(method, "saliency_metric"), table[:, best], atol=1e-3)
        assert np.allclose(evaluation.column(method, "best_saliency_metric"), table.min(1), atol=1e-3)
        cut = np.floor(np.concatenate(maps).astype(float) * 1000).clip(0, 999)
        together = average_precision_score(np.concatenate(masks), cut)
        assert evaluation.column(method, "pxap").mean() == pytest.approx(together, abs=1e-3)


def test_shards_and_files_keep_what_needs_all_images(
    subject: tuple[dv.Network, dv.Scenes, dv.Preprocess], evaluation: Evaluation, tmp_path: pathlib.Path
) -> None:
    files = [tmp_path / f"{n}.h5" for n in range(2)]
    for n, file in enumerate(files):
        run(subject, out=file, shard=(n, 2), metrics=["localisation", "crop", "random-logit"])
    merged = merge_evaluations(files, tmp_path / "merged.h5")
    loaded = Evaluation.load(tmp_path / "merged.h5")
    for column in ("pxap", "saliency_metric", "best_saliency_metric", "random_logit"):
        for method in evaluation.values:
            expected = evaluation.column(method, column)
            assert np.allclose(loaded.column(method, column), expected, atol=1e-3), column
            assert np.allclose(merged.column(method, column), expected, atol=1e-3)


def test_files_without_counts_of_pixels_have_no_curves(evaluation: Evaluation) -> None:
    boxes = {key: fits for key, fits in evaluation.fits.items() if key.endswith(("largest", "best"))}
    curves, measured = pixel_curves(replace(evaluation, fits=boxes), "grad-cam")
    assert curves is None and not measured.any()


def test_the_table_and_the_figure_of_thresholds(evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    save_thresholds_csv(evaluation, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 100 and rows[100]["method"] == "gradient" and float(rows[150]["threshold"]) == 0.5
    curves = {method: pixel_curves(evaluation, method)[0] for method in evaluation.values}
    known = {method: of_method for method, of_method in curves.items() if of_method is not None}
    for row, place in ((rows[30], 300), (rows[199], 990)):
        of_method = known[row["method"]]
        assert float(row["dice"]) == pytest.approx(of_method.dice[place], abs=1e-6)
        parts = [float(row[f"{sign}_{what}"]) for sign in ("true", "false") for what in ("positive", "negative")]
        assert sum(parts) == pytest.approx(1, abs=1e-5)
        assert parts[0] == pytest.approx(of_method.true_positives[place] / (COUNT * 64 * 64), abs=1e-6)
    figure = draw_thresholds(known, "title", "caption")
    panels = [axes for axes in figure.axes if axes.get_title() in TITLES]
    assert len(panels) == 3 and [len(panel.lines) for panel in panels] == [2, 2, 4]
    assert np.allclose(np.asarray(panels[1].lines[1].get_ydata()), known["gradient"].dice)


def planted(order: list[list[float]], columns: tuple[str, ...], images: int = 20) -> Evaluation:
    """An evaluation whose methods have these means, with some noise over the images."""
    rng = np.random.default_rng(0)
    values = {
        f"m{number}": np.array(means) + rng.normal(0, 1e-3, (images, len(columns)))
        for number, means in enumerate(order)
    }
    count = np.zeros(images, np.int64)
    return Evaluation(
        config={},
        sources={},
        values=values,
        columns=columns,
        explained=count,
        labels=count,
        probability=np.ones(images),
        names=tuple(map(str, range(images))),
        classes=(),
    )


def test_agreement_of_planted_orders(tmp_path: pathlib.Path) -> None:
    """The truth's order, its reverse, a metric of which lower is better, and two neighbours swapped."""
    truth = [0.1, 0.3, 0.5, 0.7, 0.9]
    means = [[t, t + 1, 1 - t, 2 - t, s] for t, s in zip(truth, [0.3, 0.1, 0.5, 0.7, 0.9], strict=True)]
    columns = ("pxap", "insertion", "adcc", "deletion", "sparseness")
    ranked = planted(means, columns)
    assert rankable(ranked, directions(columns))
    found = agreement(ranked, directions(columns), draws=100)
    values = found.correlations
    assert [*values] == ["insertion", "deletion", "sparseness", "adcc"] and found.images == 20
    assert values["insertion"] == pytest.approx((1, 1, 1)) and values["deletion"] == pytest.approx((1, 1, 1))
    assert values["adcc"] == pytest.approx((-1, -1, -1))
    swapped = spearmanr(truth, [0.3, 0.1, 0.5, 0.7, 0.9]).statistic
    assert values["sparseness"] == pytest.approx((swapped,) * 3)
    found.save_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("insertion,pxap,1")


def test_the_interval_of_agreement_is_wide_where_methods_are_close() -> None:
    rng = np.random.default_rng(1)
    close = planted([[0.5, 0.5]] * 6, ("pxap", "insertion"))
    for table in close.values.values():
        table += rng.normal(0, 1, table.shape)
    better = {"pxap": True, "insertion": True}
    value, low, high = agreement(close, better, draws=200).correlations["insertion"]
    assert low < value < high and high - low > 0.5
    table = close.values["m0"]
    table[3] = math.nan  # an image whose object is unknown
    assert agreement(close, better, draws=10).images == 19


def test_too_few_methods_are_not_ranked() -> None:
    few = planted([[0.1, 0.2]] * 3, ("pxap", "insertion"))
    better = directions(("pxap", "insertion"))
    assert not rankable(few, better)
    with pytest.raises(DataError, match="3 methods"):
        agreement(few, better)


@pytest.mark.slow
def test_the_command_writes_what_is_known(tmp_path: pathlib.Path) -> None:
    table = tmp_path / "table.csv"
    methods = [text for name in ("grad-cam", "layercam", "gradient", "guided") for text in ("-m", name)]
    asked = ["evaluate", "demo", "scenes:4:7", "-l", "relu5", *methods, "--metrics", "localisation,sparseness"]
    result = CliRunner().invoke(cli, [*asked, "-o", str(table), "--quiet", "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0 and "Rank correlation with pxap over 4 methods, 4 images" in result.output
    assert (tmp_path / "table.agreement.csv").read_text().splitlines()[1].startswith("sparseness,pxap,")
    assert (tmp_path / "table.thresholds.png").exists() and (tmp_path / "table.thresholds.csv").exists()
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert 0 < float(rows[0]["pxap"]) < 1 and float(rows[0]["pxap_95"]) > 0
