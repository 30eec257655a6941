"""The explanation methods as their sources declare them: names, options and papers, without importing torch."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Collection, Iterable
from functools import cache

from deconvviz import lengths
from deconvviz.declarations import Declaration, declarations
from deconvviz.registry import require_name

FOLDER = pathlib.Path(__file__).parent
OF_LAYERS = ("layer", "layers", "inner")  # what methods need whose layer the user may name
OTHER_NAMES = {
    "saliency": "gradient",
    "vanilla-gradient": "gradient",
    "input-x-gradient": "gradient-x-input",
    "guided-backprop": "guided",
    "guided-backpropagation": "guided",
    "deconvolution": "deconvnet",
    "lrp": "lrp-epsilon",
}
"""Names that methods have in captum and elsewhere -> their names here."""


@cache
def learned_declarations() -> dict[str, Declaration]:
    """Return the methods whose explainer is trained, by name."""
    return {
        name: dataclasses.replace(each, defaults={"explainer": None}, keywords={"passes": "1 forward"})
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


def own_name(name: str, methods: Collection[str]) -> str:
    """Return the name that a method has here, however it is written: "grad-cam", "GradCAM", "layer_cam", "GradCAMpp".

    Args:
        name: as people write it.
        methods: the names that methods have here.

    Raises:
        DeconvvizError: no method has this name; the message lists the nearest ones.

    >>> own_name("GradCAM", ["grad-cam", "rise"]), own_name("Saliency", ["gradient"])
    ('grad-cam', 'gradient')
    """
    if name in methods:
        return name
    name_by_letters = {_letters(method): method for method in methods}
    name_by_letters |= {_letters(other): method for other, method in OTHER_NAMES.items() if method in methods}
    method_name = name_by_letters.get(_letters(name), name)
    require_name("method", method_name, methods)
    return method_name


def own_names(names: Iterable[str]) -> list[str]:
    """Return the names that methods have here, each once; raises DeconvvizError for a method that does not exist.

    >>> own_names(["GradCAM", "RISE", "grad-cam"])
    ['grad-cam', 'rise']
    """
    methods = method_declarations()
    return list(dict.fromkeys(own_name(name, methods) for name in names))


def _letters(name: str) -> str:
    """Return what of a name counts: small letters, digits, and "+"; torch-cam writes "pp" for "++"."""
    letters = re.sub("[^a-z0-9+]", "", name.lower()).replace("plusplus", "++")
    return letters.removesuffix("pp") + "++" if letters.endswith("campp") else letters


def _with_options(declaration: Declaration) -> Declaration:
    """Return a method's declaration whose defaults are its options: parameters after the view and a wrapped method."""
    given = 2 if declaration.keywords.get("needs") == "inner" else 1
    values = {**declaration.defaults, **declaration.keywords.get("lengths", {})}
    options = {name: values[name] for name in declaration.parameters[given:]}
    return dataclasses.replace(declaration, defaults=options)
