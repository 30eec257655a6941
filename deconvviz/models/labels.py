"""Which output of a network stands for which class of a set of images."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deconvviz.errors import DataError

SYNSET = re.compile(r"n\d{8}")  # WordNet's numbers, as ImageNet's folders are named


def read_classes(path: str | pathlib.Path) -> tuple[str, ...]:
    """Read the names of a network's outputs, one a line, in the order of the outputs; raises DataError."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names in {path}: {error}; give a text file, a name a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len({*names}) != len(names):
        double = next((name for name in names if names.count(name) > 1), None)
        what = f"has {double!r} twice" if double else "is empty"
        raise DataError(f"{path} {what}; expected one name a line, each another, in the order of the outputs")
    return names


def outputs_of(classes: Sequence[str], outputs: int, names: Sequence[str] = ()) -> NDArray[np.int64]:
    """Return the output that stands for each class of some images, int64 [len(classes)].

    By name where the outputs' names hold every class; in order where there are as many classes as outputs; ImageNet's
    synset numbers by timm's list.

    Args:
        classes: of the images; outputs: how many the network has; names: of the outputs, empty where unknown.

    Raises:
        DataError: none of these fits.
    """
    place = {name: index for index, name in enumerate(names)}
    if names and len(names) != outputs:
        raise DataError(f"{len(names)} class names given for {outputs} outputs; give one for each")
    if classes and all(name in place for name in classes):
        return np.array([place[name] for name in classes], np.int64)
    if len(classes) == outputs:
        return np.arange(outputs)
    if classes and outputs == 1000 and all(SYNSET.fullmatch(name) for name in classes):
        place = {name: index for index, name in enumerate(_synsets())}
        if all(name in place for name in classes):
            return np.array([place[name] for name in classes], np.int64)
    stray = next((name for name in classes if name not in place), None)
    shown = f", such as {stray!r}" if stray is not None else ""
    raise DataError(
        f"the images have {len(classes)} classes{shown}, the network {outputs} outputs, and the names do not tell "
        "which is which; give the outputs' names, one a line, with --classes FILE"
    )


def _synsets() -> list[str]:
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        raise DataError(
            "ImageNet's synset numbers need timm's list: pip install 'deconvviz[timm]', or give --classes FILE"
        ) from None
    return list(ImageNetInfo().label_names())  # type: ignore[no-untyped-call, unused-ignore]
