"""State dicts and training checkpoints: read without ever unpickling an object, and matched to a model."""

from __future__ import annotations

import pathlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.errors import ModelError

TRAINING = "deconvviz-training"  # marks what `deconvviz train` writes


@dataclass(frozen=True)
class Weights:
    """What a weights file holds: the state dict, and of a file that `deconvviz train` wrote what made it.

    `arguments` are those of the model's factory, `settings` those of the `Preprocess` it was trained with,
    `classes` the names of its outputs.
    """

    path: pathlib.Path
    state: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Load a state dict into the model, in place; half-precision weights become the model's own dtype.

    Raises:
        ModelError: the weights are another network's; the model is unchanged then.
    """
    complaint = misfit(model.state_dict(), weights.state)
    if complaint:
        raise ModelError(
            f"weights {weights.path} do not fit {type(model).__name__} ({complaint}); choose the model they belong to"
        )
    model.load_state_dict(weights.state)


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> str:
    """Say in a few words how names and shapes of two state dicts differ; empty where they do not."""
    missing, unexpected = [n for n in own if n not in given], [n for n in given if n not in own]
    parts = [
        f"{len(names)} {what}, first {names[0]}"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"))
        if names
    ]
    others = [n for n in own if n in given and not isinstance(given[n], Tensor)]
    if others:
        parts.append(f"{len(others)} no tensors, first {others[0]}")
    shapes = [n for n in own if n in given and n not in others and tuple(own[n].shape) != tuple(given[n].shape)]
    if shapes:
        n = shapes[0]
        parts.append(
            f"{len(shapes)} of another shape, first {n}: {tuple(given[n].shape)}, expected {tuple(own[n].shape)}"
        )
    return "; ".join(parts)


def read_weights(path: str | pathlib.Path) -> Weights:
    """Read a state dict, or the checkpoint of a training loop that holds one; raises ModelError for anything else."""
    content = read_file(path)
    made_by_us = isinstance(content, Mapping) and content.get("format") == TRAINING
    found = {key: content[key] for key in ("arguments", "settings")} if made_by_us else {}
    found |= {"classes": tuple(content.get("classes", ()))} if made_by_us else {}
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(
            f"{path} holds no state dict (name -> tensor); save one with torch.save(model.state_dict(), path)"
        )
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    return Weights(pathlib.Path(path), state, **found)


def read_file(path: str | pathlib.Path) -> Any:
    """Read tensors and plain values from a file of torch.save; raises ModelError where it holds anything else."""
    if not pathlib.Path(path).is_file():
        raise ModelError(f"no weights file {path}; give the path of a state dict, DEFAULT or none")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        reason = (
            "it holds Python objects, and only tensors are loaded"
            if "weights_only" in str(error)
            else "it cannot be read"
        )
        raise ModelError(
            f"{path} is no plain state dict: {reason}; save one with torch.save(model.state_dict(), path)"
        ) from error
