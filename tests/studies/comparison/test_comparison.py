"""Comparisons of networks with themselves, with permuted copies and with planted flaws; files, resuming, refusals."""

from __future__ import annotations

import copy
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from compared import LAYERS, PERMUTATIONS, PREPROCESS, captured, compare, model, permuted, silenced
from torch import nn

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError, LayerNotFound, MismatchError, ModelError
from deconvviz.studies.comparison import measure, page, responses
from deconvviz.studies.comparison.decisions import Decisions
from deconvviz.studies.comparison.result import LayerComparison, decision_words, in_turn


def test_a_network_and_itself() -> None:
    same = compare(model(), model())
    for layer in same.layers:
        count = len(layer.partner)
        assert layer.partner.tolist() == list(range(count)) == layer.kept_number.tolist()
        assert layer.correlation == pytest.approx(np.where(layer.alive_before, 1, 0))
        assert not len(layer.gone) and not len(layer.new) and not len(layer.sharper) and not len(layer.blunter)
        assert layer.weight_cosine == pytest.approx(np.ones(count))
        assert (layer.tiles_before == layer.tiles_after).all()
    assert same.decisions is not None and same.decisions.agreement == 1
    assert same.decisions.difference == same.decisions.calibration_change == same.decisions.loss_change == (0, 0, 0)
    assert not same.changes
    assert same.explained is not None and (same.explained.maps[0] == same.explained.maps[1]).all()
    assert same.explained.correlations == pytest.approx(np.ones(3))


def test_a_permuted_copy_is_matched_exactly_and_nothing_is_new_or_gone() -> None:
    net = model()
    result = compare(net, permuted(net))
    for layer, order in zip(result.layers, PERMUTATIONS.values(), strict=True):
        assert layer.alive_before.all()
        assert layer.partner.tolist() == np.argsort(order).tolist()  # where channel i of the copy comes from, inverted
        assert layer.correlation == pytest.approx(np.ones(len(order)), abs=1e-6)
        assert layer.correlation.mean() > layer.same.mean() + 0.2
        assert not len(layer.gone) and not len(layer.new) and not len(layer.sharper) and not len(layer.blunter)
        assert layer.sharpened == pytest.approx(np.zeros(len(order)), abs=1e-6)
        assert (layer.tiles_before == layer.tiles_after).all()  # the same patches on both sides
    assert result.decisions is not None and result.decisions.agreement == 1
    difference = result.decisions.difference
    assert difference.value == 0 and difference.low < 0 < difference.high  # other weights: chance has an interval
    assert not result.changes


def test_a_filter_that_died_is_gone_and_the_diagnosis_says_so() -> None:
    net = model()
    result = compare(net, silenced(net, 4))
    first = result.layers[0]
    assert first.gone.tolist() == [4] and not len(first.new) and first.status(4) == "gone"
    assert not first.alive_after[first.partner[4]] and first.alive_before[4]
    assert first.ranking[0] == 4 and 4 in first.shown
    assert [(change.change, change.check, change.layer) for change in result.changes] == [("new", "dead", "2")]
    back = compare(silenced(net, 4), net)
    assert back.layers[0].new.tolist() == [4] and not len(back.layers[0].gone)
    assert [(change.change, change.check, change.layer) for change in back.changes] == [("gone", "dead", "2")]
    assert "new" in back.layers[0].status(4)


def test_a_filter_with_a_higher_threshold_is_sharper() -> None:
    net = model()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[1].bias[2] -= 1.0  # the rectifier passes only the strongest responses
    result = compare(net, other, filters=0, decisions=0)
    assert result.layers[0].sharper.tolist() == [2] and result.layers[0].status(2) == "sharper"
    assert compare(other, net, filters=0, decisions=0).layers[0].blunter.tolist() == [2]
    assert np.isfinite(result.layers[0].sharpness_error).all() and result.layers[0].sharpness_error[2] > 0
    unsure = dataclasses.replace(result.layers[0], sharpness_error=result.layers[0].sharpened / 1.9)
    assert not len(unsure.sharper)  # the rise is within its interval


def test_correlations_and_decisions_are_those_of_plain_torch() -> None:
    nets, scenes = (model(0), model(1)), dv.Scenes(21, seed=8)
    result = compare(*nets, scenes, filters=0, decisions=0, checks=None, batch_size=4)
    x = torch.stack([PREPROCESS(scenes[i][0]) for i in range(21)])
    with torch.no_grad():
        maps = [net[:3](x).double() for net in nets]
        logits = [net(x) for net in nets]
    places = np.linspace(0, 13, 14).astype(int)  # a map of 14 x 14: all of it
    flat = [each[:, :, places][..., places].transpose(0, 1).flatten(1).numpy() for each in maps]
    expected = np.corrcoef(*flat)[:6, 6:]
    layer, decisions = result.layers[0], result.decisions
    assert layer.correlation == pytest.approx(expected[np.arange(6), layer.partner], abs=1e-6)
    assert layer.best_after == pytest.approx(expected.max(0), abs=1e-6)
    assert layer.same == pytest.approx(np.diag(expected), abs=1e-6)
    assert decisions is not None
    labels = torch.from_numpy(np.asarray(scenes.labels))
    for side, each in enumerate(logits):
        assert decisions.predicted[side].tolist() == each.argmax(1).tolist()
        assert decisions.confidence[side] == pytest.approx(each.softmax(1).amax(1).numpy(), abs=1e-6)
        loss = nn.functional.cross_entropy(each, labels, reduction="none")
        assert decisions.loss[side] == pytest.approx(loss.numpy(), abs=1e-5)
    right = [(each.argmax(1) == labels).numpy() for each in logits]
    assert decisions.lost.tolist() == np.flatnonzero(right[0] & ~right[1]).tolist()
    assert decisions.difference.value == pytest.approx(right[1].mean() - right[0].mean())


