"""A model file for the command line: deconvviz layers examples/own_model.py:make --weights none

A factory returns the module, or (module, settings of its preprocessing).
"""

from torch import nn


def make() -> tuple[nn.Module, dict[str, object]]:
    """Return a small network for 64 px images, and how its images are prepared."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return model, {"resize": 72, "crop": 64, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
