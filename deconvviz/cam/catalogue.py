"""The explanation methods as their sources declare them: names, options and papers, without importing torch."""

from __future__ import annotations

import dataclasses
import pathlib
from functools import cache

from deconvviz import lengths
from deconvviz.declarations import Declaration, declarations
from deconvviz.registry import require_name

FOLDER = pathlib.Path(__file__).parent


@cache
def learned_declarations() -> dict[str, Declaration]:
    """Return the methods whose explainer is trained, by name."""
    return {
        name: dataclasses.replace(each, defaults={"explainer": None})
        for name, each in declarations(sorted((FOLDER / "learned").glob("*.py")), "learned").items()
    }


@cache
def method_declarations() -> dict[str, Declaration]:
    """Return all methods by name; `defaults` has their options, with the lengths that depend on the image's size.

    >>> list(method_declarations()["rise"].defaults)
    ['masks', 'cells', 'share']
    """
    formulas = declarations(sorted((FOLDER / "methods").glob("*.py")), "method", vars(lengths))
    return learned_declarations() | {name: _with_options(each) for name, each in formulas.items()}


def require_methods(*names: str) -> None:
    """Raise DeconvvizError, with the nearest names, for a method that does not exist."""
    for name in names:
        require_name("method", name, method_declarations())


def _with_options(declaration: Declaration) -> Declaration:
    """Return a method's declaration whose defaults are its options: parameters after the view and a wrapped method."""
    given = 2 if declaration.keywords.get("needs") == "inner" else 1
    values = {**declaration.defaults, **declaration.keywords.get("lengths", {})}
    options = {name: values[name] for name in declaration.parameters[given:]}
    return dataclasses.replace(declaration, defaults=options)
