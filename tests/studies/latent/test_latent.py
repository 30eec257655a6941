"""Generators whose axes and units are known: directions, axes, units and effects come back; refusals; resuming."""

from __future__ import annotations

import pathlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.errors import DataError, DeconvvizError, MismatchError, ModelError
from deconvviz.models.load import LoadedModel
from deconvviz.results.features import Features
from deconvviz.studies.latent.directions import conditional_direction, cosines, monotonicity
from deconvviz.studies.latent.model import Generator
from deconvviz.studies.latent.result import LatentViews
from deconvviz.studies.latent.scoring import Scorer, record
from deconvviz.studies.latent.sweeps import mutual_information
from deconvviz.studies.latent.units import _level, compared, overlaps

PLAIN = {"resize": None, "crop": 8, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
GAINS = torch.tensor([0.09, 0.04, 0.018, 0.008])


def blocks() -> Tensor:
    """Which pixels each place of z moves: four bands of two rows, [4, 3, 8, 8]."""
    bands = torch.zeros(4, 3, 8, 8)
    for band in range(4):
        bands[band, :, 2 * band : 2 * band + 2] = 1
    return bands


def linear_generator() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 192), nn.Unflatten(1, (3, 8, 8)), nn.Identity())
    module[0].weight.data = (GAINS[:, None] * blocks().flatten(1)).T.contiguous()
    module[0].bias.data[:] = 0.5
    return module


