"""The methods for pairs as their sources declare them: names, options, costs and papers, without importing torch."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection, Iterable
from functools import cache

from deconvviz import lengths
from deconvviz.cam.catalogue import own_name
from deconvviz.declarations import Declaration, declarations

FOLDER = pathlib.Path(__file__).parent


@cache
def pair_declarations() -> dict[str, Declaration]:
    """Return the methods for pairs by name; `defaults` has their options, with the lengths that depend on the size.

    >>> pair_declarations()["interaction-cam"].defaults
    {'reduce': 'mean', 'interact': False}
    """
    files = [FOLDER / "methods.py", FOLDER / "transforms.py", FOLDER / "matching.py"]
    return {name: _with_options(each) for name, each in declarations(files, "pair_method", vars(lengths)).items()}


def own_pair_name(name: str, methods: Collection[str]) -> str:
    """Return the name that a method for pairs has here, however it is written; raises DeconvvizError for another one.

    >>> own_pair_name("InteractionCAM", pair_declarations())
    'interaction-cam'
    """
    return own_name(name, methods)


def own_pair_names(names: Iterable[str]) -> list[str]:
    """Return the names that methods for pairs have here, each once; raises DeconvvizError for another one."""
    return list(dict.fromkeys(own_pair_name(name, pair_declarations()) for name in names))


def _with_options(declaration: Declaration) -> Declaration:
    """Return a declaration whose defaults are the method's options: the parameters after the view or views."""
    views = 2 if declaration.keywords["reads"] == "both" else 1
    values = {**declaration.defaults, **declaration.keywords.get("lengths", {})}
    return dataclasses.replace(declaration, defaults={name: values[name] for name in declaration.parameters[views:]})
