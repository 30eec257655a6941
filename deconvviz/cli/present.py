"""Refuse images that are not there before a command begins: torch alone takes seconds to import."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import click

STORES, PHOTO = ("images", "data"), "image"
"""Names of the arguments that are labelled images, and of the one that is a photo."""

DIFFERENT = frozenset({"cam", "pair", "correspond"})
"""Commands whose `images` are photos or a table; `cam` and `pair` look before torch is imported by themselves."""


def require_images(path: str) -> None:
    """Raise DataError where nothing is at the path of a store or a folder; scenes, which need no file, are read.

    >>> require_images("scenes:20")
    >>> require_images("no.h5")
    Traceback (most recent call last):
    deconvviz.errors.DataError: ...no.h5 does not exist; expected an image store, as `deconvviz pack` writes it
    """
    from deconvviz.data.datasets import open_store, parse_scenes
    from deconvviz.data.gpu_decoding import PREFIX

    if parse_scenes(path) is None and not pathlib.Path(path.removeprefix(PREFIX)).exists():
        open_store(path)


def require_inputs(command: str, arguments: Mapping[str, Any]) -> None:
    """Raise DataError where images that a command is given are not there.

    Args:
        command: its name.
        arguments: what its function is called with, by name.
    """
    from deconvviz.cli.inputs import are_photos, image_file

    if command in DIFFERENT:
        return
    for name in STORES:
        value = arguments.get(name)
        if isinstance(value, tuple) and value and are_photos(value):
            for path in value:
                image_file(path)
        elif isinstance(value, tuple | str) and value:
            require_images(value if isinstance(value, str) else value[0])
    if isinstance(photo := arguments.get(PHOTO), str):
        image_file(photo)


def looking_first(name: str, command: click.Command) -> click.Command:
    """Return the command, whose function now looks for its images first."""
    function: Callable[..., Any] | None = command.callback
    if function is None or getattr(function, "looks_first", False):
        return command

    @functools.wraps(function)
    def looking(*given: Any, **arguments: Any) -> Any:
        require_inputs(name, arguments)
        return function(*given, **arguments)

    looking.looks_first = True  # type: ignore[attr-defined]
    command.callback = looking
    return command
