"""Attacks on explanations: what they change and keep, their file, tables and figure, and what is refused."""

from __future__ import annotations

import csv
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from attacked import SIDE, images, linear, victims
from scipy.stats import spearmanr
from torch import nn

import deconvviz as dv
from deconvviz.cli.explaining import MethodOptions
from deconvviz.errors import CamError, DataError, DeconvvizError, MismatchError
from deconvviz.results.results import Result
from deconvviz.studies.attack.attacks import ATTACKS
from deconvviz.studies.attack.countermeasures import Jury, squeezed
from deconvviz.studies.attack.edges import THRESHOLD, edge_weights
from deconvviz.studies.attack.explaining import similarities
from deconvviz.studies.attack.fooled import arrays_of
from deconvviz.studies.attack.maps_command import AskedOfMaps, maps_caption_of
from deconvviz.studies.attack.pixels import PixelNetwork, PixelScale
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.attack.running import AttackRun

PREPROCESS = dv.Preprocess(resize=None, crop=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SHORT: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 8, "joint_steps": 25},
    "cw": {"steps": 20, "joint_steps": 25, "rate": 0.05},
}
SHORT["stadv"] = {"steps": 10, "joint_steps": 10, "rate": 0.05}


def pictures(count: int = 5) -> dv.InMemoryImages:
    """Half flat and half of noise, so that there are pixels without an edge."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    values[:, :, : SIDE // 2] = rng.integers(0, 256, (count, 1, 1, 3), np.uint8)
    return dv.InMemoryImages(values)


def small() -> nn.Module:
    """A network whose classes are equally likely on the pictures, so that each can be reached."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[6].weight.mul_(5)
        store = pictures()
        scores = model(PREPROCESS.tensor(np.stack([store[n][0] for n in range(5)])))
        model[6].bias.sub_(scores.mean(0))
    return model


@pytest.fixture(scope="module")
def network() -> dv.Network:
    return dv.capture(small(), (3, SIDE, SIDE))


def attack(network: dv.Network, method: str = "pgd", **options: Any) -> AttackStudy:
    given: dict[str, Any] = {
        "preprocess": PREPROCESS,
        "progress": False,
        "batch_size": 2,
        "away_from": "top",
        "layer": "3",
    }
    given |= {"fools": ["cam"], "method_options": SHORT.get(method, {}), **options}
    return dv.attack(network, given.pop("images", pictures()), method, given.pop("out", None), **given)


@pytest.mark.parametrize("method", ["pgd", "cw", "stadv"])
@pytest.mark.parametrize("edges", ["none", "weights", "threshold"])
def test_constraints_hold_exactly(network: dv.Network, method: str, edges: str) -> None:
    """In float32, with each epsilon; epsilon 0 changes nothing; edges in both stages bound what changes."""
    study = attack(network, method, edges=edges, edge_stages="both", epsilons=[0, 0.05, 1])
    x = torch.from_numpy(np.stack([pictures()[n][0] for n in range(5)]) / np.float32(255)).permute(0, 3, 1, 2)
    weights = edge_weights(x)[:, 0].numpy()
    for number, epsilon in enumerate(study.epsilons):
        changed = dv.attacked_images(study, pictures(), number)
        change = np.abs(changed.astype(np.float64) - x.permute(0, 2, 3, 1).numpy())
        assert change.max() <= epsilon and changed.min() >= 0 and changed.max() <= 1
        assert epsilon == 0 or change.max() > 0
        if edges == "threshold":
            assert not change[weights <= THRESHOLD].any()
        energy = (change**2).sum(3)
        share = (energy * (weights < THRESHOLD)).sum((1, 2)) / np.maximum(energy.sum((1, 2)), 1e-30)
        assert study.maps is not None and np.allclose(study.maps.flat_energy[number], share, atol=1e-5)
    assert study.maps is not None and (study.after[0] == study.before).all()
    assert np.array_equal(study.maps.after[0], study.maps.before) and (study.maps.similarity[0, :, :2] == 0).all()


def test_the_map_stays_while_the_class_changes(network: dv.Network) -> None:
    """Nearer to the map before than by PGD that ignores maps, on the same images."""
    study = attack(network, epsilons=[0.1])
    (means, _), (plain, _) = study.similarity(), study.similarity(True)
    assert study.success[0] >= 0.8 and means[0, 0, 1] < 0.7 * plain[0, 0, 1]
    both = attack(network, fools=["cam", "gradient"], epsilons=[0.1])
    assert (both.similarity()[0][0, :, 1] < both.similarity(True)[0][0, :, 1]).all()


