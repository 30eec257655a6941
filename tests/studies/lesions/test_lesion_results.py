"""What lesions give: their order, their file and its continuation, what is refused, and their figure."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from lesioned import chain, noise_images, operate
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CamError, CaptureError, DataError, LayerNotFound, MismatchError
from deconvviz.metrics.intervals import paired_interval
from deconvviz.studies.lesions import measure as lesions
from deconvviz.studies.lesions.command import caption_of
from deconvviz.studies.lesions.figure import draw_lesions
from deconvviz.studies.lesions.result import Lesions


def lesions_of(lost: list[int], gained: list[int], rise: list[float], layer: list[int], channel: list[int]) -> Lesions:
    config = {"layers": ["x", "y"], "by": "filter", "how": "zero"}
    places, channels, losses, gains = (np.array(a) for a in (layer, channel, lost, gained))
    squares = np.square(rise)
    return Lesions(
        config=config,
        sources={},
        layer=places,
        channel=channels,
        lost=losses,
        gained=gains,
        rise=np.array(rise),
        squares=squares,
        right=8,
        loss=5.0,
        images=10,
        total=10,
    )


def test_the_order_and_its_ties(tmp_path: pathlib.Path) -> None:
    """The larger drop first; then the larger rise of log-loss; then the layer named first; then the channel."""
    rises, layer, channel = [0.6, 0.0, 0.5, 0.7, 0.5, 0.5, 0.5], [1, 1, 0, 0, 0, 0, 1], [0, 1, 2, 3, 9, 4, 3]
    found = lesions_of([1, 3, 2, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0], rises, layer, channel)
    assert [found.name(i) for i in found.ranking] == ["y:1", "x:3", "y:0", "x:2", "x:4", "x:9", "y:3"]
    assert "Lesions of 7 filters (zero), 10 images, accuracy 80.0%" in repr(found)
    assert repr(found).splitlines()[1].startswith("  without y:1: drop 30.0 points [")
    found.save_csv(tmp_path / "l.csv")
    with (tmp_path / "l.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["layer"], row["channel"]) for row in rows[:2]] == [("1", "y", "1"), ("2", "x", "3")]
    row = {key: float(value) for key, value in rows[3].items() if key != "layer"}
    low, high = paired_interval(np.array(2), np.array(1), 10)
    assert (row["accuracy_intact"], row["accuracy"], row["drop"]) == pytest.approx((0.8, 0.7, 0.1))
    assert (row["drop_low"], row["drop_high"]) == pytest.approx((low, high), abs=1e-6)
    assert (row["lost"], row["gained"], row["images"]) == (2, 1, 10)
    assert (row["log_loss_intact"], row["log_loss"], row["log_loss_rise"]) == pytest.approx((0.5, 0.55, 0.05))
    assert row["log_loss_rise_95"] == pytest.approx(1.959964 * math.sqrt((0.25 - 0.025) / 9 / 10), abs=1e-6)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_interrupted_lesions_go_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Stopped after two of three chunks: the rest is done, the first chunks and the means are not done again."""
    network, out = dv.capture(chain(), (3, 12, 12)), tmp_path / "l.h5"
    straight = operate(network, noise_images(), ["1", "4"], how=how)
    added, original = 0, lesions._with_images

    def stopping(*arguments: Any) -> Lesions:
        nonlocal added
        added += 1
        if added == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lesions, "_with_images", stopping)
        operate(network, noise_images(), ["1", "4"], how=how, out=out)
    assert Lesions.load(out).images == 16 and "16 images of 21, unfinished" in repr(Lesions.load(out))
    images = noise_images()
    ended = operate(network, images, ["1", "4"], how=how, out=out, workers=1)
    assert len(images.read) == 5 and ended.complete
    for name in ("layer", "channel", "lost", "gained", "rise", "squares"):
        assert np.array_equal(getattr(ended, name), getattr(straight, name)), name
    assert (ended.right, ended.loss) == (straight.right, straight.loss)
    again, untouched = Lesions.load(out), noise_images()
    assert again.means.keys() == straight.means.keys() and np.array_equal(again.drop, straight.drop)
    assert operate(network, untouched, ["1", "4"], how=how, out=out).complete and not untouched.read


def test_other_lesions_in_the_file(tmp_path: pathlib.Path) -> None:
    network, out = dv.capture(chain(), (3, 12, 12)), tmp_path / "l.h5"
    operate(network, noise_images(), ["1"], out=out)
    other = chain()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1
    cases: list[tuple[dv.Network, Any, list[str], dict[str, Any], str]] = [
        (
            dv.capture(other, (3, 12, 12)),
            noise_images(),
            ["1"],
            {},
            "other weights of the same architecture, which --weights of a command names",
        ),
        (network, noise_images(23, seed=1), ["1"], {}, "the images"),
        (network, noise_images(), ["4"], {}, "layers"),
        (network, noise_images(), ["1"], {"how": "mean"}, "how: zero in the file, mean now"),
        (network, noise_images(), ["1"], {"by": "layer"}, "by: filter in the file"),
        (network, noise_images(), ["1"], {"count": 5}, "chosen: 21"),
        (network, noise_images(), ["1"], {"outputs": np.array([0, 1, 2, 3])}, "outputs: "),
        (network, noise_images(), ["1"], {"preprocess": dv.Preprocess(resize=12, crop=12)}, "preprocess"),
    ]
    for net, images, layers, options, complaint in cases:
        with pytest.raises(MismatchError, match=complaint):
            operate(net, images, layers, out=out, **options)


