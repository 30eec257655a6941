"""Whether a file of deconvviz is still what was written: its seal, or the digests of its parts."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from deconvviz.data.images import ImageStore
from deconvviz.data.shards import is_sharded
from deconvviz.data.store_file import FORMAT
from deconvviz.results.features import KIND as FEATURES
from deconvviz.results.features import Features
from deconvviz.results.results import arrays_below, kind_of, reading
from deconvviz.results.snapshots import KIND as SNAPSHOTS
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.options import RunOptions
from deconvviz.types import Array, Pathlike
from deconvviz.words import counted

ROWS = 1024  # rows of features that are read at once
QUANTILES = "quantiles"  # the stage of a dissection that is in its first pass
NEWEST = 2**31  # a schema that no file exceeds: what is verified is the content, not who can read it


def verify(path: Pathlike, progress: bool = False) -> str:
    """Read a whole file, and compare it with the digests that it holds.

    Args:
        path: of an image store (a file, or a folder of shards), of features, or of any other HDF5 file that deconvviz
            wrote.
        progress: whether a progress bar is shown on standard error.

    Returns:
        What it is and what was found, in a sentence; and how far it is where the job that writes it is unfinished.

    Raises:
        DataError: the file is damaged or was changed, or no file of deconvviz.

    >>> import tempfile
    >>> from deconvviz.results.results import Result
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Result("squares", 1, {}).save(f"{folder}/s.h5")
    ...     verify(f"{folder}/s.h5")
    'a squares file, unchanged since it was written'
    """
    path = pathlib.Path(path)
    kind, digested = (FORMAT, True) if is_sharded(path) else kind_of(path)
    what, unfinished = _read_through(path, kind, RunOptions(progress=progress))
    if digested:
        return f"{what}, unchanged since it was written{unfinished}"
    return (
        f"{what}, readable; an older version wrote it, without a digest, so that nobody can tell whether it changed"
        f"{unfinished}"
    )


def _read_through(path: pathlib.Path, kind: str, run: RunOptions) -> tuple[str, str]:
    """Read everything that a file holds; return what it is, and how far it is, "" where it is finished."""
    if kind == FORMAT:
        with ImageStore.open(path) as store, run.bar("image", len(store), "verifying") as bar:
            for index in range(len(store)):
                store.encoded(index)
                bar.update()
        return f"an image store of {len(store)} images" + (f" in {store.shards} shards" if store.shards else ""), ""
    if kind == FEATURES:
        features = Features(path)
        with run.bar("layer", len(features.layers), "verifying") as bar:
            for layer in features.layers:
                for start in range(0, features.done, ROWS):
                    features.rows(layer, np.arange(start, min(start + ROWS, features.done)))
                bar.update()
        return f"a features file of {features.done} rows", _unfinished(features.done, len(features))
    if kind == SNAPSHOTS:
        snapshots = Snapshots(path)
        with run.bar("epoch", len(snapshots.epochs), "verifying") as bar:
            for epoch in snapshots.epochs:
                snapshots.weights(epoch)
                bar.update()
        return f"a snapshots file of {len(snapshots.epochs)} epochs", ""
    with reading(path, kind, NEWEST) as file:
        arrays, state = arrays_below(file), json.loads(file.attrs.get("state", "{}"))
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind} file", _unfinished_words(state, arrays)


def _unfinished_words(state: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Return how far a result is, from its state; "" where it is finished, or does not say how much there is to do.

    A lesions file counts its done images as "images", and the decisions of an atlas have a row for each image to do.
    """
    done, total = state.get("done", state.get("images")), state.get("total")
    if total is None and "done" in state and "targets" in arrays:
        total = len(arrays["targets"])
    if done is None or total is None:
        return ""
    if state.get("stage") == QUANTILES:
        return f"; unfinished: {done} of {counted(total, 'image')} of the first of two passes"
    return _unfinished(int(done), int(total))


def _unfinished(done: int, total: int) -> str:
    return f"; unfinished: {done} of {counted(total, 'image')}" if done < total else ""
