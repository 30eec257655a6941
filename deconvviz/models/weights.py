"""State dicts and training checkpoints, matched to a model whatever they were wrapped in."""

from __future__ import annotations

import copy
import pathlib
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deconvviz.errors import ModelError
from deconvviz.models.checkpoints import ADVICE, read_file
from deconvviz.types import Pathlike

TRAINING = "deconvviz-training"  # marks the files that `deconvviz train` writes
SLIM = "deconvviz-slim"  # marks those of `deconvviz prune`, whose tensors are smaller than those of the model
# Under which names checkpoints keep the weights, the likeliest first; averages over training come last
USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
AVERAGES = ("ema", "average", "teacher", "swa")
WRAPPERS = ("module", "_orig_mod")  # what DataParallel, DistributedDataParallel and torch.compile put before names
COUNTERS = ("total_ops", "total_params", "num_batches_tracked")  # buffers that no output depends on
EXTRA = "_extra_state"  # of a module that keeps more than tensors
OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")  # "norm.1.weight" of torchvision 0.1

MOST = 20  # entries of a list that are looked at
State = Mapping[str, Tensor]
Rename = Callable[[str], str]


@dataclass(frozen=True)
class Weights:
    """What a weights file holds; all but the state dicts comes from files that deconvviz wrote.

    Attributes:
        path: of the file.
        state: name -> tensor, the likeliest state dict of the file, without what a wrapper put before its names.
        states: where in the file -> state dict, all of them as they are, the likeliest first.
        arguments: of the model's factory.
        settings: of the `Preprocess` that the network was trained with.
        classes: names of the outputs; empty where they are unknown.
        head: what stands in the place of the model's own last layers, as `Head.as_dict` gives it; empty for its own.
        model: name of the model, as `load_model` takes it; empty where it is unknown.
        slim: whether its tensors are smaller than those of the model, because `deconvviz prune` took channels out.
    """

    path: pathlib.Path
    state: State
    states: Mapping[str, State] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    head: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    slim: bool = False


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Load a state dict into a model, in place; weights in half precision get the model's own dtype.

    The model's own strict `load_state_dict` decides what fits. Where a file has several state dicts, such as the
    weights and their average over training, the first that fits is taken, and a warning names the others.

    Raises:
        ModelError: the weights belong to another network; the model is unchanged then.
    """
    expected = model.state_dict()
    before = _like(expected, {name: copy.deepcopy(value) for name, value in expected.items()})
    states = weights.states or {"": weights.state}
    fitting: list[str] = []
    for key, state in states.items():
        for form in _forms(state, expected):
            if fitting:
                if not misfit(expected, form, COUNTERS):
                    fitting.append(key)
                    break
            elif _loads(model, form):
                fitting.append(key)
                break
            else:
                model.load_state_dict(before)
    if not fitting:
        raise ModelError(
            f"weights {weights.path} do not fit {type(model).__name__} ({_closest(states, expected)}); choose the "
            "model they belong to"
        )
    if len(fitting) > 1:
        warnings.warn(f"{weights.path} holds several networks; {fitting[0]} is taken, not {fitting[1]}", stacklevel=2)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict that a model has without what was put around its weights, for a file.

    A parametrised weight (torch.nn.utils.parametrize) is stored as the value that the network computes with, under its
    plain name; a part that torch.compile compiled has its plain names. Others can then load the file into the network
    as it is built.

    >>> from torch.nn.utils import parametrizations
    >>> list(plain_state(parametrizations.weight_norm(nn.Linear(2, 3))))
    ['bias', 'weight']
    """
    state = {
        name.replace("_orig_mod.", ""): tensor
        for name, tensor in model.state_dict().items()
        if "parametrizations." not in name
    }
    for place, module in model.named_modules():
        if parametrize.is_parametrized(module):
            prefix = f"{place}.".lstrip(".").replace("_orig_mod.", "")
            for name in module.parametrizations:
                state[prefix + name] = getattr(module, name).detach()
    return state


def _loads(model: nn.Module, state: State) -> bool:
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, KeyError):
        return False
    return True


def _closest(states: Mapping[str, State], expected: State) -> str:
    """Say how the state dict that comes nearest differs, and under which keys the others stand."""
    forms = [(key, form) for key, state in states.items() for form in _forms(state, expected)]
    key, nearest = min(forms, key=lambda pair: len(set(expected) ^ set(pair[1])))
    complaint = misfit(expected, nearest, COUNTERS)
    others = [name for name in states if name != key]
    where = f" in {key!r}" if key else ""
    return complaint + where + (f"; also found: {', '.join(map(repr, others))}" if others else "")


# --- forms of one state dict -----------------------------------------------------------------------------------------


def _forms(state: State, expected: State) -> Iterator[State]:
    """Yield a state dict as it is, and renamed in the ways that wrappers and older versions suggest."""
    seen: list[list[str]] = []
    for form in _candidates(state, expected):
        if list(form) not in seen:
            seen.append(list(form))
            yield form


def _candidates(state: State, expected: State) -> Iterator[State]:
    counted = {name: tensor for name, tensor in state.items() if _plain_name(name) not in COUNTERS[:2]}
    state = _like(state, counted)
    yield state
    peeled = [state]
    while any(_without_one_wrapper(name) != name for name in peeled[-1]):
        peeled.append(renamed(peeled[-1], _without_one_wrapper))
    for bare in (*peeled, renamed(state, _without_wrappers)):
        for form in (bare, renamed(bare, _modern)):
            yield form
            yield from _below_a_prefix(form, expected)
    needed = [name for name in expected if _plain_name(name) not in COUNTERS]
    if needed and "." in needed[0]:  # the model itself is inside another one
        prefix = needed[0].partition(".")[0] + "."
        if all(name.startswith(prefix) for name in needed):
            yield renamed(renamed(state, _without_wrappers), lambda name: prefix + name)


