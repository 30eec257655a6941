"""A model by its name, with its weights and the preprocessing that it was trained with."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deconvviz.errors import ModelError, nearest
from deconvviz.models.weights import load_weights, read_weights
from deconvviz.registry import Registry

FORMS = "torchvision:NAME, timm:NAME, zfnet, demo or path/to/file.py:FACTORY"


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, how its images are prepared, and where it came from.

    Attributes:
        model: the module.
        settings: the arguments of `Preprocess` that the weights were trained with; what is absent has the default.
        spec: the model's name, as it was given to `load_model`.
        weights: "DEFAULT", "none" or the path of a file.
        classes: names of the outputs; empty where they are unknown.
    """

    model: nn.Module
    settings: dict[str, Any]
    spec: str
    weights: str
    classes: tuple[str, ...] = ()


ModelAndSettings = tuple[nn.Module, dict[str, Any]]
"""A module, and the arguments of `Preprocess` for its images."""
Loader = Callable[[str, bool], ModelAndSettings]
"""The name of a model, and whether it has its own trained weights -> the model."""
SOURCES: Registry[Loader] = Registry("model source")
DEMO = pathlib.Path(__file__).parent / "demo.pth"
DEMO_SNAPSHOTS = DEMO.with_name("demo-snapshots.h5")


def load_model(spec: str, weights: str = "DEFAULT") -> LoadedModel:
    """Build a model by its name.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, `zfnet`, `demo` (a small ZFNet that comes with the package, trained on
            generated scenes), or `path/to/file.py:FACTORY`, a function that returns the module.
        weights: "DEFAULT" for the model's own trained weights (they are downloaded where they are not there yet),
            "none" for random weights of a fixed seed, or the path of a file with a state dict, which is loaded with
            weights_only=True. From a file that `deconvviz train` wrote come also the size of a zfnet, how its images
            are prepared, and the names of its outputs.

    Raises:
        ModelError: the model or the file does not exist, the file is not a plain state dict, or the weights belong to
            another network.

    >>> loaded = load_model("demo")
    >>> type(loaded.model).__name__, loaded.settings["crop"], loaded.classes[:2]
    ('ZFNet', 64, ('cat', 'owl'))
    """
    trained = weights == "DEFAULT"
    if spec == "zfnet" and trained:
        raise ModelError(
            "zfnet has no published weights; give --weights FILE, as `deconvviz train zfnet IMAGES --out FILE` writes "
            "it, or --weights none for random ones"
        )
    from_file = weights not in ("DEFAULT", "none")
    file = read_weights(weights) if from_file else read_weights(DEMO) if spec == "demo" else None
    model, settings = build_model(spec, file.arguments if file else {}, trained)
    if file and weights != "none":
        load_weights(model, file)
    classes = () if weights == "none" else (file.classes if file else ()) or _torchvision_classes(spec)
    return LoadedModel(model.eval(), {**settings, **(file.settings if file else {})}, spec, weights, classes)


def build_model(spec: str, arguments: Mapping[str, Any], trained: bool = False, seed: int = 0) -> ModelAndSettings:
    """Build a new model by its name, without weights from a file.

    Args:
        spec: as for `load_model`.
        arguments: of a zfnet or demo, as in `ZFNet.arguments`.
        trained: whether the model has its own trained weights; otherwise they are random.
        seed: of random weights.

    Returns:
        The module, and the arguments of `Preprocess` for its images.

    Raises:
        ModelError: the model does not exist or cannot be built.
    """
    source, _, name = spec.rpartition(":")
    loader: Loader | None
    if spec in ("zfnet", "demo"):
        loader, name = lambda _name, _trained: _zfnet(arguments), spec
    elif source.endswith(".py"):
        loader, name = _from_file, spec
    else:
        loader = SOURCES[source] if source in SOURCES and name else None
    if loader is None:
        raise ModelError(f"model {spec!r} given; expected {FORMS}")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        return loader(name, trained)


def _torchvision_classes(spec: str) -> tuple[str, ...]:
    """Return the names of the outputs of a torchvision model, which its weights come with; () for other models."""
    from torchvision import models

    source, _, name = spec.rpartition(":")
    if source != "torchvision":
        return ()
    return tuple(models.get_model_weights(name).DEFAULT.meta.get("categories", ()))


def _zfnet(arguments: Mapping[str, Any]) -> ModelAndSettings:
    from deconvviz.models.zfnet import zfnet

    try:
        model = zfnet(**arguments)
    except TypeError as error:
        raise ModelError(f"no ZFNet with these arguments: {error}; train the network again") from error
    size = model.arguments["input_size"]
    return model, {"resize": round(size * 8 / 7), "crop": size}  # 224 of 256, as in the paper