def test_large_maps_are_compared_at_16_rows_and_columns() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    other, scenes = copy.deepcopy(net), dv.Scenes(5)
    torch.nn.init.normal_(other.state_dict()["0.weight"])
    result = compare(net, other, scenes, layers=("1",), filters=0, decisions=0, checks=None)
    x = torch.stack([PREPROCESS(scenes[i][0]) for i in range(5)])
    places = np.linspace(0, 29, 16).round().astype(int)
    with torch.no_grad():
        flat = [
            each[:2](x).double()[:, :, places][..., places].transpose(0, 1).flatten(1).numpy() for each in (net, other)
        ]
    expected = np.corrcoef(*flat)[:4, 4:]
    assert result.layers[0].same == pytest.approx(np.diag(expected), abs=1e-6)


def test_any_batch_size_and_networks_that_prepare_images_apart() -> None:
    nets = model(0).double(), model(1).double()
    one, several = (compare(*nets, batch_size=size, checks=None) for size in (1, 16))
    for a, b in zip(one.layers, several.layers, strict=True):
        assert a.partner.tolist() == b.partner.tolist() and a.correlation == pytest.approx(b.correlation, abs=1e-9)
        assert (a.tiles_before == b.tiles_before).all()
    darker = dv.Preprocess(resize=32, crop=32, mean=(0.6, 0.6, 0.6))
    shifted = compare(nets[0], nets[0], preprocess_after=darker, filters=0, decisions=0, checks=None)
    assert shifted.layers[0].correlation.min() < 1 - 1e-4  # it is not one and the same network any more
    assert shifted.decisions is not None and not shifted.decisions.identical


def test_images_without_classes_and_networks_without_scores() -> None:
    result = compare(model(0), model(1), outputs=None)
    assert result.decisions is not None and not result.decisions.labelled.any()
    assert np.isnan([*result.decisions.accuracy, *result.decisions.difference]).all()
    assert result.explained is not None
    assert result.explained.targets.tolist() == result.decisions.predicted[0, result.explained.images].tolist()
    assert "accuracy" not in repr(result) and "calibration_error" not in result.numbers["decisions"]
    body = compare(model(0)[:6], model(1)[:6], outputs=None)
    assert body.decisions is None and body.explained is None and len(body.layers) == 2
    assert body.numbers["decisions"] is None and len(dv.draw_comparison(body).axes) == 2


