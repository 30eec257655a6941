"""deconvviz grid: a layer's filters, each with its strongest patches and their projections."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import CHANNEL_CHOICES
from deconvviz.cli.inputs import channels_of, integers
from deconvviz.cli.notes import NO_SWITCHES_NOTE, PROJECTION_NOTE
from deconvviz.cli.options import (
    ProjectionOptions,
    device_option,
    figure_options,
    image_channels_option,
    names_option,
    option_group,
    projection_options,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure, save_figure
from deconvviz.errors import DataError, ModelError
from deconvviz.run.opening import captured
from deconvviz.words import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deconvviz.data.datasets import Store
    from deconvviz.figures.page import Page
    from deconvviz.graph.network import Network
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.mining.cache import ProjectionCache
    from deconvviz.studies.mining.result import LayerPanels, Mined

MOST_FILTERS = 100  # on one page


@dataclass(frozen=True, kw_only=True)
class MovedSources:
    """Where the sources of a mined file are, if not where the file says.

    Attributes:
        model: the model, as `mine` takes it; None for the one that the file names.
        weights: its weights; None for those that the file names.
        images: path of the packed store; None for the one that the file names.
        device: where projections are computed: "auto", "cpu", "cuda", ...
    """

    model: str | None
    weights: str | None
    images: str | None
    device: str

    def store(self, mined: Mined) -> Store:
        """Open the store that was mined; raises DataError where nothing names it."""
        from deconvviz.data.datasets import open_store

        path = self.images or mined.sources.get("images")
        if not path:
            raise DataError(
                "the file does not name its images: it was mined from Python; give a packed store: --images"
            )
        return open_store(path)

    def network(self, mined: Mined) -> Network:
        """Load the network that was mined; raises ModelError where nothing names the model."""
        from deconvviz.data.preprocess import Preprocess
        from deconvviz.models.load import load_model
        from deconvviz.studies.mining.directions import with_mined_directions

        model = self.model or mined.sources.get("model")
        if not model:
            raise ModelError("the file does not name its model: it was mined from Python; give --model and --weights")
        loaded = load_model(model, self.weights or mined.sources.get("weights", "DEFAULT"))
        network = captured(loaded, Preprocess.from_dict(mined.config["preprocess"]), self.device)
        return with_mined_directions(network, mined)


@click.command(epilog=PROJECTION_NOTE)
@click.argument("mined_file", metavar="MINED")
@click.option("-l", "--layer", required=True, help="Name of a layer that was mined.")
@click.option("-o", "--out", required=True, help="The figure: a file named .png, .pdf or .svg.")
@click.option(
    "-c",
    "--channels",
    default="active",
    help=f"Filters to show: {', '.join(CHANNEL_CHOICES)}, or numbers such as 5,40,100-110. "
    "active takes those with the highest mean activation.",
)
@click.option(
    "-n",
    "--count",
    default=16,
    type=click.IntRange(1, MOST_FILTERS),
    help="How many filters active, random and first show.",
)
@click.option(
    "--crop",
    default="need",
    metavar="need|each|energy|receptive-field|PIXELS",
    help="Size of the patches. need: the smallest square that keeps 90 % of a unit's activation when all outside of it "
    "is covered, one size for the layer. each: the same for each patch by itself. energy: the smallest square that "
    "holds 98 % of a projection's energy. receptive-field: all that a unit can see.",
)
@click.option(
    "--mean", is_flag=True, help="Show the mean of a filter's projections too, with their units on one place."
)
@names_option
@click.option(
    "--range",
    "with_range",
    is_flag=True,
    help="Draw the whole range of each filter too, from its weakest image to its strongest: OUT.range.png or the like.",
)
@click.option(
    "--wanted",
    is_flag=True,
    help="Show beside the patches the picture that each filter would like best, as `deconvviz visualise` makes it; "
    "they are kept in MINED. For features.7 of SqueezeNet it takes about 5 seconds a filter on two CPU cores.",
)
@image_channels_option
@projection_options
@option_group(
    "moved",
    MovedSources,
    click.option("--model", help="The model, if it is not the one that the file names."),
    click.option("--weights", help="The model's weights, if they have moved."),
    click.option("--images", help="The packed store, if it has moved."),
    device_option,
)
@figure_options("Filters in a row.")
@run_options()
def grid(
    mined_file: str,
    layer: str,
    out: str,
    channels: str,
    count: int,
    crop: str,
    mean: bool,
    concepts: str | None,
    with_range: bool,
    wanted: bool,
    shown: str | None,
    projection: ProjectionOptions,
    moved: MovedSources,
    page: Page,
    run: RunOptions,
) -> None:
    """Draw a layer: for each filter its top projections beside the image patches they came from.

    MINED is a file that `deconvviz mine` wrote. It names its model, weights and images; the projections are kept in it
    for the next time.

    \b
    Examples:
      deconvviz grid mined.h5 -l features.7 -o features.7.png
      deconvviz grid mined.h5 -l features.7 -c 5,40,150,200 --crop receptive-field -o features.7.pdf
    """
    from deconvviz.data.datasets import name_of_store
    from deconvviz.results.names import read_names
    from deconvviz.studies.mining.cache import ProjectionCache
    from deconvviz.studies.mining.directions import subject_of
    from deconvviz.studies.mining.figure import draw_grid
    from deconvviz.studies.mining.panels import panels_from
    from deconvviz.studies.mining.result import load_mined

    check_figure(out)
    mined = load_mined(mined_file)
    names = read_names(concepts, [layer]).get(layer, {}) if concepts else {}
    numbers = mined[layer].choose_channels(channels_of(channels, "count"), count)
    if not 1 <= len(numbers) <= MOST_FILTERS:
        raise DataError(f"{counted(len(numbers), 'filter')} given; a page holds 1 to {MOST_FILTERS}")
    with moved.store(mined) as store:
        # The network is loaded only if the file does not keep all that is shown.
        how: dict[str, Any] = {
            "rule": projection.rule,
            "progress": run.progress,
            "shown": integers(shown) if shown else (),
        }
        how |= projection.averages()
        cache = ProjectionCache(mined, store, lambda: moved.network(mined), **how)
        panels = panels_from(cache, layer, numbers, crop, mean)
        panels = _with_wanted(cache, panels, numbers, run.progress) if wanted else panels
        words = projection.words() + cache.feed.preprocess.shown_words()
        words += " Above each filter stands what it detects, by deconvviz dissect." if names else ""
        caption = _caption(mined, panels, name_of_store(store), words)
        if with_range:
            _save_range(cache, panels, out, page, run)
    figure = draw_grid(panels, f"{subject_of(mined, layer)} of {mined.network_name}", caption, page, names)
    save_figure(figure, out, caption, f"Model fingerprint {mined.config['model_fingerprint']}.")
    cache.save(mined_file)


def _save_range(cache: ProjectionCache, panels: LayerPanels, out: str, page: Page, run: RunOptions) -> None:
    """Draw the whole range of the filters that the figure of the layer shows, beside that figure."""
    from deconvviz.studies.mining.directions import subject_of, words_of
    from deconvviz.studies.mining.range_figure import draw_range
    from deconvviz.studies.mining.range_result import range_caption
    from deconvviz.studies.mining.ranges import range_from

    channels = [panel.channel for panel in panels.panels]
    layer = range_from(cache, panels.layer, channels, max(panels.crop), run)
    about = words_of(cache.mined, panels.layer)
    caption = range_caption(layer, "direction" if about else "filter") + about + cache.feed.preprocess.shown_words()
    title = f"The range of {subject_of(cache.mined, panels.layer)} of {cache.mined.network_name}"
    figure = draw_range(layer, title, caption, page.beside())
    save_figure(figure, beside(out, f".range{pathlib.Path(out).suffix}"), caption)


def _with_wanted(cache: ProjectionCache, panels: LayerPanels, channels: list[int], progress: bool) -> LayerPanels:
    """Return the panels with the picture that each filter would like best."""
    from deconvviz.studies.visualisation.visualise import visualise

    def make(network: Network, missing: list[int]) -> NDArray[np.float32]:
        return visualise(network, panels.layer, missing, preprocess=cache.feed.preprocess, progress=progress).pictures

    pictures = cache.wanted(panels.layer, channels, make)
    each = tuple(replace(panel, wanted=pictures[panel.channel]) for panel in panels.panels)
    return replace(panels, panels=each)


def _caption(mined: Mined, panels: LayerPanels, store: str, averages: str) -> str:
    """Return the text below the figure: what is shown, of which images and which network."""
    from deconvviz.studies.mining.directions import words_of

    about = words_of(mined, panels.layer)
    noun = "direction" if about else "channel"
    images = mined[panels.layer].activity.images
    k = max(len(panel.patches) for panel in panels.panels)  # fewer than were asked for where images were few
    unfinished = "" if mined.complete else f" (unfinished: {mined.done} of {mined.total})"
    size, image = ("x".join(map(str, dict.fromkeys(sides))) for sides in (panels.crop, panels.image))  # 27, or 27x40
    weights = "its weights, then " if panels.weights is not None else ""
    weights += (
        "the mean of its projections with their units on one place, then " if panels.panels[0].mean is not None else ""
    )
    rule = f"The rule is {panels.why}" if panels.why else f"The rule is {panels.rule}."
    if panels.rule.startswith("deconvnet") and not panels.why and not panels.switches:
        rule += f" {NO_SWITCHES_NOTE}"
    pale = any(panel.insides and panel.insides[0].height < panel.patches.shape[1] for panel in panels.panels)
    tiles = "x".join(map(str, dict.fromkeys(panels.panels[0].patches.shape[1:3])))
    width = "" if panels.crop_rule.startswith("each") else f", {tiles} px with them"
    surroundings = f" Their surroundings are pale{width}." if pale else ""
    strip = (
        f" The strip is filled by the share of all images on which the {noun} is above zero somewhere."
        if panels.rectified
        else ""
    )
    classes = " Below are the classes of the images." * any(any(panel.classes) for panel in panels.panels)
    edged = any(firing.any() and not firing.all() for panel in panels.panels for firing in panel.firing)
    line = f" The yellow line is where the {noun} is above half of the patch's activation." if edged else ""
    wanted = "" if panels.panels[0].wanted is None else f", and {_wanted_words(panels.panels[0].wanted)}"
    return (
        f"For each {noun} (its number is to the left): {weights}projections of its {k} strongest images "
        f"(each with its own contrast, zero is grey) beside the patches of these images, strongest "
        f"first{wanted}.{about}{_vanished(panels)}{strip}{classes} {rule}{averages}\n"
        f"Patches are {size} px of {image} px: {panels.crop_rule}.{surroundings}{line}\n"
        f"{counted(images, 'image')} of {pathlib.Path(store).name}{unfinished}."
    )


def _vanished(panels: LayerPanels) -> str:
    """Return what is said of weights that have vanished, "" where none has."""
    from deconvviz.arrays import displayed
    from deconvviz.figures.tiles import filter_pictures, vanished_words

    if panels.weights is None:
        return ""
    notes = [note for _, note in filter_pictures(displayed(panels.weights, panels.shown), panels.largest_weight)]
    return f" {vanished_words(notes)}" * any(notes)


def _wanted_words(picture: NDArray[np.float32]) -> str:
    """Return what a picture that a filter would like best is."""
    from deconvviz.studies.visualisation.options import VisualisationOptions

    size = f"{picture.shape[1]} x {picture.shape[0]} px"
    return f"a picture of {size} made by {VisualisationOptions().steps} steps of gradient ascent on the channel's mean"