def band_scorer(weights: list[list[float]], names: tuple[str, ...]) -> LoadedModel:
    """A classifier whose scores are weighed z: it undoes the gains, and reads the mean of each band."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, len(weights)))
    read = blocks().flatten(1) / 48 / GAINS[:, None]
    module[1].weight.data = torch.tensor(weights) @ read
    module[1].bias.data = -0.5 * module[1].weight.data.sum(1)
    return LoadedModel(module.eval(), dict(PLAIN), "bands", "DEFAULT", names)


@cache
def linear_views() -> LatentViews:
    scorer = band_scorer([[0.6, 0.8, 0, 0], [1.0, 0, 0, 0]], ("both", "first"))
    model = dv.LatentModel(module=linear_generator(), limits=(0, 1), name="bands")
    options: dict[str, Any] = {"attributes": ("both", "first"), "masked": 4, "units": 1, "rows": 2, "steps": 5}
    return dv.latent(model, scorer=scorer, samples=1000, progress=False, layer="1", **options)


def test_directions_of_a_linear_generator_come_back() -> None:
    found = linear_views().directions
    assert found is not None and found.names == ("both", "first")
    assert found.vectors[0] @ [0.6, 0.8, 0, 0] > 0.99 and found.vectors[1] @ [1, 0, 0, 0] > 0.99
    assert found.conditional[0] @ [0, 1, 0, 0] > 0.99
    assert abs(found.conditional[0] @ found.vectors[1]) < 1e-15 and abs(found.conditional[1] @ found.vectors[0]) < 1e-15
    np.testing.assert_allclose(found.cosines, cosines(found.vectors))
    assert abs(found.cosines[0, 1] - 0.6) < 0.1 and (found.accuracy > 0.95).all()
    assert found.monotonic[0].min() > 0.999 and found.monotonic[1].min() > 0.999
    # The scores are linear in z and have deviation 1: 6 long steps along a direction move them by 6 cosines.
    cosine = found.vectors @ np.array([[0.6, 0.8, 0, 0], [1.0, 0, 0, 0]]).T
    np.testing.assert_allclose(found.moved[0] * found.deviation, 6 * cosine, atol=0.15)
    assert abs(found.moved[1, 0, 1]) < 0.4 and found.moved[0, 0, 1] > 3


def test_axes_of_a_linear_layer_come_back() -> None:
    axes = linear_views().axes
    assert axes.layer == "0" and len(axes.vectors) == 4
    assert (np.diag(axes.vectors) > 0.99).all()
    share = (GAINS**2 / (GAINS**2).sum()).numpy()
    np.testing.assert_allclose(axes.explained, share, atol=0.06)
    np.testing.assert_allclose(axes.linear, 1, atol=1e-6)


def test_sweeps_change_what_their_place_moves() -> None:
    sweeps = linear_views().sweeps
    assert sweeps.places.tolist() == [0, 1, 2, 3] and sweeps.images.shape == (4, 5, 8, 8, 3)
    np.testing.assert_allclose(sweeps.change, 6 * GAINS.numpy() / 4, atol=2 / 255)  # a quarter of the pixels
    moved = sweeps.images[2].astype(int).max(0) - sweeps.images[2].astype(int).min(0)
    assert (moved[4:6] > 20).all() and not moved[:4].any() and not moved[6:].any()


def test_conditional_directions_are_orthogonal_to_all_others() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 9))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    free = conditional_direction(vectors[0], vectors[1:])
    assert np.abs(vectors[1:] @ free).max() < 1e-15 and abs(np.linalg.norm(free) - 1) < 1e-12
    solved = vectors[0] - vectors[1:].T @ np.linalg.solve(vectors[1:] @ vectors[1:].T, vectors[1:] @ vectors[0])
    np.testing.assert_allclose(free, solved / np.linalg.norm(solved), atol=1e-12)
    assert not conditional_direction(vectors[0], vectors[:1]).any()
    assert monotonicity(np.array([[1.0, 1.0, 1.0]])) == 0


# --- a generator that draws: unit 0 makes the red block, unit 1 the green rows, unit 2 nothing


def drawing_generator() -> nn.Module:
    module = nn.Sequential(
        nn.Linear(4, 3 * 64), nn.Unflatten(1, (3, 8, 8)), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Hardtanh(0, 1)
    )
    weight = torch.zeros(3, 8, 8, 4)
    weight[0, 1:4, 1:4, 0], weight[0, 1:4, 5:8, 0] = 1, -1  # on the left or on the right
    weight[1, 6:8, :, 1] = 1
    module[0].weight.data, module[0].bias.data = weight.flatten(0, 2), torch.zeros(192)
    module[3].weight.data, module[3].bias.data = 50 * torch.eye(3)[:, :, None, None], torch.zeros(3)
    return module


def colours(images: Tensor) -> dict[str, Tensor]:
    return {"red": images[:, 0] > 0.5, "green": images[:, 1] > 0.5}


@cache
def drawn_views() -> LatentViews:
    model = dv.LatentModel(module=drawing_generator(), limits=(0, 1), name="drawing")
    return dv.latent(model, segment=colours, samples=200, masked=60, units=2, layer="2", progress=False)


def test_a_planted_unit_is_named_and_its_effect_is_its_parts_area() -> None:
    units = drawn_views().units
    assert units is not None and [units.name(unit) for unit in range(3)] == ["red", "green", ""]
    assert units.iou[0, 0] > 0.95 and units.iou[1, 1] > 0.95 and sorted(units.chosen.tolist()) == [0, 1]
    z = dv.LatentModel(module=nn.Linear(4, 1)).sample(0, np.arange(60))
    area = np.where(np.abs(z[:, 0]) > 0.01, 9 / 64, 0.0)
    place = units.chosen.tolist().index(0)
    mean, low, high = units.removed[place, 0]
    assert abs(mean - area.mean()) < 1e-12
    error = 1.959964 * area.std(ddof=1) / np.sqrt(60)
    np.testing.assert_allclose([low, high], [area.mean() - error, area.mean() + error], atol=1e-12)
    assert not units.removed[place, 1].any() and not units.inserted[place, 1].any()
    np.testing.assert_allclose(units.inserted[place, 0], 1)  # everywhere
    assert units.change[2] == 0 < units.change[0]


def test_top_samples_are_those_with_the_largest_values() -> None:
    units = drawn_views().units
    assert units is not None
    z = dv.LatentModel(module=nn.Linear(4, 1)).sample(0, np.arange(200))
    assert units.top_samples[0].tolist() == np.argsort(-np.abs(z[:, 0]), kind="stable")[:9].tolist()
    np.testing.assert_allclose(units.top_values[1], np.sort(z[:, 1])[::-1][:9], rtol=1e-6)


def test_overlaps_equal_a_loop_and_chance_is_another_images() -> None:
    rng = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(6, 2, 4, 4, generator=rng), torch.rand(6, 3, 4, 4, generator=rng) > 0.7
    found = overlaps(maps, masks, torch.tensor([[0.5, 0.7]]))
    for unit, limit in enumerate((0.5, 0.7)):
        for part in range(3):
            fires, there = (maps[:, unit] > limit).numpy(), masks[:, part].numpy()
            assert abs(found[0, unit, part] - (fires & there).sum() / (fires | there).sum()) < 1e-12
    iou, chance = compared(masks.float(), masks)
    assert (np.diag(iou) == 1).all() and (chance < 0.75).all()


def test_mutual_information_against_entropies() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 300), rng.integers(0, 3, 300)

    def entropy(*each: np.ndarray) -> float:
        _, counts = np.unique(np.stack(each), axis=1, return_counts=True)
        return float(-sum(p * np.log(p) for p in counts / 300))

    assert abs(mutual_information(first, second) - (entropy(first) + entropy(second) - entropy(first, second))) < 1e-12


def test_samples_depend_on_seed_and_index_alone() -> None:
    model = dv.LatentModel(module=nn.Linear(9, 1), categorical=((0, 3),), codes=(3,), prior="normal")
    all_rows = model.sample(4, np.arange(50))
    np.testing.assert_array_equal(all_rows[[7, 3]], model.sample(4, np.array([7, 3])))
    assert (all_rows[:, :3].sum(1) == 1).all() and set(all_rows[:, :3].argmax(1)) == {0, 1, 2}
    assert np.abs(all_rows[:, 3]).max() <= 1 < np.abs(all_rows[:, 4:]).max()


def test_categorical_codes_are_compared_with_classes() -> None:
    scorer = band_scorer([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], ("a", "b"))
    model = dv.LatentModel(module=linear_generator(), limits=(0, 1), name="c", categorical=((0, 2),))
    views = dv.latent(model, scorer=scorer, samples=60, masked=4, units=1, rows=1, steps=2, progress=False)
    assert views.sweeps.categories.shape == (1, 1, 2, 8, 8, 3)
    counts = views.sweeps.counts[0]
    assert counts[0, 1] == counts[1, 0] == 0 and counts.sum() == 60
    assert views.sweeps.information[0] > 0.6 > views.sweeps.chance[0]


def test_saved_is_loaded(tmp_path: pathlib.Path) -> None:
    for views in (linear_views(), drawn_views()):
        views.save(tmp_path / "v.h5")
        again = LatentViews.load(tmp_path / "v.h5")
        assert repr(again) == repr(views) and "<LatentViews" in repr(views)
    assert again.units is not None and again.directions is None
    np.testing.assert_array_equal(again.units.edited, drawn_views().units.edited)


# --- resuming


class Stopped(Exception):
    """Stands for a kill."""


def test_interrupted_and_resumed_is_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator(dv.LatentModel(module=linear_generator(), limits=(0, 1), name="g"))
    scorer = Scorer(band_scorer([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], ("a", "b")), (3, 8, 8))
    from deconvviz.run.options import RunOptions

    run = RunOptions(batch_size=7, progress=False)
    whole = record(generator, scorer, tmp_path / "whole.h5", 40, run=run)
    scores, calls = scorer.scores, []

    def failing(images: Tensor) -> Any:
        calls.append(len(images))
        if len(calls) == 3:
            raise Stopped
        return scores(images)

    monkeypatch.setattr(scorer, "scores", failing)
    with pytest.raises(Stopped):
        record(generator, scorer, tmp_path / "part.h5", 40, run=run)
    assert Features(tmp_path / "part.h5").done == 14
    calls += [0] * 9
    again = record(generator, scorer, tmp_path / "part.h5", 40, run=run)
    rows = np.arange(40)
    for layer in ("z", "scores"):
        np.testing.assert_array_equal(whole.rows(layer, rows), again.rows(layer, rows))
    assert sum(calls[12:]) == 26
    with pytest.raises(MismatchError):
        record(generator, scorer, tmp_path / "part.h5", 41, run=run)


# --- bad input


def refused(returned: Any, words: str, **more: Any) -> None:
    with pytest.raises(DeconvvizError, match=words) as caught:
        Generator(dv.LatentModel(module=returned, **more))
    assert "\n" not in str(caught.value)


def test_what_is_no_generator_is_refused() -> None:
    refused(nn.Linear(4, 3), r"returned torch.float32 \[2, 3\] for 2 samples; expected images")
    refused(nn.LSTM(4, 3), "returned tuple; expected images", size=4)
    refused(nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 2, 2))), r"\[2, 2, 2, 2\]")
    refused(linear_generator(), r"does not take z of shape \[2, 5\]", size=5)
    refused(nn.ReLU(), "the length of z is not told")
    refused(linear_generator(), "different places", codes=(4,))
    refused(linear_generator(), "black and of white", limits=(1, 0))
    with pytest.raises(ModelError, match="given as the generator"):
        dv.LatentModel(module=3)  # type: ignore[arg-type]


def test_values_that_are_not_finite_are_refused() -> None:
    module = linear_generator()
    module[0].bias.data[0] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        dv.latent(dv.LatentModel(module=module, limits=(0, 1), name="n"), samples=20, masked=4, progress=False)


def test_scorers_of_other_images() -> None:
    grey = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    images = Generator(dv.LatentModel(module=grey, limits=(-9, 9), name="grey")).images(np.zeros((2, 4)))
    large = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    resized = Scorer(LoadedModel(large, {**PLAIN, "resize": 20, "crop": 20}, "large", "none"), (1, 8, 8))
    assert resized.scores(images).shape == (2, 2) and resized.names == ("0", "1")
    four = LoadedModel(nn.Conv2d(4, 2, 8), {**PLAIN, "mean": (0.0,) * 4, "std": (1.0,) * 4}, "four", "none")
    with pytest.raises(ModelError, match="4 channels; the generator makes 3"):
        Scorer(four, (3, 8, 8))


# --- the command

FACTORY = """
import sys
sys.path.insert(0, {folder!r})
from test_latent import colours, drawing_generator, linear_generator
import torch, deconvviz as dv
def make(): return dv.LatentModel(module=drawing_generator(), limits=(0, 1))
def none(): return 3
def vector(): return torch.nn.Linear(4, 3)
"""
FEW = ("--samples", "40", "--masked", "6", "--steps", "3", "--rows", "1", "--units", "2", "--quiet")


def test_the_command_writes_a_page_and_resumes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "net.py").write_text(FACTORY.format(folder=str(pathlib.Path(__file__).parent)))
    out, spec = tmp_path / "out", f"{tmp_path}/net.py"
    arguments = ["latent", f"{spec}:make", "--scorer", "demo", "--segment", f"{spec}:colours", *FEW, "-o", str(out)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    tables = {f"{name}.csv" for name in ("directions", "walks", "codes", "axes", "units", "effects")}
    assert tables | {"index.html", "data/views.h5", "data/samples.h5", "data/latent-job.h5"} <= names
    assert {"figures/sweeps.png", "figures/axes.png", "figures/units.png", "figures/effects.png"} <= names
    page = (out / "index.html").read_text()
    assert page.count("<img ") == len([name for name in names if name.endswith(".png")]) and "http://" not in page
    before = (out / "directions.csv").read_bytes()
    assert CliRunner().invoke(cli, arguments).exit_code == 0 and (out / "directions.csv").read_bytes() == before
    other = CliRunner().invoke(cli, [*arguments, "--seed", "1"])
    assert isinstance(other.exception, MismatchError)
    for factory, words in (("none", "returned int"), ("vector", "expected images"), ("nobody", "nobody")):
        bad = CliRunner().invoke(cli, ["latent", f"{spec}:{factory}", "-o", str(tmp_path / "no")])
        assert isinstance(bad.exception, DeconvvizError) and words in str(bad.exception)
        assert not (tmp_path / "no").exists()
    listed = CliRunner().invoke(cli, ["latent", f"{spec}:make", "--segment", "list", "-o", str(tmp_path / "no")])
    assert str(listed.exception) == "--segment 'list' given; expected path/to/file.py:FUNCTION"


def test_a_unit_is_on_at_the_mean_of_the_tenth_of_its_values_that_are_largest() -> None:
    """Of a unit behind a rectifier that is seldom on, nine tenths and more are zero: not all of them are taken."""
    values = np.zeros(1000, np.float32)
    values[100:150] = 4
    assert _level(values) == 2 and _level(np.arange(20.0, dtype=np.float32)) == 18.5
