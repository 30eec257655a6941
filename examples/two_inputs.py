"""A model with a further input, which a function adds:
deconvviz cam hirescam examples/two_inputs.py:make a.jpg --call examples/two_inputs.py:with_age -t output:0 -o dose.png
"""

import torch
from torch import Tensor, nn


class WithAge(nn.Module):
    """A regression from a photo and an age."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU())
        self.last = nn.Linear(33, 1)

    def forward(self, photo: Tensor, age: Tensor) -> dict[str, Tensor]:
        """Return the dose of each patient."""
        pooled = self.features(photo).mean((2, 3))
        return {"dose": self.last(torch.cat([pooled, age], 1))}


def make() -> tuple[nn.Module, dict[str, object]]:
    """Return the model, and how its images are prepared."""
    return WithAge(), {"resize": 64, "crop": 64}


def with_age(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the model is given: the images, and an age of 40 years for each of them."""
    return images, images.new_full((images.shape[0], 1), 40.0)
