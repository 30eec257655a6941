"""Small networks with planted flaws, their images, and what the checks of a diagnosis find in them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from in_memory import noise
from numpy.typing import NDArray
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.datasets import Images
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.studies.diagnosis.checks import CHECKS
from deconvviz.studies.diagnosis.finding import Finding
from deconvviz.studies.diagnosis.options import DiagnosisOptions
from deconvviz.studies.diagnosis.subject import Subject

SIDE = 24
PLAIN = dv.Preprocess(resize=None, crop=32, mean=(0.5,) * 3, std=(0.25,) * 3)


class Planted(NamedTuple):
    """A flaw that a check must find; both functions get an empty folder.

    flawed makes a subject with the flaw; sound makes the same without it.
    """

    flawed: Callable[[pathlib.Path], Subject]
    sound: Callable[[pathlib.Path], Subject]


def noise_images(
    count: int = 40, labels: Sequence[int] | NDArray[np.int64] | None = None, side: int = SIDE
) -> InMemoryImages:
    """Images of noise, of classes by number."""
    known = [] if labels is None else labels
    return InMemoryImages(
        noise(count, side, side, seed=3), labels, [f"class {n}" for n in range(max(known, default=-1) + 1)]
    )


def about(model: nn.Module, images: InMemoryImages | None = None, std: float = 0.5, **options: Any) -> Subject:
    """A Subject of a model and some images."""
    images = images or noise_images()
    side = len(images[0][0])
    preprocess = Preprocess(resize=None, crop=side, mean=(0.5,) * 3, std=(std,) * 3)
    return subject_of(model, images, preprocess, **options)


def subject_of(model: nn.Module, images: Images, preprocess: dv.Preprocess = PLAIN, **options: Any) -> Subject:
    """A Subject of a network, images and how they become its input."""
    return Subject(
        dv.capture(model.eval(), preprocess.shape), images, preprocess, DiagnosisOptions(progress=False, **options)
    )


def found(name: str, subject: Subject) -> list[Finding]:
    """What the check of that name finds."""
    return list(CHECKS[name](subject).findings)


def skipped(name: str, subject: Subject) -> str:
    """Why the check of that name, or a part of it, was not made; empty where all of it was."""
    return str(CHECKS[name](subject).skipped or "")


def net(
    filters: int = 20,
    kernel: int = 5,
    stride: int = 1,
    seed: int = 0,
    edit: Callable[[nn.Sequential], object] | None = None,
) -> nn.Sequential:
    """Two convolutions with rectifiers and a classifier, of seeded weights, after `edit`."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, filters, kernel, stride, kernel // 2),
        nn.ReLU(),
        nn.Conv2d(filters, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.zero_()  # type: ignore[operator]
        if edit is not None:
            edit(model)
    return model


def weights(model: nn.Sequential, place: int = 0) -> Tensor:
    """The convolution's weights, to be written into."""
    weight = model[place].weight
    assert isinstance(weight, Tensor)
    return weight.data


def grating(kernel: int, cycles: float, angle: float, phase: float = 0.0) -> NDArray[np.float64]:
    """A grating of so many cycles per pixel under a Gaussian window, the same in three colours: [3, k, k]."""
    place = np.arange(kernel) - (kernel - 1) / 2
    y, x = place[:, None], place[None]
    wave = np.cos(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return np.repeat((wave * np.exp(-(x**2 + y**2) / (2 * (kernel / 4) ** 2)))[None], 3, 0)
