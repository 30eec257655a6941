"""The options of `deconvviz train` that name additions to the recipe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from deconvviz.cli.explaining import typed_options
from deconvviz.cli.inputs import names_of
from deconvviz.cli.listing import list_option
from deconvviz.cli.options import option_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deconvviz.studies.training.additions.base import Addition


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdditionOptions:
    """What the command line says of additions.

    Attributes:
        additions: their names.
        pairs: options of additions, each as "KEY=VALUE" or "ADDITION.KEY=VALUE".
    """

    additions: tuple[str, ...]
    pairs: tuple[str, ...]

    def named(self) -> list[Addition]:
        """Return new additions; raises DataError or TrainingError for an option that none of them has."""
        from deconvviz.studies.training.additions.registry import from_text

        return from_text(self.additions, typed_options(self.pairs, "cells=4"))


def _known(context: click.Context, option: click.Parameter, given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names, before torch is imported; raises DeconvvizError for one that does not exist."""
    from deconvviz.registry import require_name
    from deconvviz.studies.training.additions.listing import addition_declarations

    names = tuple(names_of(given)) if isinstance(given, str) else tuple(given or ())
    for name in names:
        require_name("addition", name, addition_declarations())
    return names


def _addition_lines() -> list[str]:
    """Return what the additions do, one text."""
    from deconvviz.studies.training.additions.listing import described

    return [described()]


addition_options = option_group(
    "adding",
    AdditionOptions,
    click.option(
        "--with",
        "additions",
        metavar="NAME[,NAME]",
        callback=_known,
        help="What the training does beside the recipe, such as hide-and-seek,mixup; see --list.",
    ),
    click.option(
        "--option",
        "pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of an addition, such as cells=4, or mixup.alpha=0.2. May be given several times.",
    ),
    list_option(_addition_lines, "List the additions with their options and exit."),
)
