"""What commands write: figures with their captions, files beside them, and where a result came from."""

from __future__ import annotations

import contextlib
import contextvars
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import click

from deconvviz.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.models.load import LoadedModel
    from deconvviz.types import Pathlike


def sources(loaded: LoadedModel) -> dict[str, str]:
    """Return where a result came from: its model, its weights and the command, with absolute paths."""
    weights = loaded.weights
    if weights not in ("DEFAULT", "none"):
        weights = str(pathlib.Path(weights).resolve())
    spec = loaded.spec
    if ".py:" in spec:
        file, _, factory = spec.rpartition(":")
        spec = f"{pathlib.Path(file).resolve()}:{factory}"
    elif spec.startswith("hf:"):
        spec = f"hf:{pathlib.Path(spec.removeprefix('hf:')).resolve()}"
    return {"model": spec, "weights": weights, "command": command_line()}


_ARGUMENTS: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("arguments")


def command_line() -> str:
    """Return the command that is running, as the user could type it again."""
    return shlex.join(["deconvviz", *_ARGUMENTS.get(tuple(sys.argv[1:]))])


@contextlib.contextmanager
def running(arguments: Sequence[str]) -> Iterator[None]:
    """Within a `with` block, let `command_line` return these arguments: one command runs another as if it were typed.

    >>> with running(["pack", "my photos", "photos.h5"]):
    ...     command_line()
    "deconvviz pack 'my photos' photos.h5"
    """
    token = _ARGUMENTS.set(tuple(arguments))
    try:
        yield
    finally:
        _ARGUMENTS.reset(token)


def save_figure(figure: Figure, out: Pathlike, caption: str, details: str = "") -> None:
    """Write a figure atomically and say so.

    Args:
        figure: what is drawn.
        out: path that ends in .png, .pdf or .svg.
        caption: what stands below the figure. It goes into the file's metadata, with the details and the command.
        details: what no reader of the figure needs and who makes it again does, such as fingerprints.

    Raises:
        DataError: the name has an unknown ending, or the file cannot be written.
    """
    from deconvviz.figures.tiles import format_of, rendered
    from deconvviz.results.files import atomic

    description = "\n".join(text for text in (caption, details, command_line()) if text)
    content = rendered(figure, format_of(out), description)
    with atomic(out) as temporary:
        temporary.write_bytes(content)
    click.echo(f"wrote {out}")


class Tabled(Protocol):
    """A result that writes itself as a table."""

    def save_csv(self, path: Pathlike) -> None:
        """Write the table."""


def save_result(result: Tabled, figure: Figure, out: Pathlike, caption: str) -> None:
    """Write a result's figure, and its table beside it, and print the result; arguments as of `save_figure`.

    Raises:
        DataError: as `save_figure`, or the table cannot be written.
    """
    save_figure(figure, out, caption)
    table = beside(out, ".csv")
    result.save_csv(table)
    click.echo(f"wrote {table}")
    click.echo(repr(result))


def check_figure_and_table(out: Pathlike) -> None:
    """Raise DataError, before the work, where `save_result` could not write a figure of this name, or its table."""
    check_figure(out)
    check_table(beside(out, ".csv"))


def check_figure(out: Pathlike) -> None:
    """Raise DataError, before the work is done, where a figure's name has an unknown ending or no folder."""
    from deconvviz.figures.tiles import format_of

    format_of(out)
    check_place(out)


def check_table(out: Pathlike) -> pathlib.Path:
    """Return the path of a table; raises DataError, before the work, where it does not end in .csv or has no folder."""
    path = pathlib.Path(out)
    if path.suffix != ".csv":
        raise DataError(f"{out} given; expected a name that ends in .csv")
    check_place(path)
    return path


def check_weights(out: Pathlike) -> None:
    """Raise DataError, before the work, where a network's file is not named as one or has no folder."""
    if pathlib.Path(out).suffix not in (".pth", ".pt"):
        raise DataError(f"{out} given for a network's weights; expected a name that ends in .pth")
    check_place(out)


def check_place(out: Pathlike) -> None:
    """Raise DataError where a file cannot be written: there is no folder for it, it is a folder, or it is read."""
    from deconvviz.results.files import atomic, refuse_what_is_read

    refuse_what_is_read(out)
    if not pathlib.Path(out).resolve().parent.is_dir() or pathlib.Path(out).is_dir():
        with atomic(out):  # raises the error
            pass


def beside(out: Pathlike, ending: str) -> pathlib.Path:
    """Return the path of a file beside another one: the same name with another ending.

    >>> beside("results/table.csv", ".wrong.csv").as_posix()
    'results/table.wrong.csv'
    """
    return pathlib.Path(out).with_suffix(ending)
