"""What the commands that explain images share: the options of methods, and the note below their maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cam.catalogue import OF_LAYERS, learned_declarations, own_names
from deconvviz.cam.learned.described import require_explainer_of
from deconvviz.cli.inputs import names_of
from deconvviz.cli.notes import no_layer_named
from deconvviz.cli.options import Command, explainer_option, layers_option, option_group
from deconvviz.errors import CamError, DataError
from deconvviz.registry import require_options
from deconvviz.words import at_layers

if TYPE_CHECKING:
    from deconvviz.graph.network import Network

RANGE_NOTE = "Each map is scaled to its own range, so that brightness does not compare between maps."
RANDOMISED_NOTE = (
    "Maps of guided and deconvnet change little when the weights are randomised, so they are no evidence for the "
    "decision."
)
CAM_NOTE = f"{RANGE_NOTE} {RANDOMISED_NOTE}"
DISPLAY_NOTE = (
    "In the picture, each map is smoothed by 1 % of the image's side, its colours span the 1st to the 99th percentile, "
    "and it is the more opaque the higher it is; all numbers are those of the map itself."
)
NOT_EVIDENCE = ("guided", "deconvnet")  # the methods that RANDOMISED_NOTE is about


def note_of(methods: Sequence[str]) -> str:
    """Return what the caption of maps of some methods says of them.

    >>> note_of(["grad-cam"]) == RANGE_NOTE, note_of(["grad-cam", "guided"]) == CAM_NOTE
    (True, True)
    """
    return CAM_NOTE if any(method in NOT_EVIDENCE for method in methods) else RANGE_NOTE


EXAMPLE = "masks=1000"  # of an option, for errors


@dataclass(frozen=True)
class MethodOptions:
    """The options of explanation methods, as they were typed.

    Attributes:
        layers: names of the layers to explain; a trained explainer has its own.
        pairs: options of the methods, each as "KEY=VALUE".
        explainer_files: paths of trained explainers.
    """

    layers: tuple[str, ...]
    pairs: tuple[str, ...]
    explainer_files: tuple[str, ...]

    def by_method(self, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the options of each method; those of a trained one hold its explainer, which is read once.

        Raises:
            DataError: a pair without a value or that no method has, or a file that does not hold an explainer.
            CamError: an explainer of a method that is not among `methods`, or a trained method without its explainer.
            DeconvvizError: a method that does not exist.
        """
        from deconvviz.cam import explain  # noqa: F401, the methods register
        from deconvviz.cam.learned.files import load_explainer
        from deconvviz.cam.registry import METHODS

        self.require_explainers(methods)
        options = {method: options_of(method, self.pairs) for method in methods}
        unknown = {
            key: "" for key in typed_options(self.pairs, EXAMPLE) if all(key not in of for of in options.values())
        }
        defaults = {key: value for method in methods for key, value in METHODS[method].options.items()}
        require_options(" and ".join(methods), defaults, unknown)
        for path in self.explainer_files:
            explainer = load_explainer(path)
            options[explainer.name]["explainer"] = explainer
        return options

    def require_explainers(self, methods: Sequence[str]) -> None:
        """Refuse files without an explainer of the methods, and a trained method without its file; it needs no torch.

        Raises:
            DataError: a file is missing, or is no explainer.
            CamError: it is one of a method that is not asked for, or a method has no file.
        """
        given = {require_explainer_of(path, methods) for path in self.explainer_files}
        if any(pair.startswith("explainer=") for pair in self.pairs):
            return
        for method in methods:
            if method in learned_declarations() and method not in given:
                raise CamError(
                    f"{method} has to be trained first: deconvviz train-cam {method} MODEL IMAGES -o {method}.pth; "
                    f"give its file as --explainer {method}.pth"
                )

    def say_default_layer(self, methods: Sequence[str], network: Network) -> None:
        """Say which layer the methods explain where they need one and none is named."""
        from deconvviz.cam.registry import METHODS
        from deconvviz.graph.choose import last_maps

        if not self.layers and any(METHODS[method].needs in OF_LAYERS for method in methods):
            click.echo(no_layer_named(f" at {last_maps(network)}"), err=True)

    @property
    def place(self) -> str:
        """Where the maps are made, for a title: " at " and the layers, or nothing where none is named."""
        return at_layers(self.layers)


def method_options(command: Command) -> Command:
    """Add -l/--layer, --option and --explainer, handed to the command as `how`."""
    add_options = option_group(
        "how",
        MethodOptions,
        layers_option("Name of a layer to explain. The maps of several layers are fused."),
        method_option("masks=1000"),
        explainer_option,
    )
    return add_options(command)


def own_methods(
    context: click.Context, option: click.Parameter, given: str | Sequence[str] | None
) -> tuple[str, ...] | None:
    """Return the methods that an option or argument names, by the names that they have here.

    This is a callback of click, called before torch is imported.

    Args:
        context: of the command.
        option: the option or argument.
        given: names with commas between them; a sequence of names; or None, which is returned as it is.

    Raises:
        DeconvvizError: a method does not exist.
    """
    if given is None:
        return None
    return tuple(own_names(names_of(given) if isinstance(given, str) else given))


def method_option(example: str) -> Callable[[Command], Command]:
    """Return --option KEY=VALUE, which may be given several times, as `pairs`; `example` is one such pair."""
    text = f"An option of the methods that have it, such as {example}. May be given several times."
    return click.option("--option", "pairs", multiple=True, metavar="KEY=VALUE", help=text)


def options_of(method: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return those of the options that a method has; raises DataError for a pair without a value.

    >>> options_of("rise", ["masks=100", "scales=2"])
    {'masks': 100}
    """
    from deconvviz.cam import explain  # noqa: F401, the methods register
    from deconvviz.cam.registry import METHODS

    keys = set(METHODS[method].options) | ({"method"} if METHODS[method].needs == "inner" else set())
    return {key: value for key, value in typed_options(pairs, EXAMPLE).items() if key in keys}


def typed_options(pairs: Sequence[str], example: str) -> dict[str, Any]:
    """Return options that were typed as KEY=VALUE, the values as `json_value` reads them.

    Args:
        pairs: the options; of two with one key the later one counts.
        example: such an option, for the error.

    Raises:
        DataError: a key or a value is missing.

    >>> typed_options(["masks=100", "fill=mean"], "masks=1000")
    {'masks': 100, 'fill': 'mean'}
    """
    return {key: json_value(value) for key, value in (key_and_value(text, example) for text in pairs)}


def key_and_value(text: str, example: str) -> tuple[str, str]:
    """Split KEY=VALUE; raises DataError, with an example, where either is missing.

    >>> key_and_value("area=1,2", "area=2")
    ('area', '1,2')
    """
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise DataError(f"{text!r} given; expected KEY=VALUE, such as {example}")
    return key, value


def json_value(text: str) -> Any:
    """Return a value that was typed: what JSON makes of it, else the text itself.

    >>> json_value("0.5"), json_value("true"), json_value("mean")
    (0.5, True, 'mean')
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
