"""deconvviz project"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.choices import LRN_POLICIES, OVERLAPS
from deconvviz.cli.inputs import class_number, open_model, output_names, position_of, read_image
from deconvviz.cli.notes import NO_SWITCHES_NOTE, PROJECTION_NOTE, projection_note
from deconvviz.cli.options import (
    ModelOptions,
    ProjectionOptions,
    classes_option,
    figure_options,
    model_options,
    projection_options,
)
from deconvviz.cli.outputs import check_figure, save_figure
from deconvviz.errors import DataError
from deconvviz.words import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.deconv.decision import DecisionProjection
    from deconvviz.deconv.projection import Projection
    from deconvviz.figures.page import Page
    from deconvviz.types import Picture

RULES_OF_DECISIONS = {
    "auto": "lrp-composite",
    "gradient-x-input": "gradient-x-activation",
    **{rule: rule for rule in ("lrp-composite", "lrp-epsilon", "lrp-gamma", "lrp-zplus")},
}
"""The rule that is asked for -> the rule by which the decision for a class goes back."""


@click.command(epilog=PROJECTION_NOTE)
@click.argument("model")
@click.argument("image")
@click.option("-l", "--layer", required=True, help="Name of a layer, as `deconvviz layers MODEL` lists it.")
@click.option(
    "-c", "--channel", required=True, type=click.IntRange(0), help="Number of a channel of the layer, from 0."
)
@click.option("-p", "--position", metavar="y,x", help="Position on the layer's map.  [default: the strongest]")
@click.option("-o", "--out", required=True, help="The figure: a file named .png, .pdf or .svg.")
@projection_options
@click.option(
    "--overlap",
    default="sum",
    type=click.Choice(OVERLAPS),
    help="Where pooling windows overlap: add their signals, or keep that of the last window.",
)
@click.option(
    "--lrn",
    default="identity",
    type=click.Choice(LRN_POLICIES),
    help="How a signal passes contrast normalisation on its way back: unchanged, or by the gradient.",
)
@click.option(
    "--for",
    "target",
    metavar="CLASS",
    help="Carry the decision for this class, by number or name, back to the pixels through this channel alone, instead "
    "of the activation of one unit.",
)
@classes_option
@figure_options()
@model_options
def project(
    model: str,
    image: str,
    layer: str,
    channel: int,
    position: str | None,
    out: str,
    projection: ProjectionOptions,
    overlap: str,
    lrn: str,
    target: str | None,
    names: str | None,
    page: Page,
    options: ModelOptions,
) -> None:
    """Project one unit's activation back to the pixels of an image: image, projection, overlay.

    With --for, the score of a class is shared out down to the layer, all but this channel's share is dropped, and that
    share goes on to the pixels: what speaks for the class through this channel.

    \b
    Examples:
      deconvviz project torchvision:squeezenet1_0 cat.jpg -l features.12 -c 281 -o projection.png
      deconvviz project torchvision:squeezenet1_0 cat.jpg -l features.12 -c 281 --for tabby -o concept.png
    """
    import torch

    from deconvviz.deconv.choice import lacks_switches, rule_on
    from deconvviz.deconv.project import project as project_unit
    from deconvviz.figures.projection import draw_projection

    check_figure(out)
    place = None if position is None else position_of(position)
    if target is not None:
        _check_decision(position, projection, overlap, lrn)
    pixels = read_image(image)
    opened = open_model(model, options, [layer])
    if target is not None:
        _project_decision(
            opened, pixels, pathlib.Path(image).name, (layer, channel), (target, names), projection, out, page
        )
        return
    network, preprocess, _ = opened
    picture = preprocess.picture(pixels)
    x = preprocess.tensor(picture[None], network.device, network.dtype)
    bounds = preprocess.bounds()
    with torch.no_grad():
        choice = rule_on(network, x, layer, bounds) if projection.rule == "auto" else None
        rule = projection.rule if choice is None else choice.rule
        signal = {"overlap": overlap, "lrn": lrn, "bounds": bounds, **projection.averages()}
        projected = project_unit(network, x, layer, channel, place, rule, **signal)
    why = f"Its rule is {choice.words()}" if choice else f"Its rule is {rule}."
    if choice is None and lacks_switches(network, layer, rule):
        why += f" {NO_SWITCHES_NOTE}"
    caption = _caption(projected, pathlib.Path(image).name, why + projection.words() + preprocess.shown_words())
    y, column = projected.position
    title = f"{layer}:{channel}@{y},{column} of {opened.name}, activation {readable(projected.value)}"
    canvas = projected.full().detach().float().cpu().permute(1, 2, 0).numpy()
    shown_picture = preprocess.display(picture)
    figure = draw_projection(shown_picture, canvas, projected.window, title, caption, page, preprocess.shown)
    save_figure(figure, out, caption)
    if projected.value <= 0:
        click.echo(f"note: the unit's activation is {projected.value:.4g}; it does not fire on this image", err=True)


def _check_decision(position: str | None, projection: ProjectionOptions, overlap: str, lrn: str) -> None:
    """Raise DataError where --for is given with an option that means nothing to it."""
    changed = {
        "--position": position is not None,
        "--overlap": overlap != "sum",
        "--lrn": lrn != "identity",
        "--shifts": projection.shifts != 1,
        "--noise": projection.noise != 0,
    }
    given = [name for name, is_given in changed.items() if is_given]
    if given:
        raise DataError(
            f"--for and {given[0]} given; a decision goes through all units of a channel: leave {given[0]} out"
        )
    if projection.rule not in RULES_OF_DECISIONS:
        listed = ", ".join(RULES_OF_DECISIONS)
        raise DataError(f"--for and --rule {projection.rule} given; a decision goes back by one of {listed}")


def _project_decision(
    opened: OpenedModel,
    pixels: Picture,
    image: str,
    unit: tuple[str, int],
    asked: tuple[str, str | None],
    projection: ProjectionOptions,
    out: str,
    page: Page,
) -> None:
    """Draw what a channel, (layer, number), carries of the decision for a class, (text, file of class names)."""
    from deconvviz.deconv.decision import project_decision
    from deconvviz.figures.projection import draw_projection
    from deconvviz.models.labels import class_label

    network, preprocess, loaded = opened
    outputs = output_names(loaded, asked[1], network)
    target, rule = class_number(asked[0], outputs), RULES_OF_DECISIONS[projection.rule]
    picture = preprocess.picture(pixels)
    x = preprocess.tensor(picture[None], network.device, network.dtype)
    projected = project_decision(network, x, *unit, target, rule, preprocess.bounds())
    caption = _decision_caption(projected, image, outputs) + preprocess.shown_words()
    answer = class_label(projected.target, outputs)
    title = f"{answer[:1].upper()}{answer[1:]} through {unit[0]}:{unit[1]} of {opened.name}"
    canvas = projected.full().detach().float().cpu().permute(1, 2, 0).numpy()
    shown_picture = preprocess.display(picture)
    window, shown = projected.window, preprocess.shown
    figure = draw_projection(shown_picture, canvas, window, title, caption, page, shown, summed=True)
    save_figure(figure, out, caption)
    if projected.relevance <= 0:
        click.echo(
            f"note: the channel's share is {100 * projected.share:.2g} %; it does not speak for the class", err=True
        )


def _decision_caption(projected: DecisionProjection, image: str, outputs: Sequence[str]) -> str:
    """Return the text below the figure of a decision: what was shared out, and which part is shown.

    Args:
        projected: what is drawn.
        image: name of the image.
        outputs: names of the network's outputs; empty where they are unknown.
    """
    from deconvviz.models.labels import class_label

    linearised = f" Linearised on the way: {', '.join(projected.linearised)}." if projected.linearised else ""
    answer, decided = (class_label(number, outputs) for number in (projected.target, projected.decided))
    otherwise = f"; the network decides for {decided} instead" if projected.decided != projected.target else ""
    return (
        f"The score of {answer} for {image} is {readable(projected.score)}{otherwise}. Channel {projected.channel} of "
        f"{projected.layer} holds {readable(projected.relevance)} of that score, {100 * projected.share:.3g} % of the "
        "sum of the absolute relevance of the layer's channels; this part alone is carried on to the pixels, by the "
        f"rule {projected.rule} (concept relevance, Achtibat et al. 2023).{linearised} To the right stands the "
        "relevance of each pixel, summed over its colours: red speaks for the class through this channel, blue "
        "against it."
    )


def _caption(projection: Projection, image: str, why: str) -> str:
    """Return the text below the figure: what is shown, and what it is no evidence for."""
    linearised = f" Linearised on the way: {', '.join(projection.linearised)}." if projection.linearised else ""
    note = projection_note([projection.rule])
    return (
        f"The projection of one unit to the pixels of {image}. {why}{linearised} "
        "The rectangle is the unit's theoretical receptive field, cut to the image. "
        "The magnitude of the projection at a pixel is the root of the sum of squares over the channels."
        + f"\n{note}"
        * bool(note)
    )