class Odd(nn.Module):
    """Has a value with five dimensions, and may return what are no classes."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.conv, self.pair = nn.Conv2d(3, 4, 1), pair

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        split = x.reshape(x.shape[0], 2, 2, 12, 12) * 2
        return x if self.pair else split.mean((3, 4)).flatten(1)


def test_what_cannot_be_operated_on() -> None:
    network, odd = dv.capture(chain(), (3, 12, 12)), dv.capture(Odd().double(), (3, 12, 12))
    maps, images = dv.capture(Odd(True).double(), (3, 12, 12)), noise_images()
    deep = next(name for name, layer in odd.layers.items() if len(layer.shape) == 4)
    cases: list[tuple[dv.Network, Any, dict[str, Any], type[Exception], str]] = [
        (network, "9", {}, LayerNotFound, "no layer '9'"),
        (odd, deep, {}, CamError, r"shape \[2, 2, 12, 12\], without channels"),
        (maps, "conv", {}, CaptureError, r"returns \[4, 12, 12\] for an image"),
        (network, "1", {"outputs": np.array([0, 1, 2])}, DataError, "is of class 3.*; outputs are given for 3 classes"),
        (network, "1", {"outputs": np.array([0, 1, 2, 6])}, DataError, "outputs 0 to 6 given; Sequential has 6"),
        (network, "1", {"by": "unit"}, DataError, "by 'unit' given; expected filter or layer"),
        (network, "1", {"how": "noise"}, DataError, "how 'noise' given; expected zero or mean"),
        (network, "1", {"precision": "fp8"}, DataError, "precision 'fp8' given"),
        (network, [], {}, DataError, "no layer given; expected at least 1"),
        (network, "1", {"batch_size": 0}, DataError, "batch size 0 given; expected at least 1"),
        (network, "1", {"count": 0}, DataError, "count 0 given; expected at least 1 image"),
        (network, "1", {"indices": [3, 11]}, DataError, "no image of known class given"),
        (network, "1", {"indices": [23]}, DataError, "image 23 given; expected 0 to 22"),
        (network, "1", {"preprocess": dv.Preprocess(16, 16)}, CaptureError, "Sequential takes"),
    ]
    for net, layers, options, kind, complaint in cases:
        with pytest.raises(kind, match=complaint):
            operate(net, images, layers, **options)
    assert not images.read


def test_the_caption_says_what_signs_and_places_of_dots_mean() -> None:
    gains, losses = (lesions_of([lost], [gained], [0.1], [0], [0]) for lost, gained in ((0, 2), (2, 0)))
    gains, losses = (dataclasses.replace(found, images=50, total=50) for found in (gains, losses))
    assert "A negative loss is a gain" in caption_of(gains, "photos.h5") and "gain" not in caption_of(losses, "p.h5")
    assert "a dot is a filter; how high it stands in its row means nothing" in caption_of(losses, "photos.h5")


def test_the_figure_of_lesions() -> None:
    """At most twenty by name, in the order of the ranking, with their intervals; and every one in its layer's row."""
    lost = list(range(23))
    found = lesions_of(lost, [0] * 23, [0.1] * 23, [n % 2 for n in lost], lost)
    found = dataclasses.replace(found, images=50, total=50)
    ranked, losses, spread = draw_lesions(found, "title", "caption").axes
    expected = [found.name(n) for n in range(22, 2, -1)]
    assert [text.get_text() for text in ranked.get_yticklabels()] == expected
    assert [bar.get_width() for bar in ranked.patches] == pytest.approx([2.0 * n for n in range(22, 2, -1)])  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in losses.patches] == pytest.approx([0.002] * 20)  # type: ignore[attr-defined]
    first = ranked.collections[0].get_segments()[0]  # type: ignore[attr-defined]
    assert first[:, 0] == pytest.approx(100 * found.interval[22])
    clouds = [sorted(np.asarray(line.get_xdata())) for line in spread.lines if line.get_marker() == "o"]
    assert clouds == [pytest.approx([2.0 * n for n in lost if n % 2 == layer]) for layer in (0, 1)]
    assert [text.get_text() for text in spread.get_yticklabels()] == ["x", "y"]
    assert ranked.get_title() == "the first 20 filters by loss of accuracy"  # which may be negative
    assert spread.get_title().startswith("all 23 filters; ")
    assert max(len(axes.get_xticks()) for axes in (ranked, losses, spread)) <= 6  # small numbers are long
    assert "95 %" in ranked.get_xlabel() and "nats" in losses.get_xlabel() and "accuracy" in spread.get_xlabel()


def test_one_image_has_no_interval(tmp_path: pathlib.Path) -> None:
    one = dataclasses.replace(lesions_of([1, 0], [0, 0], [0.6, 0.1], [0, 1], [3, 0]), images=1, total=1)
    assert one.loss_rise.tolist() == [0.6, 0.1] and np.isnan(one.loss_rise_error).all()
    one.save_csv(tmp_path / "one.csv")
    with (tmp_path / "one.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["log_loss_rise"] == "0.6" and row["log_loss_rise_95"] == ""
    assert draw_lesions(one, "Lesions", "one image").axes


class Divided(nn.Module):
    """Divides maps by their sum."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.sum((1, 2, 3), keepdim=True)


def test_a_network_that_divides_by_what_is_silenced_is_refused(tmp_path: pathlib.Path) -> None:
    """The sums would be NaN, and the file could not be read again."""
    model = nn.Sequential(nn.Softplus(), Divided(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6)).eval()
    network, images = dv.capture(model, (3, 12, 12)), noise_images()
    with pytest.raises(DataError, match=r"without 0 the log-loss is NaN or infinite: .*--how mean"):
        operate(network, images, ["0"], by="layer", out=tmp_path / "l.h5")
    assert Lesions.load(tmp_path / "l.h5").images == 0
    assert operate(network, images, ["0"], by="layer", how="mean").complete
