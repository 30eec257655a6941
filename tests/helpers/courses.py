"""A training's surroundings for the tests of single additions: images of squares, a course, a step."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import torch
from additions import PLAIN, squares
from torch import Tensor, nn

from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.training.additions.base import Addition, Course, Step
from deconvviz.studies.training.recipe import Recipe
from deconvviz.studies.training.train import train


class Cut(Exception):
    """A training was interrupted."""


def small_net(inplace: bool = False, seed: int = 1) -> nn.Sequential:
    """Two convolutions with maps of 10 x 10 and 4 x 4, two classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU(inplace), nn.Flatten(),
        nn.Linear(128, 2),
    )  # fmt: skip


def course_of(model: nn.Module, side: int = 12) -> Course:
    """A course over images of squares, of which every fourth is held out."""
    images, preprocess = squares(), Preprocess(resize=side, crop=side)
    places = np.arange(len(images) - 1)
    return Course(
        model=model,
        device=torch.device("cpu"),
        recipe=Recipe(epochs=1),
        preprocess=preprocess,
        training=Feed(images, preprocess, places[places % 4 > 0]),
        held_out=Feed(images, preprocess, places[places % 4 == 0]),
        classes=images.classes,
    )


def step_of(labels: Tensor, epoch: int = 0, number: int = 0, **more: Any) -> Step:
    """A step on images of some classes."""
    return Step(indices=np.arange(len(labels)), labels=labels, epoch=epoch, number=number, seed=0, **more)


def trained(
    out: pathlib.Path, additions: list[Addition], model: nn.Module | None = None, **options: Any
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a small network on squares; return it, and the history without the times."""
    model = small_net() if model is None else model
    recipe = Recipe(**{"epochs": 3, "batch_size": 8, "lr": 0.05, "validation": 0.25, **options.pop("recipe", {})})
    result = train(
        model, squares(), out, recipe, preprocess=PLAIN, resize=14, additions=additions, progress=False, **options
    )
    return model, [{key: value for key, value in record.items() if key != "seconds"} for record in result.history]


def cut_after(steps: int, kind: type[Addition], **options: Any) -> Addition:
    """An addition of a kind that interrupts the training after so many steps."""

    class Cutting(kind):  # type: ignore[misc, valid-type]
        left = steps

        def after_step(self, step: Step) -> None:
            super().after_step(step)
            type(self).left -= 1
            if not type(self).left:
                raise Cut

    return Cutting(**options)


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