@pytest.mark.parametrize("towards", ["away", "corner", "mirror"])
def test_the_class_stays_while_the_map_changes(network: dv.Network, towards: str) -> None:
    study = attack(network, goal="explanation", towards=towards, epsilons=[0.1])
    assert (study.after == study.before).all() and (study.success == 1).all()
    (means, _), (noise, _) = study.similarity(), study.similarity(True)
    assert means[0, 0, 1] > 1.5 * noise[0, 0, 1]
    assert "kept 100.0%" in repr(study) and "noise in brackets" in repr(study)
    assert "that after uniform noise, by at most 8/255" in maps_caption_of(study)


def test_what_is_kept_and_read_again(network: dv.Network, tmp_path: pathlib.Path) -> None:
    """The maps of the kept images, whatever the batches; the same from the file, and in the tables and the figure."""
    counters = ["bit-depth=3", "median=2"]
    more: dict[str, Any] = {"countermeasures": counters, "agreement": ["grad-cam", "gradient"], "edges": "weights"}
    more["epsilons"] = [0.02, 0.1]
    whole = attack(network, **more)
    study = attack(network, keep=2, out=tmp_path / "a.h5", commit_every=1, **more)
    again = AttackStudy.load(tmp_path / "a.h5")
    assert repr(again) == repr(study) and study.maps and whole.maps and again.maps and again.countered
    assert np.allclose(whole.maps.before[:, [0, 4]], study.maps.before, atol=2e-3)
    assert np.array_equal(again.maps.after, study.maps.after) and again.maps.similarity.shape == (2, 1, 4, 5)
    store = pictures()
    for number in range(2):
        changed = torch.from_numpy(dv.attacked_images(whole, store, number)).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(row)[:, None, None] for row in (PREPROCESS.mean, PREPROCESS.std))
        for place, text in enumerate(counters):
            found = network.scores((squeezed(changed, text) - mean) / std).argmax(1)
            assert whole.countered is not None and (whole.countered.after[number, place] == found.numpy()).all()
    study.save_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["l2:cam"]) == pytest.approx(study.similarity()[0][1, 0, 1], rel=1e-5)
    assert float(rows[0]["accuracy:median=2"]) == pytest.approx(study.accuracy_behind()[1][0, 1])
    assert len(dv.draw_attack(study).axes) == 2 * 7 + 2
    assert "more than 25.5/255" in maps_caption_of(study)
    assert "after PGD towards the same class, which ignores maps, by at most 8/255" in maps_caption_of(study)
    before = (tmp_path / "a.h5").read_bytes()
    for options, complaint in (({"edges": "none"}, "edges: weights"), ({"goal": "explanation"}, "goal: both")):
        with pytest.raises(MismatchError, match=complaint):
            attack(network, keep=2, out=tmp_path / "a.h5", **{**more, **options})
    assert (tmp_path / "a.h5").read_bytes() == before


def test_an_attack_that_was_interrupted_goes_on(
    network: dv.Network, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maps, and what is behind countermeasures, are those of one that was not."""
    about: dict[str, Any] = {"fools": ["cam"], "epsilons": [0.1], "countermeasures": ["median=2"], "commit_every": 1}
    straight, original, calls = attack(network, **about), AttackRun.attacked, []

    def stopping(self: Any, x: Any, first: int, study: AttackStudy) -> Any:
        calls.append(first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, x, first, study)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AttackRun, "attacked", stopping)
        attack(network, out=tmp_path / "a.h5", **about)
    assert AttackStudy.load(tmp_path / "a.h5").done == 4
    ended = attack(network, out=tmp_path / "a.h5", **about)
    for group in ("maps", "countered"):
        one, two = (arrays_of(getattr(each, group), group) for each in (straight, ended))
        assert one and all(np.array_equal(one[name], two[name]) for name in one)


def test_a_file_of_schema_1_is_read_and_continued(
    network: dv.Network, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file from before there were maps: of that schema, and without their arrays and settings."""
    about: dict[str, Any] = {"fools": [], "epsilons": [0.1], "commit_every": 1, "method_options": {"steps": 3}}
    straight, original = attack(network, **about), AttackRun.attacked

    def stopping(self: Any, x: Any, first: int, study: AttackStudy) -> Any:
        if first == 4:
            raise KeyboardInterrupt
        return original(self, x, first, study)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AttackRun, "attacked", stopping)
        attack(network, out=tmp_path / "new.h5", countermeasures=["median=2"], **about)
    file = Result.load(tmp_path / "new.h5", "attack", 2)
    arrays = {name: array for name, array in file.arrays.items() if "/" not in name}
    config = {name: value for name, value in file.config.items() if name != "countermeasures"}
    assert len(arrays) < len(file.arrays) and file.schema == 2
    Result("attack", 1, config, file.sources, arrays, file.state).save(tmp_path / "old.h5")
    old = AttackStudy.load(tmp_path / "old.h5")
    assert old.done == 4 and old.maps is None and old.countered is None and old.goal == "decision" and old.fools == ()
    ended = attack(network, out=tmp_path / "old.h5", **about)
    assert ended.complete and np.array_equal(ended.noise, straight.noise) and repr(ended) == repr(straight)
    assert Result.load(tmp_path / "old.h5", "attack", 2).schema == 2
    assert np.array_equal(AttackStudy.load(tmp_path / "old.h5").after, straight.after)


