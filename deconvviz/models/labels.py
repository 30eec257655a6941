"""Which output of a network stands for which class of some images."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from deconvviz.errors import DataError
from deconvviz.types import Ints, Pathlike

SYNSET = re.compile(r"n\d{8}")  # WordNet's numbers, which are the names of ImageNet's folders


def read_classes(path: Pathlike) -> tuple[str, ...]:
    """Read the names of a network's outputs, one name a line, in the order of the outputs.

    Raises:
        DataError: the file cannot be read or is empty, or a name is there twice.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names in {path}: {error}; give a text file, a name a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len({*names}) != len(names):
        repeated = next((name for name in names if names.count(name) > 1), None)
        what = f"has {repeated!r} twice" if repeated else "is empty"
        raise DataError(f"{path} {what}; expected distinct names, one a line, in the order of the outputs")
    return names


def outputs_of(classes: Sequence[str], outputs: int, names: Sequence[str] = ()) -> Ints:
    """Return the output that stands for each class of some images.

    Classes and outputs are matched by name where the names of the outputs include every class; in their order where
    there are as many classes as outputs; and by timm's list where the classes are ImageNet's synset numbers.

    Args:
        classes: names of the images' classes.
        outputs: number of the network's outputs.
        names: names of the outputs; empty where they are unknown.

    Returns:
        int64 [len(classes)], indices of outputs.

    Raises:
        DataError: classes and outputs cannot be matched in any of these ways.

    >>> outputs_of(["dog", "cat"], 3, ["cat", "dog", "owl"])
    array([1, 0])
    """
    number = {name: index for index, name in enumerate(names)}
    if names and len(names) != outputs:
        raise DataError(f"{len(names)} class names given for {outputs} outputs; give one for each")
    if classes and all(name in number for name in classes):
        return np.array([number[name] for name in classes], np.int64)
    if len(classes) == outputs:
        return np.arange(outputs)
    if classes and outputs == 1000 and all(SYNSET.fullmatch(name) for name in classes):
        number = {name: index for index, name in enumerate(_synsets())}
        if all(name in number for name in classes):
            return np.array([number[name] for name in classes], np.int64)
    unmatched = next((name for name in classes if name not in number), None)
    example = f", such as {unmatched!r}" if unmatched is not None else ""
    raise DataError(
        f"the images have {len(classes)} classes{example}, the network has {outputs} outputs, and the names do not "
        "tell which is which; give the outputs' names, one a line, with --classes FILE"
    )


def _synsets() -> list[str]:
    """Return ImageNet's synset numbers in the order of the usual 1000 outputs."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        raise DataError(
            "ImageNet's synset numbers need timm's list: pip install 'deconvviz[timm]', or give --classes FILE"
        ) from None
    return list(ImageNetInfo().label_names())  # type: ignore[no-untyped-call, unused-ignore]
