"""The attacks of `deconvviz evaluate`: how far maps move on attacked images."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.explaining import DISPLAY_NOTE
from deconvviz.cli.outputs import beside, save_figure, sources
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.evaluation.under_attack_result import MapsUnderAttack

attack_option = click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="FILE.h5",
    help="Also measure how far the maps move on the images of a file that `deconvviz attack` wrote; may be given "
    "several times.",
)


@dataclass(frozen=True)
class AttackSubject:
    """What is measured under attack.

    Attributes:
        opened: the model.
        images: those that were attacked.
        options_by_method: of the methods.
        layers: names of the layers that are explained.
        limit: of each attack take only so many images; None takes all.
        run: how it runs.
    """

    opened: OpenedModel
    images: Images
    options_by_method: Mapping[str, Mapping[str, Any]]
    layers: tuple[str, ...]
    limit: int | None
    run: RunOptions

    def checked(self, attacks: Sequence[str]) -> AttackSubject:
        """Refuse attacks of another network or other images, before anything is measured; return the subject."""
        from deconvviz.studies.evaluation.under_attack import opened_attacks

        if attacks:
            opened_attacks(attacks, self.opened.network, self.images, self.opened.preprocess)
        return self

    def measured(self, attacks: Sequence[str], table: pathlib.Path, page: Page) -> MapsUnderAttack | None:
        """Measure how far maps move, write it beside the table and print it; return None where no attack is given."""
        from deconvviz.studies.evaluation.under_attack import maps_under_attack
        from deconvviz.studies.evaluation.under_attack_figure import draw_maps_under_attack

        if not attacks:
            return None
        found = maps_under_attack(
            self.opened.network,
            self.images,
            self.options_by_method,
            attacks,
            self.layers,
            beside(table, ".attack.h5"),
            preprocess=self.opened.preprocess,
            limit=self.limit,
            sources=sources(self.opened.loaded),
            **self.run.keywords(),
        )
        found.save_csv(beside(table, ".attack.csv"))
        found.save_images_csv(beside(table, ".attack.images.csv"))
        caption = caption_of(found) + self.opened.preprocess.shown_words()
        title = f"Explanations of {self.opened.name} under attack"
        figure = draw_maps_under_attack(found, title=title, caption=caption, page=page)
        save_figure(figure, beside(table, ".attack.png"), caption)
        click.echo(repr(found))
        return found


def caption_of(found: MapsUnderAttack) -> str:
    """Return what the figure shows."""
    attacks = "; ".join(
        f"{attack}: {found.attack_words(attack)}, {counted(len(found.names[attack]), 'image')}"
        for attack in found.attacks
    )
    return (
        f"{attacks}. Numbers are means over the images, with half the width of their 95 % intervals: 1 less the rank "
        "correlation of the maps of the image's own class, before and after. 0 is the same map; 1 is no correlation. "
        "Noise of the same size has the attack's own changes, each at a pixel drawn at random and with its sign drawn "
        "at random. The map of the new class is that of the class which is found in the attacked image, where it is "
        "another one. The difference is taken image by image. Below: maps of the own class. "
        f"{DISPLAY_NOTE}"
    )
