"""A model by its name, with its weights and the preprocessing that it was trained with."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.errors import ModelError
from deconvviz.models.heads import Head
from deconvviz.models.parts import part_of, settings_of_part, split_part
from deconvviz.models.python_files import FORMS
from deconvviz.models.randomness import make_random
from deconvviz.models.slimming import fit_to
from deconvviz.models.sources import SOURCES, Built, Loader, Wanted, from_file
from deconvviz.models.weights import Weights, load_weights, read_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, how its images are prepared, and where it came from.

    Attributes:
        model: the module.
        settings: the arguments of `Preprocess` that the weights were trained with; what is absent has the default.
        spec: the model's name, as it was given to `load_model`.
        weights: "DEFAULT", "none" or the path of a file.
        classes: names of the outputs; empty where they are unknown.
        head: the head that it got in the place of its own last layers; None for its own.
    """

    model: nn.Module
    settings: dict[str, Any]
    spec: str
    weights: str
    classes: tuple[str, ...] = ()
    head: Head | None = None


DEMO = pathlib.Path(__file__).parent / "demo.pth"
DEMO_SNAPSHOTS = DEMO.with_name("demo-snapshots.h5")


def load_model(spec: str, weights: str = "DEFAULT") -> LoadedModel:
    """Build a model by its name.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, `hf:FOLDER` (as `save_pretrained` of transformers writes it), `zfnet`,
            `demo` (a small ZFNet that comes with the package, trained on generated scenes), or
            `path/to/file.py:FACTORY`, a function that returns the module, or the module with the arguments of
            `Preprocess` and perhaps the names of its outputs. MODEL#PART is one of the model's modules, such as
            `torchvision:fasterrcnn_resnet50_fpn#backbone`, with the weights that it has in the model.
        weights: "DEFAULT" for the model's own trained weights (they are downloaded where they are not there yet),
            "none" for random weights of a fixed seed, or the path of a file with a state dict, which is loaded with
            weights_only=True. A file that `deconvviz prune` wrote makes the model's tensors as small as its own. From a
            file that `deconvviz train` wrote come also the size of a zfnet, another head, how
            its images are prepared, and the names of its outputs. Where the last layer in a file has another number of
            outputs than the model usually has, the model is built with as many.

    Raises:
        ModelError: the model or the file does not exist, the file is not a plain state dict, the weights belong to
            another network, or "none" was given for a model whose weights cannot be made random.

    >>> loaded = load_model("demo")
    >>> type(loaded.model).__name__, loaded.settings["crop"], loaded.classes[:2]
    ('ZFNet', 64, ('cat', 'owl'))
    """
    whole, part = split_part(spec)
    if part:
        loaded = load_model(whole, weights)
        settings = settings_of_part(loaded.model, loaded.settings)
        return LoadedModel(part_of(loaded.model, part), settings, spec, weights)
    trained = weights == "DEFAULT"
    if spec == "zfnet" and trained:
        raise ModelError(
            "zfnet has no published weights; give --weights FILE, as `deconvviz train zfnet IMAGES --out FILE` writes "
            "it, or --weights none for random ones"
        )
    is_file = weights not in ("DEFAULT", "none")
    file = read_weights(weights) if is_file else read_weights(DEMO) if spec == "demo" else None
    arguments = file.arguments if file else {}
    head = Head.from_dict(file.head) if file and file.head else None
    built = _built(spec, arguments, Wanted(trained, file.state if file and is_file else {}), head=head)
    if file and weights != "none":
        built = _with_weights(spec, arguments, built, file)
    elif weights == "none" and ".py:" in spec:  # a factory may load weights of its own
        make_random(built.model, lambda: _built(spec, arguments, Wanted()).model, spec)
    classes = () if weights == "none" and spec == "demo" else (file.classes if file else ()) or built.classes
    settings = {**built.settings, **(file.settings if file else {})}
    return LoadedModel(built.model.eval(), settings, spec, weights, classes, head)


def build_model(
    spec: str, arguments: Mapping[str, Any], trained: bool = False, seed: int = 0, head: Head | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a new model by its name, without weights from a file.

    Args:
        spec: as for `load_model`.
        arguments: of a zfnet or demo, as in `ZFNet.arguments`.
        trained: whether the model has its own trained weights; otherwise they are random.
        seed: of random weights.
        head: what stands in the place of the model's own last layers, with random weights; None for its own.

    Returns:
        The module, and the arguments of `Preprocess` for its images.

    Raises:
        ModelError: the model does not exist or cannot be built.
    """
    built = _built(spec, arguments, Wanted(trained), seed, head)
    return built.model, built.settings


def _built(spec: str, arguments: Mapping[str, Any], wanted: Wanted, seed: int = 0, head: Head | None = None) -> Built:
    source, _, name = spec.partition(":")
    loader: Loader | None
    if spec in ("zfnet", "demo"):
        loader, name = lambda _name, _wanted: _zfnet(arguments), spec
    elif spec.rpartition(":")[0].endswith(".py"):
        loader, name = from_file, spec
    else:
        loader = SOURCES[source] if source in SOURCES and name else None
    if loader is None:
        raise ModelError(f"model {spec!r} given; expected {FORMS}")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        built = loader(name, wanted)
    if head is not None:
        head.put_on(built.model, seed)
    return built


def _with_weights(spec: str, arguments: Mapping[str, Any], built: Built, file: Weights) -> Built:
    """Load a file into a model; where only the number of outputs differs, build the model with those of the file."""
    if file.slim:
        fit_to(built.model, file.state)
    try:
        load_weights(built.model, file)
        return built
    except ModelError as misfit:
        count = _outputs_in(file.state)
        if spec.partition(":")[0] not in SOURCES or count is None:
            raise
        try:
            other = _built(spec, arguments, Wanted(False, file.state, count))
            load_weights(other.model, file)
        except (ModelError, TypeError, ValueError):
            raise misfit from None
        return other._replace(classes=() if len(built.classes) != count else built.classes)


def _outputs_in(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of rows of the last weight of a linear layer or 1x1 convolution in a state dict."""
    rows = [
        len(tensor)
        for name, tensor in state.items()
        if name.endswith("weight") and (tensor.dim() == 2 or (tensor.dim() == 4 and tensor.shape[2:] == (1, 1)))
    ]
    return rows[-1] if rows else None


def _zfnet(arguments: Mapping[str, Any]) -> Built:
    from deconvviz.models.zfnet import zfnet

    try:
        model = zfnet(**arguments)
    except TypeError as error:
        raise ModelError(f"no ZFNet with these arguments: {error}; train the network again") from error
    size = model.arguments["input_size"]
    return Built(model, {"resize": round(size * 8 / 7), "crop": size})  # 224 of 256, as in the paper
