"""The study of an attack: what it counts, its file and its continuation, tables, figures, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from attacked import classifier, linear
from scipy.stats import binomtest
from torch import nn

import deconvviz as dv
from deconvviz.errors import DataError, DeconvvizError, MismatchError, TargetError
from deconvviz.metrics.intervals import share_interval
from deconvviz.studies.attack.command import caption_of, curves_caption_of
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.attack.running import AttackRun

PREPROCESS = dv.Preprocess(resize=None, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
OUTPUTS = (2, 0, 3)
ABOUT: dict[str, Any] = {"preprocess": PREPROCESS, "progress": False, "batch_size": 4}
ARRAYS = (
    *("own", "before", "probability_before", "after", "probability_after", "target_probability", "pixels"),
    *("length", "largest", "noise", "pictures", "attacked", "indices", "places", "shown"),
)


def pictures(count: int = 11, seed: int = 0) -> dv.InMemoryImages:
    rng = np.random.default_rng(seed)
    return dv.InMemoryImages(
        rng.integers(0, 256, (count, 12, 12, 3), np.uint8), [n % 3 for n in range(count)], ["a", "b", "c"]
    )


@pytest.fixture(scope="module")
def network() -> dv.Network:
    return dv.capture(classifier(), (3, 12, 12))


def attack(network: dv.Network, method: str = "pgd", **options: Any) -> AttackStudy:
    given = {**ABOUT, "epsilons": [0, 0.01, 0.05], "outputs": OUTPUTS, "images": pictures(), **options}
    return dv.attack(network, given.pop("images"), method, given.pop("out", None), **given)


@pytest.mark.parametrize("method", ["fgsm", "pgd", "sparse"])
def test_what_is_counted(network: dv.Network, method: str) -> None:
    """Everything again from the images that `attacked_images` gives, by the plain preprocessing."""
    store, study = pictures(), attack(network, method)
    x = PREPROCESS.tensor(np.stack([store[n][0] for n in range(11)]))
    own = np.array(OUTPUTS)[store.labels]
    scores = network(x).detach()
    assert (study.before == scores.argmax(1).numpy()).all() and (study.own == own).all()
    assert np.allclose(study.probability_before, scores.softmax(1)[torch.arange(11), own].numpy())
    for number, epsilon in enumerate(study.epsilons):
        changed = dv.attacked_images(study, store, number)
        plain = x.permute(0, 2, 3, 1).numpy() * PREPROCESS.std + PREPROCESS.mean
        mean, std = (np.array(row, np.float32) for row in (PREPROCESS.mean, PREPROCESS.std))
        scores = network(torch.from_numpy((changed - mean) / std).permute(0, 3, 1, 2)).detach()
        assert (study.after[number] == scores.argmax(1).numpy()).all()
        shares = scores.softmax(1).numpy()
        assert np.allclose(study.probability_after[number], shares[range(11), own], atol=1e-6)
        assert np.allclose(study.target_probability[number], shares.max(1), atol=1e-6)
        change = changed.astype(np.float64) - np.rint(255 * plain) / 255
        assert np.abs(change).max() <= epsilon + 1e-7 and changed.min() >= 0 and changed.max() <= 1
        assert (study.pixels[number] == (np.abs(change) > 1e-6).any(3).sum((1, 2))).all()
        assert np.allclose(study.length[number], np.sqrt((change**2).sum((1, 2, 3))), atol=1e-5)
        assert np.allclose(study.largest[number], np.abs(change).max((1, 2, 3)), atol=1e-6)
    assert (study.after[0] == study.before).all() and not study.noise[0].any()  # epsilon 0 changes nothing
    right = study.before == own
    assert (study.attackable == right).all() and (study.fooled == (right & (study.after != own))).all()
    assert np.allclose(study.accuracy, (study.after == own).mean(1))
    assert np.allclose(study.success, study.fooled.sum(1) / right.sum())


def test_towards_a_class(network: dv.Network) -> None:
    study = attack(network, target=2, away_from="top", outputs=None, epsilons=[0.3])
    assert (study.own == study.before).all() and (study.attackable == (study.before != 2)).all()
    assert (study.fooled == (study.attackable & (study.after == 2))).all() and study.success[0] > 0.5
    assert (study.target_probability[0] <= 1).all() and "pgd towards class 2 on 11 images" in repr(study)


@pytest.mark.parametrize("method", ["pgd", "sparse"])
def test_batches_do_not_matter(network: dv.Network, method: str) -> None:
    together, alone = (attack(network, method, batch_size=size) for size in (11, 1))
    for name in ("own", "before", "after", "pixels"):
        assert np.array_equal(getattr(together, name), getattr(alone, name)), name
    assert np.mean(together.noise != alone.noise) < 0.01  # a convolution of another batch differs in the last bits
    other = attack(network, method, seed=1)
    assert np.array_equal(other.noise, attack(network, method).noise) == (method == "sparse")  # it draws nothing


def test_the_images_that_are_kept(network: dv.Network) -> None:
    whole, part, none = (attack(network, keep=keep) for keep in (None, 3, 0))
    assert part.places.tolist() == [0, 5, 10] and np.array_equal(part.noise, whole.noise[:, [0, 5, 10]])
    assert np.array_equal(part.after, whole.after) and part.pictures.shape == (3, 12, 12, 3)
    assert none.noise.shape == (3, 0, 3, 12, 12) and np.array_equal(none.after, whole.after)
    assert np.array_equal(dv.attacked_images(part, pictures())[1], dv.attacked_images(whole, pictures(), places=[5])[0])
    assert whole.shown.tolist() == [0, 2, 4, 6, 8, 10]
    store = pictures()
    assert np.array_equal(whole.pictures, np.stack([store[n][0] for n in whole.shown]))
    expected = np.rint(255 * dv.attacked_images(whole, store, places=whole.shown.tolist()))
    assert np.array_equal(whole.attacked[-1], expected)
    with pytest.raises(DataError, match="the changes of no image are kept; attack with another --keep"):
        dv.draw_attack(none)


def test_an_attack_that_was_interrupted_goes_on(
    network: dv.Network, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, out = attack(network, keep=6, commit_every=1), tmp_path / "a.h5"
    original, calls = AttackRun.attacked, []

    def stopping(self: Any, x: Any, first: int, study: AttackStudy) -> Any:
        calls.append(first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, x, first, study)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AttackRun, "attacked", stopping)
        attack(network, keep=6, commit_every=1, out=out)
    begun = AttackStudy.load(out)
    assert begun.done == 8 and "8 images of 11, unfinished" in repr(begun) and (begun.own[8:] == -1).all()
    with pytest.raises(DataError, match="8 of 11 images are attacked"):
        dv.draw_attack(begun)
    ended = attack(network, keep=6, commit_every=1, out=out)
    again = AttackStudy.load(out)
    for name in ARRAYS:
        assert np.array_equal(getattr(ended, name), getattr(straight, name)), name
        assert np.array_equal(getattr(again, name), getattr(straight, name)), name
    assert again.complete and again.names == straight.names and again.epsilons == (0, 0.01, 0.05)


def test_what_does_not_belong_to_the_file(network: dv.Network, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "a.h5"
    attack(network, out=out)
    before = out.read_bytes()
    other = dv.capture(classifier(1), (3, 12, 12))
    for net, options, complaint in (
        (other, {}, "other weights of the same architecture"),
        (network, {"images": pictures(seed=1)}, "the images"),
        (network, {"epsilons": [0, 0.02]}, "epsilons: "),
        (network, {"method_options": {"steps": 3}}, "method_options steps: 20 in the file, 3 now"),
        (network, {"method": "fgsm"}, "method: pgd in the file, fgsm now"),
        (network, {"target": 1}, "target: None in the file, 1 now"),
        (network, {"loss": "margin"}, "loss: "),
        (network, {"seed": 4}, "seed: 0 in the file, 4 now"),
        (network, {"keep": 3}, "keep: None in the file, 3 now"),
        (network, {"limit": 5}, "limit: "),
        (network, {"outputs": (0, 1, 2)}, "outputs: "),
        (network, {"preprocess": dataclasses.replace(PREPROCESS, resize=12)}, "preprocess resize: "),
    ):
        with pytest.raises(MismatchError, match=complaint):
            attack(net, out=out, **options)
    assert out.read_bytes() == before
    with pytest.raises(MismatchError, match="give its own images"):
        dv.attacked_images(AttackStudy.load(out), pictures(seed=1))


def test_what_is_refused(network: dv.Network, tmp_path: pathlib.Path) -> None:
    unlabelled = dv.InMemoryImages(np.zeros((2, 12, 12, 3), np.uint8))
    of_one = dv.InMemoryImages(np.zeros((2, 12, 12, 3), np.uint8), [1, 1], ["a", "b"])
    cases: list[tuple[dict[str, Any], type[DeconvvizError], str]] = [
        ({"method": "pdg"}, DeconvvizError, "no attack named 'pdg'; nearest: pgd"),
        ({"epsilons": [1.5]}, DataError, "epsilon 1.5 given; expected a share of the way from black to white"),
        ({"epsilons": [-0.1]}, DataError, "epsilon -0.1 given"),
        ({"epsilons": [float("nan")]}, DataError, "epsilon nan given"),
        ({"epsilons": []}, DataError, "one or more, rising"),
        ({"epsilons": [0.1, 0.1]}, DataError, "one or more, rising"),
        ({"target": 4}, TargetError, "target 4 given; Sequential has classes 0 to 3"),
        (
            {"target": 0, "images": of_one, "outputs": (2, 0)},
            TargetError,
            "target class 0 given, which is the class of",
        ),
        ({"outputs": None}, DataError, "attack the top class instead"),
        ({"images": unlabelled}, DataError, "away from the label needs one for every image"),
        ({"outputs": (0, 1)}, DataError, "outputs 0 to 1 given for 2 classes"),
        ({"outputs": (0, 1, 9)}, DataError, "outputs 0 to 9 given for 3 classes"),
        ({"precision": "bf16"}, DataError, "precision 'bf16' given; expected fp32"),
        ({"loss": "hinge"}, DataError, "loss 'hinge' given; expected cross-entropy or margin"),
        ({"away_from": "x"}, DataError, "away from 'x' given"),
        ({"method_options": {"radius": 3}}, DataError, "pgd has no option 'radius'"),
        ({"method_options": {"steps": 0}}, DataError, "steps 0 given"),
        ({"limit": 0}, DataError, "limit 0 given"),
        ({"keep": -1}, DataError, "keep -1 given"),
        ({"commit_every": 0}, DataError, "commit every 0 given"),
    ]
    for options, kind, complaint in cases:
        with pytest.raises(kind, match=complaint):
            attack(network, out=tmp_path / "a.h5", **options)
    top = pictures()
    found = int(network.scores(PREPROCESS.tensor(top[0][0][None])).argmax())
    with pytest.raises(TargetError, match=f"target class {found} given, which is the class of every image"):
        one = dv.InMemoryImages([top[0][0]])
        attack(network, images=one, outputs=None, away_from="top", target=found, out=tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


def test_tables(network: dv.Network, tmp_path: pathlib.Path) -> None:
    study = attack(network, names=["w", "x", "y", "z"])
    study.save_csv(tmp_path / "a.csv")
    study.save_images_csv(tmp_path / "i.csv")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["levels"]) for row in rows] == pytest.approx([0, 2.55, 12.75])
    for row, number in zip(rows, range(3), strict=True):
        hits, count = int((study.after == study.own)[number].sum()), 11
        wilson = binomtest(hits, count).proportion_ci(method="wilson")
        ours = tuple(float(row[name]) for name in ("accuracy", "accuracy_low", "accuracy_high"))
        assert ours == pytest.approx((hits / count, wilson.low, wilson.high), abs=1e-6)
        fooled = study.fooled[number]
        cell = row["pixels_changed"]
        assert (
            cell == ""
            if not fooled.any()
            else float(cell) == pytest.approx(study.pixels[number][fooled].mean() / 144, rel=1e-5)
        )
    with (tmp_path / "i.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 33 and {row["own_class"] for row in rows} == {"w", "y", "z"}
    assert [row["class_after"] for row in rows[22:]] == ["wxyz"[c] for c in study.after[2]]
    assert list(study.to_frame()["fooled"]) == study.fooled.ravel().astype(int).tolist()


def test_intervals_of_shares() -> None:
    """Wilson's, by scipy; nothing is known of no image."""
    for hits, count in ((0, 5), (5, 5), (3, 17), (250, 1000)):
        wilson = binomtest(hits, count).proportion_ci(method="wilson")
        assert share_interval(np.array(hits), count).tolist() == pytest.approx([wilson.low, wilson.high], abs=1e-7)
    assert np.isnan(share_interval(np.array([0]), 0)).all()


