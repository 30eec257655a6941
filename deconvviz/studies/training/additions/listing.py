"""Which additions there are, as their sources declare them: nothing is imported to list them."""

from __future__ import annotations

import pathlib
from functools import cache

from deconvviz.declarations import Declaration, declarations

ENGINE = ("__init__", "base", "listing", "registry")  # the files of this folder that hold no addition


def files() -> list[pathlib.Path]:
    """Return the source files that may hold additions."""
    return [file for file in sorted(pathlib.Path(__file__).parent.glob("*.py")) if file.stem not in ENGINE]


@cache
def addition_declarations() -> dict[str, Declaration]:
    """Return the additions by name.

    >>> "hide-and-seek" in addition_declarations()
    True
    """
    return declarations(files(), "registered")


def described() -> str:
    """Return each addition's name and what its docstring says of it, for a terminal."""
    blocks = []
    for name, declared in addition_declarations().items():
        lines = (f"    {line}".rstrip() for line in declared.docstring.splitlines())
        blocks.append("\n".join((name, *lines)))
    return "\n\n".join(blocks)
