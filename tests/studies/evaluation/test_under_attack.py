"""How far maps move under attacks: by the definition, planted methods, continuation, tables, figure and command."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from attacked import PLAIN, SIDE, classifier
from click.testing import CliRunner
from torch import Tensor

import deconvviz as dv
from deconvviz.cam.explain import Explainer
from deconvviz.cam.registry import METHODS
from deconvviz.cli.main import cli
from deconvviz.errors import DataError, MismatchError
from deconvviz.metrics.movement import MOVES, moves
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.evaluation import under_attack
from deconvviz.studies.evaluation.under_attack_command import caption_of
from deconvviz.studies.evaluation.under_attack_result import CASES, MapsUnderAttack

ABOUT: dict[str, Any] = {"preprocess": PLAIN, "progress": False}
COUNT, LAYER = 11, "2"


def pictures(seed: int = 0) -> dv.InMemoryImages:
    return dv.InMemoryImages(np.random.default_rng(seed).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8))


@pytest.fixture(scope="module")
def network() -> dv.Network:
    return dv.capture(classifier(), (3, SIDE, SIDE))


def attack(network: dv.Network, method: str = "fgsm", **options: Any) -> AttackStudy:
    return dv.attack(network, pictures(), method, **{**ABOUT, "away_from": "top", "epsilons": [0.01, 0.1], **options})


@pytest.fixture(scope="module")
def study(network: dv.Network) -> AttackStudy:
    return attack(network)


def by_hand(study: AttackStudy, change: np.ndarray[Any, Any], **more: Any) -> AttackStudy:
    """The study with a change [C, h, w] of every image in the place of what the attack found."""
    noise = np.broadcast_to(change.astype(np.float16), study.noise.shape).copy()
    return dataclasses.replace(study, noise=noise, **more)


def measured(network: dv.Network, attacks: Any, methods: Any = ("grad-cam",), **options: Any) -> MapsUnderAttack:
    return dv.maps_under_attack(network, pictures(), methods, attacks, [LAYER], **ABOUT, **options)


def normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(row)[:, None, None] for row in (PLAIN.mean, PLAIN.std))
    return (x - mean) / std


def test_by_definition(network: dv.Network) -> None:
    """Maps by `cam` of the images that `attacked_images` gives, of the same class and of the new one."""
    study = attack(network, epsilons=[0.01])
    methods: dict[str, dict[str, Any]] = {"grad-cam": {}, "integrated-gradients": {"steps": 4}}
    found = measured(network, {"fgsm": study}, methods)
    x = torch.from_numpy(np.stack([pictures()[n][0] for n in range(COUNT)])).permute(0, 3, 1, 2) / 255
    changed = torch.from_numpy(dv.attacked_images(study, pictures())).permute(0, 3, 1, 2)
    own, after = network(normalised(x)).argmax(1), network(normalised(changed)).argmax(1)
    assert (found.own["fgsm"] == own.numpy()).all() and (found.after["fgsm"] == after.numpy()).all()
    assert found.fooled["fgsm"].tolist() == (own != after).tolist() and 0 < int((own != after).sum()) < COUNT
    for method, options in methods.items():
        explain = dv.cam(method, network, LAYER if METHODS[method].needs == "layer" else (), **options)
        before = explain(normalised(x), own.tolist())
        for case, image, classes in (("attacked", changed, own), ("new_class", changed, after)):
            expected = moves(before, explain(normalised(image), classes.tolist()))
            known = torch.ones(COUNT, dtype=torch.bool) if case == "attacked" else own != after
            for move in MOVES:
                values = found.moved("fgsm", method, case, move)
                assert np.allclose(values[known], expected[move][known], atol=1e-5)
                assert np.isnan(values[~known]).all()
    first = found.estimate("fgsm", "grad-cam")
    values = found.moved("fgsm", "grad-cam")
    assert first.mean == pytest.approx(values.mean())
    assert first.error == pytest.approx(1.959964 * values.std(ddof=1) / COUNT**0.5)
    paired = values - found.moved("fgsm", "grad-cam", "noise")
    beyond = found.beyond_noise("fgsm", "grad-cam")
    assert beyond == pytest.approx((paired.mean(), 1.959964 * paired.std(ddof=1) / COUNT**0.5))


def test_the_noise_has_the_size_of_the_attack(study: AttackStudy) -> None:
    """As many pixels are changed by as much; each image has its own noise, the same in whatever batch it comes."""
    change = study.noise[-1, 3] * (np.random.default_rng(0).random((1, SIDE, SIDE)) < 0.2)
    drawn = under_attack.scattered(change, np.random.default_rng(1))
    columns = [sorted(map(tuple, np.abs(each).reshape(3, -1).T.tolist())) for each in (change, drawn)]
    assert columns[0] == columns[1] and not np.array_equal(np.abs(change), np.abs(drawn)) and drawn.dtype == np.float16
    assert abs(float(np.sign(drawn).sum()) / float((drawn != 0).sum())) < 0.35
    images = under_attack.AttackedImages(study, pictures(), None, 1)
    whole, part = ([*images.feed.batches(size, np.arange(3, 6))] for size in (3, 1))
    together = images.pixels(whole[0], 0)
    alone = [torch.cat(each) for each in zip(*(images.pixels(batch, 0) for batch in part), strict=True)]
    assert all(torch.equal(first, second) for first, second in zip(together, alone, strict=True))
    x, attacked, noisy = together
    for image in (attacked, noisy):
        assert 0 < float((image.double() - x.double()).abs().max()) <= study.epsilons[-1]
        assert float(image.min()) >= 0 and float(image.max()) <= 1
    assert not torch.equal(noisy - x, images.pixels(whole[0], 1)[2] - x)


SMALL: dict[str, Any] = {
    "rise": {"masks": 9},
    "d-rise": {"masks": 9},
    "sess": {"scales": 1},
    "smoothgrad": {"samples": 2},
    "ss-cam": {"samples": 2},
    "shap-cam": {"permutations": 1},
    "occlusion": {"square": 4, "stride": 4},
    "integrated-gradients": {"steps": 3},
    "lime": {"segments": 4, "samples": 8},
    "kernel-shap": {"segments": 4, "samples": 8},
    "mask": {"steps": 2, "cells": 4},
    "extremal-perturbation": {"steps": 2},
    "sparse-attack": {"steps": 2, "mask_steps": 3, "levels": 20},
}
OTHERS = {"attention-rollout", "legrad", "cam"}  # transformers alone, and global pooling alone


@pytest.mark.slow
def test_no_change_moves_no_map_of_any_method(network: dv.Network, study: AttackStudy) -> None:
    """Exactly 0, under the attack and under its noise, by all measures."""
    unchanged = by_hand(study, np.zeros((3, SIDE, SIDE)), after=np.stack([study.before] * 2))
    ours = {name for name, method in METHODS.items() if method.needs != "trained"} - OTHERS
    assert len(ours) >= 30 and set(METHODS) >= OTHERS
    methods = {name: SMALL.get(name, {}) for name in sorted(ours)}
    found = measured(network, {"none": unchanged}, methods, limit=2)
    assert found.complete
    for name in ours:
        values = found.values[f"none/{name}"]
        assert not values[:, :2].any() and np.isnan(values[:, 2]).all(), name


class Planted:
    """A method that is planted: a function from images [n, C, H, W] to maps."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, x: Tensor, classes: list[int]) -> Tensor:
        return torch.stack([self.function(image) for image in x])


