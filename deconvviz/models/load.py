"""A model from its name on the command line, with its weights and the preprocessing that it was trained with."""

from __future__ import annotations

import importlib.util
import pathlib
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.errors import ModelError, nearest
from deconvviz.registry import Registry

FORMS = "torchvision:NAME, timm:NAME or path/to/file.py:FACTORY"


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, how its images are prepared, and where it came from.

    `settings` are the arguments of `Preprocess` that the weights were trained with; absent ones have its defaults.
    """

    model: nn.Module
    settings: dict[str, Any]
    spec: str
    weights: str


Made = tuple[nn.Module, dict[str, Any]]
Loader = Callable[[str, bool], Made]
SOURCES: Registry[Loader] = Registry("model source")


def load_model(spec: str, weights: str = "DEFAULT") -> Loaded:
    """Build the model that `spec` names.

    Args:
        spec: `torchvision:NAME`, `timm:NAME` or `path/to/file.py:FACTORY`, a function that returns the module.
        weights: "DEFAULT" for the source's own trained weights (downloaded where they are not there yet), "none" for
            seeded random ones, or the path of a file with a state dict; it is loaded with weights_only=True.

    Raises:
        ModelError: no such model, no such file, not a plain state dict, or weights of another network.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise ModelError(f"model {spec!r} given; expected {FORMS}")
    loader = _file if source.endswith(".py") else SOURCES[source] if source in SOURCES else None
    if loader is None:
        raise ModelError(f"model source {source!r} given; expected {FORMS}")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        model, settings = loader(spec if loader is _file else name, weights == "DEFAULT")
    if weights not in ("DEFAULT", "none"):
        load_weights(model, weights)
    return Loaded(model.eval(), settings, spec, weights)


def load_weights(model: nn.Module, path: str | pathlib.Path) -> None:
    """Load a state dict from a file into the model, in place; half-precision weights become the model's own dtype.

    Raises:
        ModelError: as `load_model`; the model is unchanged then.
    """
    given = _state_dict(pathlib.Path(path))
    own = model.state_dict()
    missing, unexpected = [n for n in own if n not in given], [n for n in given if n not in own]
    shapes = [n for n in own if n in given and own[n].shape != given[n].shape]
    if missing or unexpected or shapes:
        parts = [
            f"{len(names)} {what}, first {names[0]}"
            for names, what in ((missing, "missing"), (unexpected, "unexpected"))
            if names
        ]
        if shapes:
            n = shapes[0]
            parts.append(
                f"{len(shapes)} of another shape, first {n}: {tuple(given[n].shape)}, expected {tuple(own[n].shape)}"
            )
        raise ModelError(
            f"weights {path} do not fit {type(model).__name__} ({'; '.join(parts)}); choose the model they belong to"
        )
    model.load_state_dict(given)


def _state_dict(path: pathlib.Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"no weights file {path}; give the path of a state dict, DEFAULT or none")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (
            "it holds Python objects, and only tensors are loaded"
            if "weights_only" in str(error)
            else "it cannot be read"
        )
        raise ModelError(
            f"{path} is no plain state dict: {reason}; save one with torch.save(model.state_dict(), path)"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):  # checkpoints of training loops
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(
            f"{path} holds no state dict (name -> tensor); save one with torch.save(model.state_dict(), path)"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _torchvision(name: str, trained: bool) -> Made:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no model {name!r}; {nearest(name, known)}")
    best = models.get_model_weights(name).DEFAULT
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") and not trained else {}
    try:
        model = models.get_model(name, weights=best if trained else None, **extra)
    except OSError as error:
        raise ModelError(
            f"cannot download the weights of {name}: {error}; give a file with --weights, or none"
        ) from error
    return model, _torchvision_settings(best.transforms())


def _torchvision_settings(preset: Any) -> dict[str, Any]:
    """Read the preset that the weights were evaluated with; a model without one gets ImageNet's usual one."""
    if not hasattr(preset, "crop_size"):
        return {}
    modes = {"nearest", "bilinear", "bicubic"}
    mode = str(preset.interpolation.value)
    return {
        "resize": int(preset.resize_size[0]),
        "crop": int(preset.crop_size[0]),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": mode if mode in modes else "bilinear",
    }


def _timm(name: str, trained: bool) -> Made:
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
    size = int(data["input_size"][1])
    mode = data["interpolation"] if data["interpolation"] in ("bilinear", "bicubic") else "bilinear"
    return model, {
        "resize": round(size / data["crop_pct"]),
        "crop": size,
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "interpolation": mode,
    }


def _file(spec: str, trained: bool) -> Made:
    """Call a factory in a Python file; it returns the module, or (module, settings of its preprocessing)."""
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
        made = factory()
    except ModelError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"{spec} raised {type(error).__name__}: {error}; run it with --debug to see where") from error
    finally:
        sys.path.pop(0)
    model, settings = made if isinstance(made, tuple) else (made, {})
    settings = settings.as_dict() if hasattr(settings, "as_dict") else settings
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} returned {type(model).__name__}; expected a torch.nn.Module or (module, settings)")
    return model, dict(settings)


SOURCES.add("torchvision", _torchvision)
SOURCES.add("timm", _timm)
