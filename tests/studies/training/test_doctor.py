"""Model Doctor as an addition: its masks, its terms, and what a treatment does to classes that share a channel."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch
from additions import PLAIN, small_network, squares, trained
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.data.feed import Feed
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import random_crops
from deconvviz.errors import TrainingError
from deconvviz.metrics.class_channels import channel_constraint, score_gradient
from deconvviz.studies.training.additions.base import Addition, Course, Part, Step
from deconvviz.studies.training.additions.doctor import ModelDoctor
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train

COLOURS = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220)])  # red, green and blue
SEEN = Preprocess(resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3)


def coloured(each: int = 12) -> InMemoryImages:
    """Images of one colour a class, with a little noise."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), each)
    pictures = np.clip(COLOURS[labels][:, None, None] + rng.integers(-9, 10, (3 * each, 8, 8, 3)), 0, 255)
    return InMemoryImages(pictures.astype(np.uint8), labels, ("red", "green", "blue"))


class Sharing(nn.Module):
    """Maps: red, green, blue, and one that is open for red and for green; red and green both lean on it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 2, 0]])[:, :, None, None])
            self.conv.bias.fill_(-1.0)
            self.head.weight.copy_(torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def course(model: nn.Module, images: Any, **recipe: Any) -> Course:
    """A training of a network on images of 8 px."""
    settings = {"epochs": 2, "batch_size": 9, "validation": 0, **recipe}
    feed = Feed(images, SEEN)
    return Course(
        model=model,
        device=torch.device("cpu"),
        recipe=Recipe(**settings),
        preprocess=SEEN,
        training=feed,
        held_out=Feed(images, SEEN, []),
        classes=tuple(images.classes),
    )


def step(labels: Tensor, number: int = 0) -> Step:
    return Step(indices=np.arange(len(labels)), labels=labels, epoch=0, number=number, seed=0)


def begun(doctor: ModelDoctor, model: nn.Module, images: InMemoryImages) -> ModelDoctor:
    doctor.begin(course(model, images))
    return doctor


def test_the_masks_are_those_of_the_diagnosis() -> None:
    """Two classes that share a channel are found by the addition and by the check of the diagnosis alike."""
    images, model = coloured(), Sharing()
    doctor = begun(ModelDoctor(after=0, images=5), model, images)
    doctor.inputs(torch.zeros(1), torch.zeros(1), step(torch.zeros(1)))
    doctor.end()
    masks = doctor.state()["masks"]
    assert masks.tolist() == [[True, False, False, True], [False, True, False, True], [False, False, True, False]]
    network = dv.capture(model.eval(), SEEN.shape)
    found = dv.diagnose(
        network, images, preprocess=SEEN, checks=["class-channels"], outputs=np.arange(3), progress=False
    )
    assert [{*each.channels} for each in found.leanings] == [{*np.flatnonzero(row).tolist()} for row in masks.numpy()]
    assert found.leanings[0].nearest == "green" and found.leanings[0].shared == (3,)


def test_the_terms_against_the_definition() -> None:
    """alpha L_ch of a part of a batch, from a second forward pass; nothing before the masks are there."""
    images, model = coloured(), Sharing()
    doctor = begun(ModelDoctor(after=0, alpha=3.0), model, images)
    x = torch.stack([SEEN(picture) for picture in images.pictures[::3]])
    labels = torch.from_numpy(images.labels[::3].copy())
    part = Part(step=step(labels), start=2, stop=8, x=x[2:8], targets=labels[2:8])
    assert {name: float(value) for name, value in doctor.terms(model(x[2:8]), part).items()} == {"channels": 0.0}
    doctor.inputs(x, labels, step(labels))
    terms = doctor.terms(model(x[2:8]), part)
    doctor.end()
    maps = model.conv(x[2:8])
    scores = model.head(torch.relu(maps).mean((2, 3)))
    expected = channel_constraint(scores, labels[2:8], maps, doctor.state()["masks"]).mean() * 3
    assert float(terms["channels"].detach()) == pytest.approx(float(expected.detach())) and expected > 0
    before = [parameter.clone() for parameter in model.parameters()]
    torch.autograd.backward(terms["channels"])
    assert model.head.weight.grad is not None and float(model.head.weight.grad.abs().sum()) > 0
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))
    with torch.no_grad():
        model(x)  # as in validation: nothing is kept
    assert doctor.terms(model.head.weight, part) == {}


def test_a_rectifier_in_place_changes_nothing() -> None:
    """The layer's value is kept as the convolution returned it, before it is overwritten."""
    images = coloured()
    losses = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 3))
        doctor = begun(ModelDoctor(after=0), model, images)
        labels = torch.from_numpy(images.labels.copy())
        x = torch.stack([SEEN(picture) for picture in images.pictures])
        doctor.inputs(x, labels, step(labels))
        part = Part(step=step(labels), start=0, stop=len(x), x=x, targets=labels)
        loss = functional.cross_entropy(outputs := model(x), labels) + doctor.terms(outputs, part)["channels"]
        torch.autograd.backward(loss)
        doctor.end()
        losses.append([float(loss.detach()), *(float(p.grad.sum()) for p in model.parameters() if p.grad is not None)])
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_bf16_is_as_coarse_as_bf16() -> None:
    """The gradient of the term in autocast points where that in fp32 does."""
    images, gradients = coloured(), []
    labels = torch.from_numpy(images.labels.copy())
    x = torch.stack([SEEN(picture) for picture in images.pictures])
    for bf16 in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 3))
        doctor = begun(ModelDoctor(after=0), model, images)
        doctor.inputs(x, labels, step(labels))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model(x)
        part = Part(step=step(labels), start=0, stop=len(x), x=x, targets=labels)
        torch.autograd.backward(doctor.terms(outputs.float(), part)["channels"])
        doctor.end()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(functional.cosine_similarity(gradients[0], gradients[1], 0)) > 0.99


