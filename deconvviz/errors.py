"""What goes wrong, told to the person who can mend it: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Iterable
from typing import Any


class DeconvvizError(Exception):
    """Base of every error that the user can act on; the command line prints its message and exits with 2."""


class CaptureError(DeconvvizError):
    """The model cannot be turned into a graph, or does not accept the given input."""


class InputRefused(CaptureError):
    """The model itself does not accept the images that it is given."""


class LayerNotFound(DeconvvizError):
    """No layer of that name; the message lists the nearest names."""


class ProjectionError(DeconvvizError):
    """A unit that does not exist, or an op on its path that has no transpose."""


class DataError(DeconvvizError):
    """An image, an image store or a result file that is missing, foreign, truncated or of the wrong kind."""


class ModelError(DeconvvizError):
    """A model or its weights cannot be found, read or matched."""


class MismatchError(DeconvvizError):
    """Two things that do not belong together: a result file and another model, dataset or configuration."""


class CamError(DeconvvizError):
    """A layer or a network without what an explanation method needs."""


class TargetError(DeconvvizError):
    """A class that does not exist, or another number of targets than of images."""


class TrainingError(DeconvvizError):
    """A training that cannot begin, or that diverged."""


class PruningError(DeconvvizError):
    """Channels that cannot be taken out of a network, or a share of them that leaves none."""


def missing_library(library: str, also: str = "") -> str:
    """Return the phrase that says that a library is not installed, and how to install it, for an error message.

    The library is named, and not the extra of this package that brings it: how an extra is written depends on whether
    the package was installed from a checkout or from an index, and the library's own name works everywhere.

    Args:
        library: its name in the package index.
        also: what is installed with it.

    >>> missing_library("transformers", "safetensors")
    'transformers is not installed; install it: pip install transformers safetensors'
    >>> missing_library("ray[client]")
    "ray is not installed; install it: pip install 'ray[client]'"
    """
    return (
        f"{library.partition('[')[0]} is not installed; install it: pip install {shlex.join([library, *also.split()])}"
    )


def nearest(name: str, known: Iterable[str], count: int = 5) -> str:
    """Return a phrase that names the known names closest to `name`, for an error message.

    >>> nearest("GradCAMs", ["rise", "grad-cam"])
    'nearest: grad-cam'
    """
    names = list(known)
    by_small_letters = {known_name.casefold(): known_name for known_name in names}
    similar = difflib.get_close_matches(name.casefold(), by_small_letters, n=count, cutoff=0.4)
    close = [by_small_letters[small] for small in similar] or names[:count]
    return ("nearest: " + ", ".join(close)) if close else "none are known"


def require(settings: Any, error: type[DeconvvizError], **expectations: tuple[bool, str]) -> None:
    """Raise `error` for the first setting that is not as expected.

    Args:
        settings: an object with an attribute, or a mapping with an item, of each expectation's name.
        error: the error to raise.
        expectations: name -> (whether it holds, what was expected in words).
    """
    for name, (holds, expected) in expectations.items():
        if not holds:
            value = settings[name] if isinstance(settings, dict) else getattr(settings, name)
            raise error(f"{name.replace('_', ' ')} {value!r} given; expected {expected}")


def require_choice(name: str, value: object, choices: Collection[str], error: type[DeconvvizError] = DataError) -> None:
    """Raise `error` unless `value` is one of `choices`; `name` says in the message what it is."""
    if value not in choices:
        listed = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
        raise error(f"{name} {value!r} given; expected {listed}")
