"""The pruned network as a module, checked against the masked one, and as files that others open."""

from __future__ import annotations

import copy
import pathlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import PruningError
from deconvviz.graph.channels import ChannelGroups, masked
from deconvviz.graph.evaluating import evaluating
from deconvviz.graph.exporting import program_bytes
from deconvviz.graph.network import Network
from deconvviz.models.slimming import slimmed
from deconvviz.models.weights import SLIM, plain_state
from deconvviz.results.files import atomic
from deconvviz.run.loop import Checkpoint
from deconvviz.types import Floats, Mask, Pathlike

SCHEMA = 1
TOLERANCE = 1e-3  # of the largest output: how far the slim network may be from the masked one by rounding


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a file of weights says about the network besides its tensors.

    Attributes:
        model: its name, as `load_model` takes it.
        arguments: of the factory that made it, as a zfnet has them.
        head: what stands in the place of its own last layers, as `Head.as_dict` gives it.
        classes: names of its outputs; empty where they are unknown.
    """

    model: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def slim_module(model: nn.Module, network: Network, groups: ChannelGroups, removed: Mapping[str, Mask]) -> nn.Module:
    """Return a copy of a module without some units, with smaller tensors, in eval mode.

    Args:
        model: the module that was captured.
        network: what was captured of it.
        groups: as `channel_groups` returns them for it.
        removed: name of a group -> bool [units], which of its units go.

    Raises:
        PruningError: a group cannot be taken out, or the module's own code counts channels, so that it does not run
            with fewer or returns something else than the masked network.
    """
    for name, units in removed.items():
        if units.any():
            groups.slim(name)
    slim = slimmed(model, groups.kept_numbers(removed), groups.kept_places(removed)).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *network.input_shape, generator=generator).to(network.device, network.dtype)
    with torch.no_grad(), evaluating(slim):
        expected = network.readout.scores(masked(network, groups, removed)(x))
        try:
            found: Tensor = network.readout.scores(slim.to(x.device)(x))
        except (RuntimeError, ValueError, IndexError) as error:
            raise PruningError(f"{_counts(model)}: {str(error).splitlines()[0]}") from error
    if found.shape != expected.shape or (found - expected).abs().max() > TOLERANCE * expected.abs().max():
        raise PruningError(f"{_counts(model)}: it returns something else than with zeros in their place")
    return slim


def _counts(model: nn.Module) -> str:
    return (
        f"{type(model).__name__} cannot be slimmed, because its own code counts channels; give --result masked, or "
        "prune other layers"
    )


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a module that is there: itself, or a copy where it is elsewhere, which stays as it is."""
    elsewhere = any(tensor.device != device for tensor in (*model.parameters(), *model.buffers()))
    return copy.deepcopy(model).to(device) if elsewhere else model


def masked_module(model: nn.Module, network: Network) -> nn.Module:
    """Return a copy of a module with the tensors of a masked network."""
    copied = copy.deepcopy(model)
    state = {name: network.tensors.get(name, value) for name, value in copied.state_dict().items()}
    copied.load_state_dict(state)
    return copied.eval()


def write_weights(
    model: nn.Module, path: Pathlike, origin: Origin, preprocess: Preprocess, sources: Mapping[str, Any]
) -> None:
    """Write a pruned network as a file that every command takes as --weights of the model that it was made of."""
    content = {
        "identity": {"model": origin.model},
        "arguments": dict(origin.arguments),
        "settings": preprocess.as_dict(),
        "classes": list(origin.classes),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in plain_state(model).items()},
        "sources": dict(sources),
        **({"head": dict(origin.head)} if origin.head else {}),
    }
    Checkpoint(pathlib.Path(path), SLIM, SCHEMA).write(content)


def write_program(model: nn.Module, path: Pathlike, shape: tuple[int, ...]) -> None:
    """Write the exported program of a network, which torch alone opens; see `program_bytes`."""
    content = program_bytes(copy.deepcopy(model).cpu(), shape)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def timed(models: tuple[nn.Module, nn.Module], x: Tensor, repeats: int) -> Floats:
    """Return the seconds of forward passes, float64 [2, repeats]: of one network and the other, in turn.

    A pass of each is not counted: it prepares what later ones find.

    Args:
        models: in eval mode, on the device of the images.
        x: images [N, C, h, w].
        repeats: passes of each.
    """
    seconds = np.zeros((2, repeats))
    with torch.inference_mode():
        for turn in range(-1, repeats):
            for place, model in enumerate(models):
                _wait(x)
                began = time.perf_counter()
                model(x)
                _wait(x)
                if turn >= 0:
                    seconds[place, turn] = time.perf_counter() - began
    return seconds


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
