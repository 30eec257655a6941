"""Checks of filters: each planted flaw is found, and not where it is not; what they measure equals its definition."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CaptureError, DataError, LayerNotFound
from deconvviz.studies.diagnosis.checks import filters as checks_filters
from deconvviz.studies.diagnosis.checks import responses as checks_responses
from deconvviz.studies.diagnosis.checks import spectrum as checks_spectrum
from deconvviz.studies.diagnosis.checks.responses import effective_rank, eigenvalues, selectivity
from deconvviz.studies.diagnosis.checks.spectrum import band_shares, noise_share
from deconvviz.studies.diagnosis.finding import CHECKS, Finding, graded
from deconvviz.studies.diagnosis.measures.filters import GRID, Filters, filters_of, flatness, noisy, pictures, spectra
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.studies.training.recipe import PAPER_RANGE

SIDE = 24


class Shots:
    """Images in memory: noise, of the given labels and mean colours."""

    def __init__(self, count: int = 40, labels: NDArray[np.int64] | None = None, side: int = SIDE) -> None:
        rng = np.random.default_rng(3)
        self.labels = np.full(count, -1) if labels is None else labels
        self.classes = tuple(f"class {n}" for n in range(max(self.labels) + 1))
        self.pixels = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        self.names, self.fingerprint = tuple(map(str, range(count))), f"shots {count} {side}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.pixels[index], int(self.labels[index])


def about(model: nn.Module, images: Shots | None = None, std: float = 0.5, **options: object) -> Subject:
    """A Subject of a model and some images."""
    images = images or Shots()
    side = images.pixels.shape[1]
    preprocess = Preprocess(resize=None, crop=side, mean=(0.5,) * 3, std=(std,) * 3)
    return Subject(dv.capture(model.eval(), (3, side, side)), images, preprocess, model, **options)  # type: ignore[arg-type]


def found(name: str, subject: Subject) -> list[Finding]:
    return list(CHECKS[name](subject))


def net(
    filters: int = 20,
    kernel: int = 5,
    stride: int = 1,
    seed: int = 0,
    edit: Callable[[nn.Sequential], object] | None = None,
) -> nn.Sequential:
    """Two convolutions with rectifiers and a classifier, of seeded weights, after `edit`."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, filters, kernel, stride, kernel // 2),
        nn.ReLU(),
        nn.Conv2d(filters, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.zero_()
        if edit is not None:
            edit(model)
    return model


def weights(model: nn.Sequential, place: int = 0) -> Tensor:
    """The convolution's weights, to be written into."""
    weight = model[place].weight
    assert isinstance(weight, Tensor)
    return weight.data


def grating(kernel: int, cycles: float, angle: float, phase: float = 0.0) -> NDArray[np.float64]:
    """A grating of so many cycles per pixel under a Gaussian window, the same in three colours: [3, k, k]."""
    place = np.arange(kernel) - (kernel - 1) / 2
    y, x = place[:, None], place[None]
    wave = np.cos(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return np.repeat((wave * np.exp(-(x**2 + y**2) / (2 * (kernel / 4) ** 2)))[None], 3, 0)


# --- finding, registry -----------------------------------------------------------------------------------------------


def test_checks_are_registered_with_what_they_measure() -> None:
    mine = {"dead", "dominating", "duplicates", "flipped", "frequency", "noise", "saturated", "class-blind", "rank"}
    assert mine <= set(CHECKS)
    for name in mine:
        entry = CHECKS[name]
        assert entry.name == name and entry.title and "note" in entry.docstring and "Source:" in entry.docstring
    assert CHECKS["class-blind"].needs == ("labels",) and CHECKS["dead"].needs == ()


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, None), (0.1, "note"), (0.29, "note"), (0.3, "warning"), (9, "serious")]
)
def test_severity_is_the_highest_limit_reached(value: float, expected: str | None) -> None:
    assert graded(value, (0.1, 0.3, 0.5)) == expected


