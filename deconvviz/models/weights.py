"""State dicts and training checkpoints: read without unpickling any object, and matched to a model."""

from __future__ import annotations

import pathlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.errors import ModelError
from deconvviz.types import Pathlike

TRAINING = "deconvviz-training"  # marks the files that `deconvviz train` writes


@dataclass(frozen=True)
class Weights:
    """What a weights file holds; all but the state dict comes from files that `deconvviz train` wrote.

    Attributes:
        path: of the file.
        state: name -> tensor, the state dict.
        arguments: of the model's factory.
        settings: of the `Preprocess` that the network was trained with.
        classes: names of the outputs; empty where they are unknown.
    """

    path: pathlib.Path
    state: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Load a state dict into a model, in place; weights in half precision get the model's own dtype.

    Raises:
        ModelError: the weights belong to another network; the model is unchanged then.
    """
    complaint = misfit(model.state_dict(), weights.state)
    if complaint:
        raise ModelError(
            f"weights {weights.path} do not fit {type(model).__name__} ({complaint}); choose the model they belong to"
        )
    model.load_state_dict(weights.state)


def misfit(expected: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Say in a few words how the names and shapes of a state dict differ from those of a model.

    Args:
        expected: the model's own state dict.
        state: the state dict to compare.

    Returns:
        "" where nothing differs.

    >>> misfit({"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)})
    '1 unexpected, first bias; 1 of another shape, first weight: (2, 4), expected (2, 3)'
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    parts = [
        f"{len(names)} {what}, first {names[0]}"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"))
        if names
    ]
    shared = [name for name in expected if name in state]
    not_tensors = [name for name in shared if not isinstance(state[name], Tensor)]
    if not_tensors:
        parts.append(f"{len(not_tensors)} not tensors, first {not_tensors[0]}")
    of_other_shape = [
        name for name in shared if name not in not_tensors and expected[name].shape != torch.Size(state[name].shape)
    ]
    if of_other_shape:
        name = of_other_shape[0]
        parts.append(
            f"{len(of_other_shape)} of another shape, first {name}: {tuple(state[name].shape)}, "
            f"expected {tuple(expected[name].shape)}"
        )
    return "; ".join(parts)


def read_weights(path: Pathlike) -> Weights:
    """Read a state dict, or the checkpoint of a training that holds one.

    Raises:
        ModelError: the file does not exist, holds anything else, or holds objects that are not tensors.
    """
    content = read_file(path)
    from_training = isinstance(content, Mapping) and content.get("format") == TRAINING
    details = {key: content[key] for key in ("arguments", "settings")} if from_training else {}
    details |= {"classes": tuple(content.get("classes", ()))} if from_training else {}
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(
            f"{path} holds no state dict (name -> tensor); save one with torch.save(model.state_dict(), path)"
        )
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    return Weights(pathlib.Path(path), state, **details)


def read_file(path: Pathlike) -> Any:
    """Read tensors and plain values from a file that `torch.save` wrote.

    Raises:
        ModelError: the file does not exist, cannot be read, or holds other Python objects, which are never unpickled.
    """
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
