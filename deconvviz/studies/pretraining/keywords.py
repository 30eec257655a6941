"""Options of objectives and add-ons: the keyword arguments of their classes, which have defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from deconvviz.errors import DataError


def defaults_of(kind: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a class and their defaults.

    >>> defaults_of(lambda inputs, temperature=0.5: None)
    {'temperature': 0.5}
    """
    parameters = inspect.signature(kind).parameters
    return {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}


def checked_options(of: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check options, before a class is built with them.

    Args:
        of: what has the options, in words.
        kind: the class.
        options: name -> value.

    Raises:
        DataError: an option is unknown, or its value is of another kind than the default.
    """
    known = defaults_of(kind)
    for name, value in options.items():
        if name not in known:
            listed = ", ".join(f"{key}={default!r}" for key, default in known.items())
            raise DataError(f"option {name!r} given, which {of} does not have; its options are: {listed}")
        default = known[name]
        fits = isinstance(value, int | float if isinstance(default, float) else type(default))
        if not fits or isinstance(value, bool):
            expected = {float: "a number", int: "a whole number"}.get(type(default), "a word")
            raise DataError(f"option {name}={value!r} given; expected {expected}, such as {default!r}")
