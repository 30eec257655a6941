"""What outputs are called: which names count, the 1000 of ImageNet, equal names, and what commands write of them."""

from __future__ import annotations

import csv
import pathlib
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from torchvision.models import AlexNet_Weights, ViT_B_16_Weights

import deconvviz as dv
from deconvviz.cli.inputs import class_number
from deconvviz.cli.main import cli
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError, TargetError
from deconvviz.models import labels as labelling
from deconvviz.models.labels import class_label, imagenet_names, names_of_outputs, outputs_of, shown_classes

FACTORY = """
import torch
from torch import nn

def make(outputs=1000):
    torch.manual_seed(0)
    head = nn.Linear(4, outputs)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.zeros(outputs))
        head.bias[281 if outputs == 1000 else 2] = 30.0  # this class, whatever the image
    maps = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return model, {"resize": 16, "crop": 16}

def ten():
    return make(10)
"""


@pytest.fixture
def factory(tmp_path: pathlib.Path) -> str:
    (tmp_path / "own.py").write_text(FACTORY)
    return f"{tmp_path / 'own.py'}:make"


def run(*arguments: object) -> str:
    asked = [*map(str, arguments), "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_is_that_of_all_weights_on_imagenet() -> None:
    names = imagenet_names()
    assert len(names) == 1000 and (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    for weights in (AlexNet_Weights.DEFAULT, ViT_B_16_Weights.DEFAULT):
        assert names == tuple(weights.meta["categories"])


def test_which_names_count() -> None:
    imagenet, own = imagenet_names(), tuple(f"thing {n}" for n in range(1000))
    assert names_of_outputs(1000) == names_of_outputs(1000, classes=["a", "b"]) == imagenet
    assert names_of_outputs(1000, own, [f"folder {n}" for n in range(1000)]) == own  # its own before any others
    assert names_of_outputs(1000, classes=own) == own  # the folders' before ImageNet's
    assert names_of_outputs(1000, classes=[f"n{n:08d}" for n in range(1000)]) == imagenet  # numbers are no names
    assert names_of_outputs(999) == names_of_outputs(1001) == names_of_outputs(3, classes=["a", "b"]) == ()
    assert names_of_outputs(3, classes=["a", "b", "c"]) == ("a", "b", "c")
    assert names_of_outputs(3, classes=["a", "b", "c"], of_class=np.array([2, 0, 1])) == ("b", "c", "a")
    assert names_of_outputs(3, classes=["a", "b", "c"], of_class=np.array([2, 0, -1])) == ()


def test_names_that_several_outputs_have() -> None:
    names = ["crane", "kite", "crane", "maillot", "crane"]
    with pytest.raises(TargetError, match="'crane' is the name of the outputs 0, 2 and 4; give the number"):
        class_number("crane", names)
    assert class_number("kite", names) == 1 and class_number("4", names) == 4
    assert outputs_of(["maillot", "kite"], 5, names).tolist() == [3, 1]
    with pytest.raises(DataError, match=r"'crane' of the images is the name of the outputs 0, 2 and 4.*--classes FILE"):
        outputs_of(["kite", "crane"], 5, names)
    assert outputs_of(names, 5, names).tolist() == [0, 1, 2, 3, 4]  # the same list: the order tells
    assert outputs_of(["cat", "dog"], 1, ["cat", "dog"]).tolist() == [0, 1]  # one output, two classes


def test_outputs_with_names_are_not_taken_in_their_order_where_names_contradict() -> None:
    """Labels in the order of their folders are not those of outputs that are called otherwise."""
    names = ["auto", "cat", "ship", "horse"]
    with pytest.raises(DataError, match=r"such as 'automobile'.*the names do not tell which is which.*--classes FILE"):
        outputs_of(["automobile", "cat", "horse", "ship"], 4, names)
    with pytest.warns(
        UserWarning, match=r"no class of the images is called as an output.*\('a', 'auto'\).*their order"
    ):
        assert outputs_of(["a", "b", "c", "d"], 4, names).tolist() == [0, 1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outputs_of(["a", "b"], 2).tolist() == [0, 1]  # nothing is known of the outputs
        assert outputs_of([f"n{n:08d}" for n in range(1000)], 1000, imagenet_names()).tolist() == [*range(1000)]


def test_images_of_some_of_imagenets_classes() -> None:
    assert outputs_of(["tabby", "tench"], 1000, names_of_outputs(1000)).tolist() == [281, 0]
    assert class_label(281, imagenet_names()) == "class 281 (tabby)" and class_label(3, ["a"]) == "class 3"


def test_labels_that_are_synset_numbers_are_shown_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ["n03876231", "cat", "n01440764", "n00000000", "n15075141"]
    assert shown_classes(classes) == ("paintbrush", "cat", "tench", "n00000000", "toilet tissue")
    assert shown_classes(()) == () and shown_classes(["a", "b"]) == ("a", "b")

    def unknown() -> list[str]:
        raise DataError("no list of them")

    monkeypatch.setattr(labelling, "_synsets", unknown)  # timm is not installed
    assert shown_classes(classes) == tuple(classes)


@pytest.mark.slow
def test_a_network_of_ones_own_with_1000_outputs(factory: str, tmp_path: pathlib.Path) -> None:
    Image.fromarray(dv.Scenes(1)[0][0]).save(tmp_path / "a.png")
    out = tmp_path / "o.png"
    text = run("occlude", factory, tmp_path / "a.png", "--square", "8", "--stride", "8", "-o", out)
    assert "probability of class 281 (tabby)" in text
    assert text.count("the names of ImageNet's classes are assumed: --classes FILE gives others") == 1
    with (tmp_path / "o.csv").open() as file:
        assert {row["top_class"] for row in csv.DictReader(file)} == {"tabby"}
    named, numbered = tmp_path / "named.svg", tmp_path / "numbered.svg"
    for target, figure in (("lynx", named), ("287", numbered)):
        run("cam", "grad-cam", factory, tmp_path / "a.png", "-l", "0", "-t", target, "-o", figure)
    assert "lynx" in named.read_text() and "lynx" in numbered.read_text()


@pytest.mark.slow
def test_commands_on_images_name_what_they_number(factory: str, tmp_path: pathlib.Path) -> None:
    common = ("scenes:3", "-o", tmp_path / "i.png", "--kinds", "rotation", "--steps", "rotation=90", "--count", "2")
    for spec, output, name in ((factory, "281", "tabby"), (factory.replace(":make", ":ten"), None, None)):
        run("invariance", spec, *common)
        with (tmp_path / "i.csv").open() as file:
            rows = list(csv.DictReader(file))
        scenes = dv.Scenes(3)
        labels = scenes.labels[spread(scenes.labels, 2)]
        names = [scenes.classes[label] for label in labels]  # ten outputs, ten classes: in their order
        assert {(row["output"], row["class"]) for row in rows} == (
            {(output, name)} if output else {(str(n), c) for n, c in zip(labels, names, strict=True)}
        )


@pytest.mark.slow
def test_mistakes_are_named(factory: str, tmp_path: pathlib.Path) -> None:
    for label in ("tench", "lynx"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.fromarray(dv.Scenes(1)[0][0]).save(tmp_path / "photos" / label / "a.png")
    metrics = ("--metrics", "adcc", "-m", "grad-cam", "-l", "0", "-o", tmp_path / "t.csv")
    text = run("evaluate", factory, tmp_path / "photos", *metrics)
    assert "tench taken for tabby: 1" in text and "lynx taken for tabby: 1" in text
    with (tmp_path / "t.wrong.csv").open() as file:
        assert {(row["true"], row["predicted"]) for row in csv.DictReader(file)} == {
            ("tench", "tabby"),
            ("lynx", "tabby"),
        }
