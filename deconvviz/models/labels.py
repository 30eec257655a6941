"""What the outputs of a network are called, and which of them stands for which class of some images."""

from __future__ import annotations

import pathlib
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from deconvviz.errors import DataError, TargetError, missing_library, nearest
from deconvviz.types import Ints, Pathlike
from deconvviz.words import counted

SYNSET = re.compile(r"n\d{8}")  # WordNet's numbers, which are the names of ImageNet's folders
OWN_SETTINGS = (
    "see whether the weights, the preprocessing (--mean, --std, --input) and the order of the classes (--classes) are "
    "the network's own"
)
FEW, NEAR_CHANCE = 20, 1.5  # images that tell something; times chance
IMAGENET = 1000  # outputs of a network that tells ImageNet's classes apart


def read_classes(path: Pathlike) -> tuple[str, ...]:
    """Read the names of a network's outputs, one name a line, in the order of the outputs.

    Raises:
        DataError: the file cannot be read or is empty. A name may be there twice, as in lists of ImageNet's classes.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names in {path}: {error}; give a text file, a name a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{path} is empty; expected names, one a line, in the order of the outputs")
    return names


def names_of_outputs(
    outputs: int, names: Sequence[str] = (), classes: Sequence[str] = (), of_class: Ints | None = None
) -> tuple[str, ...]:
    """Return what a network's outputs are called: the one place where this is decided.

    The names that came with the network or from the user are taken as they are. Without them, the classes of some
    images give the names where there are as many of them as outputs. Otherwise 1000 outputs are taken for ImageNet's
    classes, in torchvision's order, which is timm's too. That is an assumption: it also names the outputs of random
    weights, and those of a network that tells 1000 other things apart.

    Args:
        outputs: number of the network's outputs. A single one, `Network.width` 1, stands for two classes, "yes" and
            "no" in this order, and names or classes, given in the order of the labels 0 and 1, are turned round.
        names: of the outputs; empty where they are unknown.
        classes: names of the images' classes; empty where there are none.
        of_class: int64 [len(classes)], the output that stands for each class, as `outputs_of` returns it; by default
            they are in the same order. Synset numbers, as ImageNet's folders have them, do not count as names.

    Returns:
        The names; empty where nothing is known.

    >>> names_of_outputs(2, classes=["cat", "owl"]), names_of_outputs(3, classes=["cat", "owl"])
    (('cat', 'owl'), ())
    >>> names_of_outputs(1000)[281]
    'tabby'
    """
    if outputs == 1:
        return _names_of_one(names or classes)
    if names:
        return tuple(names)
    order = list(range(len(classes))) if of_class is None else of_class.tolist()
    if len(classes) == outputs and sorted(order) == list(range(outputs)) and not _are_synsets(classes):
        name_by_output = dict(zip(order, classes, strict=True))
        return tuple(str(name_by_output[output]) for output in range(outputs))
    return imagenet_names() if outputs == IMAGENET else ()


def _names_of_one(names: Sequence[str]) -> tuple[str, str]:
    """Return what "yes" and "no" of a single output are called.

    As trained with labels 0 and 1, the output stands for the second of two names.
    """
    if len(names) == 2:
        return str(names[1]), str(names[0])
    return (str(names[0]), f"not {names[0]}") if len(names) == 1 else ("yes", "no")


def imagenet_names() -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes, as torchvision's weights come with them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def shown_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return what figures and pages call the classes of some images: the one place where labels become names.

    A class that is called by the number of an ImageNet synset, as ImageNet's folders are, has ImageNet's name. All
    others keep their own, and so do the numbers where timm, which knows them, is not installed. What a program reads
    (tables, files) keeps the classes as the images have them.

    Args:
        classes: names of the images' classes.

    >>> shown_classes(["n03876231", "n00000000", "cat"])
    ('paintbrush', 'n00000000', 'cat')
    """
    if not any(SYNSET.fullmatch(name) for name in classes):
        return tuple(classes)
    try:
        names = dict(zip(_synsets(), imagenet_names(), strict=True))
    except DataError:
        return tuple(classes)
    return tuple(names.get(name, name) for name in classes)


