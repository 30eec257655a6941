"""Lengths that nobody gives: the published ones at 224 px, their share at other sizes, and what is written of them."""

from __future__ import annotations

import csv
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import deconvviz as dv
from deconvviz import metrics
from deconvviz.cam.explain import cam, constant_maps_allowed
from deconvviz.cam.methods.scales import BLUR as SESS_BLUR
from deconvviz.cam.occluder import filling
from deconvviz.cam.registry import METHODS
from deconvviz.cam.shaping import gaussian_blur as reflected_blur
from deconvviz.cli.inputs import with_input
from deconvviz.cli.main import cli
from deconvviz.data.transforms import default_steps
from deconvviz.errors import MismatchError
from deconvviz.lengths import STRONG_BLUR, BlurWindow, Length
from deconvviz.metrics.curves import INSERTION_BLUR
from deconvviz.studies.evaluation.measure import evaluate
from deconvviz.studies.occlusion.measure import occlude
from deconvviz.studies.occlusion.options import OcclusionOptions


def classifier(side: int) -> dv.Network:
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return dv.capture(nn.Sequential(maps, head).eval(), (3, side, side))


def images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_at_224_pixels_they_are_the_published_ones() -> None:
    published: dict[str, dict[str, Any]] = {
        "occlusion": {"square": 32, "stride": 16},
        "group-cam": {"blur": (51, 50.0)},
        "mask": {"blur": (11, 10.0)},
        "extremal-perturbation": {"step": 7, "sigma": 21, "blur": 20},
        "sess": {"step": 64},
    }
    for name, method in METHODS.items():
        assert method.lengths_of((224, 224), {}) == published.get(name, {})
    for blur, numbers in ((INSERTION_BLUR, (11, 5.0)), (STRONG_BLUR, (51, 50.0))):
        assert blur.of(224, 224) == blur.of(227, 227) == numbers
    assert SESS_BLUR.of(224, 224) == (11, 5.0)
    assert [OcclusionOptions().pair(name, (224, 224)) for name in ("square", "stride")] == [(32, 32), (16, 16)]
    assert [OcclusionOptions().pair(name, (227, 227)) for name in ("square", "stride")] == [(32, 32), (16, 16)]
    assert default_steps("translate-x", 224, 224).tolist() == list(range(-60, 61, 5))


