"""What a file is that was given in the place of another one, and which command takes it."""

from __future__ import annotations

import pathlib

from deconvviz.data.store_file import FORMAT as IMAGES
from deconvviz.errors import DataError, ModelError
from deconvviz.models.checkpoints import read_file
from deconvviz.models.weights import SLIM, TRAINING
from deconvviz.results.results import kind_of
from deconvviz.types import Pathlike
from deconvviz.words import with_article

EXPLAINER_TRAINING = "deconvviz-explainer-training"  # marks the checkpoints of `deconvviz train-cam`
TAKEN_BY = {
    "mined": "`deconvviz grid` draws it",
    "snapshots": "`deconvviz evolve` draws it",
    "features": "`deconvviz verify` reads it",
}
"""Kind of an HDF5 file -> which command takes it."""


def recognised(path: Pathlike) -> str:
    """Return in words what a file of deconvviz is, and which command takes it; "" for what is not recognised.

    The words follow "it is" or "but": they begin with an article where the thing has one.

    Args:
        path: of an existing file.

    >>> import tempfile
    >>> from deconvviz.results.results import Result
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Result("mined", 1, {}).save(f"{folder}/m.h5")
    ...     recognised(f"{folder}/m.h5")
    'a mined file (`deconvviz grid` draws it)'
    """
    path = pathlib.Path(path)
    try:
        kind, _ = kind_of(path)
    except DataError:
        return _of_torch(path)
    if kind == IMAGES:
        return "a packed store of images (give it as IMAGES)"
    taken = f" ({TAKEN_BY[kind]})" if kind in TAKEN_BY else ""
    return f"{with_article(f'{kind} file')}{taken}"


def _of_torch(path: pathlib.Path) -> str:
    try:
        content = read_file(path)
    except ModelError as error:
        what, found, _ = str(error).removeprefix(f"{path} is ").partition(", no state dict; ")
        return what if found else ""
    mark = content.get("format") if isinstance(content, dict) else None
    if mark == EXPLAINER_TRAINING:
        return "an unfinished training of an explainer (the same `deconvviz train-cam` goes on with it)"
    if mark not in (SLIM, TRAINING):
        return ""
    model = str((content.get("identity") or {}).get("model") or "MODEL")
    what = "the weights of a pruned network" if mark == SLIM else "the weights of a trained network"
    return f"{what} (give the model as {model} --weights {path.name})"
