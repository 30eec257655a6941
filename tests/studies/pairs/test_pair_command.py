"""`deconvviz pair`: figure, table and arrays from real files; what notebooks show; what bad input gets."""

from __future__ import annotations

import csv
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.studies.pairs.result import COLUMNS


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["pair", *(str(a) for a in arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root, scenes = tmp_path_factory.mktemp("pairs"), dv.Scenes(40, seed=11)
    owls = [n for n in range(40) if scenes.labels[n] == 1]
    for n, scene in enumerate(owls[:3]):
        Image.fromarray(scenes[scene][0]).save(root / f"{n}.png")
    return root


@pytest.fixture(scope="module")
def network() -> dv.Network:
    return dv.capture(dv.load_model("demo").model, (3, 64, 64))


QUICK = ("-m", "interaction-cam,PairwiseOcclusion", "--option", "draws=10", "--device", "cpu", "--quiet")


def test_figure_table_and_arrays(folder: pathlib.Path, tmp_path: pathlib.Path, network: dv.Network) -> None:
    asked = ["demo", *(folder / f"{n}.png" for n in range(3)), *QUICK]
    metrics = ["--metrics", "--steps", 4, "--sensitivity", 1]
    said = run(*asked, *metrics, "--csv", tmp_path / "pair.csv", "-o", tmp_path / "pair.png")
    with Image.open(tmp_path / "pair.png") as figure:
        assert figure.width > 600 and figure.height > 1200  # two pairs, two rows each
        assert "relu7" in figure.text["Description"] and "cosine" in figure.text["Description"]
    with (tmp_path / "pair.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["interaction-cam", "pairwise-occlusion"] * 2
    assert all(row["image_a"].endswith("/0.png") for row in rows) and rows[2]["image_b"].endswith("/2.png")
    assert rows[1]["forward_passes"] == "11" and float(rows[0]["max_sensitivity"]) > 0
    for head in ("SI", "SD", "CI", "CD", "SAD", "SIC", "CAD", "CIC", "MS", "interaction-cam"):
        assert head in said
    assert "the embedding is the value of relu7" in said
    run(*asked, "-o", tmp_path / "pair.npz")
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    x = torch.stack([preprocess(np.asarray(Image.open(folder / f"{n}.png"))) for n in range(3)])
    with np.load(tmp_path / "pair.npz") as arrays:
        maps = dv.pair("interaction-cam", network)(x[:1], x[2:])
        np.testing.assert_allclose(arrays["interaction-cam"][1, 0], maps.a[0], atol=1e-4)
        np.testing.assert_allclose(arrays["similarity"][1], maps.similarity[0], atol=1e-5)
        assert arrays["pairwise-occlusion"].shape == (2, 2, 64, 64)
        cosines = [f"cosine {each:.3f}" for each in arrays["similarity"]]
    assert all(each in said for each in cosines)


def test_the_list_names_every_method_with_its_cost() -> None:
    listed = run("--list")
    for name in ("conditional-occlusion", "context-agnostic", "pixel-invariance", "interaction-cam"):
        assert name in listed
    assert listed.count("costs at 224 px: ") == 7 and "442 forward passes an image" in listed
    assert "square=64 px of 224" in listed


def test_bad_input_gets_one_line(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "floats.npy", np.random.default_rng(0).random((70, 70, 3), np.float32))
    a, b, out = folder / "0.png", folder / "1.png", tmp_path / "out.png"
    for arguments, complaint in (
        (("demo", a, b, "-m", "interaktion-cam", "-o", out), "nearest: interaction-cam"),
        (("demo", a, folder, "-o", out), "is a folder; give the path of a photo in it"),
        (("demo", a, folder / "9.png", "-o", out), "no image"),
        (("demo", a, b, "-l", "nowhere", "-o", out), "no layer 'nowhere'"),
        (("demo", a, b, "--maps", "relu6", "-o", out), "without rows and columns"),
        (("demo", a, b, "--option", "masks=3", "-o", out), "which none of the methods has; theirs are: interact"),
        (("demo", a, b, "-o", tmp_path / "out.gif"), "out.gif"),
        (("demo", a, b, "--csv", tmp_path / "out.txt", "-o", out), "ends in .csv"),
        (("demo", a, tmp_path / "floats.npy", "-o", out), "expected one type and number of channels"),
    ):
        with pytest.raises(DeconvvizError) as error:
            CliRunner().invoke(cli, ["pair", *map(str, arguments)], catch_exceptions=False)
        assert complaint in str(error.value) and "\n" not in str(error.value)
    alone = CliRunner().invoke(cli, ["pair", "demo", str(a), "-o", str(out)])
    assert alone.exit_code == 2 and "expected two" in alone.output
    assert not list(tmp_path.glob("out*"))


def test_studies_and_maps_show_themselves(network: dv.Network) -> None:
    a, b = 50 * torch.randn(2, 2, 3, 64, 64)
    study = dv.explain_pairs(network, a, b, ["interaction-cam"], progress=False)
    assert isinstance(study, dv.PairStudy) and "image/png" in study._repr_mimebundle_()
    assert "a 1 and b 1: cosine" in repr(study) and "forward" in repr(study)
    assert set(study.to_frame().columns) == {"image_a", "image_b", "similarity", "method", *COLUMNS}
    assert np.isnan(study.column("interaction-cam", "max_sensitivity")).all()
    with pytest.raises(DataError, match="drop of interaction-cam asked for"):
        study.column("interaction-cam", "drop")
    maps = dv.pair("interaction-cam", network)(a, b)
    assert "image/png" in maps._repr_mimebundle_() and "maps of 2 pairs, 64x64, cosine" in repr(maps)
    assert len(dv.draw_pair([maps, maps]).axes) == 2 * 2 * 2 + 1  # methods of one name share a column
    with pytest.raises(DataError):
        dv.draw_pair([])
    wrong: list[dict[str, Any]] = [
        {"methods": []},
        {"fill": "black", "metrics": True},
        {"fill": "grey"},
        {"names": [("a", "b")]},
    ]
    for options in wrong:
        with pytest.raises(DataError):
            dv.explain_pairs(network, a, b, **{"methods": ["interaction-cam"], "progress": False, **options})


def test_photos_that_are_not_prepared(network: dv.Network, folder: pathlib.Path) -> None:
    preprocess = dv.Preprocess.from_dict(dv.load_model("demo").settings)
    photos = [Image.open(folder / f"{n}.png") for n in range(2)]
    x = torch.stack([preprocess(np.asarray(photo)) for photo in photos])
    maps = dv.pair("averaged-transforms", network, preprocess=preprocess)(*photos)
    expected = dv.pair("averaged-transforms", network, preprocess=preprocess)(x[:1], x[1:])
    assert torch.allclose(maps.a, expected.a, atol=1e-4)


@pytest.mark.slow
def test_the_energy_lies_on_the_object_that_two_scenes_have_in_common(network: dv.Network) -> None:
    """Scenes of one class: the share of the maps on the object is above its share of the picture."""
    scenes, preprocess = dv.Scenes(100, seed=3), dv.Preprocess.from_dict(dv.load_model("demo").settings)
    places = [[n for n in range(100) if scenes.labels[n] == label][:2] for label in range(10)]
    drawn = [[scenes.scene(n) for n in pair] for pair in places]
    x = [torch.stack([preprocess(pair[image].image) for pair in drawn]) for image in (0, 1)]
    masks = np.array([[preprocess.mask(scene.mask) for scene in pair] for pair in drawn])
    share = masks.mean()
    quick: tuple[tuple[str, dict[str, Any]], ...] = (
        ("interaction-cam", {}),
        ("averaged-transforms", {}),
        ("pairwise-occlusion", {"draws": 60}),
        ("conditional-occlusion", {"stride": 10}),
        ("context-agnostic", {"stride": 10}),
    )
    for name, options in quick:
        maps = torch.stack([*dv.pair(name, network, preprocess=preprocess, **options)(*x)], 1).numpy()
        energy = (maps * masks).sum((2, 3)) / maps.sum((2, 3))
        assert energy.mean() > 1.4 * share, (name, energy.mean(), share)
