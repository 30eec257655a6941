"""The registry of attacks: each is a function from the images of a batch to the changed ones.

To add an attack, write a function in a file of `attacks/` and register it:

    @attack("fgsm", levels=8)
    def fgsm(v: Victims) -> Tensor: ...

Its docstring is shown to users: the equation, and where it comes from. Its further parameters are its options.
"""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from deconvviz.declarations import Declaration, declarations
from deconvviz.errors import DataError
from deconvviz.registry import Registry, require_options

if TYPE_CHECKING:
    from torch import Tensor

    from deconvviz.studies.attack.fooling import Fooling
    from deconvviz.studies.attack.victims import Victims

Formula = Callable[..., "Tensor"]
Room = Callable[[Sequence[int]], None]
LEVELS = 255  # in which changes of pixels are given and told: 255 from black to white
FILES = ("gradient", "sparse", "sparse_convolution", "optimised", "explanations")
"""The files of `attacks/`."""
INTERPRETER_FILES = ("activation", "gradient", "mask", "learned")
"""The files of `interpreters/` that register interpreters."""
TRAINED = "real-time-masking"  # the interpreter whose explainer is trained


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A registered attack. Calling it with the images of a batch changes them.

    Attributes:
        name: by which it is asked for.
        formula: `formula(victims, **options)` returns the changed images [N, C, H, W] in 0..1.
        epsilon: how far a pixel may go where the user does not say it, as a share of the way from black to white.
        room: of the shape [C, H, W] of an image; it raises DataError where images of this size are too large.
    """

    name: str
    formula: Formula
    epsilon: float
    room: Room | None = None

    @property
    def source(self) -> str:
        """The equation and the paper."""
        return inspect.cleandoc(self.formula.__doc__ or "")

    @property
    def options(self) -> Mapping[str, Any]:
        """The options and their defaults."""
        parameters = [*inspect.signature(self.formula).parameters.values()][1:]
        return {parameter.name: parameter.default for parameter in parameters}

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, those that are not given by their defaults; DataError for one that does not exist."""
        require_options(self.name, self.options, options)
        return {**self.options, **options}

    def require_room(self, shape: Sequence[int]) -> None:
        """Raise DataError where images [C, H, W] are too large for it."""
        if self.room is not None:
            self.room(shape)

    def __call__(self, victims: Victims | Fooling, **options: Any) -> Tensor:
        """Return the changed images [N, C, H, W] in 0..1."""
        return self.formula(victims, **options)


ATTACKS: Registry[Attack] = Registry("attack")
FOOLERS: Registry[Attack] = Registry("attack on explanations")
"""The attacks that change the map of an interpreter too; their formula takes a `Fooling` in the place of `Victims`."""


def attack(name: str, levels: float, room: Room | None = None) -> Callable[[Formula], Formula]:
    """Register a function as an attack.

    Args:
        name: by which it is asked for.
        levels: how far a pixel may go by default, in 255ths of the way from black to white.
        room: of the shape [C, H, W] of an image; it raises DataError where images of this size are too large.
    """

    return _registering(ATTACKS, name, levels, room)


def fooler(name: str, levels: float) -> Callable[[Formula], Formula]:
    """Register a function as an attack that changes the map of an interpreter too; arguments as of `attack`."""
    return _registering(FOOLERS, name, levels)


def _registering(
    registry: Registry[Attack], name: str, levels: float, room: Room | None = None
) -> Callable[[Formula], Formula]:
    def register(formula: Formula) -> Formula:
        registry.add(name, Attack(name=name, formula=formula, epsilon=levels / LEVELS, room=room))
        return formula

    return register


@cache
def attack_declarations() -> dict[str, Declaration]:
    """Return the attacks by name, as their sources declare them: nothing is imported for it.

    >>> list(attack_declarations())
    ['fgsm', 'pgd', 'sparse', 'sparse-convolution', 'cw', 'stadv']
    """
    return _declared("attack")


@cache
def fooler_declarations() -> dict[str, Declaration]:
    """Return the attacks that change maps too, by name, likewise.

    >>> list(fooler_declarations())
    ['pgd', 'cw', 'stadv']
    """
    return _declared("fooler")


@cache
def interpreter_declarations() -> dict[str, Declaration]:
    """Return the interpreters by name, likewise.

    >>> list(interpreter_declarations())
    ['cam', 'gradient', 'mask', 'real-time-masking']
    """
    folder = pathlib.Path(__file__).parent / "interpreters"
    return declarations([folder / f"{name}.py" for name in INTERPRETER_FILES], "interpreter")


def require_fooler(method: str, fooling: bool, attacks: Collection[str], foolers: Collection[str]) -> None:
    """Raise DataError where an attack is to fool explanations and has no form that does.

    Args:
        method: name of the attack.
        fooling: whether explanations are to be fooled.
        attacks: the attacks that there are.
        foolers: those of them that fool explanations.

    >>> require_fooler("fgsm", True, ["fgsm", "pgd"], ["pgd"])
    Traceback (most recent call last):
    deconvviz.errors.DataError: fgsm fools no explanation; take pgd, or the goal decision
    """
    if fooling and method in attacks and method not in foolers:
        raise DataError(f"{method} fools no explanation; take {' or '.join(foolers)}, or the goal decision")


def _declared(decorator: str) -> dict[str, Declaration]:
    folder = pathlib.Path(__file__).parent / "attacks"
    return declarations([folder / f"{name}.py" for name in FILES], decorator, {"require_room": True})