def _torchvision(name: str, trained: bool) -> ModelAndSettings:
    from torchvision import models

    names = models.list_models()
    if name not in names:
        raise ModelError(f"torchvision has no model {name!r}; {nearest(name, names)}")
    best = models.get_model_weights(name).DEFAULT
    # What the weights imply, and is left out where they come from a file: torchvision would build another network,
    # and download the backbone of a segmentation network or a detector.
    extra: dict[str, Any] = {}
    if not trained:
        arguments = inspect.signature(models.get_model_builder(name)).parameters
        extra |= {"init_weights": False, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
        extra |= {"weights_backbone": None} if "weights_backbone" in arguments else {}
        extra |= {"aux_loss": True} if "aux_loss" in arguments and "aux_loss" in _implied(best) else {}
    try:
        model = models.get_model(name, weights=best if trained else None, **extra)
    except OSError as error:
        raise ModelError(
            f"cannot download the weights of {name}: {error}; give a file with --weights, or none"
        ) from error
    return model, _torchvision_settings(best.transforms())


def _torchvision_settings(preset: Any) -> dict[str, Any]:
    """Read the settings that the weights were evaluated with; a model without them gets ImageNet's usual ones."""
    if not hasattr(preset, "crop_size"):
        return {}
    mode = str(preset.interpolation.value)
    return {
        "resize": int(preset.resize_size[0]),
        "crop": int(preset.crop_size[0]),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": mode if mode in INTERPOLATION else "bilinear",
    }


def _timm(name: str, trained: bool) -> ModelAndSettings:
    try:
        import timm
    except ImportError:
        raise ModelError("timm is not installed; pip install 'deconvviz[timm]'") from None
    if name.split(".")[0] not in timm.list_models():
        raise ModelError(f"timm has no model {name!r}; {nearest(name, timm.list_models())}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=trained)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"cannot get the weights of {name}: {str(error).splitlines()[0]}; give a file with --weights, or none"
        ) from error
    data: dict[str, Any] = timm.data.resolve_model_data_config(model)  # type: ignore[attr-defined, no-untyped-call]
    return model, timm_settings(data)


def timm_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Preprocess` that a data configuration of timm stands for.

    They are read off the transforms that timm itself makes of it, so that its rounding and its crop modes are kept.

    Args:
        config: as timm's `resolve_model_data_config` returns it.
    """
    import timm

    transforms = timm.data.create_transform(**config, is_training=False).transforms  # type: ignore[attr-defined]
    by_kind = {type(transform).__name__: transform for transform in transforms}
    resize, crop = transforms[0], by_kind.get("CenterCrop") or by_kind["CenterCropOrPad"]
    height, width = (int(side) for side in crop.size)
    size = tuple(resize.size) if isinstance(resize.size, list | tuple) else int(resize.size)
    fit = "stretch" if type(resize).__name__ == "Resize" and isinstance(size, tuple) else "cover"
    if getattr(resize, "longest", 0) == 1:
        fit = "contain"
    mode = str(getattr(resize.interpolation, "value", resize.interpolation))
    return {
        "resize": size,
        "crop": height if height == width else (height, width),
        "mean": tuple(float(value) for value in config["mean"]),
        "std": tuple(float(value) for value in config["std"]),
        "interpolation": mode if mode in INTERPOLATION else "bilinear",
        **({} if fit == "cover" else {"fit": fit}),
    }


def _from_file(spec: str, trained: bool) -> ModelAndSettings:
    """Call a function in a Python file; it returns the module, or (module, arguments of `Preprocess`)."""
    file, _, name = spec.rpartition(":")
    path = pathlib.Path(file)
    if not path.is_file():
        raise ModelError(f"no file {path}; expected {FORMS}")
    module_spec = importlib.util.spec_from_file_location(f"deconvviz_model_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(path.parent.resolve()))  # the file may import its neighbours
    try:
        module_spec.loader.exec_module(module)
        factory = getattr(module, name, None)
        if not callable(factory):
            raise ModelError(
                f"{path} has no function {name!r}; {nearest(name, [n for n in dir(module) if not n.startswith('_')])}"
            )
        returned = factory()
    except ModelError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"{spec} raised {type(error).__name__}: {error}; run it with --debug to see where") from error
    finally:
        sys.path.pop(0)
    model, settings = returned if isinstance(returned, tuple) else (returned, {})
    settings = settings.as_dict() if hasattr(settings, "as_dict") else settings
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} returned {type(model).__name__}; expected a torch.nn.Module or (module, settings)")
    return model, dict(settings)


SOURCES.add("torchvision", _torchvision)
SOURCES.add("timm", _timm)