@pytest.mark.parametrize("side", [1, 2, 7, 16, 32, 48, 64, 96, 299, 512])
def test_they_are_shares_of_the_shorter_side(side: int) -> None:
    for pixels in (5, 15, 16, 32, 64):
        assert abs(Length(pixels).of(side, 600) - max(1, pixels * side / 224)) <= 0.5
        assert Length(pixels).exactly(600, side) == pytest.approx(pixels * side / 224)
    for blur in (BlurWindow(11, 5.0), BlurWindow(51, 50.0), BlurWindow(55, 11.0)):
        window, sigma = blur.of(side, 600)
        assert window % 2 == 1 and abs(window - max(3, blur.window * side / 224)) <= 1
        assert sigma / window == pytest.approx(blur.sigma / blur.window)


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 224])
def test_the_methods_take_them(side: int) -> None:
    """Without the options a method gives the map of the options' values, and another map than with other values."""
    network, x = classifier(side), images(2, side)
    square, stride, step = {32: (5, 2, 9), 224: (32, 16, 64)}[side]
    blur = {32: (7, 50 / 51 * 7), 224: (51, 50.0)}[side]
    cases: list[tuple[str, str | None, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ("occlusion", None, {}, {"square": square, "stride": stride}, {"square": 2 * square}),
        ("group-cam", "0", {"groups": 3}, {"blur": blur}, {"blur": (3, 1.0)}),
        ("sess", "0", {"scales": 2}, {"step": step}, {"step": step // 2}),
    ]
    for name, layer, common, equal, other in cases:
        with constant_maps_allowed():
            default, same, different = (
                cam(name, network, layer, **common, **options)(x, 1, raw=True) for options in ({}, equal, other)
            )
        assert torch.equal(default, same) and not torch.equal(default, different), name


def test_what_blurs_the_image() -> None:
    from deconvviz.cam.captured import Captured
    from deconvviz.cam.engine import View
    from deconvviz.cam.options import ExplainOptions

    network = classifier(32)
    view = View(Captured(network), Captured(network), images(1, 32), None, None, ExplainOptions())
    assert torch.equal(torch.as_tensor(filling(view, "blur")), reflected_blur(view.x, 7, 50 / 51 * 7))
    assert torch.equal(metrics.gaussian_blur(images(2, 224)), metrics.gaussian_blur(images(2, 224), 11, 5.0))
    assert torch.equal(metrics.gaussian_blur(images(2, 64)), metrics.gaussian_blur(images(2, 64), 3, 15 / 11))
    assert torch.equal(metrics.gaussian_blur(images(2, 112)), metrics.gaussian_blur(images(2, 112), 5, 25 / 11))


def test_the_curves_have_a_step_for_each_row() -> None:
    def scores(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)).sigmoid()[:, None]

    x = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(0))  # 140 pixels: 224 steps were refused
    for measure in (metrics.deletion, metrics.insertion):
        curve = measure(scores, x, x[:, 0], torch.tensor([0]))
        assert len(curve.fractions) == 11
        assert torch.equal(curve.probabilities, measure(scores, x, x[:, 0], torch.tensor([0]), 10).probabilities)


@pytest.mark.parametrize(("side", "hit"), [(224, 14), (32, 2), (448, 29)])
def test_the_tolerance_of_the_pointing_game(side: int, hit: int) -> None:
    maps, mask = torch.zeros(1, side, side + 9), np.zeros((1, side, side + 9), bool)
    maps[0, 0, 0] = 1
    for distance, found in ((hit, 1.0), (hit + 1, 0.0)):
        mask[:] = False
        mask[0, 0, distance] = True
        assert metrics.pointing_game(maps, mask).tolist() == [found]


def test_occlude_covers_a_part_of_a_small_image() -> None:
    network, pre = classifier(32), dv.Preprocess(resize=32, crop=32)
    pictures = pre.picture(dv.Scenes(1)[0][0])[None]
    (found,) = occlude(network, pictures, preprocess=pre, progress=False)
    assert found.config["square"] == [5, 5] and found.config["stride"] == [2, 2]
    assert len(found.windows) == 15**2  # from 0 to 26 by 2, and the last at 27
    (coarse,) = occlude(network, pictures, preprocess=pre, square=16, stride=16, progress=False)
    assert len(coarse.windows) == 4 and coarse.config["square"] == [16, 16]


@pytest.mark.slow
def test_an_evaluation_notes_what_is_not_that_of_224_pixels(tmp_path: pathlib.Path) -> None:
    def config(side: int, out: pathlib.Path | None = None, **options: Any) -> dict[str, Any]:
        pre = dv.Preprocess(resize=side, crop=side)
        methods = {"occlusion": options, "group-cam": {"groups": 2}}
        how: dict[str, Any] = {"metrics": ["curves"], "steps": 2, "progress": False}
        return evaluate(classifier(side), dv.Scenes(1), methods, ["0"], out, preprocess=pre, **how).config

    large, small = config(224), config(32, tmp_path / "e.h5")
    assert large["methods"] == {"occlusion": {}, "group-cam": {"groups": 2}} and "insertion_blur" not in large
    assert small["methods"]["occlusion"] == {"square": 5, "stride": 2} and small["insertion_blur"] == [3, 15 / 11]
    assert list(small["methods"]["group-cam"]["blur"]) == pytest.approx([7, 50 / 51 * 7])
    assert config(32, square=16)["methods"]["occlusion"] == {"square": 16, "stride": 2}
    config(32, tmp_path / "e.h5")  # it resumes
    with pytest.raises(MismatchError, match="methods"):
        config(32, tmp_path / "e.h5", stride=4)


def test_the_input_keeps_its_share_of_the_image() -> None:
    pre = dv.Preprocess(resize=256, crop=224)
    assert with_input(pre, 32, None) == dv.Preprocess(resize=37, crop=32)
    assert with_input(pre, 448, None) == dv.Preprocess(resize=512, crop=448)
    assert with_input(pre, 224, None) == with_input(pre, None, None) == pre
    assert with_input(pre, 32, 40) == dv.Preprocess(resize=40, crop=32)
    assert with_input(pre, None, 300) == dv.Preprocess(resize=300, crop=224)
    assert with_input(dv.Preprocess(resize=256, crop=None), 32, None) == dv.Preprocess(resize=32, crop=32)
    assert with_input(dv.Preprocess(resize=None, crop=64), 32, None) == dv.Preprocess(resize=None, crop=32)
    assert with_input(dv.Preprocess(resize=96, crop=(64, 80)), 32, None) == dv.Preprocess(resize=48, crop=32)


@pytest.mark.slow
def test_the_commands_say_them(tmp_path: pathlib.Path) -> None:
    Image.fromarray(dv.Scenes(1)[0][0]).save(tmp_path / "a.png")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    shared = ("demo", tmp_path / "a.png", "--device", "cpu", "--quiet")
    run("occlude", *shared, "-o", tmp_path / "o.svg")
    with (tmp_path / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["bottom"], rows[0]["right"], rows[1]["left"], len(rows)) == ("9", "9", "5", 144)
    assert "A square of 9 pixels" in (tmp_path / "o.svg").read_text()
    run("cam", "occlusion,group-cam", *shared, "-l", "relu5", "--option", "stride=4", "-o", tmp_path / "c.svg")
    assert "In pixels: occlusion: square 9, stride 4; group-cam: blur 15 and 14.7." in (tmp_path / "c.svg").read_text()
    assert "square=32 px of 224, stride=16 px of 224" in run("cam", "--list")
    assert "1/7 of the image's shorter side, 32 px of 224" in " ".join(run("occlude", "--help").split())