def class_label(output: int, names: Sequence[str] = ()) -> str:
    """Return how text calls an output: by its number, and its name where that is known.

    >>> class_label(1, ["cat", "owl"]), class_label(7)
    ('class 1 (owl)', 'class 7')
    """
    return f"class {output} ({names[output]})" if 0 <= output < len(names) else f"class {output}"


def output_named(text: str, names: Sequence[str]) -> int:
    """Return the output of a name.

    Args:
        text: the name.
        names: of the outputs; several of them may be equal, as in older lists of ImageNet's classes.

    Raises:
        TargetError: no output has this name, or several have it.

    >>> output_named("owl", ["cat", "owl"])
    1
    """
    with_name = [output for output, name in enumerate(names) if name == text]
    if len(with_name) == 1:
        return with_name[0]
    if with_name:
        raise TargetError(f"class {text!r} is the name of the outputs {_listed(with_name)}; give the number")
    advice = nearest(text, names) if names else "the model's outputs have no names; give a number, or --classes FILE"
    raise TargetError(f"no class {text!r}; {advice}")


def near_chance(correct: float, count: int, classes: int) -> str | None:
    """Say where a network classifies images hardly better than by chance: labels or preprocessing may not be its own.

    Args:
        correct: share of the images that are classified correctly, 0..1.
        count: number of images; with fewer than 20 nothing is said.
        classes: number of classes among them.

    Returns:
        What was measured, in words; None where the network does better, or where too little is known.

    >>> near_chance(0.125, 80, 10)
    '12.5% of 80 images are classified correctly, and 1 of 10 classes would be by chance'
    """
    if count < FEW or classes < 2 or correct > NEAR_CHANCE / classes:
        return None
    return f"{correct:.1%} of {count} images are classified correctly, and 1 of {classes} classes would be by chance"


def note_chance(correct: float, count: int, classes: int) -> None:
    """Warn where a network classifies images hardly better than by chance; the arguments are those of `near_chance`."""
    text = near_chance(correct, count, classes)
    if text is not None:
        warnings.warn(f"{text}; {OWN_SETTINGS}", stacklevel=3)


def outputs_of(classes: Sequence[str], outputs: int, names: Sequence[str] = ()) -> Ints:
    """Return the output that stands for each class of some images.

    Classes and outputs are matched by name where the names of the outputs include every class; by value where the
    classes are numbers; in their order where there are as many classes as outputs and no name is among both, with a
    warning where the outputs have other names; and by timm's list where the classes are ImageNet's synset numbers.

    Args:
        classes: names of the images' classes.
        outputs: number of the network's outputs, `Network.width`; a single one is class 0 for the second of two
            classes, whose label was 1 in training, and class 1 for the first.
        names: names of the outputs, as `names_of_outputs` returns them; empty where they are unknown.

    Returns:
        int64 [len(classes)], indices of outputs.

    Raises:
        DataError: classes and outputs cannot be matched in any of these ways, or several outputs have the name of a
            class.

    >>> outputs_of(["dog", "cat"], 3, ["cat", "dog", "owl"])
    array([1, 0])
    """
    number = {name: index for index, name in enumerate(names)}
    if names and len(names) != max(outputs, 2):
        raise DataError(f"{len(names)} class names given for {counted(outputs, 'output')}; give one for each")
    if outputs == 1 and len(classes) == 2 and set(classes) != set(names):
        return np.array([1, 0])
    if classes and tuple(classes) == tuple(names):
        return np.arange(len(classes))
    if classes and all(name in number for name in classes):
        _require_distinct(classes, names)
        return np.array([number[name] for name in classes], np.int64)
    if classes and all(name.isdecimal() for name in classes):
        return _by_value(classes, outputs)
    if len(classes) == outputs and number.keys().isdisjoint(classes):
        _note_order(classes, names)
        return np.arange(outputs)
    if outputs == IMAGENET and _are_synsets(classes):
        by_synset = {name: index for index, name in enumerate(_synsets())}
        if all(name in by_synset for name in classes):
            return np.array([by_synset[name] for name in classes], np.int64)
    if not classes:
        raise DataError("the images have no classes; pack a folder with a sub-folder for each class")
    unmatched = next((name for name in classes if name not in number), None)
    example = f", such as {unmatched!r}" if unmatched is not None else ""
    raise DataError(
        f"the images have {counted(len(classes), 'class')}{example}, the network has "
        f"{counted(outputs, 'output')}, and the names do not "
        "tell which is which; give the outputs' names, one a line, with --classes FILE"
    )


