"""What stands above and below figures of pictures by optimisation."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deconvviz.words import counted, listed

if TYPE_CHECKING:
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.studies.visualisation.result import Inversion, Visualisation

MOST_NAMED = 3  # classes that a title names
NOT_A_PHOTO = (
    "A picture that was optimised shows one input that a network answers strongly, not what it usually answers to: "
    "compare it with the patches of photos that deconvviz grid draws."
)


def title_of(visualisation: Visualisation, network: str, outputs: Sequence[str]) -> str:
    """Return what the figure is: whose best pictures it shows.

    Args:
        visualisation: what was made.
        network: what the network is called.
        outputs: names of its outputs; empty where they are unknown.
    """
    config = visualisation.config
    if config["objective"] != "class":
        return f"What {config['layer']} of {network} would like best"
    classes = list(dict.fromkeys(visualisation.channels.tolist()))
    names = [outputs[number] if number < len(outputs) else f"class {number}" for number in classes]
    which = listed(names) if len(names) <= MOST_NAMED else f"each of {counted(len(names), 'class')}"
    pictures = "picture" if len(visualisation.channels) == 1 else "pictures"
    return f"The {pictures} that {network} takes most for {which}"


def caption_of(visualisation: Visualisation, preprocess: Preprocess) -> str:
    """Return what the figure shows: what was made large, from where, and what it is no evidence for."""
    config = visualisation.config
    objective = {
        "channel": "the mean of a channel over its map",
        "unit": f"one unit of a channel, at {visualisation.place} (row, column) of its map",
        "class": "the score of a class before softmax",
        "direction": "the mean over the map of the channels' vector along a direction of length 1",
        "cosine": "the mean over the map of the cosine of the channels' vector and a direction",
        "dream": "the mean square of all of the layer's values",
    }[config["objective"]]
    height, width = config["size"]
    views = "moved, scaled and turned at random before each pass" if config["distort"] else "passed on as they are"
    if config["canvas"] == "phase" and config["distort"]:
        views = f"seen in {counted(config['views'], 'crop')} in each step"
    faded = " Pixels that the objective did not look at are faded to white." if visualisation.opacity.size else ""
    return (
        f"Made large: {objective}. {counted(config['steps'], 'step')}, which began with {config['started_from']}, "
        f"changed {_canvas(visualisation)}. Pictures of {width} x {height} px are {views}.{_values(visualisation)}"
        f"{faded}{preprocess.shown_words()}\n{NOT_A_PHOTO}"
    )


def caption_of_inversion(inversion: Inversion, preprocess: Preprocess) -> str:
    """Return what the figure shows: what was minimised, and how the errors are measured."""
    config = inversion.config
    added = [
        f"{config[name]:g} of {what}" for name, what in (("tv", "roughness"), ("alpha", "the norm")) if config[name]
    ]
    canvas = canvas_words(config["canvas"], inversion.images[0].pictures.shape)
    weights = f", with {' and '.join(added)}" if added else ""
    return (
        f"For each layer a picture whose values there come near to those of {config['image']}, as it was found in "
        f"{counted(config['steps'], 'step')} on {canvas}, from noise{weights}. "
        "What the layer lost, the picture does not show; what else it does not show, or an error that is left, may be "
        "the optimiser's: more steps tell.\n"
        "Error at the layer: squared distance of the values over the squared size of the image's. In pixels: root mean "
        f"squared difference, in units of the range from black to white.{preprocess.shown_words()}"
    )


def canvas_words(kind: str, shape: tuple[int, ...]) -> str:
    """Return what the steps change; colours are decorrelated where there are three of them.

    >>> canvas_words("spectral", (4, 64, 64)), canvas_words("spectral", (4, 64, 64, 3))
    ('Fourier coefficients', 'Fourier coefficients in decorrelated colours')
    """
    if kind == "pixels":
        return "pixels"
    return "Fourier coefficients" + " in decorrelated colours" * (len(shape) > 3 and shape[-1] == 3)


def _canvas(visualisation: Visualisation) -> str:
    """Return what the steps changed."""
    sources, kind = visualisation.sources, visualisation.config["canvas"]
    if kind == "phase":
        name = pathlib.PurePath(sources.get("images", "generated scenes")).name
        return (
            "the phase of each frequency alone; its magnitude is the mean over "
            f"{counted(sources['photos'], 'image')} of {name}"
        )
    return canvas_words(kind, visualisation.pictures.shape)


def _values(visualisation: Visualisation) -> str:
    """Return what the numbers below the pictures are."""
    sources = visualisation.sources
    more = " (mean), and the largest value on its map (strongest)"
    what = f" Below: the objective for the finished picture{more * (visualisation.config['objective'] == 'channel')}"
    if "mined" not in sources:
        return f"{what}."
    images, name = counted(sources["mined_images"], "image"), pathlib.PurePath(sources["mined"]).name
    return f"{what}; strongest mined: the channel's largest activation over {images}, from {name}."