def test_figures(network: dv.Network) -> None:
    study = attack(network, "sparse", epsilons=[0.02, 0.1])
    axes = dv.draw_attack(study).axes
    assert len(axes) == 6 * 4 + 1 and "255ths" in axes[-1].get_ylabel()
    low, high = axes[-1].get_ylim()
    assert -low == high == pytest.approx(255 * np.abs(study.noise[-1][study.shown].astype(float).mean(1)).max())
    shown = axes[3].images[0].get_array()
    red = (np.asarray(shown)[..., 0] > np.asarray(shown)[..., 2] + 0.5).mean()
    assert red == pytest.approx(study.points()[study.shown[0]].mean(), abs=1e-3)
    assert len(dv.draw_attack(attack(network, "fgsm")).axes) == 6 * 3 + 1  # every pixel is changed
    left, right = dv.draw_robustness({"a": study, "b": attack(network)}).axes
    assert left.lines[1].get_ydata() == pytest.approx(100 * attack(network).accuracy)
    assert right.lines[0].get_ydata() == pytest.approx(100 * study.success)
    assert "no pixel may change by more than 25.5/255" in caption_of(study)
    assert "of the colours" in axes[-1].get_ylabel()
    unchanged = dataclasses.replace(
        study, noise=np.zeros_like(study.noise[:, :, :1]), attacked=study.attacked[:, :, :1]
    )
    assert "that of each pixel" in caption_of(unchanged)
    bar = dv.draw_attack(dataclasses.replace(study, noise=np.zeros_like(study.noise))).axes[-1]
    assert bar.get_ylim() == (-1, 1)  # of nothing that changed, a scale that can be read
    assert "Wilson" in curves_caption_of(study)
    with pytest.raises(DataError, match="no study given"):
        dv.draw_robustness({})


def test_a_network_that_is_float64(network: dv.Network) -> None:
    study = attack(dv.capture(classifier().double(), (3, 12, 12)))
    assert np.mean(study.after == attack(network).after) > 0.9


def test_a_network_that_says_yes_or_no() -> None:
    model = nn.Sequential(*linear(1)).eval()
    study = attack(dv.capture(model, (3, 12, 12)), outputs=(0, 1, 0), epsilons=[0.3])
    assert study.fooled[0].sum() == study.attackable.sum() > 0
