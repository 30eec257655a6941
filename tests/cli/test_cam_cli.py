"""`deconvviz cam`: a sheet and arrays from real files, and what bad input gets."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cam.registry import METHODS
from deconvviz.cli.main import cli
from deconvviz.errors import DataError, DeconvvizError, TargetError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root, scenes = tmp_path_factory.mktemp("cam"), dv.Scenes(4, seed=11)
    for n in range(2):
        Image.fromarray(scenes[n][0]).save(root / f"{n}.png")
    return root


@pytest.mark.slow
def test_a_sheet_and_its_arrays(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    methods = "grad-cam,rise,sess"
    asked = ["cam", methods, "demo", folder / "0.png", folder / "1.png", "-l", "relu5", "--device", "cpu"]
    options = ["--option", "masks=30", "--option", "scales=2", "--option", "method=hirescam"]
    run(*asked, *options, "-o", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 400
        assert "randomised" not in sheet.text["Description"]  # that is said of guided and deconvnet
        assert "own range" in sheet.text["Description"] and "rise: 31 forward" in sheet.text["Description"]
    assert "each [2, H, W]" in run(*asked, *options, "-o", tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz") as arrays:
        assert set(arrays) == {"grad-cam", "rise", "sess"}
        loaded = dv.load_model("demo")
        pre = dv.Preprocess.from_dict(loaded.settings)
        x = torch.stack([pre(np.asarray(Image.open(folder / f"{n}.png"))) for n in range(2)])
        expected = dv.cam("grad-cam", dv.capture(loaded.model, (3, 64, 64)), "relu5")(x)
        assert np.allclose(arrays["grad-cam"], expected.numpy(), atol=1e-4)
        assert arrays["rise"].shape == (2, 64, 64) and arrays["sess"].max() == 1


@pytest.mark.slow
def test_a_class_by_name(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A target's name is its number; another name is told, with the nearest."""
    asked = ["cam", "grad-cam", "demo", folder / "0.png", "-l", "relu5", "--device", "cpu"]
    for target in ("owl", 1):
        run(*asked, "-t", target, "-o", tmp_path / f"{target}.npz")
    with np.load(tmp_path / "owl.npz") as named, np.load(tmp_path / "1.npz") as numbered:
        assert np.array_equal(named["grad-cam"], numbered["grad-cam"]) and named["grad-cam"].max() == 1
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghij"))
    run(*asked, "-t", "b", "--classes", names, "-o", tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as other, np.load(tmp_path / "1.npz") as numbered:
        assert np.array_equal(other["grad-cam"], numbered["grad-cam"])
    with pytest.raises(TargetError, match="no class 'owls'; nearest: owl"):
        run(*asked, "-t", "owls", "-o", tmp_path / "x.png")


@pytest.mark.parametrize("name", ["grad-cam", "occlusion", pytest.param("sess", marks=pytest.mark.slow)])
def test_the_label_comes_from_the_pass_of_the_map(name: str) -> None:
    """What the network returned while it was explained is what it returns by itself."""
    loaded, scenes = dv.load_model("demo"), dv.Scenes(2, seed=11)
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, (3, 64, 64))
    x = torch.stack([preprocess(scenes[n][0]) for n in range(2)])
    explainer = dv.cam(name, network, None if name == "occlusion" else "relu5")
    explainer(x)
    assert torch.allclose(explainer.output, network(x), atol=1e-5)


@pytest.mark.slow
def test_the_maps_find_the_object(folder: pathlib.Path) -> None:
    """On generated scenes, whose masks are known: more of the map lies on the object than its area's share."""
    from deconvviz.metrics import energy

    scenes, loaded = dv.Scenes(40, seed=21), dv.load_model("demo")
    settings = {**loaded.settings, "resize": 64}  # the whole scene, so that its mask fits
    pre = dv.Preprocess.from_dict(settings)
    x = torch.stack([pre(scenes[n][0]) for n in range(40)])
    masks = np.stack([np.asarray(Image.fromarray(scenes.scene(n).mask).resize((64, 64))) for n in range(40)])
    net = dv.capture(loaded.model, (3, 64, 64))
    for name in ("grad-cam", "layercam", "recipro-cam"):
        share = energy(dv.cam(name, net, "relu5")(x, scenes.labels.tolist()), masks)
        assert float(share.mean()) > masks.mean() * 1.3, name