# --- the subject -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_responses_are_those_of_the_module_whatever_the_batch(batch: int) -> None:
    model = net()
    assert about(model).layers == ("1", "3")
    subject = about(model, batch_size=batch, layers=("0", "3"))
    x = torch.stack([subject.preprocess(subject.images[n][0]) for n in range(40)])
    for name, place in (("0", 1), ("3", 4)):
        with torch.no_grad():
            maps = model[:place].double()(x.double()).numpy()
        model.float()
        got = subject.responses[name]
        assert np.allclose(got.maxima, maps.max((2, 3)), atol=1e-5)
        assert np.allclose(got.means, maps.mean((2, 3)), atol=1e-5)
        assert (
            np.abs(got.firing - (maps > 0).mean((2, 3))).max() <= 2 / SIDE**2
        )  # a value next to 0 may round across it
        assert np.allclose(got.lowest, maps.min((0, 2, 3)), atol=1e-5)
        assert np.allclose(got.highest, maps.max((0, 2, 3)), atol=1e-5)
        assert np.allclose(got.squares, (maps**2).mean((0, 2, 3)), atol=1e-5)
        columns = maps.transpose(0, 2, 3, 1).reshape(40, -1, maps.shape[1])
        each = len(got.samples) // 40
        assert each == 100  # 4000 rows over 40 images
        for row in (0, each, 20 * each + 3):
            assert np.abs(columns[row // each] - got.samples[row]).max(1).min() < 1e-5
    with torch.no_grad():
        assert subject.logits is not None and np.allclose(subject.logits, model(x).numpy(), atol=1e-5)


def test_positions_are_drawn_over_the_whole_map_anew_for_each_image() -> None:
    images = Shots(100, side=16)
    images.pixels[:] = 0
    images.pixels[..., 0], images.pixels[..., 1] = np.arange(16)[:, None] * 16, np.arange(16) * 16  # the place itself

    def place(model: nn.Sequential) -> None:
        weights(model)[:2] = 0
        weights(model)[0, 0, 2, 2] = weights(model)[1, 1, 2, 2] = 1

    def drawn(seed: int, batch: int) -> NDArray[np.int64]:
        subject = about(net(edit=place), images, seed=seed, batch_size=batch, layers=("0",))
        at = subject.responses["0"].samples[:, :2]
        return np.asarray(((at / 2 + 0.5) * 255 / 16).round() @ [16, 1], np.int64).reshape(100, 40)

    places = drawn(0, 7)
    assert {*places.ravel().tolist()} == set(range(256)) and all(len({*row.tolist()}) == 40 for row in places)
    assert {*places[0].tolist()} != {*places[1].tolist()} and not np.array_equal(places, drawn(1, 7))
    assert np.array_equal(places, drawn(0, 64))


def test_sampled_positions_are_all_others_and_every_position_where_there_are_few() -> None:
    rows = about(net(), Shots(200)).responses["1"].samples.reshape(200, -1, 20)
    assert rows.shape[1] == 20 and all(len(np.unique(part, axis=0)) == 20 for part in rows[:5])
    few = about(net(), Shots(2, side=8)).responses["1"].samples
    assert len(few) == 2 * 64


def test_means_by_class_are_those_of_its_images() -> None:
    labels = np.array([0, 1, -1, 1, 3] * 4)
    got = about(net(), Shots(20, labels)).responses["1"]
    by_class = got.by_class(labels, 4)
    for label in (0, 1, 3):
        assert np.allclose(by_class[label], got.means[labels == label].mean(0, dtype=np.float64))
    assert np.isnan(by_class[2]).all()


def test_images_are_taken_evenly_and_targets_follow_the_outputs() -> None:
    subject = about(net(), Shots(20, np.array([0, 1, 2, -1] * 5)), limit=4, outputs=np.array([5, 7, 9]))
    assert subject.chosen.tolist() == [0, 6, 13, 19] and len(subject.responses["1"].maxima) == 4
    assert subject.labels.tolist() == [0, 2, 1, -1] and subject.targets.tolist() == [5, 9, 7, -1]
    assert (about(net()).targets == -1).all()
    places = np.concatenate([places for places, _ in subject.batches([3, 1])])
    assert places.tolist() == [3, 1]


def test_a_patch_shows_what_drives_a_channel_most() -> None:
    images = Shots(6)
    images.pixels[:] = 0
    images.pixels[4, 9, 17] = 255  # one bright pixel, in one image
    images.pixels[2, 3, 3] = 100

    def bright(model: nn.Sequential) -> None:
        weights(model)[:] = 0
        weights(model)[:, :, 2, 2] = 1  # the middle pixel itself

    subject = about(net(edit=bright), images)
    patch = subject.patches("1", [0, 3])
    assert patch.shape == (2, 5, 5, 3) and (patch[:, 2, 2] == 255).all() and patch.sum() == 2 * 3 * 255
    assert np.array_equal(subject.tiles("1", [0]), pictures(subject.filters("1").weights[:1]))  # type: ignore[union-attr]
    deep = subject.tiles("3", [1])  # sees 7 px: a cut of the image
    assert deep.shape == (1, 7, 7, 3) and deep.dtype == np.uint8


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CaptureError, match="preprocessing gives"):
        Subject(dv.capture(net(), (3, 24, 24)), Shots(), Preprocess(resize=None, crop=20))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="limit 0"):
        about(net(), limit=0)
    with pytest.raises(LayerNotFound):
        about(net(), layers=("nothing",))

    def broken(model: nn.Sequential) -> None:
        weights(model)[0, 0, 0, 0] = float("nan")

    with pytest.raises(DataError, match="'1' gives values that are not finite"):
        _ = about(net(edit=broken)).responses