def test_it_saves_loads_prints_and_draws_itself(tmp_path: pathlib.Path) -> None:
    result = compare(model(0), silenced(model(0), 4), names=("one <b>", "two"))
    result.save(tmp_path / "c.h5")
    again = dv.Comparison.load(tmp_path / "c.h5")
    assert repr(again) == repr(result) and again.numbers == result.numbers
    assert again.explained is not None and result.explained is not None
    assert (again.explained.maps == result.explained.maps).all() and again.changes == result.changes
    assert (again.layers[0].tiles_after == result.layers[0].tiles_after).all()
    result.save_json(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["layers"][0]["gone"] == [4]
    assert content["decisions"] == json.loads(json.dumps(result.numbers["decisions"]))
    result.save_csv(tmp_path / "c.csv")
    frame = result.to_frame()
    assert len(frame) == 6 + 8 and frame.status.tolist()[4].startswith("gone")
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 15
    result.save_changes(tmp_path / "f.csv")
    assert (tmp_path / "f.csv").read_text().splitlines()[1].startswith("new,dead,")
    assert "one <b>" in repr(result) and "dead, layer 2" in repr(result)
    assert len(dv.draw_comparison(result).axes) == 4
    assert "image/png" in result._repr_mimebundle_()
    with pytest.raises(DataError, match="comparison"):
        dv.Comparison.load(tmp_path / "c.json")


def test_it_resumes_to_the_same_result(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = model(0), model(1)
    options: dict[str, Any] = {"batch_size": 4, "commit_every": 2}
    straight = compare(*nets, out=tmp_path / "straight", **options)
    save, saved = responses.Responses.save, list[int]()

    def interrupted(self: responses.Responses, path: pathlib.Path, config: dict[str, Any]) -> None:
        save(self, path, config)
        saved.append(self.done)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(responses.Responses, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(*nets, out=tmp_path / "killed", **options)
    assert saved == [8, 16]
    resumed = compare(*nets, out=tmp_path / "killed", **options)
    assert saved == [8, 16, 24, 32, 40]
    assert resumed.numbers == straight.numbers
    for name in ("responses.h5", "result.h5", "findings-after.h5"):
        assert (tmp_path / "killed/data" / name).read_bytes() == (tmp_path / "straight/data" / name).read_bytes(), name
    monkeypatch.setattr(measure, "respond", None)  # all is there: nothing is computed
    assert compare(*nets, out=tmp_path / "killed", **options).numbers == straight.numbers
    with pytest.raises(MismatchError, match="other settings"):
        compare(*nets, out=tmp_path / "killed", k=3, **options)


def test_two_networks_of_one_name_are_told_apart_once() -> None:
    assert in_turn("a", "b") == "a (before) and b (after)"
    assert in_turn("a (before)", "a (after)") == "a (before) and a (after)"


def test_other_names_of_outputs_are_taken_without_measuring_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare(model(0), model(1), out=tmp_path / "c", class_names=["a", "b", "c"])
    monkeypatch.setattr(measure, "respond", None)
    again = compare(model(0), model(1), out=tmp_path / "c", class_names=["x", "y", "z"])
    assert again.class_names == ("x", "y", "z") and again.numbers == first.numbers
    assert dv.Comparison.load(tmp_path / "c/data/result.h5").class_names == again.class_names


def test_refusals(tmp_path: pathlib.Path) -> None:
    with pytest.raises(MismatchError, match="different architectures"):
        compare(model(), nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1176, 10)))
    with pytest.raises(LayerNotFound):
        compare(model(), model(), layers=("nothing",))
    with pytest.raises(DeconvvizError, match="check"):
        compare(model(), model(), checks=("nothing",))
    with pytest.raises(DeconvvizError, match="method"):
        compare(model(), model(), method="nothing")
    options: tuple[dict[str, Any], ...] = ({"limit": 0}, {"k": 0}, {"filters": -1}, {"decisions": -1})
    for option in options:
        with pytest.raises(DataError):
            compare(model(), model(), **option)
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        compare(model(), model(), out=tmp_path)
    broken = model()
    broken[0].weight.data[0] = float("nan")
    with pytest.raises(ModelError, match="scores of Sequential are NaN"):
        compare(model(), broken, checks=None)
    with pytest.raises(DataError, match="not finite"):
        compare(model()[:2], broken[:2], outputs=None, checks=None, layers=("1",))
    assert captured(model()).fingerprint == captured(model()).fingerprint and LAYERS == ("2", "5")


def test_pairs_of_each_kind_are_shown_in_turn() -> None:
    ones, count = np.ones(9), 9
    correlation = np.array([0.0, 0.1, 0.9, 0.8, 0.95, 0.7, 0.99, 0.6, 0.0])
    alive = np.arange(count) < 8
    layer = LayerComparison(
        layer="conv", partner=np.arange(count), correlation=correlation, same=correlation, best_before=correlation,
        best_after=correlation, alive_before=alive, alive_after=alive, sharpness_before=0.5 * ones,
        sharpness_after=np.array([0.5, 0.5, 0.7, 0.7, 0.2, 0.2, 0.5, 0.5, 0.5]), sharpness_error=0.01 * ones,
        weight_cosine=ones,
    )  # fmt: skip
    # 0, 1 gone and new; 3, 2 sharper; 5, 4 blunter; 7, 6 kept; 8 dead before and after
    assert layer.ranking.tolist() == [0, 3, 5, 7, 1, 2, 4, 6, 8]


def decisions(targets: list[int]) -> Decisions:
    """Return decisions of two networks about two images."""
    loss = np.where(np.array(targets) >= 0, [[1.25, 0.5], [0.75, 0.5]], np.nan)
    return Decisions(
        images=np.arange(2),
        targets=np.array(targets),
        predicted=np.array([[0, 0], [1, 0]]),
        confidence=np.array([[0.6, 0.7], [0.8, 0.7]]),
        loss=loss,
        identical=False,
    )


def test_what_a_single_labelled_image_says(tmp_path: pathlib.Path) -> None:
    """The change is that image's; nothing is known of others."""
    one = decisions([1, -1])
    assert one.loss_change.value == -0.5 and one.calibration_change.value == pytest.approx(0.2 - 0.6)
    assert np.isnan([*one.loss_change[1:], *one.calibration_change[1:]]).all()
    assert [words for words in decision_words(one) if "[unknown]" in words] == decision_words(one)[2:]
    result = dataclasses.replace(compare(model(), permuted(model())), decisions=one)
    result.save_json(tmp_path / "c.json")
    numbers = json.loads((tmp_path / "c.json").read_text())["decisions"]
    assert numbers["log_loss_change"] == [-0.5, None, None] and numbers["difference"][1] < 1
    assert "of one image the interval is unknown" in page._plain(one.loss_change)


def test_without_a_labelled_image_nothing_is_known() -> None:
    none = decisions([-1, -1])
    assert np.isnan([*none.difference, *none.loss_change, *none.calibration_change]).all()
