"""Where models come from: torchvision, timm, Hugging Face folders, and Python files; each with its preprocessing."""

from __future__ import annotations

import inspect
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from deconvviz.choices import INTERPOLATIONS_OF_IMAGES
from deconvviz.errors import ModelError, missing_library, nearest
from deconvviz.models.python_files import returned_by
from deconvviz.registry import Registry


class Built(NamedTuple):
    """A model as its source gives it.

    Attributes:
        model: the module.
        settings: the arguments of `Preprocess` for its images; what is absent has the default.
        classes: names of the outputs; empty where they are unknown.
    """

    model: nn.Module
    settings: dict[str, Any]
    classes: tuple[str, ...] = ()


class Wanted(NamedTuple):
    """How a model is built.

    Attributes:
        trained: whether it has its own trained weights; otherwise they are random.
        state: the state dict that will be loaded, whose names and shapes tell what the model has; empty where none is.
        classes: number of outputs; None leaves it to the model.
    """

    trained: bool = False
    state: Mapping[str, Tensor] = {}
    classes: int | None = None


Loader = Callable[[str, Wanted], Built]
"""The name of a model, and how it is wanted -> the model."""
SOURCES: Registry[Loader] = Registry("model source")


def _torchvision(name: str, wanted: Wanted) -> Built:
    from torchvision import models

    names = models.list_models()
    if name not in names:
        raise ModelError(f"torchvision has no model {name!r}; {nearest(name, names)}")
    best = models.get_model_weights(name).DEFAULT
    extra = {} if wanted.trained else _implied_by_weights(name, wanted)
    try:
        model = models.get_model(name, weights=best if wanted.trained else None, **extra)
    except OSError as error:
        raise ModelError(
            f"cannot download the weights of {name}: {error}; give a file with --weights, or none"
        ) from error
    return Built(model, _torchvision_settings(best.transforms()), tuple(best.meta.get("categories", ())))


def _implied_by_weights(name: str, wanted: Wanted) -> dict[str, Any]:
    """Return the arguments of a torchvision model that its own weights imply, for weights that come from a file.

    Without them torchvision builds another network than the one that was trained: GoogLeNet and Inception normalise
    their input once more, segmentation networks have a second head. It also would download the weights of a backbone.
    """
    from torchvision import models

    accepted = inspect.signature(models.get_model_builder(name)).parameters
    second_head = not wanted.state or any("aux" in key.lower() for key in wanted.state)
    implied: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        implied |= {"init_weights": False, "transform_input": True, "aux_logits": second_head}
    if "aux_loss" in accepted:
        implied["aux_loss"] = second_head
    if "weights_backbone" in accepted:
        implied["weights_backbone"] = None
    return implied if wanted.classes is None else {**implied, "num_classes": wanted.classes}


def _torchvision_settings(preset: Any) -> dict[str, Any]:
    """Read the settings that the weights were evaluated with; a model without them gets ImageNet's usual ones."""
    if type(preset).__name__ == "ObjectDetection":  # detectors resize and normalise images themselves
        return {"resize": None, "crop": None, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    if type(preset).__name__ == "SemanticSegmentation":  # of any size; the images of training were cut from such ones
        side = int(preset.resize_size[0])
        return {"resize": side, "crop": side, "mean": tuple(preset.mean), "std": tuple(preset.std)}
    if not hasattr(preset, "crop_size"):
        return {}
    return {
        "resize": int(preset.resize_size[0]),
        "crop": int(preset.crop_size[0]),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": _interpolation(preset.interpolation),
    }


def _interpolation(mode: Any) -> str:
    text = str(getattr(mode, "value", mode))
    return text if text in INTERPOLATIONS_OF_IMAGES else "bilinear"


def _timm(name: str, wanted: Wanted) -> Built:
    try:
        import timm
    except ImportError:
        raise ModelError(missing_library("timm")) from None
    if name.split(".")[0] not in timm.list_models():
        raise ModelError(f"timm has no model {name!r}; {nearest(name, timm.list_models())}")
    extra: dict[str, Any] = {} if wanted.classes is None else {"num_classes": wanted.classes}
    try:
        model: nn.Module = timm.create_model(name, pretrained=wanted.trained, **extra)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"cannot get the weights of {name}: {str(error).splitlines()[0]}; give a file with --weights, or none"
        ) from error
    data: dict[str, Any] = timm.data.resolve_model_data_config(model)  # type: ignore[attr-defined, no-untyped-call]
    return Built(model, timm_settings(data))