def corner(image: Tensor) -> Tensor:
    """Shows the corner of the image alone, which no attack of the test changes."""
    part = image[0, :3, :3] - image[0, :3, :3].min()
    return torch.kron(part / part.max(), torch.ones(SIDE // 3, SIDE // 3))


def turning(image: Tensor) -> Tensor:
    """The upper half, and the lower one where the image is brighter than it should be."""
    upper = (torch.arange(SIDE)[:, None] < SIDE // 2).float().expand(SIDE, SIDE)
    return upper if float((image * torch.tensor(PLAIN.std)[:, None, None]).mean()) < 0.03 else 1 - upper


def test_planted_methods(network: dv.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not changed does not move; a map that turns round moves most, under the attack and not under noise."""
    grey = dv.InMemoryImages([*np.random.default_rng(0).integers(118, 138, (COUNT, SIDE, SIDE, 3), np.uint8)])
    study = dv.attack(network, grey, "fgsm", epsilons=[0.1], away_from="top", **ABOUT)
    change = np.full((3, SIDE, SIDE), 0.1)
    change[:, :3, :3] = 0
    methods = {"corner": Planted(corner), "turning": Planted(turning)}
    monkeypatch.setattr(under_attack, "explainers_by_method", lambda *_: methods)
    monkeypatch.setattr(under_attack, "described", lambda *_: {})
    attacks = {"brighter": by_hand(study, change)}
    found = dv.maps_under_attack(network, grey, [*methods], attacks, **ABOUT)
    assert not found.values["brighter/corner"][:, 0].any()
    assert found.moved("brighter", "corner", "noise", "l1").all()  # noise is everywhere
    largest = found.values["brighter/turning"][:, 0]
    assert np.allclose(largest[:, 1:], (2, 2, 1, 1)) and (largest[:, 0] > 1.5).all()
    assert not found.values["brighter/turning"][:, 1].any()
    assert found.beyond_noise("brighter", "turning") == pytest.approx((2, 0))


def test_interrupted_and_continued(
    network: dv.Network, study: AttackStudy, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods, original, calls = ("grad-cam", "gradient"), Explainer.__call__, list[int]()
    straight = measured(network, {"b": study, "a": study}, methods, out=tmp_path / "straight.h5")

    def counting(self: Explainer, x: Tensor, *arguments: Any, **options: Any) -> Any:
        calls.append(len(x))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, x, *arguments, **options)

    monkeypatch.setattr(Explainer, "__call__", counting)
    out = tmp_path / "killed.h5"
    with pytest.raises(KeyboardInterrupt):
        measured(network, {"b": study, "a": study}, methods, out=out)
    left = MapsUnderAttack.load(out)
    assert not left.complete and left.measured("b", "grad-cam").sum() == under_attack.TOGETHER
    ended = measured(network, {"b": study, "a": study}, methods, out=out)
    assert ended.complete and ended.attacks == ("b", "a") and ended.methods == methods
    loaded = MapsUnderAttack.load(tmp_path / "straight.h5")
    for group in ("values", "indices", "own", "after", "fooled", "pictures", "maps"):
        for name, array in getattr(straight, group).items():
            assert np.array_equal(getattr(ended, group)[name], array, equal_nan=array.dtype.kind == "f"), (group, name)
            assert np.array_equal(getattr(loaded, group)[name], array, equal_nan=array.dtype.kind == "f")
    done = len(calls)
    assert measured(network, {"b": study, "a": study}, methods, out=out).complete and len(calls) == done
    with pytest.raises(MismatchError, match=r"seed: 0 in the file, 1 now"):
        measured(network, {"b": study, "a": study}, methods, out=out, seed=1)
    with pytest.raises(MismatchError, match="attacks "):
        measured(network, {"b": study, "a": by_hand(study, np.zeros((3, SIDE, SIDE)))}, methods, out=out)


def test_what_is_refused(network: dv.Network, study: AttackStudy, tmp_path: pathlib.Path) -> None:
    study.save(tmp_path / "a.h5")
    other = dv.capture(classifier(1), (3, SIDE, SIDE))
    with pytest.raises(MismatchError, match=r"a\.h5 was made with other settings \(other weights.*; give the network"):
        measured(other, [tmp_path / "a.h5"])
    with pytest.raises(MismatchError, match=r"the images \(fingerprint\)"):
        dv.maps_under_attack(network, pictures(1), ["grad-cam"], [tmp_path / "a.h5"], [LAYER], **ABOUT)
    about = {**ABOUT, "preprocess": dataclasses.replace(PLAIN, mean=(0.4, 0.5, 0.5))}
    with pytest.raises(MismatchError, match="preprocess"):
        dv.maps_under_attack(network, pictures(), ["grad-cam"], [tmp_path / "a.h5"], [LAYER], **about)
    with pytest.raises(DataError, match="no attack given; expected one or more files"):
        measured(network, [])
    with pytest.raises(DataError, match="no method given"):
        measured(network, {"a": study}, [])
    with pytest.raises(DataError, match="given; expected files of different names"):
        measured(network, [tmp_path / "a.h5", tmp_path / "b" / "a.h5"])
    with pytest.raises(DataError, match="the attack a: 4 of 11 images attacked; finish it"):
        measured(network, {"a": dataclasses.replace(study, done=4)})
    with pytest.raises(DataError, match="keeps the changes of 0 images, and in none"):
        measured(network, {"a": attack(network, keep=0)})
    with pytest.raises(DataError, match="in none of them the network found the own class"):
        measured(network, {"a": dataclasses.replace(study, own=study.own + 1)})
    measured(network, {"a": study}).save(tmp_path / "moved.h5")
    with pytest.raises(DataError, match="moved"):
        measured(network, [tmp_path / "moved.h5"])


def test_only_images_count_whose_class_was_found(network: dv.Network, study: AttackStudy) -> None:
    own = study.own.copy()
    own[[2, 5]] += 1
    found = measured(network, {"a": dataclasses.replace(study, own=own)})
    assert found.indices["a"].tolist() == [n for n in study.indices.tolist() if n not in (2, 5)]
    kept = measured(network, {"a": attack(network, keep=5)}, limit=3)
    assert len(kept.names["a"]) == 3 and set(kept.indices["a"]) <= set(range(COUNT))


def test_tables(network: dv.Network, study: AttackStudy, tmp_path: pathlib.Path) -> None:
    fooling = dataclasses.replace(study, config={**study.config, "fools": ["cam", "gradient"]})
    found = measured(network, {"plain": study, "both": fooling}, ["grad-cam", "gradient"])
    found.save_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["attack"], row["attacked_for"], row["method"]) for row in rows] == [
        ("plain", "decision", "grad-cam"),
        ("plain", "decision", "gradient"),
        ("both", "cam, gradient", "grad-cam"),
        ("both", "cam, gradient", "gradient"),
    ]
    for row in rows:
        for move in MOVES:
            for case in CASES:
                estimate = found.estimate(row["attack"], row["method"], case, move)
                assert (float(row[f"{move}_{case}"]), float(row[f"{move}_{case}_95"])) == pytest.approx(estimate)
            beyond = found.beyond_noise(row["attack"], row["method"], move)
            assert float(row[f"{move}_beyond_noise"]) == pytest.approx(beyond.mean)
        assert float(row["fooled"]) == pytest.approx(found.fooled["plain"].mean()) and int(row["images"]) == COUNT
    assert "both: fgsm at 25.5/255, on the maps of cam, gradient; 11 images" in repr(found)
    watching = dataclasses.replace(study, config={**study.config, "fools": ["cam"], "goal": "decision"})
    assert measured(network, {"watched": watching}).attacked_for("watched") == "decision"
    assert [*found.columns("gradient")] == ["moved_plain", "moved_both"]
    found.save_images_csv(tmp_path / "i.csv")
    with (tmp_path / "i.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * COUNT
    moved = [float(row["l1_noise"]) for row in rows if (row["attack"], row["method"]) == ("both", "gradient")]
    assert np.allclose(moved, found.moved("both", "gradient", "noise", "l1"))
    assert all((row["spearman_new_class"] == "") == (row["own_class"] == row["class_after"]) for row in rows)


def test_the_figure(network: dv.Network, study: AttackStudy) -> None:
    found = measured(network, {"plain": study, "again": study}, ["grad-cam", "gradient", "guided"])
    figure = dv.draw_maps_under_attack(found, "l1", caption=caption_of(found))
    assert len(figure.axes) == 4 + 2 * 2 * (1 + 3)  # tables with bars; an image of each attack, before and after
    numbers = [text.get_text() for text in figure.axes[0].texts]
    mean, error = found.estimate("plain", "gradient", "noise", "l1")
    assert len(numbers) == 6 * 3 and numbers[4] == f"{mean:.2f}\n±{error:.2f}"
    words = [text.get_text() for text in figure.texts]
    assert f"plain\ndecision, {int(found.fooled['plain'].sum())} of 11 fooled" in words and "guided" in words
    assert all(axes.get_position().x0 >= 0 and axes.get_position().x1 <= 1 for axes in figure.axes)
    with pytest.raises(DataError, match="measure 'l2' given"):
        dv.draw_maps_under_attack(found, "l2")
    values = {name: np.full_like(array, np.nan) for name, array in found.values.items()}
    with pytest.raises(DataError, match="no image is measured yet"):
        dv.draw_maps_under_attack(dataclasses.replace(found, values=values))


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fgsm", "pgd"):
        asked = f"attack demo scenes:6:7 --method {name} --epsilon 4/255 -o {name}.h5 --quiet --limit 4".split()
        CliRunner().invoke(cli, asked, catch_exceptions=False)
    about = ["-l", "relu5", "-m", "grad-cam", "-m", "gradient", "--metrics", "none", "--limit", "3", "--quiet"]
    attacks = ["--attack", "fgsm.h5", "--attack", "pgd.h5"]
    done = CliRunner().invoke(cli, ["evaluate", "demo", "scenes:6:7", *about, *attacks, "-o", "t.csv"])
    assert done.exit_code == 0 and "beyond noise" in done.output, done.output
    found = MapsUnderAttack.load("t.attack.h5")
    assert found.complete and found.attacks == ("fgsm", "pgd") and len(found.names["pgd"]) == 3
    with pathlib.Path("t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["moved_pgd"]) == pytest.approx(found.estimate("pgd", "gradient").mean)
    assert {path.name for path in tmp_path.glob("t.attack*")} == {
        *("t.attack.h5", "t.attack.csv", "t.attack.images.csv", "t.attack.png")
    }
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for wrong, told in (
        (["scenes:7:7", *about, *attacks], "the images (fingerprint)"),
        (["scenes:6:7", *about, "--attack", "t.h5"], "evaluation"),
        (["scenes:6:7", *about, "--attack", "absent.h5"], "absent.h5"),
        (["scenes:6:7", *about[:-4], "some", *about[-3:], *attacks], "metrics 'some'"),
    ):
        refused = CliRunner().invoke(cli, ["evaluate", "demo", *wrong, "-o", "w.csv"])
        assert refused.exit_code != 0 and told in refused.output + str(refused.exception), (wrong, refused.output)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