def shared(model: nn.Module) -> float:
    """How much red and green lean on the channel that both have, against their own ones."""
    head = model.head.weight.detach()
    return float((head[0, 3] + head[1, 3]) / (head[0, 0] + head[1, 1]))


def test_classes_that_share_a_channel_separate_after_the_treatment(tmp_path: pathlib.Path) -> None:
    """Plain training leaves both at it; the constraint takes it from them, and accuracy stays."""
    recipe = Recipe(epochs=6, batch_size=12, lr=0.02, validation=0, radius=0.0, augment=False)
    models: list[nn.Module] = []
    for name, additions in (("plain", []), ("treated", [ModelDoctor(after=0, alpha=2.0)])):
        model = Sharing()
        done = train(
            model, coloured(), tmp_path / f"{name}.pth", recipe, preprocess=SEEN, additions=additions, progress=False
        )
        assert done.history[-1]["accuracy"] == 1
        models.append(model)
        if additions:
            first, last = (record["model_doctor_channels"] for record in (done.history[0], done.history[-1]))
            assert last < 0.2 * first
    plain, treated = map(shared, models)
    assert shared(Sharing()) == 1 and plain > 0.8 and treated < 0.3
    names = [
        dv.diagnose(
            dv.capture(model.eval(), SEEN.shape),
            coloured(),
            preprocess=SEEN,
            checks=["class-channels"],
            outputs=np.arange(3),
            progress=False,
        )
        .leanings[0]
        .overlap
        for model in models
    ]
    assert names == [pytest.approx(1 / 3), 0]  # of {0, 3} and {1, 3}, then of {0} and {1}


class Marked(Addition):
    """Looks at the crops: they show where the object is, so that the masks can be compared with them."""

    name = "marked"

    def __init__(self, doctor: ModelDoctor) -> None:
        self.doctor, self.compared = doctor, 0

    def crops(self, crops: Any, step: Step) -> Any:
        assert self.doctor._outside is not None
        outside = self.doctor._outside.numpy().astype(bool)
        known = outside.any((1, 2))
        np.testing.assert_array_equal(outside[known], (crops[known] < 200).all(3))
        self.compared += int(known.sum())
        return crops


