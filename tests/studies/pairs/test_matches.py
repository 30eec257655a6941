"""Places that match: closed forms, a planted patch, the figure and the table of the command, and bad input."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.errors import DataError
from deconvviz.studies.pairs.match_figure import CORNERS, STRENGTH, coloured, place_colours, scaled

SIDE = 16


@pytest.fixture(scope="module")
def network() -> dv.Network:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 24, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return dv.capture(nn.Sequential(*body, nn.Linear(24, 3)).eval(), (3, SIDE, SIDE))


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of noise; the cell in row 0, column 1 of the first is that in row 3, column 2 of the second."""
    a, b, patch = noise(0), noise(1), 3 * noise(2)[:, :, :4, :4]
    a[:, :, 0:4, 4:8], b[:, :, 12:16, 8:12] = patch, patch
    return a, b


def test_a_planted_patch_is_the_strongest_match_and_the_peak_of_both_maps(network: dv.Network) -> None:
    a, b = planted()
    matches = dv.match_places(network, a, b)
    first = matches.mutual(0)[0]
    assert (first.a, first.b) == ((0, 1), (3, 2)) and first.cosine == pytest.approx(1, abs=1e-5)
    assert matches.middle(first.a) == (2.0, 6.0) and "cosine 1.000 of the one that weighs most" in repr(matches)
    maps = dv.pair("spatial-attention", network)(a, b, raw=True)
    assert divmod(int(maps.a[0].argmax()), 4) == (0, 1) and divmod(int(maps.b[0].argmax()), 4) == (3, 2)


def test_an_image_matches_itself_place_by_place(network: dv.Network) -> None:
    matches = dv.match_places(network, noise(0), noise(0))
    assert matches.places[0].tolist() == [list(range(16))] * 2 and np.allclose(matches.cosines, 1, atol=1e-5)
    assert len(matches.mutual(0)) == 16 and all(match.a == match.b for match in matches.mutual(0))


def test_numbered_matches_are_apart(network: dv.Network) -> None:
    matches = dv.match_places(network, torch.cat([noise(0)] * 2), torch.cat([noise(0), noise(1)]))
    assert len(matches.apart(0, 3)) == 3 == len({match.a for match in matches.apart(0, 3)})
    assert len(matches.apart(1, 99)) <= len(matches.mutual(1))


def test_colours() -> None:
    colours = place_colours((3, 5))
    assert colours.shape == (15, 3) and np.allclose(colours[[0, 4, 10, 14]], CORNERS)
    assert np.allclose(colours[7], np.mean(CORNERS, 0)) and np.allclose(place_colours((1, 1)), np.mean(CORNERS, 0))
    picture = np.full((4, 6, 3), 255, np.uint8)
    drawn = coloured(picture, place_colours((2, 3)), np.array([1.0, 0, 0, 0, 0, 1.0]), (2, 3))
    assert np.allclose(drawn[0, 0], 1 - STRENGTH + STRENGTH * np.array(CORNERS[0])) and np.allclose(drawn[0, 2], 1)
    assert np.allclose(drawn[3, 5], 1 - STRENGTH + STRENGTH * np.array(CORNERS[3]))
    assert scaled(np.array([1.0, 3.0, 2.0])).tolist() == [0, 1, 0.5] and scaled(np.ones(2)).tolist() == [1, 1]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["pair", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command(tmp_path: pathlib.Path) -> None:
    scenes = dv.Scenes(40, seed=11)
    owls = [n for n in range(40) if scenes.labels[n] == 1][:3]
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, scene in zip(paths, owls, strict=True):
        Image.fromarray(scenes[scene][0]).save(path)
    asked = ["demo", *paths, "-m", "spatial-attention", "--device", "cpu", "--quiet", "-o", tmp_path / "pair.png"]
    run(*asked, "--matches", tmp_path / "matches.png")
    with Image.open(tmp_path / "matches.png") as figure:
        assert figure.width > 1200 and "match each other best" in figure.text["Description"]
    run(*asked, "--maps", "relu5", "--matches", tmp_path / "matches.csv")
    with (tmp_path / "matches.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["image_b"][-5:] for row in rows} == {"1.png", "2.png"} and float(rows[0]["cosine"]) > 0.5
    assert all(0 < float(row["row_a"]) < 64 for row in rows)
    for name in ("m.gif", "none/m.png"):
        with pytest.raises(DataError):
            run(*asked, "--matches", tmp_path / name)


def test_names_of_other_pairs_are_refused(network: dv.Network) -> None:
    with pytest.raises(DataError, match="names of 2 pairs given; there are 1"):
        dv.match_places(network, noise(0), noise(1), names=[("a", "b"), ("c", "d")])