# --- filters ---------------------------------------------------------------------------------------------------------


def test_effective_weights_are_what_the_channel_computes() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 3)
    )
    with torch.no_grad():
        model[1].running_var.uniform_(0.2, 3)  # type: ignore[union-attr, operator]
        model[1].weight.uniform_(-2, 2)
    network = dv.capture(model.double().eval(), (3, SIDE, SIDE))
    for name in ("1", "2"):
        got = filters_of(network, name)
        assert got is not None and got.first and got.stride == (2, 2) and got.groups == 1
        pair = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
        before = network.activations(pair, ["1"])["1"].detach().numpy()[:, :, 0, 0]
        window = (pair[0] - pair[1])[:, :5, :5].numpy()
        assert np.allclose(before[0] - before[1], (got.effective * window).sum((1, 2, 3)))
    pooled = filters_of(network, "3")
    assert pooled is not None and np.array_equal(pooled.weights, model[0].weight.detach().numpy())
    second = filters_of(dv.capture(net(filters=3), (3, 24, 24)), "3")  # reads three maps, no image
    assert second is not None and not second.first and not second.of_image
    linear = filters_of(network, "5")
    assert linear is not None and linear.weights.shape == (3, 150, 1, 1) and not linear.first
    assert filters_of(dv.capture(Computed().eval(), (3, 8, 8)), "add") is None


