"""The fidelity of rules on layers: against masks laid by hand, what is chosen, the table, and wrong input."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.deconv.choice import choose_rule, has_switches, strongest_units
from deconvviz.errors import DataError, DeconvvizError, ProjectionError
from deconvviz.figures.sheet import Sheet
from deconvviz.graph.network import Network
from deconvviz.studies.mining.fidelity import fidelity_of_layers
from deconvviz.studies.mining.fidelity_result import COLUMNS, LayerFidelity

SIDE = 32
PREPROCESS = dv.Preprocess(resize=None, crop=SIDE)


def net(*layers: nn.Module) -> Network:
    torch.manual_seed(3)
    for layer in layers:  # they were made before the seed was set
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    model = nn.Sequential(*layers).double().eval()
    return dv.capture(model, (3, SIDE, SIDE))


@pytest.fixture(scope="module")
def images() -> dv.InMemoryImages:
    smooth = gaussian_filter(np.random.default_rng(1).random((12, SIDE, SIDE, 3)), (0, 2, 2, 0))
    return dv.InMemoryImages((255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8))


@pytest.fixture(scope="module")
def pooled() -> Network:
    return net(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.ReLU())


def by_hand(network: Network, images: dv.InMemoryImages, layer: str, channel: int, share: float, keep: bool) -> float:
    """Mask the whole image for the strongest unit of a channel: rank the gradient's blurred energy, fill with zero."""
    pixels = np.stack([images[n][0] for n in range(len(images))])
    x = PREPROCESS.tensor(pixels, torch.device("cpu"), torch.float64)
    maps = network.activations(x, [layer])[layer][:, channel]
    image, row, column = np.unravel_index(int(maps.argmax()), maps.shape)
    picture = x[image : image + 1].clone().requires_grad_(True)
    value = network.activations(picture, [layer])[layer][0, channel, row, column]
    (gradient,) = torch.autograd.grad(value, picture)
    field = network.layer(layer).receptive_field
    top, left = (o + int(a) * s for o, a, s in zip(field.offset, (row, column), field.stride, strict=True))
    seen = np.zeros((SIDE, SIDE), bool)
    seen[max(top, 0) : top + field.size[0], max(left, 0) : left + field.size[1]] = True
    energy = gaussian_filter((gradient[0] ** 2).sum(0).numpy() * seen, 4 / 6, mode="constant")  # stride 4
    energy[~seen] = -np.inf
    order = np.argsort(-energy.ravel(), kind="stable")[: max(1, round(share / 100 * seen.sum()))]
    strongest = np.zeros(SIDE * SIDE, bool)
    strongest[order] = True
    shown = strongest.reshape(SIDE, SIDE) if keep else seen & ~strongest.reshape(SIDE, SIDE)
    changed = network.activations(picture.detach() * torch.from_numpy(shown), [layer])[layer]
    return float(changed[0, channel, row, column]) / float(value.detach())


def test_against_masks_laid_by_hand(pooled: Network, images: dv.InMemoryImages) -> None:
    table = fidelity_of_layers(pooled, images, ["4"], preprocess=PREPROCESS, rules=["gradient"], progress=False)
    (layer,) = table.layers
    alive = np.flatnonzero(
        dv.mine(pooled, images, ["4"], 1, preprocess=PREPROCESS, progress=False)["4"].values[:, 0] > 0
    )
    assert layer.units == len(alive) >= 3 and layer.left_out == 0
    for unit, channel in enumerate(alive.tolist()):
        for column, share in enumerate(layer.shares):
            expected = by_hand(pooled, images, "4", channel, share, keep=True)
            assert layer.kept["gradient"][unit, column] == pytest.approx(expected, abs=1e-9)
            expected = by_hand(pooled, images, "4", channel, share, keep=False)
            assert layer.left["gradient"][unit, column] == pytest.approx(expected, abs=1e-9)


def test_medians_and_areas_of_a_layer() -> None:
    kept = np.array([[0.0, 0.5, 1.0], [0.2, 0.4, 0.6], [0.1, 0.1, 0.9]])
    layer = LayerFidelity(
        layer="conv",
        shares=(1.0, 2.0, 4.0),
        kept={"guided": kept},
        left={"guided": 1 - kept},
        left_out=2,
        auto="guided",
    )
    assert layer.at("guided", 2.0).median == 0.4 and layer.at("guided", 2.0, mirror=True).median == 0.6
    areas = [(0.25 * 1 + 0.75 * 2) / 3, (0.3 * 1 + 0.5 * 2) / 3, (0.1 * 1 + 0.5 * 2) / 3]
    assert layer.area("guided").median == pytest.approx(sorted(areas)[1])
    low, high = layer.area("guided")[1:]
    assert low == pytest.approx(min(areas)) and high == pytest.approx(max(areas))
    assert layer.units == 3 and layer.best() == "guided"