def outputs_of_labels(labels: Sequence[str], outputs: int, names: Sequence[str] = ()) -> Ints:
    """Return the output that stands for each of several labels an image; no two of them are one output.

    As for `outputs_of`, but where the outputs have names, every label has to be among them: outputs of other names are
    never taken in their order. A network with a single output knows a single label.

    Args:
        labels: their names.
        outputs: number of the network's outputs, `Network.width`.
        names: names of the outputs, as `names_of_outputs` returns them; empty where they are unknown.

    Returns:
        int64 [len(labels)], indices of outputs.

    Raises:
        DataError: a label has no output, or several; or names are unknown and there are not as many outputs as labels.

    >>> outputs_of_labels(["dog", "sky"], 3, ["dog", "cat", "sky"])
    array([0, 2])
    """
    lacking = [name for name in labels if name not in names]
    if names and lacking and tuple(names) != ("yes", "no"):
        raise DataError(
            f"no output for the label {lacking[0]!r} of the images: the network knows {counted(len(names), 'class')}, "
            f"{nearest(lacking[0], names)}; give a network that was trained with these labels, or the names of its "
            "outputs with --classes FILE"
        )
    if outputs == 1 and len(labels) == 1:
        return np.array([0])
    if outputs == 1:
        raise DataError(f"one output given for {len(labels)} labels; expected an output for each label")
    return outputs_of(labels, outputs, names)


def _by_value(classes: Sequence[str], outputs: int) -> Ints:
    """Return the outputs of classes that are numbers, such as ImageNetV2's folders "0" to "999"."""
    numbers = np.array([int(name) for name in classes], np.int64)
    if numbers.max() >= outputs or len({*numbers.tolist()}) != len(numbers):
        raise DataError(
            f"the images' classes are numbers up to {numbers.max()}, the network has outputs 0 to {outputs - 1}; give "
            "the outputs' names, one a line, with --classes FILE"
        )
    return numbers


def _note_order(classes: Sequence[str], names: Sequence[str]) -> None:
    """Warn where outputs that have names of their own are taken in the order of classes that have others."""
    if names and tuple(names) != ("yes", "no") and not _are_synsets(classes):
        warnings.warn(
            f"no class of the images is called as an output of the network ({classes[0]!r}, {names[0]!r}); they are "
            "taken in their order: if it is not the same, give the outputs' names, one a line, with --classes FILE",
            stacklevel=3,
        )


def _require_distinct(classes: Sequence[str], names: Sequence[str]) -> None:
    """Raise DataError where a class has the name of several outputs."""
    times = Counter(names)
    for name in classes:
        if times[name] > 1:
            outputs = _listed([output for output, other in enumerate(names) if other == name])
            raise DataError(
                f"class {name!r} of the images is the name of the outputs {outputs}; give other names, one a line, "
                "with --classes FILE"
            )


def _are_synsets(classes: Sequence[str]) -> bool:
    """Whether the classes are named by ImageNet's synset numbers."""
    return bool(len(classes)) and all(SYNSET.fullmatch(name) for name in classes)


def _listed(outputs: Sequence[int]) -> str:
    """Return numbers as a sentence lists them: "134 and 517"."""
    *first, last = map(str, outputs)
    return f"{', '.join(first)} and {last}" if first else last


@cache
def _synsets() -> tuple[str, ...]:
    """Return ImageNet's synset numbers in the order of the usual 1000 outputs; timm reads its files at each call."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        raise DataError(
            f"ImageNet's synset numbers need timm's list: {missing_library('timm')}, or give --classes FILE"
        ) from None
    return tuple(ImageNetInfo().label_names())  # type: ignore[no-untyped-call, unused-ignore]
