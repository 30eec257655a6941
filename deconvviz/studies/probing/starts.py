"""From where whole networks are trained on few images: random weights, or trained ones with a new last layer."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deconvviz.metrics import randomised
from deconvviz.models.load import LoadedModel, build_model
from deconvviz.models.zfnet import PAPER_RADIUS, ZFNet
from deconvviz.run.heads import new_head
from deconvviz.studies.training.fine_tuning import FineTuning

BODY_RATE = 0.1  # of a fine-tuned network, on all but its new last layer
Make = Callable[[int], tuple[nn.Module, FineTuning]]
"""A seed -> a network with a new last layer, and what of it is trained."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """From where a network is trained on few images.

    Attributes:
        make: returns the network of a seed, with its new last layer.
        radius: largest root mean square of its filters, as in `Recipe`; 0 sets no limit.
        of: what decides the network beside the seed, JSON values.
    """

    make: Make
    radius: float
    of: Mapping[str, Any]


def from_scratch(loaded: LoadedModel, classes: int, shape: Sequence[int]) -> Start:
    """Return a start from random weights, from which all layers are trained, as the paper's untrained network is.

    A ZFNet's filters have the paper's limit; other networks have none.

    Args:
        loaded: the model, for its architecture.
        classes: number of classes.
        shape: of an image, (channels, height, width).
    """

    def make(seed: int) -> tuple[nn.Module, FineTuning]:
        model = untrained(loaded, seed)
        return model, FineTuning(head=new_head(model, "new", classes, shape, seed))

    radius = PAPER_RADIUS if isinstance(loaded.model, ZFNet) else 0.0
    return Start(make=make, radius=radius, of={"start": "random", "model": loaded.spec})


def fine_tuned(
    loaded: LoadedModel,
    classes: int,
    shape: Sequence[int],
    fingerprint: str,
    rate: float = BODY_RATE,
    keep_statistics: bool = False,
) -> Start:
    """Return a start from trained weights with a new last layer; the rest learns at a smaller rate.

    Args:
        loaded: the trained model; it is copied.
        classes: number of classes.
        shape: of an image, (channels, height, width).
        fingerprint: of the trained network.
        rate: factor on the learning rate of everything but the last layer.
        keep_statistics: whether BatchNorm keeps the statistics of the trained network.
    """

    def make(seed: int) -> tuple[nn.Module, FineTuning]:
        model = copy.deepcopy(loaded.model)
        head = new_head(model, "new", classes, shape, seed)
        return model, FineTuning(head=head, body_rate=rate, keep_statistics=keep_statistics)

    of = {"start": fingerprint, "model": loaded.spec, "body_rate": rate}
    return Start(make=make, radius=0.0, of=of | ({"keep_statistics": True} if keep_statistics else {}))


def untrained(loaded: LoadedModel, seed: int = 0) -> nn.Module:
    """Return the same architecture with random weights, in eval mode.

    The weights are those with which the model's own library begins a training. A model from a Python file, whose
    factory may return trained weights, gets those of each layer's own `reset_parameters`.

    Args:
        loaded: the trained model.
        seed: what the weights are drawn from.

    Raises:
        ModelError: a layer of a model from a Python file has no `reset_parameters`.
    """
    if ".py:" in loaded.spec:
        return deque(randomised(loaded.model, seed=seed), maxlen=1)[0][1].eval()
    arguments = getattr(loaded.model, "arguments", {})
    return build_model(loaded.spec, arguments, trained=False, seed=seed, head=loaded.head)[0].eval()
