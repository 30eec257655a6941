"""The decisions that the atlas explains, held against the definitions."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from gallery_case import OUTPUTS, PREPROCESS, SIDE, Case

import deconvviz as dv
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, MismatchError
from deconvviz.results.results import Result
from deconvviz.studies.atlas import decisions as deciding
from deconvviz.studies.atlas.reasons import reasons_at
from deconvviz.studies.atlas.site.inputs import DecisionsFile


def decided(case: Case, out: pathlib.Path, count: int = 6, **inputs: Any) -> Result:
    methods = ("grad-cam", "recipro-cam", "gradient")
    subject = case.inputs(**{"outputs": OUTPUTS, **inputs})
    explainer = deciding.DecisionExplainer(subject, methods, "relu2", progress=False)
    return deciding.explain_decisions(explainer, count, out)


@pytest.fixture(scope="module")
def six(case: Case) -> Result:
    decided(case, case.folder / "decisions.h5", output_names=list("abcdefg"))
    return Result.load(case.folder / "decisions.h5", "decisions", 1)


@pytest.mark.slow
def test_targets_are_the_most_probable_and_the_label(case: Case, six: Result) -> None:
    with torch.no_grad():
        shares = case.model.double()(case.x.double()).softmax(1).numpy()
    case.model.float()
    replaced = 0
    assert six.arrays["images"].tolist() == sorted(six.arrays["images"]) and len(six.arrays["images"]) == 6
    for n, image in enumerate(six.arrays["images"]):
        own = OUTPUTS[case.store.labels[image]]
        expected = np.argsort(-shares[image])[:5].tolist()
        if own not in expected:
            expected[-1], replaced = own, replaced + 1
        assert six.arrays["targets"][n].tolist() == expected and six.arrays["label_output"][n] == own
        np.testing.assert_allclose(six.arrays["probabilities"][n], shares[image][expected], rtol=1e-5)
    assert 0 < replaced < 6, "both cases must come about"
    assert six.config["outputs"] == list("abcdefg") and six.config["methods"] == ["grad-cam", "recipro-cam", "gradient"]


def test_maps_are_those_of_the_methods(case: Case, six: Result) -> None:
    maps, targets = six.arrays["maps"], six.arrays["targets"]
    assert maps.shape == (6, 3, 5, SIDE, SIDE)
    for m, name in enumerate(six.config["methods"]):
        explainer = dv.cam(name, case.network, "relu2")
        for n, t in ((0, 0), (3, 4)):
            image = int(six.arrays["images"][n])
            alone = explainer(case.x[image : image + 1], int(targets[n, t]))[0].double().numpy()
            span = alone.max() - alone.min()
            expected = 255 * (alone - alone.min()) / (span or 1)
            assert np.abs(maps[n, m, t] - expected).max() <= 1, (name, n, t)
    assert maps.max() == 255


def test_the_reasons_are_what_the_classifier_adds_up(case: Case) -> None:
    """Behind relu2 comes the maximum, then a linear map: a channel adds its weight times its maximum to a score."""
    explainer = deciding.DecisionExplainer(case.inputs(), ("gradient",), shown=("relu1", "relu2"), batch_size=2)
    for image in (0, 7):
        found = explainer.explain(case.pictures[image], -1)
        maxima = case.maps["relu2"][image].max((1, 2)).astype(float)
        added = case.model.fc.weight.detach().double().numpy()[found["targets"]] * maxima
        shares = added / np.abs(added).sum(1, keepdims=True)
        for n, share in enumerate(shares):
            speaking = [c for c in np.argsort(-share)[:5] if share[c] > 0]
            channels, values = found["because/channels"][n], found["because/shares"][n]
            against = share.argmin() if share.min() < 0 else -1
            assert channels.tolist() == speaking + [-1] * (5 - len(speaking)) + [against]
            np.testing.assert_allclose(values[: len(speaking)], share[speaking], atol=1e-4)
            assert values[-1] == pytest.approx(min(share.min(), 0), abs=1e-4) and (values[channels < 0] == 0).all()


def test_where_the_reasons_are_looked_for(case: Case) -> None:
    def layer(shown: tuple[str, ...], cam_layer: str | None = None) -> str | None:
        reasons = reasons_at(case.network, shown, cam_layer, 8)
        return None if reasons is None else reasons.layer

    assert layer(("relu1", "relu2", "fc")) == "relu2"  # the deepest with rows and columns
    assert layer(("relu1", "relu2"), "relu1") == "relu1" and layer(("relu1",), "relu2") == "relu1"
    assert layer(("fc",)) is None and layer(()) is None
    network = dv.with_directions(case.network, "relu2", np.eye(10)[:2])  # from which no score follows
    beside = reasons_at(network, ("relu1", "relu2", "relu2[directions]"), None, 8)
    assert beside is not None and beside.layer == "relu2"


def test_a_file_of_an_earlier_version_goes_on_without_reasons(case: Case, tmp_path: pathlib.Path) -> None:
    inputs, out = case.inputs(outputs=OUTPUTS), tmp_path / "d.h5"
    earlier = deciding.DecisionExplainer(inputs, ("gradient",), "relu2", progress=False)
    now = deciding.DecisionExplainer(inputs, ("gradient",), "relu2", ("relu2",), progress=False)
    whole = deciding.explain_decisions(earlier, 2, out)
    maps = whole.arrays["maps"].copy()
    whole.arrays["maps"][1], whole.state["done"] = 0, 1
    whole.save(out)
    again = deciding.explain_decisions(now, 2, out)
    assert np.array_equal(again.arrays["maps"], maps) and "because/channels" not in again.arrays
    assert not DecisionsFile(out).because
    found = deciding.explain_decisions(now, 2, tmp_path / "new.h5")
    assert found.arrays["because/channels"].shape == (2, 5, 6)
    assert found.config["because"] == {"layer": "relu2", "rule": "lrp-composite"}


def test_large_maps_are_kept_small(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "MAP", 7)
    explainer = deciding.DecisionExplainer(case.inputs(), ("gradient",), "relu2")
    found = explainer.explain(case.pictures[0], -1)
    whole = dv.cam("gradient", case.network)(case.x[:1], int(found["targets"][0]))[0].double().numpy()
    mean = whole.reshape(7, 4, 7, 4).mean((1, 3))
    expected = 255 * (mean - mean.min()) / (mean.max() - mean.min())
    assert found["maps"].shape == (1, 5, 7, 7) and np.abs(found["maps"][0, 0] - expected).max() <= 1


def test_probabilities_under_a_square(case: Case, six: Result) -> None:
    places, found = six.arrays["occlusion/places"], six.arrays["occlusion/probability"]
    assert six.arrays["occlusion/square"].tolist() == [7, 7] and found.shape == (6, 5, 12, 12) and len(places) == 144
    for n, row, column in ((0, 0, 0), (2, 4, 9), (5, 11, 11)):
        top, left, bottom, right = places[row * 12 + column]
        assert (top, left) == (min(2 * row, 21), min(2 * column, 21)) and (bottom, right) == (top + 7, left + 7)
        image = int(six.arrays["images"][n])
        x = case.x[image : image + 1].clone()
        x[:, :, top:bottom, left:right] = ((0.5 - torch.tensor(PREPROCESS.mean)) / torch.tensor(PREPROCESS.std))[
            None, :, None, None
        ]
        with torch.no_grad():
            shares = case.model(x).softmax(1)[0].numpy()
        np.testing.assert_allclose(found[n, :, row, column], shares[six.arrays["targets"][n]], rtol=1e-4)


@pytest.mark.slow
def test_decisions_go_on_and_do_not_change(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(case, tmp_path / "whole.h5")
    explain, calls = deciding.DecisionExplainer.explain, list[int]()

    def failing(self: Any, image: Any, own: int) -> Any:
        calls.append(own)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return explain(self, image, own)

    monkeypatch.setattr(deciding.DecisionExplainer, "explain", failing)
    with pytest.raises(KeyboardInterrupt):
        decided(case, tmp_path / "d.h5")
    decided(case, tmp_path / "d.h5")
    assert len(calls) == 8  # five and the one that failed; then the last two, after the four committed
    assert (tmp_path / "d.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    decided(case, tmp_path / "d.h5")
    assert len(calls) == 8
    with pytest.raises(MismatchError, match="images: 6 in the file, 5 now"):
        decided(case, tmp_path / "d.h5", 5)


def test_decisions_without_labels(case: Case, tmp_path: pathlib.Path) -> None:
    found = decided(case, tmp_path / "d.h5", 2, outputs=None)
    assert found.arrays["label_output"].tolist() == [-1, -1] and found.config["outputs"] == []
    assert (np.diff(found.arrays["probabilities"], axis=1) <= 0).all()
    with pytest.raises(DataError, match="0 images"):
        decided(case, tmp_path / "e.h5", 0)


def test_assumed_names_are_shown_and_do_not_belong_to_the_identity(case: Case, tmp_path: pathlib.Path) -> None:
    out, names = tmp_path / "d.h5", list("hijklmn")
    plain = decided(case, out, 1)
    assert plain.config["outputs"] == [] and DecisionsFile(out).output_name(3) == "output 3"
    decided(case, out, 1, output_names=names, names_assumed=True)  # an older file, without names: it is continued
    assert case.inputs().config == case.inputs(output_names=names, names_assumed=True).config
    assert case.inputs().config != case.inputs(output_names=names).config
    with pytest.raises(MismatchError, match="outputs"):
        decided(case, out, 1, output_names=names)
    decided(case, tmp_path / "new.h5", 1, output_names=names, names_assumed=True)
    assert DecisionsFile(tmp_path / "new.h5").output_name(3) == "k"


def test_log_odds_and_the_second_class_of_a_verdict(case: Case, six: Result) -> None:
    file = DecisionsFile(case.folder / "decisions.h5")
    with torch.no_grad():
        scores = case.model(case.x[six.arrays["images"]]).double()
    values, outputs = scores.topk(2)
    for row in range(6):
        verdict = file.verdict(row)
        assert verdict.log_odds == pytest.approx(float(values[row, 0] - values[row, 1]), rel=1e-3, abs=1e-5)
        assert (verdict.output, verdict.second) == tuple("abcdefg"[int(n)] for n in outputs[row])


@pytest.mark.slow
def test_a_file_of_an_earlier_version_keeps_its_images(case: Case, tmp_path: pathlib.Path) -> None:
    """Until 0.2.0 the images were spread over the classes, and one was written down when it had been explained."""
    six = decided(case, tmp_path / "d.h5")
    old = dict(six.config)
    assert "log-odds" in old.pop("choice")
    images = np.zeros(6, np.int64)
    state = {**six.state, "done": 0}
    Result(six.kind, six.schema, old, six.sources, {**six.arrays, "images": images}, state).save(tmp_path / "d.h5")
    assert decided(case, tmp_path / "d.h5").arrays["images"].tolist() == spread(case.store.labels, 6).tolist()