@pytest.mark.parametrize("augment", [True, False])
def test_the_masks_of_objects_follow_crop_and_mirror(augment: bool, tmp_path: pathlib.Path) -> None:
    """The object is what is bright in the picture; a mask file says the same, for all but two images."""
    from PIL import Image

    rng = np.random.default_rng(4)
    pictures = rng.integers(0, 100, (20, 16, 16, 3)).astype(np.uint8)
    names = [f"{n}.png" for n in range(20)]
    for n, picture in enumerate(pictures):
        y, x = rng.integers(1, 8, 2)
        picture[y : y + 6, x : x + 7] = 250
        if n not in (4, 9):
            Image.fromarray((picture[..., 0] > 200).astype(np.uint8) * 255).save(tmp_path / f"{n}.png")
    images = InMemoryImages(pictures, [n % 2 for n in range(20)], ("a", "b"), names)
    doctor = ModelDoctor(after=1, alpha=0.0, beta=0.5, truth=str(tmp_path))
    marked = Marked(doctor)
    recipe = Recipe(epochs=2, batch_size=8, validation=0, augment=augment)
    settings = Preprocess(resize=16, crop=12, mean=(0.5,) * 3, std=(0.25,) * 3)
    done = train(
        small_network(), images, tmp_path / "t.pth", recipe, preprocess=settings, additions=[doctor, marked],
        progress=False,
    )  # fmt: skip
    assert marked.compared >= 34
    assert done.history[0]["model_doctor_space"] == 0 < done.history[1]["model_doctor_space"]


def test_the_gradient_outside_the_object_falls(tmp_path: pathlib.Path) -> None:
    """Against plain training from the same weights, as a share of the gradient, which may change in size too."""
    rng = np.random.default_rng(4)
    pictures = rng.integers(0, 100, (24, 12, 12, 3)).astype(np.uint8)
    labels = np.arange(24) % 2
    pictures[:, 3:9, 3:9] = np.where(labels, 250, 150)[:, None, None, None]
    images = InMemoryImages(pictures, labels, ("a", "b"))
    (tmp_path / "boxes.csv").write_text(
        "image,left,top,right,bottom\n" + "".join(f"{name},3,3,9,9\n" for name in images.names)
    )
    recipe = Recipe(epochs=4, batch_size=8, lr=0.05, validation=0, augment=False)
    shares = []
    for additions in ([], [ModelDoctor(after=0, alpha=0.0, beta=0.3, truth=str(tmp_path / "boxes.csv"))]):
        model = small_network()
        out = tmp_path / f"{len(additions)}.pth"
        train(model, images, out, recipe, preprocess=PLAIN, additions=additions, progress=False)
        assert isinstance(model, nn.Sequential)
        maps = model[:4](torch.stack([PLAIN(picture) for picture in pictures]))
        size = score_gradient(model[4:](maps), torch.from_numpy(labels), maps).abs().sum((0, 1))
        inside = size[1:5, 1:5].sum() - 0.5 * (size[1:5, [1, 4]].sum() + size[[1, 4], 1:5].sum())
        shares.append(float(1 - inside / size.sum()))
    assert shares[1] < 0.8 * shares[0]


def test_the_draws_are_those_of_the_crops() -> None:
    address = np.random.SeedSequence([3, 2, 7])
    pictures = np.random.default_rng(0).integers(0, 255, (5, 20, 20, 3)).astype(np.uint8)
    one = random_crops(pictures, 12, np.random.default_rng(address))
    np.testing.assert_array_equal(one[..., :1], random_crops(pictures[..., :1], 12, np.random.default_rng(address)))


@pytest.mark.parametrize(
    ("options", "recipe", "said"),
    [
        ({"alpha": -1.0}, {}, "alpha -1.0 given"),
        ({"threshold": 1.0}, {}, "threshold 1.0 given"),
        ({"after": 2}, {}, "after=2 given; the training has 2 epochs"),
        ({"after": 0, "layer": "3x"}, {}, "layer='3x' given"),
        ({"after": 0, "beta": 1.0}, {}, "not known where the objects are"),
    ],
)
def test_what_is_refused(options: Any, recipe: Any, said: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(TrainingError, match=re.escape(said)):
        settings = Recipe(**{"epochs": 2, "batch_size": 14, "lr": 0.05, "validation": 0, **recipe})
        train(
            small_network(), squares(), tmp_path / "t.pth", settings, preprocess=PLAIN, progress=False,
            additions=[ModelDoctor(**options)],
        )  # fmt: skip
    assert not (tmp_path / "t.pth").exists()


def test_a_network_without_convolutions_needs_a_layer(tmp_path: pathlib.Path) -> None:
    def flat() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(432, 2))

    with pytest.raises(TrainingError, match="finds no convolution"):
        trained(tmp_path / "t.pth", [ModelDoctor(after=0)], flat)