def test_the_choice_by_hand() -> None:
    good, fair, bad = np.full((9, 2), 0.9), np.full((9, 2), 0.8), np.full((9, 2), 0.1)
    assert choose_rule({"deconvnet": good, "guided": good, "lrp-gamma": bad}, switches=True).rule == "deconvnet"
    assert choose_rule({"deconvnet": fair, "guided": good, "lrp-gamma": bad}, switches=True).rule == "guided"
    wide = np.linspace(0.5, 1.0, 18).reshape(9, 2)  # its interval reaches down to the deconvnet's median
    assert choose_rule({"deconvnet": np.full((9, 2), 0.7), "guided": wide}, switches=True).rule == "deconvnet"
    assert choose_rule({"deconvnet": np.full((9, 2), 0.7), "guided": wide}, switches=False).rule == "guided"
    assert choose_rule({"deconvnet": good, "guided": bad}, switches=False).rule == "deconvnet"


def test_where_medians_are_zero_means_choose() -> None:
    """Of most units nothing comes back by any rule: the deconvnet is not as good as the best one because both are 0."""
    zero, some = np.zeros((9, 2)), np.zeros((9, 2))
    some[:4] = 0.8
    choice = choose_rule({"deconvnet": zero, "guided": some, "lrp-gamma": some / 2}, switches=True)
    assert (choice.rule, choice.by) == ("guided", "mean") and choice.kept["guided"][0] == pytest.approx(3.2 / 9)
    assert "mean of 9 units (of many units hardly anything comes back): 0.36; deconvnet: 0.00." in choice.words()
    barely = np.concatenate([np.full((5, 2), 0.01), np.zeros((4, 2))])  # a median whose interval reaches zero
    assert choose_rule({"deconvnet": zero, "guided": barely}, switches=True).rule == "guided"
    none = choose_rule({"deconvnet": zero, "guided": zero}, switches=True)
    assert none.rule == "deconvnet" and "bring nothing back of the activation of 9 units by any rule" in none.words()


def test_units_without_a_positive_activation_are_left_out() -> None:
    nothing, some = np.full((3, 2), np.nan), np.full((3, 2), 0.5)
    assert choose_rule({"deconvnet": nothing, "guided": nothing}, switches=True).units == 0
    assert "no unit" in choose_rule({"deconvnet": nothing, "guided": nothing}, switches=True).words()
    mixed = np.concatenate([nothing, some])
    choice = choose_rule({"deconvnet": mixed, "guided": mixed + 0.2}, switches=True)
    assert (choice.rule, choice.units) == ("guided", 3)
    assert (
        choice.kept["guided"][0] == pytest.approx(0.7) and "median of 3 units: 0.70; deconvnet: 0.50" in choice.words()
    )


def test_switches_are_there_or_not(pooled: Network) -> None:
    assert [has_switches(pooled, layer) for layer in ("0", "1", "2", "3", "4")] == [True] * 5
    strided = net(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU())
    assert [has_switches(strided, layer) for layer in ("0", "1", "2", "3")] == [True, True, False, False]


STRIDED = """
import torch
from torch import nn

def make(pool=False):
    torch.manual_seed(3)
    middle = nn.MaxPool2d(2) if pool else nn.Conv2d(6, 6, 2, 2)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), middle, nn.Conv2d(6, 5, 3), nn.ReLU(), nn.BatchNorm2d(5))
    return model, {"resize": 32, "crop": 32, "mean": [0.5] * 3, "std": [0.5] * 3}

def pooled():
    return make(True)
"""


@pytest.mark.slow
def test_figures_say_where_the_deconvnet_has_no_switches(tmp_path: pathlib.Path) -> None:
    """By `project` and `grid`; a layer that ends linearly has no strip, and its caption names none."""
    (tmp_path / "own.py").write_text(STRIDED)
    photo, store = tmp_path / "a.png", tmp_path / "s.h5"
    Image.fromarray(dv.Scenes(1)[0][0]).save(photo)
    run("pack", "scenes:12", store)
    for name, switches in (("make", False), ("pooled", True)):
        model = f"{tmp_path / 'own.py'}:{name}"
        run("mine", model, store, "-l", "4", "-l", "5", "-k", "2", "-o", tmp_path / f"{name}.h5")
        for rule, layer in (("deconvnet", "4"), ("deconvnet", "5"), ("guided", "4"), ("auto", "4")):
            wanted = rule == "deconvnet" and not switches
            how = ("-l", layer, "--rule", rule)
            run("grid", tmp_path / f"{name}.h5", *how, "-n", 2, "--crop", 9, "-o", tmp_path / "g.png")
            assert ("has no switches, and" in caption_of(tmp_path / "g.png")) == wanted, (name, rule)
            assert ("The strip" in caption_of(tmp_path / "g.png")) == (layer == "4")
            run("project", model, photo, *how, "-c", 1, "-o", tmp_path / "p.png")
            assert ("has no switches, and" in caption_of(tmp_path / "p.png")) == wanted, (name, rule)


