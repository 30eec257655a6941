"""Pictures by gradient ascent, against closed forms: sign patterns, planted templates, filters that are off."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.errors import DataError, LayerNotFound, TargetError
from deconvviz.studies.visualisation.canvas import SpectralCanvas, mixed, of_spectrum, unmixed
from deconvviz.studies.visualisation.distort import SMALL_CHANGES, viewed
from deconvviz.studies.visualisation.objective import Head, Objective, alike

RAW: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
QUIET: dict[str, Any] = {"progress": False}


def network_of(*modules: nn.Module, size: int = 16, double: bool = False) -> tuple[dv.Network, dv.Preprocess]:
    """Return a captured network of these modules, for raw pixels of 0..1."""
    model = nn.Sequential(*modules).eval()
    model = model.double() if double else model
    channels = next(p for p in model.parameters()).shape[1]
    plain: dict[str, Any] = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    return dv.capture(model, (channels, size, size)), dv.Preprocess(resize=size, crop=size, **plain)


def test_a_linear_filter_gets_the_sign_pattern_of_its_weights() -> None:
    conv = nn.Conv2d(3, 2, 8, bias=False)
    network, preprocess = network_of(conv, size=8)
    plain: dict[str, Any] = {"canvas": "pixels", "distort": False, "steps": 30, "rate": 0.1}
    wanted = dv.visualise(network, "0", [1, 0], preprocess=preprocess, **plain, **QUIET)
    for picture, channel, value in zip(wanted.pictures, (1, 0), wanted.values, strict=True):
        weights = conv.weight[channel].detach().permute(1, 2, 0).numpy()
        assert np.array_equal(picture, (weights > 0).astype(np.float32))
        assert value == pytest.approx(weights[weights > 0].sum(), rel=1e-5)


def test_a_planted_template_comes_back_through_random_views() -> None:
    rows, columns = np.mgrid[:16, :16]
    template = np.where((rows - 8) ** 2 + (columns - 6) ** 2 < 20, 1.0, -1.0) * np.ones((3, 1, 1))  # white on black
    conv = nn.Conv2d(3, 1, 16, bias=False)
    conv.weight.data = torch.from_numpy(template[None]).float()
    network, preprocess = network_of(conv, nn.ReLU(), size=32)
    options: dict[str, Any] = {"objective": "unit", "position": (8, 8), "steps": 80, "rate": 0.5}
    picture = dv.visualise(network, "1", [0], preprocess=preprocess, **options, **QUIET).pictures[0]
    inside = picture[8:24, 8:24].transpose(2, 0, 1)
    assert np.corrcoef(inside.ravel(), template.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("rectifier", [nn.ReLU(), nn.ReLU6()])
def test_a_filter_that_is_off_on_noise_is_found(rectifier: nn.Module) -> None:
    conv = nn.Conv2d(3, 2, 5)
    with torch.no_grad():
        conv.weight[0] = conv.weight[0].abs()  # white is best, and grey is far below the rectifier
        conv.weight *= 10 / conv.weight[0].sum()
        conv.bias.copy_(torch.tensor([-7.0, 0.0]))
    network, preprocess = network_of(conv, rectifier)
    options: dict[str, Any] = {"preprocess": preprocess, "steps": 100, "rate": 0.5, **QUIET}
    wanted = dv.visualise(network, "1", [0, 1], **options)
    assert wanted.curve[0, 0] <= 0 and wanted.values[0] > 1
    alone = dv.visualise(network, "1", [0], **options)
    assert np.allclose(alone.pictures[0], wanted.pictures[0], atol=1e-3)


def test_pictures_that_do_not_fit_go_in_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network, preprocess = network_of(nn.Conv2d(3, 8, 5), nn.ReLU(), size=16, double=True)
    options: dict[str, Any] = {"preprocess": preprocess, "steps": 6, "variants": 2, **QUIET}
    whole, call = dv.visualise(network, "1", [1, 4, 6], **options), Head.__call__

    def narrow(self: Head, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, x)

    monkeypatch.setattr(Head, "__call__", narrow)
    parts = dv.visualise(network, "1", [1, 4, 6], **options)
    assert capsys.readouterr().err.count("out of memory: continuing with batches of 1") == 1
    assert np.allclose(parts.pictures, whole.pictures, atol=1e-6) and np.allclose(parts.curve, whole.curve)
    assert parts.channels.tolist() == whole.channels.tolist() == [1, 1, 4, 4, 6, 6]


def test_same_seed_same_picture_and_a_batch_is_its_singles() -> None:
    torch.manual_seed(0)
    network, preprocess = network_of(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), double=True)
    options: dict[str, Any] = {"preprocess": preprocess, "steps": 12, "variants": 2, "diversity": 0.0, **QUIET}
    together = dv.visualise(network, "3", [2, 5, 7], **options)
    again = dv.visualise(network, "3", [2, 5, 7], **options)
    other = dv.visualise(network, "3", [2, 5, 7], seed=1, **options)
    assert np.array_equal(together.pictures, again.pictures)
    assert np.abs(together.pictures - other.pictures).max() > 0.05
    assert np.abs(together.pictures[0] - together.pictures[1]).max() > 0.05  # variants differ
    singles = [dv.visualise(network, "3", [channel], **options).pictures for channel in (2, 5, 7)]
    assert np.allclose(together.pictures, np.concatenate(singles), atol=1e-6)
    in_parts = dv.visualise(network, "3", [2, 5, 7], batch_size=2, **options)
    assert np.allclose(together.pictures, in_parts.pictures, atol=1e-6)


def test_objectives_are_their_formulas() -> None:
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    a, w = maps.numpy(), np.array([[1.0, 2.0, -2.0], [0.0, 3.0, 4.0]])

    def value(kind: str, **more: Any) -> Any:
        return Objective(kind=kind, layer="", channels=(1, 0), **more).of_maps(maps).numpy()

    assert np.allclose(value("channel"), [a[0, 1].mean(), a[1, 0].mean()])
    assert np.allclose(value("unit"), [a[0, 1, 2, 2], a[1, 0, 2, 2]])
    assert np.allclose(value("unit", position=(3, 4)), [a[0, 1, 3, 4], a[1, 0, 3, 4]])
    along = [np.tensordot(w[row], a[n], 1) / np.linalg.norm(w[row]) for n, row in enumerate((1, 0))]
    assert np.allclose(value("direction", directions=w), [each.mean() for each in along])
    cosines = [each / np.linalg.norm(a[n], axis=0) for n, each in enumerate(along)]
    assert np.allclose(value("cosine", directions=w), [each.mean() for each in cosines], atol=1e-6)
    assert np.allclose(value("dream"), [np.square(each).mean() for each in a])


def test_a_class_and_a_dream() -> None:
    network, preprocess = network_of(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    scored = dv.visualise(network, None, [2], preprocess=preprocess, objective="class", steps=20, **QUIET)
    x = torch.from_numpy(scored.pictures).permute(0, 3, 1, 2)
    assert scored.values[0] == pytest.approx(float(network(x)[0, 2].detach()), rel=1e-4)
    assert scored.values[0] > scored.curve[0, 0] + 0.2
    start = preprocess.picture(dv.Scenes(1)[0][0])
    dream = dv.visualise(network, "1", preprocess=preprocess, objective="dream", start=start, steps=20, **QUIET)
    before = network.activations(preprocess.tensor(start[None]), ["1"])["1"].square().mean()
    assert dream.values[0] > float(before) and np.corrcoef(dream.pictures[0].ravel(), start.ravel())[0, 1] > 0.3


def test_variants_are_kept_unlike() -> None:
    torch.manual_seed(1)
    network, preprocess = network_of(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    likeness = []
    for diversity in (0.0, 2.0):
        options: dict[str, Any] = {"variants": 3, "diversity": diversity, "steps": 60, **QUIET}
        wanted = dv.visualise(network, "3", [4], preprocess=preprocess, **options)
        maps = network.activations(torch.from_numpy(wanted.pictures).permute(0, 3, 1, 2), ["3"])["3"]
        flat = maps.detach().flatten(2).numpy()
        grams = np.stack([(each @ each.T).ravel() / np.linalg.norm(each @ each.T) for each in flat])
        expected = ((grams @ grams.T).sum(1) - 1) / 2
        assert np.allclose(alike(maps, 3).detach().numpy(), expected, atol=1e-5)
        likeness.append(expected.mean())
    assert 1 - likeness[1] > 1.5 * (1 - likeness[0])


def test_pictures_have_another_size_where_the_layer_runs_at_it() -> None:
    network, preprocess = network_of(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
    wanted = dv.visualise(network, "1", [0], preprocess=preprocess, size=24, steps=2, **QUIET)
    assert wanted.pictures.shape == (1, 24, 24, 3)
    with pytest.raises(DataError, match="does not run at it"):
        dv.visualise(network, "3", [0], preprocess=preprocess, size=24, steps=2, **QUIET)
    assert dv.visualise(network, "3", [0], preprocess=preprocess, steps=2, **QUIET).pictures.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channels_and_ranges(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    network = dv.capture(model, (channels, 16, 16))
    preprocess = dv.Preprocess(resize=16, crop=16, mean=(100.0,) * channels, std=(50.0,) * channels, limits=(0, 200))
    wanted = dv.visualise(network, "2", [1], preprocess=preprocess, steps=5, **QUIET)
    x = torch.from_numpy(wanted.pictures).permute(0, 3, 1, 2) * 4 - 2  # 0 and 200, normalised
    assert wanted.values[0] == pytest.approx(float(model(x)[0, 1].mean().detach()), rel=1e-4, abs=1e-6)
    assert len(dv.draw_visualisation(wanted).axes) == 1


def test_canvases_are_their_formulas() -> None:
    torch.manual_seed(0)
    z = torch.randn(1, 3, 6, 5, 2, dtype=torch.float64)
    picture = SpectralCanvas(z.clone(), (6, 8)).pictures().detach().numpy()[0]
    f = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.rfftfreq(8)[None])
    plain = np.fft.irfft2((z[0, ..., 0] + 1j * z[0, ..., 1]).numpy() / np.maximum(f, 1 / 8), s=(6, 8), norm="ortho") / 4
    c = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    c /= np.linalg.norm(c, axis=0).max()
    assert np.allclose(picture, 1 / (1 + np.exp(-np.einsum("kc,chw->khw", c, plain))), atol=1e-9)
    given = 0.1 + 0.8 * torch.rand(2, 3, 6, 8, dtype=torch.float64)
    assert torch.allclose(SpectralCanvas.of(given).pictures(), given)
    spectrum = torch.fft.rfft2(unmixed(given[:1]), norm="ortho")
    assert torch.allclose(of_spectrum(spectrum[0].abs(), spectrum.angle(), (6, 8)), given[:1])
    assert torch.allclose(mixed(unmixed(given)), given)


def test_views_are_moved_scaled_and_turned() -> None:
    """A view of a linear ramp is the ramp at the mapped places: bilinear interpolation is exact on it."""
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).repeat(32, 1)[None, None]
    maps = SMALL_CHANGES.maps(np.random.default_rng(0).random((5, 4)))
    views = viewed(ramp, torch.from_numpy(maps), (32, 32))[:, 0, 12:20, 12:20].numpy()
    at = (2 * np.arange(12, 20) + 1) / 32 - 1
    x, y = np.meshgrid(at, at)
    for view, (row, _) in zip(views, maps, strict=True):
        place = row[0] * x + row[1] * y + row[2]
        assert np.allclose(view, ((place + 1) * 32 - 1) / 2 / 31)
    scales = np.hypot(maps[:, 0, 0], maps[:, 1, 0])
    assert (scales > 0.9).all() and (scales < 1.12).all() and len(set(scales)) == 5


def test_a_phase_keeps_the_magnitudes_of_the_store() -> None:
    network, preprocess = network_of(nn.Conv2d(3, 4, 3), nn.ReLU())
    scenes = dv.Scenes(3)
    spectrum = dv.mean_spectrum(scenes, preprocess, 32, progress=False)
    pictures = torch.stack([preprocess(scenes[n][0]) for n in range(3)])
    large = torch.nn.functional.interpolate(pictures, (32, 32), mode="bilinear", antialias=True)
    each = [np.abs(np.fft.rfft2(unmixed(picture[None])[0].numpy(), norm="ortho")) for picture in large]
    assert np.allclose(spectrum, np.mean(each, 0), atol=1e-4)
    spectrum = 0.2 * spectrum  # so that no pixel is clipped, and each magnitude can be read off the picture again
    options: dict[str, Any] = {"canvas": "phase", "size": 32, "steps": 10, "spectrum": spectrum, **QUIET}
    wanted = dv.visualise(network, "1", [1], preprocess=preprocess, **options)
    again = np.fft.rfft2(unmixed(torch.from_numpy(wanted.pictures).permute(0, 3, 1, 2))[0].numpy(), norm="ortho")
    inner = (slice(None), slice(1, 6), slice(1, 6))  # those whose phase is free
    assert np.median(np.abs(np.abs(again[inner]) / spectrum[inner] - 1)) < 0.05
    assert wanted.opacity.shape == (1, 32, 32) and wanted.opacity.max() == 1


def test_a_file_and_a_table_hold_all(tmp_path: pathlib.Path) -> None:
    network, preprocess = network_of(nn.Conv2d(3, 4, 3), nn.ReLU())
    mined = {1: 2.5}
    wanted = dv.visualise(network, "1", [1, 3], preprocess=preprocess, steps=3, mined=mined, **QUIET)
    wanted.save(tmp_path / "wanted.h5")
    loaded = dv.Visualisation.load(tmp_path / "wanted.h5")
    assert np.array_equal(loaded.pictures, wanted.pictures) and loaded.config == wanted.config
    wanted.save_csv(tmp_path / "wanted.csv")
    lines = (tmp_path / "wanted.csv").read_text().splitlines()
    assert lines[1].startswith("1,1,0,channel,") and lines[1].endswith(",2.5") and lines[2].endswith(",")
    assert list(wanted.to_frame()["channel"]) == [1, 3] and "mined 2.5" in repr(wanted)
    maps = network.activations(torch.from_numpy(wanted.pictures).permute(0, 3, 1, 2), ["1"])["1"].detach().numpy()
    assert np.allclose(wanted.strongest, [maps[0, 1].max(), maps[1, 3].max()], rtol=1e-4)


@pytest.mark.parametrize(
    ("layer", "channels", "options", "error", "words"),
    [
        ("9", [0], {}, LayerNotFound, "no layer '9'"),
        ("1", [4], {}, DataError, "channel of layer '1' 4 given; expected 0 to 3"),
        ("1", [], {}, DataError, "no channel given"),
        (None, [0], {}, DataError, 'the objective "channel" needs a layer'),
        ("1", [0], {"objective": "class"}, DataError, "no layer"),
        ("1", [0], {"objective": "unit", "position": (14, 0)}, DataError, "position (14, 0)"),
        ("1", [0], {"position": (1, 1)}, DataError, "unit"),
        ("1", [0], {"objective": "direction"}, DataError, "needs directions"),
        (
            "1",
            [0],
            {"objective": "direction", "directions": np.ones((1, 5))},
            DataError,
            "one for each of its 4 channels",
        ),
        ("1", [0], {"objective": "direction", "directions": np.zeros((1, 4))}, DataError, "points nowhere"),
        ("1", [0], {"canvas": "phase"}, DataError, "no spectrum given"),
        ("1", [0], {"canvas": "oil"}, DataError, "canvas 'oil' given"),
        ("1", [0], {"size": 4}, DataError, "size 4 given"),
    ],
)
def test_refusals(layer: Any, channels: Any, options: Any, error: Any, words: str) -> None:
    network, preprocess = network_of(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(error) as raised:
        dv.visualise(network, layer, channels, preprocess=preprocess, steps=1, **options, **QUIET)
    assert words in str(raised.value)


def test_a_class_that_does_not_exist() -> None:
    network, preprocess = network_of(nn.Conv2d(3, 4, 16), nn.Flatten())
    with pytest.raises(TargetError, match="class 4 given; expected 0 to 3"):
        dv.visualise(network, None, [4], preprocess=preprocess, objective="class", steps=1, **QUIET)
