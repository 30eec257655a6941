"""Name -> thing. A duplicate is refused, an unknown name is answered with the nearest ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Generic, TypeVar

from deconvviz.errors import DataError, DeconvvizError, nearest

T = TypeVar("T")


def require_name(kind: str, name: str, known: Collection[str]) -> None:
    """Raise DeconvvizError with the nearest names where a name is not known; `kind` says what it would be of."""
    if name not in known:
        raise DeconvvizError(f"no {kind} named {name!r}; {nearest(name, known)}")


LARGEST = 10**9  # that a number may be: beyond it, none is meant


def require_options(owner: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise DataError for an option that does not exist, or that is true or false by default and is given otherwise.

    What else a value may be is for the owner to check.

    Args:
        owner: name of what has the options.
        defaults: name of each option -> its default.
        options: those that were given.

    >>> require_options("l1", {"greedy": False}, {"greedy": "maybe"})
    Traceback (most recent call last):
    deconvviz.errors.DataError: l1 greedy='maybe' given; expected true or false
    """
    unknown = sorted({*options} - {*defaults})
    if unknown:
        listed = ", ".join(f"{name}={value!r}" for name, value in defaults.items()) or "none"
        raise DataError(f"{owner} has no option {unknown[0]!r}; its options are: {listed}")
    for name, value in options.items():
        if isinstance(defaults[name], bool) and not isinstance(value, bool):
            raise DataError(f"{owner} {name}={value!r} given; expected true or false")


def require_numbers(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise DataError where a number is expected, as the default is one, and something else is given.

    Whole numbers stay whole. What is above zero by default may not be negative, and of whole numbers not zero.

    >>> require_numbers({"masks": 4000, "share": 0.5}, {"share": 0.1, "masks": 0})
    Traceback (most recent call last):
    deconvviz.errors.DataError: masks 0 given; expected a whole number of at least 1
    """
    for name, value in options.items():
        default = defaults[name]
        value = float(value) if value in ("nan", "inf", "-inf") else value
        if isinstance(default, bool) or not isinstance(default, int | float) or not isinstance(value, int | float):
            continue
        whole = isinstance(default, int)
        least = int(whole) if default > 0 else -LARGEST
        if not isinstance(value, int if whole else int | float) or not least <= value < LARGEST:
            words = f" of at least {least}" if default > 0 else ""
            raise DataError(f"{name} {value!r} given; expected a {'whole' if whole else 'finite'} number{words}")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping that only grows. `kind` is the word its errors use ("op", "method", ...)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register `entry` under `name` and return it; raises DeconvvizError where the name is taken."""
        if name in self._entries:
            raise DeconvvizError(f"{self.kind} {name!r} is registered already; choose another name")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        require_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