def run(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def caption_of(path: pathlib.Path) -> str:
    with Image.open(path) as picture:
        return " ".join(str(picture.info["Description"]).split())


def test_strongest_units_are_the_maps_largest(pooled: Network, images: dv.InMemoryImages) -> None:
    x = torch.stack([PREPROCESS(images[n][0]) for n in range(4)]).double()
    maps = pooled.activations(x, ["4"])["4"].numpy()
    units = strongest_units(pooled, x, "4", most=3)
    alive = [channel for channel in range(5) if maps[:, channel].max() > 0]
    assert len(units) == min(3, len(alive))
    for image, layer, channel, (row, column) in units:
        assert layer == "4" and maps[image, channel, row, column] == maps[:, channel].max() > 0


def test_controls_do_not_depend_on_the_weights(images: dv.InMemoryImages) -> None:
    """A unit that reads the middle pixel alone: the nearest pixel brings all of it back, smooth noise little."""
    network = net(nn.Conv2d(3, 4, 9), nn.ReLU())
    weight = network.tensors[next(name for name in network.tensors if "weight" in name)]
    middle = weight[:, :, 4, 4].clone()
    weight.zero_()
    weight[:, :, 4, 4] = middle.abs()
    bright = dv.InMemoryImages(np.stack([np.maximum(images[n][0], 200) for n in range(4)]))
    table = fidelity_of_layers(
        network, bright, ["1"], preprocess=PREPROCESS, rules=["gradient", "nearest"], progress=False
    )
    assert np.allclose(table.layers[0].kept["nearest"], table.layers[0].kept["nearest"][:, -1:])
    assert np.allclose(table.layers[0].kept["nearest"], table.layers[0].kept["gradient"])


def noting(titles: list[str], make: Callable[..., None]) -> Callable[..., None]:
    """The constructor of a sheet, which also notes its title."""

    def made(self: Sheet, width: float, body: float, title: str, *rest: Any, **more: Any) -> None:
        titles.append(title)
        make(self, width, body, title, *rest, **more)

    return made


@pytest.mark.slow
def test_the_table_and_the_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "f.csv"
    titles: list[str] = []
    monkeypatch.setattr(Sheet, "__init__", noting(titles, Sheet.__init__))
    arguments = ["fidelity", "demo", "scenes:12:1", "-l", "relu1", "-l", "relu7", "--units", "3", "--rule", "guided"]
    result = CliRunner().invoke(cli, [*arguments, "--quiet", "-o", str(out)], catch_exceptions=False)
    assert titles == ["Fidelity of projections, ZFNet"]  # the network's name, as other figures have it
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 2 * 3 * 5  # layers, guided and two controls, shares
    assert {row["rule"] for row in rows} == {"guided", "nearest", "noise"}
    assert "relu7: 3 units" in result.output and "by these units of these images; grid chooses by" in result.output
    with Image.open(out.with_suffix(".png")) as figure:
        assert "auto takes by these units of these images" in " ".join(figure.info["Description"].split())
    for row in rows:
        assert float(row["kept_low"]) <= float(row["kept"]) <= float(row["kept_high"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"units": 0}, "units 0 given; expected at least 1"),
        ({"rules": ["pretty"]}, "some of deconvnet"),
        ({"fill": "pink"}, "pink"),
        ({"shifts": 5}, "a square number"),
        ({"noise": -0.1}, "0 or more"),
    ],
)
def test_wrong_arguments(
    pooled: Network, images: dv.InMemoryImages, arguments: dict[str, object], complaint: str
) -> None:
    with pytest.raises(DeconvvizError, match=complaint) as raised:
        fidelity_of_layers(pooled, images, ["4"], preprocess=PREPROCESS, progress=False, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_layers_that_cannot_be_measured(images: dv.InMemoryImages) -> None:
    dead = net(nn.Conv2d(3, 4, 3), nn.ReLU())
    dead.tensors[next(name for name in dead.tensors if "bias" in name)].fill_(-1e3)
    with pytest.raises(DataError, match="every filter of '1' is dead"):
        fidelity_of_layers(dead, images, ["1"], preprocess=PREPROCESS, progress=False)
    coarse = net(nn.Conv2d(3, 4, 2, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    deep = net(nn.AvgPool2d(16), nn.Conv2d(3, 4, 2, 4))
    assert deep.layer("1").stride == (64, 64) and coarse.layer("1").stride == (32, 32)
    with pytest.raises(ProjectionError, match=r"shifts of up to 32 px given.*image of 32 px"):
        fidelity_of_layers(deep, images, ["1"], preprocess=PREPROCESS, shifts=4, progress=False)


def test_a_layer_without_extent(images: dv.InMemoryImages) -> None:
    """Units of a linear layer see the whole image, and are measured like any other."""
    network = net(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 3))
    table = fidelity_of_layers(
        network, images, ["3"], preprocess=PREPROCESS, rules=["gradient", "nearest"], progress=False
    )
    (layer,) = table.layers
    assert 0 < layer.units + layer.left_out <= 3
    assert np.isfinite(layer.kept["gradient"]).all()
