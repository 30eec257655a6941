"""Networks that a command line names in one word each: a model, its weights, or an epoch of a training."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, NamedTuple

from deconvviz.errors import DataError, ModelError

if TYPE_CHECKING:
    from deconvviz.models.load import LoadedModel
    from deconvviz.results.snapshots import Snapshots

FORMS = (
    "MODEL (its own weights), MODEL:WEIGHTS, a weights file (of `deconvviz train`, or of --model), SNAPSHOTS:EPOCH, or "
    "demo:EPOCH for the packaged training"
)


class NamedNetwork(NamedTuple):
    """A model that was named in one word.

    Attributes:
        loaded: the model with its weights.
        name: what figures and pages call it.
    """

    loaded: LoadedModel
    name: str


def named_network(text: str, model: str | None = None) -> NamedNetwork:
    """Load the network that a word names.

    Args:
        text: MODEL, as `load_model` takes it, with its own weights; MODEL:WEIGHTS, with WEIGHTS a file, DEFAULT or
            none; the path of a weights file that `deconvviz train` wrote, or of any other one where `model` is given;
            SNAPSHOTS:EPOCH, an epoch of a file of snapshots (SNAPSHOTS alone is its last one); or demo:EPOCH.
        model: the model that files belong to which do not name theirs.

    Raises:
        ModelError: the model or the file does not exist, or the weights belong to another network.
        MismatchError: snapshots are those of another network.
        DataError: the file does not hold the epoch.

    >>> named_network("demo").name, named_network("demo:2").name
    ('demo', 'demo, epoch 2')
    """
    from deconvviz.models.load import load_model

    head, colon, tail = text.rpartition(":")
    if colon and tail.isdecimal() and (head == "demo" or pathlib.Path(head).is_file()):
        return _of_epoch(head, int(tail), model)
    if pathlib.Path(text).is_file():
        return _of_file(text, model)
    if colon and (tail in ("DEFAULT", "none") or pathlib.Path(tail).is_file()):
        return NamedNetwork(load_model(head, tail), f"{head} ({pathlib.Path(tail).name})")
    if pathlib.Path(text).suffix in (".pth", ".pt", ".h5", ".safetensors", ".ckpt") or (colon and tail.isdecimal()):
        raise ModelError(f"{text} given, and there is no such file; expected {FORMS}")
    return NamedNetwork(load_model(text), text)


def _of_file(path: str, model: str | None) -> NamedNetwork:
    """Load the network whose weights a file holds."""
    from deconvviz.models.load import load_model
    from deconvviz.models.weights import read_weights

    if _is_ours(path):
        return _of_epoch(path, None, model)
    spec = model or read_weights(path).model
    if not spec:
        raise ModelError(f"{path} does not name its model; give --model, such as torchvision:resnet18")
    return NamedNetwork(load_model(spec, path), pathlib.Path(path).name)


def _of_epoch(path: str, epoch: int | None, model: str | None) -> NamedNetwork:
    """Load the network of an epoch of a training; None is the last one."""
    from deconvviz.models.load import DEMO_SNAPSHOTS, LoadedModel, build_model, load_model
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.run.snapshots import with_weights

    snapshots = Snapshots(DEMO_SNAPSHOTS if path == "demo" else path)
    number = _epoch_of(snapshots, epoch)
    spec = model or snapshots.config.get("model")
    if not spec:
        raise ModelError(f"{path} does not name its model; give --model, such as file.py:FACTORY")
    built, settings = build_model(spec, snapshots.config.get("arguments", {}))
    loaded = LoadedModel(
        model=with_weights(built, snapshots, number, "give the model that was trained with --model"),
        settings=snapshots.config.get("preprocess", settings),
        spec=spec,
        weights=f"{path}:{number}",
        classes=load_model("demo").classes if path == "demo" else (),
    )
    return NamedNetwork(loaded, f"{pathlib.Path(path).name}, epoch {number}")


def _epoch_of(snapshots: Snapshots, epoch: int | None) -> int:
    if not snapshots.epochs:
        raise DataError(f"{snapshots.path} holds the weights of no epoch; record the training again")
    return snapshots.epochs[-1] if epoch is None else epoch


def _is_ours(path: str) -> bool:
    """Return whether a file is an HDF5 file of deconvviz, and not one of torch."""
    from deconvviz.results.results import kind_of

    try:
        return bool(kind_of(path)[0])
    except DataError:
        return False
