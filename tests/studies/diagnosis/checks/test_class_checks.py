"""Classes that are taken for one another are found, and each number has an oracle."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from diagnosed import PLAIN, Planted, found, skipped, subject_of
from torch import Tensor, nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.studies.diagnosis.measures.neighbours import neighbours
from deconvviz.studies.diagnosis.result import save_neighbours
from deconvviz.studies.diagnosis.subject import Subject


def coloured(colours: Sequence[tuple[int, int, int]], each: int = 10) -> InMemoryImages:
    """Images of one colour a class, with a little noise."""
    rng = np.random.default_rng(0)
    pictures = [np.clip(np.array(c) + rng.integers(-9, 10, (32, 32, 3)), 0, 255) for c in colours for _ in range(each)]
    labels = [label for label in range(len(colours)) for _ in range(each)]
    return InMemoryImages(np.array(pictures, np.uint8), labels, [f"class {n}" for n in range(len(colours))])


class ByColour(nn.Module):
    """Its three maps are red, green and blue; a class's score is how near the mean colour is to its own."""

    def __init__(self, colours: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1)
        self.maps.weight.data = torch.eye(3)[:, :, None, None]
        nn.init.constant_(self.maps.bias, 4.0)  # type: ignore[arg-type]
        own = (torch.tensor(colours, dtype=torch.float32) / 255 - 0.5) / 0.25 + 4
        self.score = nn.Linear(3, len(colours))
        self.score.weight.data, self.score.bias.data = 2 * own, -own.square().sum(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(torch.relu(self.maps(x)).mean((2, 3)))


RED, GREEN, BLUE, DARK = (220, 40, 40), (40, 220, 40), (40, 40, 220), (40, 40, 40)


def test_confused_classes_are_found() -> None:
    model, shown = ByColour([RED, GREEN, BLUE, DARK]), [RED, GREEN, BLUE, DARK]
    clean = subject_of(model, coloured(shown), outputs=np.arange(4))
    assert found("confused", clean) == [] and not skipped("confused", clean)
    sound = coloured(shown)
    pictures = np.array(sound.pictures)
    pictures[10:16] = pictures[0:6]  # six of ten images of class 1 look like class 0
    images = InMemoryImages(pictures, sound.labels, sound.classes)
    subject = subject_of(model, images, outputs=np.arange(4))
    (finding,) = found("confused", subject)
    assert (finding.severity, finding.value) == ("serious", 60.0)
    assert "'class 1'" in finding.what and "'class 0'" in finding.what and "4 are classified correctly" in finding.what
    by_name = {one.name: one for one in neighbours(subject)}
    assert (by_name["class 1"].taken, by_name["class 1"].right, by_name["class 1"].neighbour) == (6, 4, "class 0")
    assert by_name["class 0"].taken == 0 and by_name["class 0"].right == 10
    logits = model(torch.stack([PLAIN(p) for p in images.pictures])).detach().double().softmax(1)
    assert np.isclose(by_name["class 1"].probability, float(logits[10:20, 0].mean()), rtol=1e-4)


def test_shared_filters_respond_to_both() -> None:
    """Yellow and red share the red map; red and blue share none."""
    yellow = (220, 220, 40)
    shown = [RED, yellow, GREEN, BLUE, DARK, (40, 200, 200)]
    images = coloured(shown, 4)
    subject = subject_of(ByColour(shown), images, outputs=np.arange(6))
    means = np.array([np.stack(images.pictures)[images.labels == n].mean((0, 1, 2)) for n in range(6)])
    z = (means - means.mean(0)) / means.std(0)
    differs = 0
    for place, one in enumerate(neighbours(subject)):
        other = int(one.neighbour[-1])
        assert [*one.shared] == [
            c for c in np.argsort(-np.minimum(z[place], z[other])) if min(z[[place, other], c]) >= 1
        ]
        differs += len(one.shared) != (z[other] >= 1).sum()
    assert differs and any(one.shared for one in neighbours(subject))


def test_the_neighbour_is_the_most_frequent_mistake() -> None:
    """Of class 0, two images are narrowly taken for 1; one is surely taken for 2, whose mean probability is higher."""
    subject = subject_of(ByColour([RED, GREEN, BLUE]), coloured([RED, GREEN, BLUE], 4), outputs=np.arange(3))
    scores = np.tile(np.array([[5.0, 0, 0]], np.float32), (12, 1))
    scores[:2], scores[2] = [1, 1.1, 0], [0, 0, 30]
    assert subject.logits is not None
    subject.__dict__["_gathered"] = (subject.responses, scores)
    one = neighbours(subject)[0]
    assert (one.neighbour, one.taken, one.right) == ("class 1", 2, 1)
    scores[1] = [5, 0, 0]  # one each: then the surer one
    assert neighbours(subject)[0].neighbour == "class 2"


def test_one_image_of_a_class_tells_nothing(tmp_path: pathlib.Path) -> None:
    subject = subject_of(ByColour([RED, GREEN]), coloured([RED, GREEN], 1), outputs=np.arange(2))
    assert found("confused", subject) == [] and "at most 1 image of a class" in skipped("confused", subject)
    unknown = subject_of(ByColour([RED, GREEN]), coloured([RED, GREEN]))
    assert found("confused", unknown) == [] and "not known" in skipped("confused", unknown)
    save_neighbours(neighbours(subject), tmp_path / "classes.csv")
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines[0].startswith("class,images,right,neighbour") and lines[1].startswith("class 0,1,1,class 1,0,")


def test_one_name_for_a_class_and_more_only_where_it_is_ambiguous() -> None:
    """As for ImageNet, whose folders are numbers and of whose classes two are called "crane"."""
    images = coloured([RED, GREEN], 3)
    folders = InMemoryImages(images.pictures, images.labels, ["n01", "n02"])
    names = ("robin", "crane", "crane")
    subject = subject_of(ByColour([RED, GREEN, BLUE]), folders, outputs=np.arange(2), names=names)
    scores = np.tile(np.array([[5.0, 1, 0]], np.float32), (6, 1))
    scores[3:] = [0, 5, 1]
    subject.__dict__["_gathered"] = (subject.responses, scores)
    first, second = neighbours(subject)
    assert (first.name, first.neighbour, first.neighbour_images) == ("robin", "crane (n02)", 3)
    assert (second.name, second.neighbour, second.neighbour_images) == ("crane (n02)", "crane", 0)


def mistaken(count: int) -> Subject:
    """Red, green and blue images; `count` of the ten green ones are red."""
    images = coloured([RED, GREEN, BLUE])
    pictures = np.array(images.pictures)
    pictures[10 : 10 + count] = pictures[:count]
    shown = InMemoryImages(pictures, images.labels, images.classes)
    return subject_of(ByColour([RED, GREEN, BLUE]), shown, outputs=np.arange(3))


PLANTED = {"confused": Planted(lambda _: mistaken(6), lambda _: mistaken(0))}
