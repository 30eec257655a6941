"""The additions by name, and several of them as one.

To add one, write a dataclass in a file of this folder, and register the class:

    @registered
    @dataclass
    class HideAndSeek(Addition):
        name = "hide-and-seek"
        cells: int = 4
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from deconvviz.data.datasets import Images, has_several_labels
from deconvviz.errors import TrainingError, nearest
from deconvviz.registry import Registry
from deconvviz.studies.training.additions.base import Addition, Course, Part, Step
from deconvviz.studies.training.additions.listing import files
from deconvviz.types import Picture

ADDITIONS: Registry[type[Addition]] = Registry("addition")
Kind = TypeVar("Kind", bound=type[Addition])


def registered(kind: Kind) -> Kind:
    """Register a class of additions under its name."""
    ADDITIONS.add(kind.name, kind)
    return kind


def register_all() -> None:
    """Import the files of this folder, so that `ADDITIONS` is full."""
    for file in files():
        importlib.import_module(f"{__package__}.{file.stem}")


def options_of(kind: type[Addition]) -> dict[str, Any]:
    """Return the options of a kind of additions and their defaults."""
    if not dataclasses.is_dataclass(kind):
        return {}
    return {field.name: field.default for field in dataclasses.fields(kind) if field.init}


def addition(name: str, **options: Any) -> Addition:
    """Return an addition to a training, by its name, for `train(additions=[...])`.

    Args:
        name: as in `deconvviz train --list`.
        options: of the addition; those that are left out have their defaults.

    Raises:
        DeconvvizError: there is no such addition.
        TrainingError: it has no such option, or a value is out of its range.

    >>> addition("hide-and-seek", cells=4).settings()
    {'cells': 4, 'hidden': 0.5}
    """
    register_all()
    kind = ADDITIONS[name]
    unknown = sorted(set(options) - set(options_of(kind)))
    if unknown:
        defaults = ", ".join(f"{key}={value!r}" for key, value in options_of(kind).items()) or "none"
        raise TrainingError(f"{name} has no option {unknown[0]!r}; its options are: {defaults}")
    for key, value in options.items():
        _require_kind(name, key, options_of(kind)[key], value)
    return kind(**options)


def _require_kind(name: str, option: str, default: Any, value: Any) -> None:
    """Raise TrainingError where a value is of another kind than the default; a default of None takes anything."""
    kinds: dict[type, tuple[Any, str]] = {
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        float: (int | float, "a number"),
        str: (str, "a word"),
    }
    kind, expected = kinds.get(type(default), (object, ""))
    if not isinstance(value, kind) or (isinstance(value, bool) and type(default) in (int, float)):
        raise TrainingError(f"{name} {option}={value!r} given; expected {expected}")


def from_text(names: Iterable[str], options: Mapping[str, Any]) -> list[Addition]:
    """Return the additions that were asked for; each takes those of the options that it has.

    Args:
        names: of the additions.
        options: by name of the option, or by "addition.option" where several have one of that name.

    Raises:
        DeconvvizError: there is no such addition.
        TrainingError: none of them has an option that was given.

    >>> [each.settings() for each in from_text(["hide-and-seek"], {"hide-and-seek.cells": 8})]
    [{'cells': 8, 'hidden': 0.5}]
    """
    register_all()
    names = list(names)
    options_by_name = {name: options_of(ADDITIONS[name]) for name in names}
    taken: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in options.items():
        only, _, option = key.rpartition(".")
        having = [name for name in names if option in options_by_name[name] and only in ("", name)]
        if not having and not names:
            raise TrainingError(f"option {key!r} given, but no addition was named by --with")
        if not having:
            every = sorted({option for options in options_by_name.values() for option in options})
            raise TrainingError(f"option {key!r} given, which {', '.join(names)} has not; {nearest(option, every)}")
        for name in having:
            taken[name][option] = value
    return [addition(name, **taken[name]) for name in names]


class Additions:
    """Several additions as one: at each place of a step they come in their order."""

    def __init__(self, given: Sequence[Addition]) -> None:
        """Take the additions; raises TrainingError where two have one name."""
        self.each = tuple(given)
        names = [addition.name for addition in self.each]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise TrainingError(f"{twice[0]} is asked for twice; name each addition once")

    @property
    def identity(self) -> list[dict[str, Any]]:
        """Names and options, as a checkpoint keeps them."""
        return [{"name": addition.name, **addition.settings()} for addition in self.each]

    def check(self, images: Images) -> None:
        """Raise TrainingError where an addition needs the one class of each image, and images have several labels."""
        for addition in self.each:
            if addition.of_one_class and has_several_labels(images):
                raise TrainingError(f"{addition.name} needs the one class of each image, and these have several labels")

    @contextmanager
    def taking_part(self, course: Course, states: Mapping[str, Any] | None = None) -> Iterator[None]:
        """While this lasts, the network has what the additions put into it."""
        begun: list[Addition] = []
        try:
            for addition in self.each:
                begun.append(addition)
                addition.begin(course)
                if states is not None:
                    addition.load(states.get(addition.name, {}))
            yield
        finally:
            for addition in reversed(begun):
                addition.end()

    def pictures(self, pictures: Picture, step: Step) -> Picture:
        """Return the pictures to crop from."""
        for addition in self.each:
            pictures = addition.pictures(pictures, step)
        return pictures

    def crops(self, crops: Picture, step: Step) -> Picture:
        """Return the pictures to learn from."""
        for addition in self.each:
            crops = addition.crops(crops, step)
        return crops

    def inputs(self, x: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Return the normalised inputs and the targets."""
        for addition in self.each:
            x, targets = addition.inputs(x, targets, step)
        return x, targets

    def terms(self, outputs: Tensor, part: Part) -> dict[str, Tensor]:
        """Return what is added to the loss, by the names that the history has for it."""
        return {
            title(addition, name): value
            for addition in self.each
            for name, value in addition.terms(outputs, part).items()
        }

    def after_backward(self, step: Step) -> None:
        """Hand on the gradients."""
        for addition in self.each:
            addition.after_backward(step)

    def after_step(self, step: Step) -> None:
        """Go on after the optimiser's step."""
        for addition in self.each:
            addition.after_step(step)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Return figures of the epoch, by the names that the history has for them."""
        return {
            title(addition, name): float(value)
            for addition in self.each
            for name, value in addition.end_epoch(epoch).items()
        }

    def state(self) -> dict[str, Any]:
        """Return what has to be kept to resume, by name of the addition."""
        return {addition.name: addition.state() for addition in self.each}


def title(one: Addition, name: str) -> str:
    """Return the name that the history has for a term or a figure of an addition.

    >>> from deconvviz.studies.training.additions.hiding import HideAndSeek
    >>> title(HideAndSeek(), "share hidden")
    'hide_and_seek_share_hidden'
    """
    return f"{one.name} {name}".replace("-", "_").replace(" ", "_")
