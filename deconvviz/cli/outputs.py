"""What commands write: figures with their captions, the names of the files beside them, and how they were made."""

from __future__ import annotations

import contextlib
import contextvars
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from deconvviz.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.models.load import LoadedModel
    from deconvviz.types import Pathlike


def sources(loaded: LoadedModel) -> dict[str, str]:
    """Return where a result's model and weights were, and the command."""
    weights = loaded.weights
    if weights not in ("DEFAULT", "none"):
        weights = str(pathlib.Path(weights).resolve())
    spec = loaded.spec
    if ".py:" in spec:
        file, _, factory = spec.rpartition(":")
        spec = f"{pathlib.Path(file).resolve()}:{factory}"
    return {"model": spec, "weights": weights, "command": command_line()}


_RUNNING: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("running")


def command_line() -> str:
    """Return the command that is running, as the user could type it again."""
    return shlex.join(["deconvviz", *_RUNNING.get(tuple(sys.argv[1:]))])


@contextlib.contextmanager
def running(arguments: Sequence[str]) -> Iterator[None]:
    """Say within a `with` block that this command is running: one that another command runs as if it were typed."""
    token = _RUNNING.set(tuple(arguments))
    try:
        yield
    finally:
        _RUNNING.reset(token)


def save_figure(figure: Figure, out: Pathlike, caption: str) -> None:
    """Write a figure atomically, with its caption and command in its metadata."""
    from deconvviz.figures.tiles import format_of, rendered
    from deconvviz.results.files import atomic

    content = rendered(figure, format_of(out), f"{caption}\n{command_line()}")
    with atomic(out) as temporary:
        temporary.write_bytes(content)
    click.echo(f"wrote {out}")


def check_figure(out: Pathlike) -> None:
    """Refuse a figure's name before the work, not after it; raises DataError."""
    from deconvviz.figures.tiles import format_of

    format_of(out)
    check_place(out)


def check_table(out: Pathlike) -> pathlib.Path:
    """Return the path of a table; raises DataError before the work where it does not end in .csv or has no folder."""
    path = pathlib.Path(out)
    if path.suffix != ".csv":
        raise DataError(f"{out} given; expected a name that ends in .csv")
    check_place(path)
    return path


def check_place(out: Pathlike) -> None:
    """Raise DataError where a file cannot be written because its folder does not exist, or it is a folder."""
    from deconvviz.results.files import atomic

    if not pathlib.Path(out).resolve().parent.is_dir() or pathlib.Path(out).is_dir():
        with atomic(out):
            pass


def beside(out: Pathlike, ending: str) -> pathlib.Path:
    """Return the name of a file beside another one: the same name with another ending, such as ".wrong.csv"."""
    return pathlib.Path(out).with_suffix(ending)
