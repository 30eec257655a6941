"""The option --list: what a command can be asked for, printed before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from deconvviz.cli.options import Command


def list_option(lines: Callable[[], Iterable[str]], text: str) -> Callable[[Command], Command]:
    """Return a decorator that adds --list, which prints lines and ends the command.

    Args:
        lines: returns what is printed; it is called where the option is given, and imports only then.
        text: the help of the option.
    """

    def show(context: click.Context, _: click.Parameter, requested: bool) -> None:
        if requested and not context.resilient_parsing:
            for line in lines():
                click.echo(line)
            context.exit()

    return click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=show, help=text)
