"""Occlusion: its windows, captum's map, every panel against a loop, and a network that reads one block of pixels."""

from __future__ import annotations

import copy
import csv
import pathlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import Occlusion
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.explain import cam
from deconvviz.cam.occluder import Occluder
from deconvviz.cam.window_grid import WindowGrid, starts
from deconvviz.cli.main import cli
from deconvviz.data.pack import pack
from deconvviz.deconv.choice import rule_on
from deconvviz.errors import CaptureError, DataError, LayerNotFound, MismatchError, TargetError
from deconvviz.graph.choose import last_maps
from deconvviz.studies.mining.panels import layer_panels
from deconvviz.studies.occlusion.command import MinedChoice, _projections_elsewhere
from deconvviz.studies.occlusion.measure import occlude

PRE = dv.Preprocess(resize=None, crop=(24, 32))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 7, 3, stride=2, padding=1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))

    def features(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()).relu()


@pytest.fixture(scope="module")
def plain() -> tuple[Plain, dv.Network, np.ndarray[Any, Any]]:
    torch.manual_seed(3)
    model = Plain().eval()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    return model, dv.capture(model, (3, 24, 32)), pictures


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 40), st.integers(1, 12), st.integers(1, 12), st.sampled_from(["flush", "beyond"]))
def test_windows_along_a_line(room: int, side: int, step: int, border: str) -> None:
    side, step = min(side, room), min(step, side)
    found = starts(room, side, step, border)
    covered = np.zeros(room, int)
    for first in found:
        covered[max(first, 0) : first + side] += 1
    assert covered.min() >= 1 and found == sorted(set(found))
    if border == "flush":
        assert found[0] == 0 and found[-1] == room - side
        assert all(b - a == step for a, b in pairwise(found[:-1]))
    elif side % step == 0:
        assert (covered == side // step).all()  # every pixel as often as any other


def test_values_are_averaged_over_the_windows_of_a_pixel() -> None:
    occluder = Occluder((9, 7), (4, 3), (2, 3), "beyond")
    values = torch.randn(2, len(occluder), dtype=torch.float64)
    total, count = np.zeros((2, 9, 7)), np.zeros((9, 7))
    for n, (top, left) in enumerate(occluder.places.tolist()):
        here = np.s_[max(top, 0) : top + 4, max(left, 0) : left + 3]
        count[here] += 1
        for image in range(2):
            total[image][here] += float(values[image, n])
        assert np.array_equal(
            np.argwhere(occluder.covers(torch.tensor([n]), values)[0].numpy()).min(0), (max(top, 0), max(left, 0))
        )
    assert np.allclose(occluder.averaged(values).numpy(), total / count)
    windows = WindowGrid((9, 7), (4, 3), (2, 3), "beyond")  # the same windows without torch
    assert windows.places.tolist() == occluder.places.tolist() and len(windows) == len(occluder)
    assert np.allclose(windows.mean_by_pixel(values[1].numpy()), (total / count)[1])
    for n, (top, left, bottom, right) in enumerate(windows.boxes.tolist()):
        cover = np.zeros((9, 7), bool)
        cover[max(top, 0) : bottom, max(left, 0) : right] = True
        assert np.array_equal(windows.covered(n), cover) and (bottom - top, right - left) == (4, 3)
    sparse = Occluder((8, 8), (2, 2), (4, 4))  # what no window covers is zero, not NaN
    assert float(sparse.averaged(torch.ones(1, len(sparse)))[0, 2, 2]) == 0


@pytest.mark.peers
def test_captum(plain: tuple[Plain, dv.Network, np.ndarray[Any, Any]]) -> None:
    """Same windows and baseline: the same map, to 1e-5, on a small network and on ResNet-18."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None).eval()
    for model, size, square, stride in ((plain[0], (24, 32), 8, 4), (resnet, (64, 64), 16, 8)):
        network, x = dv.capture(model, (3, *size)), torch.randn(2, 3, *size)
        found = cam("occlusion", network, square=square, stride=stride, fill=0.3)(x, [1, 4], raw=True)
        peer = Occlusion(lambda given, m=model: m(given).softmax(1))
        theirs = peer.attribute(
            x, (3, square, square), (3, stride, stride), baselines=0.3, target=[1, 4], perturbations_per_eval=8
        )
        assert (found - theirs[:, 0]).abs().max() <= 1e-5 * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("fill", ["grey", "mean", "black", "blur", "noise"])
def test_every_panel_against_a_loop(plain: tuple[Plain, dv.Network, np.ndarray[Any, Any]], fill: str) -> None:
    model, network, pictures = plain
    found = occlude(
        network,
        pictures,
        "relu_1",
        preprocess=PRE,
        targets=[2, 4],
        square=(8, 6),
        stride=(5, 4),
        fill=fill,
        rule="deconvnet",
        batch_size=7,
        progress=False,
        names=["a", "b"],
    )
    mean, std = (torch.tensor(one)[:, None, None] for one in (PRE.mean, PRE.std))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((3, 24, 32), generator=generator)
    for n, one in enumerate(found):
        x = (torch.from_numpy(pictures[n]).permute(2, 0, 1) / 255 - mean) / std
        with torch.no_grad():
            maps = model.features(x[None])[0]
            channel = int(maps.amax((1, 2)).argmax())
            whole = model(x[None]).softmax(1)[0]
        assert one.channel == channel and one.target == (2, 4)[n] and one.name == "ab"[n]
        assert one.whole.probability == pytest.approx(float(whole[one.target]), abs=1e-5)
        assert one.whole.activation == pytest.approx(float(maps[channel].sum()), rel=1e-4)
        flat = {"grey": (0.5 - mean) / std, "mean": mean * 0, "black": -mean / std, "noise": noise}
        places = [(top, left) for top in (0, 5, 10, 15, 16) for left in (0, 4, 8, 12, 16, 20, 24, 26)]
        assert one.windows.places.tolist() == [list(place) for place in places]
        for w, (top, left) in enumerate(places):
            hidden = x.clone()
            if fill == "blur":
                from deconvviz.cam.shaping import gaussian_blur

                flat["blur"] = gaussian_blur(x[None], 5, 50 / 51 * 5)[0]  # 51 of 224 px are 5.5 of 24
            here = np.s_[:, top : top + 8, left : left + 6]
            hidden[here] = flat[fill].expand(3, 24, 32)[here]
            with torch.no_grad():
                shares, under = model(hidden[None]).softmax(1)[0], model.features(hidden[None])[0]
            assert one.probability[w] == pytest.approx(float(shares[one.target]), abs=1e-5)
            assert one.activation[w] == pytest.approx(float(under[channel].sum()), rel=1e-4)
            assert one.top_class[w] == int(shares.argmax())
            assert one.top_probability[w] == pytest.approx(float(shares.max()), abs=1e-5)
        expected = dv.project(network, x[None], "relu_1", channel=channel).full().permute(1, 2, 0)
        assert np.allclose(one.projection, expected.numpy(), atol=1e-6)
        # the middle place: rows 10-17, columns 16-21
        cover = np.abs(one.occluded_picture.astype(int) - pictures[n]).max(2) > 1
        assert cover.any() and not cover[:10].any() and not cover[18:].any()
        assert not cover[:, :16].any() and not cover[:, 22:].any()


def test_the_rule_is_chosen_on_each_image(plain: tuple[Plain, dv.Network, np.ndarray[Any, Any]]) -> None:
    _, network, pictures = plain
    how: dict[str, Any] = {"preprocess": PRE, "square": 12, "stride": 12, "progress": False}
    chosen = set()
    for n, one in enumerate(occlude(network, pictures, "relu_1", **how)):
        x = PRE(pictures[n])[None]
        choice = rule_on(network, x, "relu_1", PRE.bounds())
        assert (one.config["rule"], one.config["why"]) == (choice.rule, choice.words())
        projection = dv.project(network, x, "relu_1", one.channel, rule=choice.rule, bounds=PRE.bounds())
        assert np.allclose(one.projection, projection.full().permute(1, 2, 0).numpy(), atol=1e-6)
        chosen.add(choice.rule)
    assert chosen and "deconvnet" not in chosen  # no pooling: it has no switches
    for rule in ("deconvnet", "lrp-composite"):
        (one,) = occlude(network, pictures[:1], "relu_1", rule=rule, **how)
        assert (one.config["rule"], one.config["why"]) == (rule, "")
        x = PRE(pictures[0])[None]
        projection = dv.project(network, x, "relu_1", one.channel, rule=rule, bounds=PRE.bounds())
        assert np.allclose(one.projection, projection.full().permute(1, 2, 0).numpy(), atol=1e-6)


def test_the_method_is_the_same_code(plain: tuple[Plain, dv.Network, np.ndarray[Any, Any]]) -> None:
    _, network, pictures = plain
    one = occlude(
        network,
        pictures[:1],
        preprocess=PRE,
        targets=[3],
        square=8,
        stride=4,
        fill="mean",
        border="beyond",
        progress=False,
    )[0]
    x = PRE(pictures[0])[None]
    map_ = cam("occlusion", network, square=8, stride=4, border="beyond")(x, 3, raw=True)[0]
    assert np.allclose(one.drop(), map_.numpy(), atol=1e-5) and one.drop().shape == (24, 32)
    assert one.grid(one.probability).shape == (7, 9) and one.windows.places[0].tolist() == [-4, -4]
    assert "63 windows" in repr(one)
    assert "&lt;b&gt;: 63 windows" in replace(one, name="<b>")._repr_html_()
    half = occlude(network, pictures[:1], preprocess=PRE, precision="bf16", progress=False, square=8)[0]
    exact = occlude(network, pictures[:1], preprocess=PRE, progress=False, square=8, channel=2)[0]
    assert 1e-6 < np.abs(half.probability - exact.probability).max() < 0.02 and exact.channel == 2
    noisy = cam("occlusion", network, square=8, stride=8, fill="noise")
    two = torch.stack([PRE(picture) for picture in pictures])
    assert torch.allclose(noisy(two, 1, raw=True)[1], noisy(two[1:], 1, raw=True)[0], atol=1e-6)


def test_float64_stays_float64(plain: tuple[Plain, dv.Network, np.ndarray[Any, Any]]) -> None:
    """To 1e-12, and not to float32's 1e-7, as a loop in float64."""
    model, _, pictures = plain
    exact = copy.deepcopy(model).double()
    network = dv.capture(exact, (3, 24, 32))
    (one,) = occlude(
        network, pictures[:1], "relu_1", preprocess=PRE, targets=[2], square=8, fill="mean", progress=False
    )
    x = PRE.tensor(pictures[:1], dtype=torch.float64)
    with torch.no_grad():
        assert one.whole.probability == pytest.approx(float(exact(x).softmax(1)[0, 2]), abs=1e-12)
        for w, (top, left, bottom, right) in enumerate(one.windows.boxes.tolist()):
            hidden = x.clone()
            hidden[..., top:bottom, left:right] = 0
            assert one.probability[w] == pytest.approx(float(exact(hidden).softmax(1)[0, 2]), abs=1e-12)
            activation = float(exact.features(hidden)[0, one.channel].sum())
            assert one.activation[w] == pytest.approx(activation, rel=1e-12)


@pytest.mark.slow
def test_which_map_is_the_strongest(plain: tuple[Plain, dv.Network, np.ndarray[Any, Any]]) -> None:
    """By its maximum or by its sum: pictures with one bright spot tell the two apart."""
    model, network, _ = plain
    told_apart = 0
    for seed in range(8):
        picture = np.random.default_rng(seed).integers(100, 140, (1, 24, 32, 3), np.uint8)
        picture[0, 10:13, 10:13] = np.random.default_rng(seed).choice([0, 255], 3)
        with torch.no_grad():
            maps = model.features(PRE(picture[0])[None])[0]
        by = {"max": int(maps.amax((1, 2)).argmax()), "sum": int(maps.sum((1, 2)).argmax())}
        told_apart += by["max"] != by["sum"]
        for strongest, channel in by.items():
            (one,) = occlude(network, picture, preprocess=PRE, square=24, strongest=strongest, progress=False)
            assert one.channel == channel
    assert told_apart


class Reader(nn.Module):
    """It reads rows 8 to 11 and columns 16 to 19, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4, stride=4, bias=False)
        nn.init.constant_(self.conv.weight, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        block = self.conv(x)[:, :, 2, 4]
        return torch.cat([block, -block], 1)


def test_a_known_block_lights_up_and_nothing_else() -> None:
    network = dv.capture(Reader().eval(), (3, 24, 32))
    bright = np.full((1, 24, 32, 3), 255, np.uint8)
    one = occlude(network, bright, "conv", preprocess=PRE, square=4, stride=4, fill="black", progress=False)[0]
    fallen = one.grid(one.whole.probability - one.probability)
    assert np.argwhere(np.abs(fallen) > 1e-6).tolist() == [[2, 4]] and fallen[2, 4] > 0.1
    lit = np.abs(one.drop()) > 1e-6
    assert lit.sum() == 16 and lit[8:12, 16:20].all()
    assert np.argwhere(one.grid(one.activation) < one.whole.activation - 1e-3).shape == (48, 2)  # the sum sees all


@pytest.mark.slow
def test_the_layer_taken_by_default() -> None:
    for name, layer in (("squeezenet1_0", "features.12"), ("resnet18", "layer4.1"), ("vgg11", "features.19")):
        network = dv.capture(torchvision.models.get_model(name, weights=None).eval(), (3, 96, 96))
        assert last_maps(network) == layer, name
    late = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 6), nn.ReLU(), nn.Conv2d(5, 2, 1), nn.Flatten())
    assert last_maps(dv.capture(late.eval(), (3, 8, 8))) == "1"  # what follows has one position only
    with pytest.raises(LayerNotFound, match="name one"):
        last_maps(dv.capture(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval(), (3, 2, 2)))


def test_what_bad_input_gets(plain: tuple[Plain, dv.Network, np.ndarray[Any, Any]]) -> None:
    _, network, pictures = plain
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"square": 40}, DataError, "an occluder of 40 x 40 given for images of 24 x 32; take a smaller one"),
        ({"square": 0}, DataError, "expected 1 pixel or more"),
        ({"fill": "red"}, DataError, "'red' given; expected one of grey"),
        ({"rule": "best"}, DataError, "'best' given; expected one of auto, deconvnet"),
        ({"border": "soft"}, DataError, "'soft' given; expected flush or beyond"),
        ({"channel": 9}, DataError, "expected 0 to 6"),
        ({"layer": "relu_9"}, LayerNotFound, "no layer 'relu_9'"),
    ]
    for options, kind, complaint in wrong:
        with pytest.raises(kind, match=complaint):
            occlude(network, pictures, preprocess=PRE, progress=False, **{"square": 8, **options})
    with pytest.raises(MismatchError, match=r"expected \(24, 32\)"):
        occlude(network, pictures[:, :20], preprocess=PRE, progress=False)
    with pytest.raises(TargetError, match="1 target given for 2 images; expected one for each"):
        occlude(network, pictures, preprocess=PRE, targets=[1], progress=False)
    with pytest.raises(CaptureError, match=r"\(3, 16, 16\); Plain takes \(3, 24, 32\)"):
        occlude(network, pictures, preprocess=dv.Preprocess(resize=None, crop=16), progress=False)
    with pytest.raises(DataError, match="a number, blur or noise"):
        cam("occlusion", network, fill="grey")(torch.zeros(1, 3, 24, 32), 1)


@pytest.mark.slow
def test_the_command_on_one_image(tmp_path: pathlib.Path) -> None:
    Image.fromarray(dv.Scenes(1, seed=5)[0][0]).save(tmp_path / "a.png")
    given = [
        "occlude",
        "demo",
        tmp_path / "a.png",
        "-l",
        "relu3",
        "--rule",
        "deconvnet",
        "--square",
        16,
        "--stride",
        24,
    ]
    result = CliRunner().invoke(
        cli, [*map(str, given), "--quiet", "-o", str(tmp_path / "o.png")], catch_exceptions=False
    )
    assert result.exit_code == 0 and "9 windows" in result.output and (tmp_path / "o.png").exists()
    with (tmp_path / "o.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path) -> None:
    pack(dv.Scenes(12, seed=5), tmp_path / "s.h5", progress=False)
    store, loaded = dv.ImageStore.open(tmp_path / "s.h5"), dv.load_model("demo")
    pre = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, (3, 64, 64))
    dv.mine(network, store, ["relu5"], 5, tmp_path / "m.h5", preprocess=pre, progress=False)
    Image.fromarray(store[0][0]).save(tmp_path / "a.png")

    def run(*arguments: object) -> str:
        asked = ["occlude", "demo", *map(str, arguments), "--device", "cpu", "--quiet", "--square", "16x24"]
        result = CliRunner().invoke(cli, [*asked, "--stride", "16"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    told = run(
        tmp_path / "s.h5",
        "--images",
        "3,1",
        "-l",
        "relu5",
        "--mined",
        tmp_path / "m.h5",
        "--mined-images",
        tmp_path / "s.h5",
        "-o",
        tmp_path / "o.png",
    )
    assert "16 windows" in told
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 and rows[0]["bottom"] == "16" and rows[0]["right"] == "24"
    assert rows[0]["image"] == pathlib.PurePath(store.names[3]).name and rows[0]["top_class"] in store.classes
    found = occlude(
        network,
        np.stack([pre.picture(store[3][0])]),
        "relu5",
        preprocess=pre,
        targets=[store[3][1]],
        square=(16, 24),
        stride=16,
        progress=False,
        names=[pathlib.PurePath(store.names[3]).name],
    )[0]
    assert float(rows[5]["probability"]) == pytest.approx(found.probability[5], abs=1e-5)
    with Image.open(tmp_path / "o.png") as figure:
        assert figure.width > 1500 and figure.height > 700
        text = figure.info["Description"]
        assert f"{found.name}: {found.config['why']}" in text and text.count("chosen by what the strongest") == 2
    for more, words in (([], f"The rule is {found.config['why']}"), (["--rule", "guided"], "The rule is guided.")):
        run(tmp_path / "s.h5", "--images", "3", "-l", "relu5", "-o", tmp_path / "one.png", *more)
        with Image.open(tmp_path / "one.png") as figure:
            assert words in figure.info["Description"]
    how: dict[str, Any] = {"rule": found.config["rule"], "crop": "energy", "progress": False}
    panels = layer_panels(dv.load_mined(tmp_path / "m.h5"), store, network, "relu5", [found.channel], **how)
    panel = panels.panels[0]
    one = replace(found, name=pathlib.PurePath(panel.images[1]).name)  # its own projection is not among the others
    mined = MinedChoice(mined=str(tmp_path / "m.h5"), mined_images=str(tmp_path / "s.h5"))
    others = _projections_elsewhere(one, network, mined)
    assert len(others) == 3 and all(
        np.array_equal(o, panel.projections[n]) for o, n in zip(others, (0, 2, 3), strict=True)
    )
    run(tmp_path / "a.png", "-t", "owl", "-o", tmp_path / "one.svg")
    with pytest.raises(DataError, match="expected 0 to 11"):
        run(tmp_path / "s.h5", "--images", "12", "-o", tmp_path / "x.png")
    with pytest.raises(DataError, match="picture files are all taken"):
        run(tmp_path / "a.png", "--images", "0", "-o", tmp_path / "x.png")
    other = dv.capture(dv.load_model("demo", "none").model, (3, 64, 64))
    dv.mine(other, store, ["relu5"], 5, tmp_path / "other.h5", preprocess=pre, progress=False)
    with pytest.raises(MismatchError, match="other weights of the same architecture"):
        run(tmp_path / "s.h5", "--mined", tmp_path / "other.h5", "-o", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists() and not (tmp_path / "x.csv").exists()
