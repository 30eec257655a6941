"""Options that do something only beside another one: given without it they are refused, not passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from deconvviz.errors import DataError


class Dependent(click.Option):
    """An option that belongs to another one, as `click.option("--lr", cls=Dependent, needs="--finetune")` says.

    Args:
        needs: the option that it belongs to, as it is typed, or several of which one has to be given.

    Raises:
        DataError: it is given, and none of these is.
    """

    def __init__(self, *arguments: Any, needs: str | tuple[str, ...], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.needs = (needs,) if isinstance(needs, str) else needs

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Take the option's value from what was typed, as click does, where what it belongs to was typed, too."""
        # What click itself refuses of the value is said first.
        value, left = super().handle_parse_result(ctx, opts, args)
        given = {option for parameter in ctx.command.params if parameter.name in opts for option in parameter.opts}
        if self.name in opts and given.isdisjoint(self.needs) and not ctx.resilient_parsing:
            option = max(self.opts, key=len) + (f" {value!r}" if isinstance(value, str) else "")
            raise DataError(
                f"{option} given without {' or '.join(self.needs)}, which it belongs to; give both, or leave it out"
            )
        return value, left


def typed(*names: str) -> dict[str, Any]:
    """Return those of the running command's options that stood on the command line: as it is typed -> its value.

    Args:
        names: parameters of the command.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return {}
    return {
        max(parameter.opts, key=len): context.params[parameter.name or ""]
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    }
