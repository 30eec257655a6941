"""`deconvviz cam -t`: boxes in pixels of the user's image, segments, similarity, outputs, folders, and bad input."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import detectors as d
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.placement import placement_of
from deconvviz.errors import DeconvvizError

DETECTOR = f"{pathlib.Path(d.__file__)}:make"
WIDE = (30, 10, 50, 30)  # d.BOX in an image of 80 x 40 px, which becomes 64 x 32 px between bars of 16 px

FILE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, outputs, numbers=0):
        super().__init__()
        torch.manual_seed(3)
        self.c, self.f, self.numbers = nn.Conv2d(3, 4, 3), nn.Linear(4 + numbers, outputs), numbers
    def forward(self, x, further=None):
        y = torch.relu(self.c(x)).mean((2, 3))
        if self.numbers:
            y = torch.cat([y, further], 1)
        return self.f(y)
SIZE = {"resize": 16, "crop": 16}
def three(): return Net(3), SIZE, ["ant", "bee", "cow"]
def one(): return Net(1), SIZE
def needs(): return Net(3, 2), SIZE
def stubborn():
    net = Net(3)
    net.forward = lambda x: {"logits": Net.forward(net, x)} if float(x.sum()) > -1e9 else None
    return net, SIZE
def twice(images): return images, images.new_ones(images.shape[0], 2)
number = 7
"""


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["cam", *map(str, arguments), "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("targets")
    bright = np.random.default_rng(0).integers(140, 256, (40, 80, 3), np.uint8)
    Image.fromarray(bright).save(root / "wide.png")
    (root / "photos" / "a").mkdir(parents=True)
    for n in range(2):
        scene = dv.Scenes(2, seed=n)[n][0]
        Image.fromarray(scene).save(root / "photos" / "a" / f"{n}.png")
    (root / "net.py").write_text(FILE)
    return root


@pytest.mark.slow
def test_a_box_is_found_again_behind_the_bars(work: pathlib.Path) -> None:
    """The user's coordinates are those of the file; maps and picture show the image without the bars."""
    box = f"box:dog:{','.join(map(str, WIDE))}"
    run("layercam", DETECTOR, work / "wide.png", "-t", box, "-l", "stem", "-o", work / "box.npz")
    with np.load(work / "box.npz") as arrays:
        map_ = arrays["layercam"][0]
    assert map_.shape == (32, 64)
    inside = map_[d.BLOCK[0].start - 16 : d.BLOCK[0].stop - 16, d.BLOCK[1]]
    assert inside.sum() > 0.9 * map_.sum() > 0
    placement = placement_of(dv.Preprocess(resize=64, crop=64, fit="contain"), 40, 80)
    assert placement.into(WIDE) == pytest.approx(d.BOX) and placement.out_of(d.BOX) == pytest.approx(WIDE)
    words = run("d-rise", DETECTOR, work / "wide.png", "-t", box, "--option", "masks=9", "-o", work / "box.png")
    assert "wrote" in words
    with Image.open(work / "box.png") as sheet:
        assert "p is the probability of the box" in sheet.text["Description"]


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("size", [(40, 80), (80, 40), (31, 57), (200, 90)])
def test_places_in_the_picture_are_those_of_the_pixels(fit: Any, size: tuple[int, int]) -> None:
    """One bright rectangle of an image lies in its picture where the placement says."""
    height, width = size
    box = (width // 2 - 8, height // 2 - 8, width // 2 + 10, height // 2 + 6)
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    resize = (64, 64) if fit == "stretch" else 70
    preprocess = dv.Preprocess(resize=resize, crop=64, fit=fit, mean=(0.0,) * 3, std=(1.0,) * 3)
    picture = preprocess.picture(image)
    rows, columns = (np.flatnonzero(picture[..., 0].max(axis) > 127) for axis in (1, 0))
    placement = placement_of(preprocess, height, width)
    left, top, right, bottom = placement.into(box)
    told = (max(left, 0), max(top, 0), min(right, 64), min(bottom, 64))
    assert np.allclose(told, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), atol=1)
    assert np.allclose(placement.out_of((left, top, right, bottom)), box)


def test_several_targets_of_an_image_in_one_call(work: pathlib.Path) -> None:
    model, photos = f"{work / 'net.py'}:three", [work / "photos" / "a" / f"{n}.png" for n in range(2)]
    run("hirescam", model, *photos, "-l", "c", "-t", "bee", "-t", 2, "-t", "output:1", "-o", work / "several.npz")
    run("hirescam", model, *photos, "-l", "c", "-t", 2, "-o", work / "one.npz")
    with np.load(work / "several.npz") as several, np.load(work / "one.npz") as one:
        assert several["hirescam"].shape == (2, 3, 16, 16) and one["hirescam"].shape == (2, 16, 16)
        assert np.array_equal(several["hirescam"][:, 1], one["hirescam"])
        assert np.allclose(several["hirescam"][:, 0], several["hirescam"][:, 2])  # the score of bee is output 1
    run("hirescam", model, *photos, "-l", "c", "-t", "bee", "-t", "cow", "-o", work / "several.png")


def test_a_folder_and_a_file_for_each_image(work: pathlib.Path) -> None:
    model = f"{work / 'net.py'}:three"
    run("hirescam", model, work / "photos", "-l", "c", "--each", "npz", "-o", work / "each")
    assert sorted(path.name for path in (work / "each").iterdir()) == ["a_0.npz", "a_1.npz"]
    run("hirescam", model, work / "photos", "-l", "c", "-o", work / "all.npz")
    with np.load(work / "each" / "a_1.npz") as each, np.load(work / "all.npz") as both:
        assert np.array_equal(each["hirescam"][0], both["hirescam"][1])


def test_a_file_of_an_image_is_never_that_of_another(work: pathlib.Path) -> None:
    model, first = f"{work / 'net.py'}:three", work / "photos" / "a" / "0.png"
    (work / "others").mkdir()
    shutil.copy(work / "photos" / "a" / "1.png", work / "others" / "0.png")
    options = ("-l", "c", "--each", "npz", "-o", work / "lost")
    with pytest.raises(DeconvvizError, match="would both be written to"):
        run("hirescam", model, first, work / "others" / "0.png", *options)
    with pytest.raises(DeconvvizError, match=r"no image .*none\.png"):
        run("hirescam", model, first, work / "none.png", *options)
    assert not (work / "lost").exists()


def test_similarity_ends_at_the_embedding(work: pathlib.Path) -> None:
    """The cosine of an image with itself is 1, and the layer that it is of is told."""
    model, photo = f"{work / 'net.py'}:three", work / "photos" / "a" / "0.png"
    other = work / "photos" / "a" / "1.png"
    targets = ("-t", f"similarity:{photo}", "-t", f"similarity:{other}")
    words = run("hirescam", model, photo, *targets, "-o", work / "s.svg")
    assert "the last layer before the classifier" in words
    assert "cosine 1.00" in (work / "s.svg").read_text()
    run("hirescam", model, photo, "-l", "c", "-t", f"similarity:{other}@output", "-o", work / "out.npz")


def test_one_logit_and_further_inputs_and_hooks(work: pathlib.Path) -> None:
    photo = work / "photos" / "a" / "0.png"
    run("hirescam", f"{work / 'net.py'}:one", photo, "-l", "c", "-t", "output:0", "-o", work / "logit.svg")
    loaded = dv.load_model(f"{work / 'net.py'}:one")
    x = dv.Preprocess.from_dict(loaded.settings)(np.asarray(Image.open(photo)))[None]
    with torch.no_grad():
        assert f"value {float(loaded.model(x)):.2f}" in (work / "logit.svg").read_text()
    call = ("--call", f"{work / 'net.py'}:twice")
    run("gradient", f"{work / 'net.py'}:needs", photo, "-t", 1, *call, "-o", work / "two.npz")
    words = run("hirescam", f"{work / 'net.py'}:stubborn", photo, "-l", "c", "-o", work / "hooks.npz")
    assert "hooks make the maps" in words
    run("hirescam", f"{work / 'net.py'}:three", photo, "-l", "c", "-o", work / "captured.npz")
    with np.load(work / "hooks.npz") as hooked, np.load(work / "captured.npz") as captured:
        assert np.allclose(hooked["hirescam"], captured["hirescam"], atol=1e-5)


BAD: list[tuple[str, list[str], str]] = [
    (DETECTOR, ["-t", "box:cow:30,10,50,30"], "no class 'cow'; nearest: owl"),
    (DETECTOR, ["-t", "box:7:30,10,50,30"], "class 7 given; the model has classes 0 to 2"),
    (DETECTOR, ["-t", "box:dog:30,10,90,30"], "reaches beyond .*wide.png, which has 80 x 40 px"),
    (DETECTOR, ["-t", "box:dog:30,10,20,30"], "expected box:LABEL:LEFT,TOP,RIGHT,BOTTOM"),
    (DETECTOR, ["-t", "box:dog:1,1,9,9"], "its most probable box of that label is 30,10,50,30"),
    (DETECTOR, ["-t", "segment:dog"], "expected one map of scores for each class"),
    (DETECTOR, ["-t", "output:0"], "expected one row of numbers"),
    (DETECTOR, [], "the model's output is"),
    ("net.py:three", ["-t", "box:bee:30,10,50,30"], "expected detections as of torchvision"),
    ("net.py:three", ["-t", "output:3"], "output 3 given; the model has outputs 0 to 2"),
    ("net.py:three", ["-t", "output:x"], "expected the number of an output"),
    ("net.py:three", ["-t", "similarity:none.png"], "no image none.png"),
    ("net.py:three", ["-t", "similarity:"], "expected a class by number or name, segment:CLASS"),
    ("net.py:three", ["-t", "owl"], "no class 'owl'; nearest"),
    ("net.py:needs", ["--call", "net.py:none"], "has no function 'none'; nearest: .*needs"),
    ("net.py:needs", ["--call", "net.py:number"], "has no function 'number'"),
    ("net.py:needs", ["--call", "none.py:twice"], "no file none.py"),
    ("net.py:needs", ["--call", "twice"], "expected list or path/to/file.py:FUNCTION"),
    ("net.py:three", ["--part", "d"], "Net has no part 'd'; nearest: c"),
]


ONE_OF_EACH = [
    pytest.param(*case, marks=[pytest.mark.slow] if case[0] == DETECTOR and place else [])
    for place, case in enumerate(BAD)
]


@pytest.mark.parametrize(("model", "options", "complaint"), ONE_OF_EACH, ids=lambda value: str(value)[-30:])
def test_bad_input(
    work: pathlib.Path, monkeypatch: pytest.MonkeyPatch, model: str, options: list[str], complaint: str
) -> None:
    monkeypatch.chdir(work)
    layer = "stem" if model == DETECTOR else "c"
    with pytest.raises(DeconvvizError, match=complaint) as error:
        run("hirescam", model, "wide.png", "-l", layer, *options, "-o", "bad.png")
    assert "\n" not in str(error.value) and not (work / "bad.png").exists()


@pytest.mark.slow
def test_a_part_is_captured_where_the_whole_cannot_be(work: pathlib.Path) -> None:
    """What cannot be captured says which part can be, and MODEL#PART and --part mean the same."""
    (work / "whole.py").write_text(
        "from detectors import planted\ndef make(): return planted('retinanet'), {'resize': 64, 'crop': 64}\n"
    )
    model = f"{work / 'whole.py'}:make"
    command = ["layers", model, "--weights", "DEFAULT"]
    with pytest.raises(DeconvvizError, match=r"'backbone' takes images by itself: capture that, --part backbone"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
    (work / "any_size.py").write_text(
        "from detectors import planted\nfrom torch import nn\nSIZE = {'resize': None, 'crop': None}\n"
        "def make(): return planted('retinanet'), SIZE\ndef plain(): return nn.Sequential(nn.Conv2d(3, 4, 3)), SIZE\n"
    )
    for factory, said in (("make", "capture that, --part backbone"), ("plain", "give the side of its input")):
        with pytest.raises(DeconvvizError, match=said):
            CliRunner().invoke(cli, ["layers", f"{work / 'any_size.py'}:{factory}"], catch_exceptions=False)
    tables = [
        CliRunner().invoke(cli, words, catch_exceptions=False).output
        for words in ([*command, "--part", "backbone"], ["layers", f"{model}#backbone"])
    ]
    assert tables[0] == tables[1] and "stem" in tables[0]
    loaded = dv.load_model(f"{model}#backbone")
    assert loaded.settings == {"mean": (0.0,) * 3, "std": (1.0,) * 3, "resize": 64, "crop": 64, "fit": "cover"}