class Computed(nn.Module):
    """A value that no one filter makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv(x.flip(2))


def test_cosines_are_of_filters_in_one_group() -> None:
    values = np.random.default_rng(0).standard_normal((6, 2, 3, 3))
    values[1], values[3] = -2 * values[0], 0.5 * values[0]
    got = Filters(values, np.array([1.0, -1, 1, 1, 1, 1]), groups=2).cosines
    flat = values.reshape(6, -1)
    want = flat[4] @ flat[5] / np.linalg.norm(flat[4]) / np.linalg.norm(flat[5])
    assert np.isclose(got[4, 5], want) and np.isclose(got[0, 1], 1)  # BatchNorm's sign turns the negative back
    assert (got[:3, 3:] == 0).all()
    assert (Filters(np.zeros((2, 1, 1, 1)), np.ones(2)).cosines == 0).all()


def test_spectra_equal_the_sum_of_waves() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 5, 5))
    got = spectra(values)
    place, cycles = np.arange(5), np.fft.fftfreq(GRID)
    waves = np.exp(-2j * np.pi * cycles[:, None] * place)
    power = (np.abs(np.einsum("fy,ncyx,gx->ncfg", waves, values, waves)) ** 2).sum(1)
    assert np.allclose(got, power / power.sum((1, 2), keepdims=True)) and np.allclose(got.sum((1, 2)), 1)
    assert np.isclose(power.sum() / GRID**2, (values**2).sum())  # Parseval
    assert (spectra(np.zeros((1, 3, 5, 5))) == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(7, 2), (11, 4), (5, 1), (9, 3)]), st.integers(0, 9))
def test_bands_partition_the_energy_and_a_dot_has_their_areas(shape: tuple[int, int], seed: int) -> None:
    kernel, stride = shape
    values = np.random.default_rng(seed).standard_normal((3, 3, kernel, kernel))
    values[1], values[2] = 0, 0
    values[2, :, 1, 3] = 1  # a dot: all frequencies alike
    shares = band_shares(Filters(values, np.ones(3), (stride, stride)))
    assert np.allclose(shares.sum(1), [1, 0, 1])
    carried = min(1 / stride, 1) ** 2  # the square of frequencies up to half the sampling rate, of all
    low = math.pi / kernel**2  # the disc of fewer cycles than one a kernel
    assert np.allclose(shares[2], [low, carried - low, 1 - carried], atol=0.03)
    assert np.isclose(noise_share(Filters(values, np.ones(3), (stride, stride))), shares[2, 1])


def test_flatness_by_hand_and_of_noise() -> None:
    dot = np.zeros((1, 1, 5, 5))
    dot[0, 0, 2, 2] = 1  # a flat spectrum: the means are equal; noise has exp(-Euler's constant) of that
    assert np.isclose(flatness(dot)[0], math.exp(np.euler_gamma))
    even = np.zeros((1, 1, 4, 4))
    even[0, 0, 1, 1] = 1  # 3 of 15 frequencies are their own mirror: one degree of freedom, another factor of 2
    assert np.isclose(flatness(even)[0], math.exp(np.euler_gamma + 0.2 * math.log(2)))
    assert flatness(np.ones((1, 3, 7, 7)))[0] == 0
    rng = np.random.default_rng(0)
    some = rng.standard_normal((5, 3, 7, 7))
    assert np.allclose(flatness(some), flatness(some + 2)) and np.allclose(flatness(some), flatness(9 * some))
    for inputs, kernel in ((3, 5), (3, 8), (1, 7), (3, 11)):
        noise = rng.standard_normal((3000, inputs, kernel, kernel))
        assert abs(flatness(noise).mean() - 1) < 0.05
        assert noisy(noise).mean() > 0.95
        assert noisy(noise + 0.5).mean() > 0.9 and not noisy(noise + 2).any()  # then it is a filter of that colour
    assert not noisy(dot).any() and not noisy(rng.standard_normal((9, 3, 3, 3))).any()
    shapes = [grating(9, c, a, p) for c in (0.05, 0.15, 0.3) for a in (0, 1, 2) for p in (0, 1.5)]
    assert not noisy(np.stack(shapes)).any()


def test_pictures_are_grey_at_zero_and_symmetric() -> None:
    values = np.zeros((2, 3, 2, 2))
    values[0, 0, 0, 0], values[0, 1, 1, 1] = 2, -2
    shown = pictures(values)
    assert shown.shape == (2, 2, 2, 3) and shown[0, 0, 0].tolist() == [255, 128, 128]
    assert shown[0, 1, 1].tolist() == [128, 0, 128] and (shown[1] == 128).all()
    assert pictures(values[:, :1]).shape == (2, 2, 2, 3)


# --- dead ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "severity"), [(0, None), (1, "note"), (3, "warning"), (10, "serious")])
def test_dead_filters_are_found_where_they_are(count: int, severity: str | None) -> None:
    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[2 : 2 + count] = -1000  # type: ignore[union-attr, operator]
        weights(model)[2 : 2 + count // 2] = 0

    got = found("dead", about(net(edit=kill)))
    if severity is None:
        assert got == []
        return
    (finding,) = got
    assert (finding.severity, finding.layer, finding.channels) == (severity, "1", tuple(range(2, 2 + count)))
    assert finding.value == count / 20 and finding.threshold == 0.01 and f"{count} of 20" in finding.what
    assert (f"weights of {count // 2} of them" in finding.what) == (count >= 2)
    assert finding.evidence.kind == "tiles" and finding.evidence.arrays["pictures"].shape == (count, 5, 5, 3)


def test_dead_filters_are_not_nearly_dead_too() -> None:
    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:6] = -1000  # type: ignore[union-attr, operator]

    (finding,) = found("dead", about(net(edit=kill), Shots(200, side=8)))
    assert "6 of 20 filters are dead" in finding.what


def test_dead_is_constant_where_nothing_rectifies() -> None:
    def flat(model: nn.Sequential) -> None:
        weights(model)[:] -= 0.3  # most answers are below zero, none is dead
        weights(model)[5] = 0
        model[0].bias.data[5] = 2.5  # type: ignore[union-attr, operator]

    (finding,) = found("dead", about(net(edit=flat), layers=("0",)))
    assert finding.channels == (5,) and "constant" in finding.what


@pytest.mark.parametrize(("rare", "images", "expected"), [(6, 250, "warning"), (0, 250, None), (6, 150, None)])
def test_nearly_dead_filters_fire_in_few_of_many_images(rare: int, images: int, expected: str | None) -> None:
    shots = Shots(images, side=8)
    shots.pixels[:] = shots.pixels // 2
    shots.pixels[7] = 255  # the one image that is bright

    def shy(model: nn.Sequential) -> None:
        weights(model)[:rare] = 1 / 75
        model[0].bias.data[:rare] = -0.8  # type: ignore[union-attr, operator]

    got = found("dead", about(net(edit=shy), shots))
    assert [finding.severity for finding in got] == ([expected] if expected else [])
    if expected:
        assert got[0].channels == tuple(range(rare)) and got[0].evidence.kind == "histogram"
        assert got[0].evidence.mark == 0.01 and np.isclose(got[0].evidence.arrays["values"][0], 1 / images)


# --- dominating ------------------------------------------------------------------------------------------------------


def scaled(factor: float, level: float = 0.02) -> nn.Sequential:
    """A network whose filters all have an RMS of `level`, but for filter 4 that has `factor` times as much."""

    def scale(model: nn.Sequential) -> None:
        for place in (0, 2):
            values = weights(model, place)
            values *= level / values.square().mean((1, 2, 3), keepdim=True).sqrt()
        weights(model)[4] *= factor

    return net(edit=scale)


@pytest.mark.parametrize(
    ("factor", "severity"), [(1.0, None), (2.9, None), (3.1, "note"), (5.1, "warning"), (11, "serious")]
)
def test_a_filter_that_drowns_the_others_is_found(factor: float, severity: str | None) -> None:
    got = found("dominating", about(scaled(factor)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == (4,) and got[0].layer == "1" and np.isclose(got[0].value, factor)
        assert got[0].threshold == 3 and "times the median" in got[0].what and "radius" not in got[0].what
        assert got[0].evidence.labels[0] == "4" and np.isclose(got[0].evidence.arrays["values"][0], factor * 0.02)
        assert got[0].evidence.mark is not None and np.isclose(got[0].evidence.mark, 0.06)


@pytest.mark.parametrize(
    ("factor", "std", "fires"), [(1.5, PAPER_RANGE[0], True), (1.5, 0.5, False), (1.2, PAPER_RANGE[0], False)]
)
def test_the_papers_radius_counts_for_networks_of_its_inputs(factor: float, std: float, fires: bool) -> None:
    got = found("dominating", about(scaled(factor, 0.08), std=std))
    assert bool(got) == fires
    if fires:
        assert got[0].severity == "warning" and got[0].threshold == 0.1 and np.isclose(got[0].value, 0.12)
        assert "radius of 0.1" in got[0].what and "3 times" not in got[0].what and got[0].channels == (4,)
        both = found("dominating", about(scaled(3.5, 0.08), std=std))  # beyond either limit: the graver one counts
        assert both[0].severity == "warning" and "3 times the median and the paper's radius" in both[0].what


@pytest.mark.parametrize(("gamma", "fires"), [(1.0, False), (6.0, True)])
def test_batch_norm_is_part_of_a_filters_size(gamma: float, fires: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 5), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 400, 3))
    model[1].weight.data[3] = gamma
    got = found("dominating", about(model))
    assert [finding.channels for finding in got] == ([(3,)] if fires else [])


# --- duplicates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("copies", "severity"), [(0, None), (1, "note"), (3, "warning"), (12, "serious")])
def test_copies_of_a_filter_are_found(copies: int, severity: str | None) -> None:
    def copy(model: nn.Sequential) -> None:
        for place in range(copies):
            weights(model)[5 + place] = (1 + 0.1 * place) * weights(model)[2] + 0.003 * torch.randn(3, 5, 5)

    got = found("duplicates", about(net(edit=copy)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == (2, *range(5, 5 + copies)) and np.isclose(got[0].value, copies / 20)
        pairs = copies * (copies + 1) // 2
        assert f"from 0.9): {pairs}, by" in got[0].what and f"from 0.95): {pairs}. Near" in got[0].what
        assert len(got[0].evidence.arrays["pictures"]) == min(2 * pairs, 24)


def test_the_same_weights_with_another_bias_are_duplicates_by_weights() -> None:
    def copy(model: nn.Sequential) -> None:
        weights(model)[7] = weights(model)[2]
        model[0].bias.data[7] = -0.7 * weights(model)[2].square().sum().sqrt()  # type: ignore[union-attr, operator]

    (finding,) = found("duplicates", about(net(edit=copy)))
    assert finding.channels == (2, 7) and "from 0.9): 1," in finding.what and "from 0.95): 0." in finding.what


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_a_dead_input_tell_nothing(sign: int) -> None:
    images = Shots()
    images.pixels[..., 2] = 128  # no blue: (128 / 255 - 0.5) / 0.5 is next to nothing
    torch.manual_seed(5)
    idle = 5 * torch.randn(5, 5)

    def read_blue(model: nn.Sequential) -> None:
        weights(model)[3, 2], weights(model)[9, 2] = idle, sign * idle
        if sign < 0:  # the opposite by their weights, the same by what they answer
            weights(model)[9, :2] = weights(model)[3, :2]

    subject = about(net(edit=read_blue), images)
    assert sign * subject.filters("1").cosines[3, 9] > 0.9  # type: ignore[union-attr]
    assert not found("flipped", subject) and bool(found("duplicates", subject)) == (sign < 0)


@pytest.mark.parametrize(("grey", "fires"), [(True, True), (False, False)])
def test_other_weights_with_the_same_answers_are_duplicates_by_responses(grey: bool, fires: bool) -> None:
    images = Shots()
    if grey:
        images.pixels[:] = images.pixels[..., :1]

    def one_colour(model: nn.Sequential) -> None:
        pattern = torch.randn(5, 5)
        weights(model)[[3, 9]] = 0
        weights(model)[3, 0], weights(model)[9, 2] = pattern, pattern

    got = found("duplicates", about(net(edit=one_colour), images))
    assert bool([f for f in got if {3, 9} <= {*f.channels}]) == fires
    if fires:
        assert "from 0.9): 0," in got[0].what and "cosine 0.00, correlation 1.00" in got[0].what


def test_directions_that_chance_brings_together_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    live = np.arange(64)
    assert (checks_filters._cosines(Filters(rng.standard_normal((64, 3, 1, 1)), np.ones(64)), live) == 0).all()
    assert (checks_filters._cosines(Filters(np.ones((64, 1, 1, 1)), np.ones(64)), live) == 0).all()
    wide = checks_filters._cosines(Filters(rng.standard_normal((64, 48, 1, 1)), np.ones(64)), live)
    assert wide.any() and (np.diag(wide) == 0).all()


def test_correlations_are_those_of_the_columns() -> None:
    rows = np.random.default_rng(0).random((50, 5)).astype(np.float32)
    rows[:, 4] = 2
    got = checks_filters._correlations(rows)
    want = np.corrcoef(rows[:, :4].astype(np.float64).T) - np.eye(4)
    assert np.allclose(got[:4, :4], want) and (got[4] == 0).all()


@pytest.mark.parametrize(("pairs", "severity"), [(0, None), (1, "note"), (3, "warning"), (10, "serious")])
def test_filters_of_opposite_sign_are_found(pairs: int, severity: str | None) -> None:
    def turn(model: nn.Sequential) -> None:
        for place in range(pairs):
            weights(model)[2 * place + 1] = -2 * weights(model)[2 * place]

    subject = about(net(edit=turn))
    got = found("flipped", subject)
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == tuple(range(2 * pairs)) and np.isclose(got[0].value, pairs / 10)
    assert not found("duplicates", subject)


# --- frequency, noise ------------------------------------------------------------------------------------------------


def bank(kernel: int, cycles: tuple[float, ...]) -> Callable[[nn.Sequential], None]:
    """Fill a first layer with gratings of these frequencies, in all directions."""

    def fill(model: nn.Sequential) -> None:
        rng = np.random.default_rng(0)
        for place in range(len(weights(model))):
            pattern = grating(kernel, cycles[place % len(cycles)], place * 0.7, rng.random() * 6)
            weights(model)[place] = torch.from_numpy(pattern)

    return fill


@pytest.mark.parametrize(
    ("cycles", "severity"), [((0.0, 0.45), "serious"), ((0.0, 0.2, 0.2, 0.2, 0.45), None), ((0.2,), None)]
)
def test_a_missing_middle_is_found(cycles: tuple[float, ...], severity: str | None) -> None:
    got = found("frequency", about(net(kernel=7, stride=2, edit=bank(7, cycles))))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].layer == "1" and got[0].value < 0.1 and got[0].evidence.mark == 0.25
        x, y = got[0].evidence.arrays["x"], got[0].evidence.arrays["y"]
        assert np.allclose(y.sum(1), 1) and y.shape == (2, len(x))
        wanted = band_shares(filters := about(net(kernel=7, stride=2, edit=bank(7, cycles))).filters("1"))  # type: ignore[arg-type]
        assert filters is not None and np.isclose(got[0].value, wanted.mean(0)[1])


def test_the_same_waves_are_carried_by_a_small_stride_and_folded_by_a_large_one() -> None:
    assert not found("frequency", about(net(kernel=7, stride=2, edit=bank(7, (0.2,)))))
    (finding,) = found("frequency", about(net(kernel=11, stride=4, edit=bank(11, (0.2,)))))
    assert finding.severity in ("warning", "serious") and "too fast for stride 4" in finding.what
    assert "smaller kernel and stride" in finding.remedy
    assert not found("frequency", about(net(kernel=11, stride=4, edit=bank(11, (0.11,)))))


def test_dead_and_noisy_filters_do_not_count_as_coverage() -> None:
    def spoil(model: nn.Sequential) -> None:
        bank(7, (0.0, 0.45))(model)
        weights(model)[:8] = 0.3 * torch.from_numpy(np.stack([grating(7, 0.2, n) for n in range(8)]))
        model[0].bias.data[:8] = -1000  # type: ignore[union-attr, operator]
        weights(model)[8:12] = torch.randn(4, 3, 7, 7)

    (finding,) = found("frequency", about(net(kernel=7, stride=2, edit=spoil)))
    assert finding.channels == tuple(range(12, 20)) and finding.severity == "serious"


def test_without_a_middle_band_or_a_first_layer_coverage_is_skipped() -> None:
    subject = about(net(kernel=4, stride=4))
    assert not found("frequency", subject) and "leave no band" in subject.skipped["frequency"]
    subject = about(net(kernel=7, stride=2), layers=("3",))
    assert (
        not found("frequency", subject) and not found("noise", subject) and {"frequency", "noise"} <= {*subject.skipped}
    )
    subject = about(net(kernel=7, stride=2))  # torch's initial weights are noise
    assert not found("frequency", subject) and "neither dead nor noise" in subject.skipped["frequency"]


@pytest.mark.parametrize(("count", "severity"), [(0, None), (1, None), (2, "note"), (6, "warning"), (20, "serious")])
def test_filters_that_are_noise_are_found(count: int, severity: str | None) -> None:
    def spoil(model: nn.Sequential) -> None:
        bank(7, (0.1, 0.2, 0.3))(model)
        weights(model)[:count] = torch.randn(count, 3, 7, 7)

    got = found("noise", about(net(kernel=7, edit=spoil)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == tuple(range(count)) and got[0].value == count / 20


# --- saturated -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "severity"), [(0, None), (4, None), (5, "note"), (10, "warning"), (18, "serious")])
def test_filters_that_are_always_on_are_found(count: int, severity: str | None) -> None:
    def lift(model: nn.Sequential) -> None:
        model[0].bias.data[:count] = 50  # type: ignore[union-attr, operator]

    got = found("saturated", about(net(edit=lift), layers=("1",)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == tuple(range(count)) and f"{count} fire at 99%" in got[0].what
    assert not found("saturated", about(net(edit=lift), layers=("0",)))  # before the rectifier it means nothing


def test_dead_filters_are_not_saturated() -> None:
    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:10] = -1000  # type: ignore[union-attr, operator]
        model[0].bias.data[10:16] = 50  # type: ignore[union-attr, operator]
        weights(model)[10:16] = 0  # on, but the same everywhere: dead as well

    assert not found("saturated", about(net(edit=kill)))


@pytest.mark.parametrize(("gain", "fires"), [(1.0, False), (1000.0, True)])
def test_filters_at_their_ceiling_are_found(gain: float, fires: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU6(), nn.Flatten(), nn.Linear(8 * 400, 3))
    with torch.no_grad():
        model[0].weight.mul_(gain)
        model[0].bias.fill_(0.5 * gain)  # most positions are above zero, none all the time
    got = found("saturated", about(model))
    assert bool(got) == fires
    if fires:
        assert "at their ceiling" in got[0].what and got[0].severity == "serious"


# --- class-blind -----------------------------------------------------------------------------------------------------


def coloured(each: int) -> Shots:
    """Noise whose mean brightness in red, green and blue tells three classes."""
    images = Shots(3 * each, np.repeat(np.arange(3), each))
    for index, label in enumerate(images.labels):
        images.pixels[index, ..., :] //= 4
        images.pixels[index, ..., label] += 150
    return images


def colour_filters(blind: int) -> Callable[[nn.Sequential], None]:
    """A second layer of 8 filters that answer to one colour each, but for some that answer to the pixels' noise."""

    def fill(model: nn.Sequential) -> None:
        weights(model)[:] = 0
        for place in range(20):  # colours are handed on, and fine noise of all three
            weights(model)[place, place % 3, 2, 2] = 1
            if place >= 12:
                weights(model)[place, :, 2, 2], weights(model)[place, :, 2, 3] = 1, -1
        weights(model, 2)[:] = 0
        model[2].bias.data[:] = 1  # type: ignore[union-attr, operator]  # the index of those that tell is small, but real
        for place in range(8):
            source = 12 + place if place < blind else place
            weights(model, 2)[place, source, 1, 1] = 1

    return fill


