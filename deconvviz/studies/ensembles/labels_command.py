"""What `deconvviz ensemble` does with images that have several labels each, and what is asked of it in any case."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, TypeVar

import click

from deconvviz.cli.inputs import say_what_is_left_out
from deconvviz.cli.outputs import beside, command_line, save_figure
from deconvviz.errors import DataError
from deconvviz.words import at_layers, counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.ensembles.labels_result import LabelEnsemble
    from deconvviz.studies.ensembles.members_command import OpenedMembers
    from deconvviz.studies.ensembles.result import Ensemble, EnsembleMaps
    from deconvviz.types import Ints, Mask

AnyEnsemble = TypeVar("AnyEnsemble", "Ensemble", "LabelEnsemble")
CLASS, LABEL = "class", "label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks for, beside networks and images.

    Attributes:
        data: the images, as they were named.
        out: the table, as it was named.
        table: its path.
        show: how many images have their maps drawn.
        method: that makes these maps.
        limit: how many images are measured; None for all.
        page: how figures are laid out.
        run: how the job runs.
    """

    data: str
    out: str
    table: pathlib.Path
    show: int
    method: str
    limit: int | None
    page: Page
    run: RunOptions

    def chosen(self, known: Mask) -> Ints:
        """Return the images whose maps are drawn: evenly chosen of those that are known, bool [N]."""
        import numpy as np

        from deconvviz.arrays import evenly

        indices = np.flatnonzero(known)
        return np.asarray(indices[evenly(len(indices), min(self.show, self.limit or self.show))], np.int64)

    def write(self, result: AnyEnsemble, draw: Callable[[AnyEnsemble, str, str, Page], Figure], caption: str) -> None:
        """Write the table and the figure beside the file; `draw` takes result, title, caption and page."""
        result.save_csv(self.table)
        title = f"{counted(result.count, 'network')}, alone and together" if result.count > 1 else result.names[0]
        save_figure(draw(result, title, caption, self.page), beside(self.table, ".png"), caption)

    def say(self, result: Ensemble | LabelEnsemble) -> None:
        """Say what was written, and what was found."""
        click.echo(f"wrote {self.table} and {beside(self.table, '.h5')}")
        click.echo(repr(result))

    def draw_maps(self, maps: EnsembleMaps, what: str) -> None:
        """Draw the maps of a CLASS or a LABEL beside the table."""
        from deconvviz.studies.ensembles.figure import draw_ensemble_maps

        caption = (
            f"Maps of {maps.method}{at_layers(maps.layers)} for the {what} that all decide for together, with its mean "
            "probability at the left. Each map is in 0..1; the last column is their mean over the networks that see a "
            "pixel."
        )
        figure = draw_ensemble_maps(maps, f"Where the networks see the {what}", caption, self.page.beside())
        save_figure(figure, beside(self.out, ".maps.png"), caption)


def labelled_images(images: Images, labels: str | None) -> Images:
    """Return images with the labels of a table where one is named; notes say what of both is left out.

    Raises:
        DataError: the table cannot be read, has no row of any of the images, or differs from the labels that a store
            holds.
    """
    from deconvviz.data.label_table import LabelTable, labelled

    if labels is not None:
        table = LabelTable.read(labels)
        images = labelled(images, table)
        if others := len({*table.labels} - {*map(str, images.names)}):
            click.echo(f"{counted(others, 'image')} of {labels} are not among these: left out", err=True)
    say_what_is_left_out(images, labels)
    return images


def measure_labels(opened: OpenedMembers, images: Images, asked: Asked) -> None:
    """Measure average precisions on images with several labels; write the table, the file and the figures.

    Raises:
        DataError: a network has no output for a label.
    """
    from deconvviz.data.datasets import has_several_labels
    from deconvviz.studies.ensembles.cams import ensemble_maps
    from deconvviz.studies.ensembles.labels_figure import caption_of_labels, draw_label_ensemble
    from deconvviz.studies.ensembles.labels_measure import label_ensemble

    assert has_several_labels(images)
    outputs = _outputs(opened, images)
    result = label_ensemble(
        opened.members,
        images,
        outputs=outputs,
        limit=asked.limit,
        out=beside(asked.table, ".h5"),
        sources={"networks": opened.origins, "command": command_line()},
        **asked.run.keywords(),
    )
    asked.write(result, draw_label_ensemble, caption_of_labels(result, asked.data))
    if asked.show:
        maps = ensemble_maps(
            opened.members,
            images,
            asked.chosen(images.known),
            method=asked.method,
            names=tuple(images.classes),
            outputs=outputs,
        )
        asked.draw_maps(maps, LABEL)
    asked.say(result)


def _outputs(opened: OpenedMembers, images: Images) -> list[Ints]:
    """Return for each network the output that stands for each label."""
    from deconvviz.models.labels import outputs_of_labels

    outputs = []
    for member, names in zip(opened.members, opened.named, strict=True):
        try:
            outputs.append(outputs_of_labels(images.classes, member.network.width, names))
        except DataError as error:
            raise DataError(f"{member.name}: {error}") from error
    return outputs