def _plain_name(name: str) -> str:
    return name.rpartition(".")[2]


def _without_one_wrapper(name: str) -> str:
    first, dot, rest = name.partition(".")
    return rest if dot and first in WRAPPERS else name


def _without_leading_wrappers(name: str) -> str:
    rest = _without_one_wrapper(name)
    return name if rest == name else _without_leading_wrappers(rest)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _modern(name: str) -> str:
    return OLD_DENSENET.sub(r"\1\2", name)


def _below_a_prefix(state: State, expected: State) -> Iterator[State]:
    """Yield the part of a state dict below a prefix that holds every name of the model, such as "model."."""
    needed = [name for name in expected if _plain_name(name) not in COUNTERS]
    if not needed:
        return
    ends = "." + needed[0]
    for prefix in [name[: -len(needed[0])] for name in state if name.endswith(ends)]:
        below = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
        if all(prefix + name in below for name in needed):
            yield renamed(_like(state, below), lambda name, prefix=prefix: name.removeprefix(prefix))  # type: ignore[misc]


def renamed(state: State, rename: Rename) -> State:
    """Return a state dict with other names; the versions of its modules, `_metadata`, follow."""
    result: OrderedDict[str, Tensor] = OrderedDict((rename(name), tensor) for name, tensor in state.items())
    metadata = getattr(state, "_metadata", None)
    if isinstance(metadata, Mapping):
        moved = {rename(f"{name}.x").removesuffix("x").rstrip("."): entry for name, entry in metadata.items() if name}
        result._metadata = {"": metadata.get("", {}), **moved}  # type: ignore[attr-defined]
    return result


def _like(state: State, entries: Mapping[str, Tensor]) -> State:
    """Return other entries with the versions of the modules of a state dict."""
    result = OrderedDict(entries)
    if hasattr(state, "_metadata"):
        result._metadata = state._metadata  # type: ignore[attr-defined]
    return result


def misfit(expected: Mapping[str, Tensor], state: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> str:
    """Say in a few words how the names and shapes of a state dict differ from those of a model.

    Args:
        expected: the model's own state dict.
        state: the state dict to compare.
        ignored: last parts of names that may be missing or too many.

    Returns:
        "" where nothing differs.

    >>> misfit({"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)})
    '1 unexpected, first bias; 1 of another shape, first weight: (2, 4), expected (2, 3)'
    """
    missing = [name for name in expected if name not in state and _plain_name(name) not in ignored]
    unexpected = [name for name in state if name not in expected and _plain_name(name) not in ignored]
    parts = [
        f"{len(names)} {what}, first {names[0]}"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"))
        if names
    ]
    shared = [name for name in expected if name in state]
    shared = [name for name in shared if _plain_name(name) != EXTRA]
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


# --- reading ---------------------------------------------------------------------------------------------------------


def read_weights(path: Pathlike) -> Weights:
    """Read a state dict, or a checkpoint that holds one or several, under whatever keys.

    Raises:
        ModelError: the file does not exist, holds anything else, or holds objects that are not tensors.
    """
    content = read_file(path)
    from_training = isinstance(content, Mapping) and content.get("format") in (TRAINING, SLIM)
    details = {key: content[key] for key in ("arguments", "settings")} if from_training else {}
    details |= {"classes": tuple(content.get("classes", ())), "head": content.get("head", {})} if from_training else {}
    details |= {"model": str(content.get("identity", {}).get("model", ""))} if from_training else {}
    details |= {"slim": content["format"] == SLIM} if from_training else {}
    states = dict(sorted(_states_in(content), key=lambda pair: _rank(pair[0])))
    if not states:
        keys = (
            f"; it holds {', '.join(map(str, list(content)[:8])) or 'nothing'}" if isinstance(content, Mapping) else ""
        )
        raise ModelError(f"{path} holds no state dict (name -> tensor){keys}; {ADVICE}")
    likeliest = renamed(next(iter(states.values())), _without_leading_wrappers)
    return Weights(pathlib.Path(path), likeliest, states, **details)


def _states_in(content: Any, key: str = "", depth: int = 3) -> Iterator[tuple[str, State]]:
    """Yield (where, state dict) of every mapping from names to tensors in a checkpoint."""
    if isinstance(content, list | tuple) and depth:
        for place, value in enumerate(content[:MOST]):
            yield from _states_in(value, f"{key}.{place}".lstrip("."), depth - 1)
    if not isinstance(content, Mapping) or not content:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    extra = {name: value for name, value in named.items() if _plain_name(name) == EXTRA}
    tensors = {name: _tensor(value) for name, value in named.items() if name not in extra}
    found = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    others = [value for name, value in content.items() if name not in extra]
    if found and len(found) >= 0.5 * len(others) and not any(isinstance(value, Mapping) for value in others):
        yield key, _like(content, {name: value for name, value in {**extra, **found}.items() if value is not None})
        return
    if depth:
        for name, value in content.items():
            if isinstance(name, str):  # an optimiser numbers its states
                yield from _states_in(value, f"{key}.{name}".lstrip("."), depth - 1)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else None


def _rank(key: str) -> tuple[bool, int, int]:
    """Return what state dicts of a checkpoint are sorted by: averages last, usual keys first, deep ones later."""
    parts = key.split(".")
    usual = min((USUAL_KEYS.index(part) for part in parts if part in USUAL_KEYS), default=len(USUAL_KEYS))
    return any(word in key.lower() for word in AVERAGES), usual, len(parts)