def timm_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Preprocess` that a data configuration of timm stands for.

    They are read off the transforms that timm itself makes of it, so that its rounding and its crop modes are kept.

    Args:
        config: as timm's `resolve_model_data_config` returns it.
    """
    import timm

    transform: Any = timm.data.create_transform(**config, is_training=False)  # type: ignore[attr-defined]
    by_kind = {type(step).__name__: step for step in transform.transforms}
    resize, crop = transform.transforms[0], by_kind.get("CenterCrop") or by_kind["CenterCropOrPad"]
    height, width = (int(side) for side in crop.size)
    size = tuple(map(int, resize.size)) if isinstance(resize.size, list | tuple) else int(resize.size)
    fit = "stretch" if type(resize).__name__ == "Resize" and isinstance(size, tuple) else "cover"
    if getattr(resize, "longest", 0) == 1:
        fit = "contain"
    return {
        "resize": size,
        "crop": height if height == width else (height, width),
        "mean": tuple(map(float, config["mean"])),
        "std": tuple(map(float, config["std"])),
        "interpolation": _interpolation(resize.interpolation),
        **({} if fit == "cover" else {"fit": fit}),
    }


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def _hugging_face(name: str, wanted: Wanted) -> Built:
    """Read a folder with config.json, model.safetensors and preprocessor_config.json, as `save_pretrained` writes it.

    Nothing is downloaded, and no code of the folder is run.
    """
    folder = pathlib.Path(name)
    if not (folder / "config.json").is_file():
        raise ModelError(f"no config.json in {folder}; give a folder that save_pretrained wrote: hf:FOLDER")
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError:
        raise ModelError(missing_library("transformers", "safetensors")) from None
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if wanted.trained:
            model: Any = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
        else:
            if wanted.classes is not None:
                config.num_labels = wanted.classes
            model = AutoModelForImageClassification.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, OSError) and wanted.trained and not [*folder.glob("*.safetensors")]:
            advice = "save the model again, or give --weights FILE, or --weights none for random ones"
            raise ModelError(f"{folder} has no weights named .safetensors; {advice}") from error
        raise ModelError(f"{folder} is no image classifier: {str(error).strip().splitlines()[0]}") from error
    labels = dict(getattr(config, "id2label", None) or {})
    numbered = {int(number): str(label) for number, label in labels.items()}
    names = tuple(numbered[number] for number in sorted(numbered))
    named = not all(label == f"LABEL_{number}" for number, label in numbered.items())
    return Built(model, _hf_settings(folder, config), names if named else ())


SIZES = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of PIL's filters
OWN_WAYS = ("MobileViT", "EfficientNet", "Levit", "PoolFormer", "Perceiver")
"""Processors that do what `Preprocess` does not: another order of the channels, two normalisations, other crops."""


def _hf_settings(folder: pathlib.Path, config: Any) -> dict[str, Any]:
    """Return the arguments of `Preprocess` for what preprocessor_config.json says; without it, the model's own size.

    What the file leaves out are the defaults of its processor, which transformers is asked for.
    """
    from transformers import AutoImageProcessor

    path = folder / "preprocessor_config.json"
    side = getattr(config, "image_size", None) or 224
    model_side = int(side) if isinstance(side, int | float) else tuple(int(each) for each in side)
    if not path.is_file():
        return {"resize": model_side, "crop": model_side}
    try:
        json.loads(path.read_text("utf-8"))
        processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
        said: dict[str, Any] = processor.to_dict()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read ({str(error).splitlines()[0]}); save the processor again") from error
    kind = type(processor).__name__
    if kind.startswith(OWN_WAYS):
        raise ModelError(
            f"{kind} of {path} prepares images in a way of its own; load the model in a file.py:FACTORY, which returns "
            "it with its preprocessing"
        )
    normalised = said.get("do_normalize", True)
    settings: dict[str, Any] = {
        "mean": tuple(said.get("image_mean") or (0.5,) * 3) if normalised else (0.0,) * 3,
        "std": tuple(said.get("image_std") or (0.5,) * 3) if normalised else (1.0,) * 3,
        "interpolation": SIZES.get(said.get("resample", 2), "bilinear"),
    }
    shortest, size = _hf_size(said.get("size", model_side))
    crop = _hf_size(said["crop_size"])[1] if said.get("do_center_crop") and said.get("crop_size") else None
    if not said.get("do_resize", True):
        return {**settings, "resize": None, "crop": crop or size}
    if "crop_pct" in said and shortest:  # of ConvNeXt: above 384 px nothing is cropped
        if shortest < 384:
            return {**settings, "resize": int(shortest / (said["crop_pct"] or 0.875)), "crop": shortest}
        return {**settings, "resize": (shortest, shortest), "crop": shortest, "fit": "stretch"}
    if shortest:
        return {**settings, "resize": shortest, "crop": crop or shortest}
    return {**settings, "resize": size, "crop": crop or size, "fit": "stretch"}


def _hf_size(size: Any) -> tuple[int | None, tuple[int, int]]:
    """Return the length of the shortest edge, None where height and width are given, and (height, width)."""
    if isinstance(size, Mapping):
        if size.get("shortest_edge"):
            edge = int(size["shortest_edge"])
            return edge, (edge, edge)
        return None, (int(size["height"]), int(size["width"]))
    pair = (size, size) if isinstance(size, int | float) else tuple(size)
    return None, (int(pair[0]), int(pair[1]))


def from_file(spec: str, wanted: Wanted) -> Built:
    """Call a function in a Python file.

    It returns the module, or (module, arguments of `Preprocess`), or these two and the names of the outputs.
    """
    returned = returned_by(spec)
    if isinstance(returned, tuple) and len(returned) > 3:
        raise ModelError(f"{spec} returned {len(returned)} values; expected the model, its settings and class names")
    model, settings, classes = (*returned, {}, ())[:3] if isinstance(returned, tuple) else (returned, {}, ())
    settings = settings.as_dict() if hasattr(settings, "as_dict") else settings or {}
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} returned {type(model).__name__}; expected a torch.nn.Module or (module, settings)")
    if not isinstance(settings, Mapping):
        raise ModelError(f"{spec} returned settings of type {type(settings).__name__}; expected a dict or a Preprocess")
    return Built(model, dict(settings), tuple(map(str, classes)))


SOURCES.add("torchvision", _torchvision)
SOURCES.add("timm", _timm)
SOURCES.add("hf", _hugging_face)
