"""Options that do something only beside another one: given without it they are refused, not passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource


class Dependent(click.Option):
    """An option that belongs to another one, as `click.option("--lr", cls=Dependent, needs="--finetune")` says.

    Args:
        needs: the option that it belongs to, as it is typed, or several of which one has to be given.

    Raises:
        click.UsageError: it is given, and none of these is.
    """

    def __init__(self, *arguments: Any, needs: str | tuple[str, ...], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.needs = (needs,) if isinstance(needs, str) else needs

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Take the option's value from what was typed, as click does, where what it belongs to was typed, too."""
        taken = super().handle_parse_result(ctx, opts, args)  # first: a value that is none is the first thing to say
        given = {option for parameter in ctx.command.params if parameter.name in opts for option in parameter.opts}
        if self.name in opts and given.isdisjoint(self.needs):
            raise click.UsageError(
                f"{max(self.opts, key=len)} given without {' or '.join(self.needs)}, which it belongs to; give both, "
                "or leave it out",
                ctx,
            )
        return taken


def typed(*names: str) -> tuple[str, ...]:
    """Return those of the running command's options that stood on the command line, as they are typed.

    Args:
        names: parameters of the command.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return ()
    return tuple(
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    )