@pytest.mark.parametrize(("blind", "severity"), [(0, None), (2, "note"), (5, "warning")])
def test_late_filters_that_tell_no_class_are_found(blind: int, severity: str | None) -> None:
    subject = about(net(edit=colour_filters(blind)), coloured(20))
    got = found("class-blind", subject)
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:  # the first layer is blind as well, and is not asked
        assert {f.layer for f in got} == {"3"} and got[0].channels == tuple(range(blind)) and got[0].value == blind / 8


def test_classes_of_few_images_tell_nothing() -> None:
    subject = about(net(edit=colour_filters(5)), coloured(4))
    assert not found("class-blind", subject) and "5 images each" in subject.skipped["class-blind"]
    subject = about(net(edit=colour_filters(5)))
    assert not found("class-blind", subject) and "class-blind" in subject.skipped


def test_selectivity_by_hand() -> None:
    means = np.array([[3.0, 0, 2], [1, 0, 2], [np.nan] * 3, [1, 0, 2]])
    assert selectivity(means).tolist() == [0.5, 0, 0]
    assert selectivity(np.array([[4.0], [0], [0]])).tolist() == [1]


# --- rank ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("common", "severity"), [(0.0, None), (30.0, "serious")])
def test_a_layer_of_one_direction_is_found(common: float, severity: str | None) -> None:
    def align(model: nn.Sequential) -> None:
        weights(model)[:] += common

    got = found("rank", about(net(edit=align), layers=("1",)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert 0 <= got[0].value < 0.01 and got[0].evidence.arrays["values"][0] > 0.9


def test_a_late_layer_needs_no_more_directions_than_there_are_classes() -> None:
    torch.manual_seed(0)
    outputs = {2: [], 40: ["rank"]}
    for classes, expected in outputs.items():
        model = nn.Sequential(
            nn.Conv2d(3, 8, 5),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        with torch.no_grad():
            model[2].weight.copy_(0.3 + 1e-3 * model[2].weight)
        got = [f.check for f in found("rank", about(model)) if f.layer == "3"]
        assert got == expected


def test_effective_rank_equals_its_definition() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 6)) * [5, 1, 1, 0.1, 2, 0.5]
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    assert np.allclose(eigenvalues(rows), values / values.sum())
    assert np.isclose(effective_rank(np.full(5, 0.2)), 5) and np.isclose(effective_rank(np.array([1.0, 0])), 1)
    assert np.isclose(effective_rank(np.array([0.5, 0.25, 0.25])), 2**1.5)  # entropy of 1.5 bits
    assert (eigenvalues(np.ones((3, 4))) == 0).all()


# --- trained networks ------------------------------------------------------------------------------------------------


def test_the_packaged_network_is_as_healthy_as_the_limits_say() -> None:
    loaded = dv.load_model("demo")
    preprocess = Preprocess.from_dict(loaded.settings)
    subject = Subject(dv.capture(loaded.model, preprocess.shape), dv.Scenes(200, seed=7), preprocess)
    for name in ("dead", "dominating", "flipped", "frequency", "saturated", "class-blind", "rank"):
        assert found(name, subject) == [], name
    ratios = [float((f.rms / np.median(f.rms)).max()) for name in subject.layers if (f := subject.filters(name))]
    assert len(ratios) == 7 and max(ratios) < 1.7
    first = subject.filters("relu1")
    assert first is not None and 0.3 < band_shares(first).mean(0)[1] < 0.4 and checks_spectrum.MIDDLE[0] < 0.3
    assert checks_responses.RANKS[0] < 0.05


def test_squeezenet_bears_out_the_limits(data: pathlib.Path) -> None:
    loaded = dv.load_model("torchvision:squeezenet1_0", str(data / "squeezenet1_0-imagenet-fp16.pth"))
    preprocess = Preprocess.from_dict(loaded.settings)
    subject = Subject(dv.capture(loaded.model, preprocess.shape), dv.Scenes(8), preprocess)
    assert len(subject.layers) == 25
    ratios, twins = [], 0
    for name in subject.layers:
        filters = subject.filters(name)
        assert filters is not None
        ratios.append(float((filters.rms / np.median(filters.rms)).max()))
        if name != "features.9.expand1x1_activation":  # 7 of its filters are dead on 500 photos, and 6 of them alike
            twins += int(np.triu(filters.cosines >= checks_filters.SAME, 1).sum())
    assert 2.2 < max(ratios) < 2.4 and twins == 10
    first = subject.filters(subject.layers[0])
    assert first is not None and not noisy(first.weights).any() and 0.53 < flatness(first.weights).max() < 0.55
    assert np.isclose(band_shares(first).mean(0)[1], 0.36, atol=0.01)
