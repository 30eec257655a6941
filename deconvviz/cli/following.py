"""The line that says which command comes next: it works as it is printed."""

from __future__ import annotations

import pathlib
import shlex
from typing import TYPE_CHECKING

from deconvviz.cli.dependent import typed

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images

PICTURE = ("weights", "side", "resize", "mean", "std", "limits", "shown", "outputs", "device")
"""Parameters of `ModelOptions`, which another command of the same network takes too."""
IMAGE = "IMAGE"  # stands for a picture of the user's, where none is known


def following(*words: object, carry: tuple[str, ...] = ()) -> str:
    """Return a command as the user would type it after the one that is running.

    Args:
        words: of the command, without `deconvviz`.
        carry: parameters of the running command, such as `PICTURE`: those that the user gave are given again, before
            the last two words, which say where the result goes.

    >>> following("grid", "my mined.h5", "-l", "conv1", "-o", "conv1.png")
    "deconvviz grid 'my mined.h5' -l conv1 -o conv1.png"
    """
    *before, option, out = map(str, words)
    carried = [word for given, value in typed(*carry).items() for word in (given, str(value))]
    return shlex.join(["deconvviz", *before, *carried, option, out])


def announced(commands: list[str]) -> str:
    """Return the end of a line that says what was written: the one command that follows, or several below.

    >>> announced(["deconvviz grid m.h5"])
    'next: deconvviz grid m.h5'
    >>> print(announced(["deconvviz pack photos/ images.h5", "deconvviz mine demo images.h5"]))
    next:
      deconvviz pack photos/ images.h5
      deconvviz mine demo images.h5
    """
    return f"next: {commands[0]}" if len(commands) == 1 else "\n  ".join(["next:", *commands])


def picture_of(images: Images) -> str:
    """Return the path of a picture among the images, or the word IMAGE where they are not files."""
    folder = getattr(images, "path", None)
    if folder is not None and len(images) and (pathlib.Path(folder) / images.names[0]).is_file():
        return str(pathlib.Path(folder) / images.names[0])
    return IMAGE
