"""Refuse images that are not there before a command begins: torch alone takes seconds to import."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from deconvviz.errors import DataError

STORES, PHOTO = ("images", "data"), "image"
"""Names of the arguments that are labelled images, and of the one that is a photo."""

WRITTEN = frozenset({"out", "table", "save", "features", "work", "snapshots", "mined", "mined_file"})
"""Names of the arguments that say where results go; some of these files are read, and more is kept in them."""

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


def files_among(values: Iterable[Any]) -> Iterator[str]:
    """Yield the files that the values of arguments name, also before or behind a colon.

    >>> list(files_among([("no such file", 3), f"{__file__}:factory"])) == [__file__]
    True
    """
    for value in values:
        if isinstance(value, tuple):
            yield from files_among(value)
        elif isinstance(value, str):
            ends = (value, value.rpartition(":")[0], value.rpartition(":")[2])
            yield from dict.fromkeys(end for end in ends if end and pathlib.Path(end).is_file())


def require_free(outputs: Mapping[str, str]) -> None:
    """Raise DataError where a file is to be written that the command reads, or two results into one file.

    Args:
        outputs: name of an argument -> the path that is to be written.
    """
    from deconvviz.results.files import refuse_what_is_read

    names: dict[pathlib.Path, str] = {}
    for name, path in outputs.items():
        refuse_what_is_read(path)
        other = names.setdefault(pathlib.Path(path).resolve(), name)
        if other != name:
            raise DataError(f"{path} is given for two results; give each a file of its own")


def looking_first(name: str, command: click.Command) -> click.Command:
    """Return the command, whose function now looks for its images first."""
    function: Callable[..., Any] | None = command.callback
    if function is None or getattr(function, "looks_first", False):
        return command

    @functools.wraps(function)
    def looking(*given: Any, **arguments: Any) -> Any:
        from deconvviz.results.files import reading

        require_inputs(name, arguments)
        outputs = {key: value for key, value in arguments.items() if key in WRITTEN and isinstance(value, str)}
        with reading(files_among(value for key, value in arguments.items() if key not in outputs)):
            require_free(outputs)
            return function(*given, **arguments)

    looking.looks_first = True  # type: ignore[attr-defined]
    command.callback = looking
    return command