def test_maps_that_are_only_watched(network: dv.Network) -> None:
    """The goal "decision" is the plain attack, bit for bit."""
    plain = attack(network, fools=[], method_options={}, epsilons=[0.05])
    watched = attack(network, goal="decision", method_options={}, epsilons=[0.05])
    assert np.array_equal(plain.noise, watched.noise) and plain.maps is None and watched.maps is not None
    assert "goal" not in plain.config  # files of attacks without maps are as they were


def test_without_a_layer_the_last_with_rows_and_columns_is_read(
    network: dv.Network, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `cam` takes it: of the layers 0 to 6, the pooled maps of 4 are single numbers, and 3 is the rectifier."""
    default, named = (attack(network, layer=layer, agreement=["grad-cam", "gradient"]) for layer in (None, "3"))
    assert default.config == named.config and default.config["layer"] == "3"
    assert np.array_equal(default.noise, named.noise)
    assert attack(network, layer=None, fools=["gradient"]).config["layer"] is None

    def asked(**given: Any) -> AskedOfMaps:
        texts = dict.fromkeys(("fools", "layer", "explainer", "countermeasures", "agreement"))
        words = {"goal": "both", "edges": "none", "edge_stages": "first", "towards": "away"}
        return AskedOfMaps(**{**texts, **words, **given})

    assert asked(fools="cam").layer_in(network) == "3"
    assert "no layer is named; the maps are those at 3, the last with rows and columns" in capsys.readouterr().err
    assert asked(fools="gradient", agreement="rise,gradient").layer_in(network) is None
    assert asked(fools="cam", layer="1").layer_in(network) == "1"
    for methods, layers, noted in ((["grad-cam"], (), True), (["grad-cam"], ("1",), False), (["gradient"], (), False)):
        assert not capsys.readouterr().err
        MethodOptions(layers, (), ()).say_default_layer(methods, network)
        assert ("those at 3," in capsys.readouterr().err) == noted


def test_what_is_refused(network: dv.Network, tmp_path: pathlib.Path) -> None:
    found = int(network.scores(PREPROCESS.tensor(pictures()[0][0][None])).argmax())
    one = dv.InMemoryImages([pictures()[0][0]])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"explainer": "masking.pth"}, DataError, "which real-time-masking alone reads"),
        ({"layer": "6"}, CamError, "cam reads maps with rows and columns"),
        ({"fools": ["real-time-masking"]}, CamError, "has to be trained first"),
        ({"fools": ["cams"]}, DeconvvizError, "no interpreter named 'cams'; nearest: cam"),
        ({"fools": ["cam", "cam"]}, DataError, "name each once"),
        ({"edges": "x"}, DataError, "edges 'x' given; expected one of none, weights, threshold"),
        ({"edges": "weights", "fools": []}, DataError, "edges weights given without an explanation to fool"),
        ({"goal": "x"}, DataError, "goal 'x' given"),
        ({"towards": "x"}, DataError, "towards 'x' given"),
        ({"epsilons": [1.5]}, DataError, "epsilon 1.5 given"),
        ({"method": "fgsm"}, DataError, "fgsm fools no explanation; take pgd or cw or stadv"),
        ({"goal": "explanation", "target": 1}, DataError, "an attack on the explanation alone keeps the class"),
        ({"countermeasures": ["blur=3"]}, DataError, "countermeasure 'blur=3' given"),
        ({"agreement": ["grad-cam"]}, DataError, "name two methods or more"),
        ({"target": found, "images": one}, DeconvvizError, f"target class {found} given, which is the class of every"),
    ]
    for options, kind, complaint in cases:
        with pytest.raises(kind, match=complaint):
            attack(network, out=tmp_path / "a.h5", **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="joint_steps 0 given"):
        attack(network, method_options={"joint_steps": 0})


@pytest.mark.parametrize("seed", range(2))
def test_the_shortest_change_of_a_linear_network(seed: int) -> None:
    """Carlini and Wagner's attack comes near the distance to the plane, |margin| / |W_other - W_own|, from above."""
    model = linear(2, seed=seed).double()
    x = 0.3 + 0.4 * images(4, dtype=torch.float64)
    v = victims(model, x, 1.0)
    changed = ATTACKS["cw"](v, steps=150, searches=8, rate=0.003)
    weights = model[1].weight.detach() / torch.tensor((0.2, 0.3, 0.25)).repeat_interleave(SIDE * SIDE)
    scores = v.network.scores(x)
    shortest = (scores[:, 0] - scores[:, 1]).abs() / (weights[0] - weights[1]).norm()
    ratio = (changed - x).flatten(1).norm(dim=1) / shortest
    assert bool(v.fooled(changed).all()) and float(ratio.min()) >= 0.999 and float(ratio.max()) < 1.1


def test_moved_pixels(network: dv.Network) -> None:
    """A flow makes no colour that its neighbourhood does not have, and an image of one colour stays as it is."""
    x = images(4)
    x[0] = 0.3
    v = victims(small(), x, 1.0)
    changed = ATTACKS["stadv"](v, steps=20, rate=0.1, reach=1.0)
    assert torch.equal(changed[0], x[0])
    reached = nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert float((changed - reached).max()) <= 1e-3  # kept in float16


def test_squeezing_by_hand() -> None:
    x = torch.tensor([[[[0.0, 0.1, 0.2], [0.3, 0.4, 0.5], [0.6, 0.7, 1.0]]]])
    assert squeezed(x, "median=3")[0, 0, 1, 1] == 0.4
    assert float(squeezed(x, "median=3")[0, 0, 0, 0]) == pytest.approx(0.3)  # of 4 3 4 1 0 1 4 3 4 by mirroring
    assert torch.allclose(squeezed(x, "bit-depth=2") * 3, (x * 3).round())
    assert math.isclose(float(squeezed(x, "bit-depth=8")[0, 0, 0, 1]), 26 / 255, rel_tol=1e-6)


def test_how_alike_maps_are() -> None:
    """L1, L2 and the overlap of the strongest tenth by their definitions, with values that are equal."""
    rng = np.random.default_rng(0)
    maps, others = (rng.integers(0, 8, (4, 13, 12)) / 7 for _ in range(2))
    found = similarities(torch.from_numpy(maps), torch.from_numpy(others))
    for number, (one, two) in enumerate(zip(maps, others, strict=True)):
        first, second = ({*np.argsort(-each.ravel(), kind="stable")[:16].tolist()} for each in (one, two))
        change = np.abs(one - two)
        expected = change.mean(), (change**2).mean() ** 0.5, len(first & second) / len(first | second)
        assert np.allclose(found[:3, number], expected, rtol=1e-12)
    small = torch.from_numpy(maps[:, :3, :3])
    assert similarities(small, small)[:, 0].tolist() == [0, 0, 1, 0]  # SSIM needs more rows; of 9 pixels 1 counts


def test_methods_agree_by_scipy() -> None:
    """Rank correlations of maps over 28 x 28 cells, of which each is the mean of 2 x 2 pixels."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    preprocess = dv.Preprocess(resize=None, crop=56)
    network = dv.capture(nn.Sequential(*layers).eval(), (3, 56, 56))
    seen, x = PixelNetwork(network, PixelScale(preprocess)), images(2, 56)
    names, classes = ("grad-cam", "gradient", "guided"), torch.tensor([0, 2])
    agreement = Jury(seen, names, "1", 0).agreement(x, classes)
    maps = [
        dv.cam(name, network, "1" if name == "grad-cam" else ())(seen.scale.inputs(x), classes.tolist())
        for name in names
    ]
    cells = [each.double().numpy().reshape(2, 28, 2, 28, 2).mean((2, 4)).reshape(2, -1) for each in maps]
    for number in range(2):
        expected = [spearmanr(cells[a][number], cells[b][number]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
        assert np.allclose(agreement[number], expected, atol=1e-6)
