"""Random weights that really are: also of a model whose factory loads its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from deconvviz.arrays import reset_of
from deconvviz.errors import ModelError

OTHER_SEED = 1_234_567


def make_random(model: nn.Module, build: Callable[[], nn.Module], name: str) -> None:
    """Make the weights of a model random, of a fixed seed, in place; those that are random already stay.

    The model is built once more, with other random numbers. A weight that is the same in both was not drawn: if its
    values differ among themselves, it was loaded, and the module that it belongs to is initialised anew.

    Args:
        model: as it was built.
        build: makes the model.
        name: of the model, for the message.

    Raises:
        ModelError: a weight was loaded, and its module has no way to initialise it.
    """
    with _other_random_numbers():
        other = build().state_dict()
    drawn = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    drawn |= {key for key in other if _owner_reset(model, key)}  # statistics; other buffers are computed, not drawn
    loaded = [key for key, value in model.state_dict().items() if key in drawn and _was_loaded(value, other.get(key))]
    if not loaded:
        return
    before = {key: value.clone() for key, value in model.state_dict().items() if key in loaded}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        owners = dict.fromkeys(key.rpartition(".")[0] for key in loaded)
        for owner in owners:
            reset = reset_of(model.get_submodule(owner))
            if reset:
                reset()
    kept = [key for key, value in model.state_dict().items() if key in before and torch.equal(value, before[key])]
    if kept:
        raise ModelError(
            f"{name} loads weights of its own, and {kept[0]} has no way to be made random again; give --weights none a "
            "factory that does not load them"
        )


def _owner_reset(model: nn.Module, key: str) -> Callable[[], None] | None:
    """Return what initialises the module that a weight belongs to; None where it has no such method."""
    return reset_of(model.get_submodule(key.rpartition(".")[0]))


def _was_loaded(value: Tensor, other: Tensor | None) -> bool:
    """Whether a weight is the same for other random numbers, and no constant such as zeros or ones."""
    if other is None or not value.is_floating_point() or value.numel() < 2 or value.shape != other.shape:
        return False
    return torch.equal(value, other) and bool((value != value.flatten()[0]).any())


@contextlib.contextmanager
def _other_random_numbers() -> Iterator[None]:
    """Draw other random numbers within a `with` block, also where the code in it sets a seed of its own."""
    set_seed = torch.manual_seed

    def other_seed(seed: int) -> torch.Generator:
        return set_seed(int(seed) + OTHER_SEED)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed = torch.random.manual_seed = other_seed
        try:
            other_seed(0)
            yield
        finally:
            torch.manual_seed = torch.random.manual_seed = set_seed