def test_the_list_of_methods() -> None:
    text = run("cam", "--list")
    assert (
        all(name in text for name in METHODS) and "masks=4000" in text and "passes an image: 1 + masks forward" in text
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"methods": "GradCAMs"}, "no method named 'GradCAMs'; nearest: grad-cam"),
        ({"-l": "relu55"}, "no layer 'relu55'.*nearest: relu5"),
        ({"-l": "fc8"}, "without rows and columns"),
        ({"-t": 10}, "target 10 given; the model has classes 0 to 9"),
        ({"image": "none.png"}, "no image none.png"),
        ({"-o": "x.gif"}, "ends in .png"),
        ({"--option": "masks"}, "expected KEY=VALUE"),
        ({"--option": "masks="}, "expected KEY=VALUE"),
    ],
)
def test_wrong_input(folder: pathlib.Path, tmp_path: pathlib.Path, change: dict[str, Any], complaint: str) -> None:
    given: dict[str, Any] = {
        "-l": "relu5",
        "-o": tmp_path / "x.png",
        "image": folder / "0.png",
        "methods": "grad-cam",
    } | change
    arguments = ["cam", given.pop("methods"), "demo", given.pop("image"), "--device", "cpu"]
    with pytest.raises(DeconvvizError, match=complaint) as error:
        run(*arguments, *(word for pair in given.items() for word in pair))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir()) and issubclass(DataError, DeconvvizError)


def test_methods_by_the_names_that_they_have_elsewhere(tmp_path: pathlib.Path) -> None:
    written = ["GradCAM,Saliency", "grad-cam,gradient,GradCAM"]
    files = [tmp_path / f"{number}.npz" for number in range(2)]
    Image.fromarray(dv.Scenes(1)[0][0]).save(tmp_path / "scene.png")
    for methods, file in zip(written, files, strict=True):
        run("cam", methods, "demo", str(tmp_path / "scene.png"), "-l", "relu5", "-o", str(file))
    ours, others = (dict(np.load(file)) for file in files)
    assert sorted(ours) == sorted(others) and all((ours[name] == others[name]).all() for name in ours)
    assert {"grad-cam", "gradient"} <= {*ours}


@pytest.mark.slow
def test_without_a_layer_the_last_one_is_taken_and_named(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    asked = ["cam", "grad-cam,gradient", "demo", folder / "0.png", "--device", "cpu", "--quiet"]
    assert "no layer is named; the maps are those at relu5" in run(*asked, "-o", tmp_path / "default.npz")
    assert "no layer" not in run(*asked, "-l", "relu5", "-o", tmp_path / "named.npz")
    with np.load(tmp_path / "default.npz") as default, np.load(tmp_path / "named.npz") as named:
        assert all(np.array_equal(default[method], named[method]) for method in ("grad-cam", "gradient"))
    only_pixels = ["cam", "gradient", "demo", folder / "0.png", "--device", "cpu", "--quiet"]
    assert "no layer" not in run(*only_pixels, "-o", tmp_path / "pixels.npz")


CONSTANT = """
from torch import nn

def make():
    maps = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(model[-1].weight)
    return model, {"resize": 16, "crop": 16}
"""


@pytest.mark.slow
def test_a_constant_map_is_told_of_by_its_file(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "own.py").write_text(CONSTANT)
    images = [folder / "0.png", folder / "1.png"]
    out = tmp_path / "sheet.svg"
    told = run("cam", "grad-cam", f"{tmp_path / 'own.py'}:make", *images, "--device", "cpu", "--quiet", "-o", out)
    for image in images:
        assert f"grad-cam gave a constant map for {image}" in told
    assert out.read_text().count("<!-- constant map -->") == 2
