"""deconvviz: what a CNN has learned, and why it decides as it does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconvviz.cam.explain import cam
    from deconvviz.data.images import ImageStore
    from deconvviz.data.pack import pack
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.data.scenes import Scene, Scenes
    from deconvviz.data.snapshots import Snapshots
    from deconvviz.deconv.project import Box, Projection, parse_unit, project, project_units
    from deconvviz.errors import DeconvvizError
    from deconvviz.graph.capture import capture
    from deconvviz.graph.layers import Layer, ReceptiveField
    from deconvviz.graph.network import Network
    from deconvviz.models.load import load_model
    from deconvviz.models.zfnet import ZFNet, zfnet
    from deconvviz.studies.ablation import ablate_variants
    from deconvviz.studies.correspondence import correspondence
    from deconvviz.studies.diagnosis import diagnose
    from deconvviz.studies.evaluation import evaluate
    from deconvviz.studies.evolution import evolve
    from deconvviz.studies.evolved import Evolution
    from deconvviz.studies.features import stream_features
    from deconvviz.studies.invariance import invariance
    from deconvviz.studies.learning import train_explainer
    from deconvviz.studies.lesion import lesion
    from deconvviz.studies.mined import Mined, load_mined
    from deconvviz.studies.mining import merge, mine
    from deconvviz.studies.occlusion import occlude
    from deconvviz.studies.panels import layer_panels
    from deconvviz.studies.probing import probe
    from deconvviz.studies.recipe import Recipe, Trained
    from deconvviz.studies.snapshots import SnapshotRecorder
    from deconvviz.studies.training import train
    from deconvviz.studies.transfer import transfer

__version__ = "0.1.0"

_HOMES = {
    "data.images": ("ImageStore",),
    "data.pack": ("pack",),
    "data.preprocess": ("Preprocess",),
    "data.scenes": ("Scene", "Scenes"),
    "data.snapshots": ("Snapshots",),
    "deconv.project": ("Box", "Projection", "parse_unit", "project", "project_units"),
    "errors": ("DeconvvizError",),
    "graph.capture": ("capture",),
    "graph.layers": ("Layer", "ReceptiveField"),
    "graph.network": ("Network",),
    "models.load": ("load_model",),
    "models.zfnet": ("ZFNet", "zfnet"),
    "studies.ablation": ("ablate_variants",),
    "studies.correspondence": ("correspondence",),
    "studies.diagnosis": ("diagnose",),
    "studies.evaluation": ("evaluate",),
    "studies.evolution": ("evolve",),
    "studies.evolved": ("Evolution",),
    "studies.features": ("stream_features",),
    "studies.invariance": ("invariance",),
    "studies.learning": ("train_explainer",),
    "studies.lesion": ("lesion",),
    "studies.mined": ("Mined", "load_mined"),
    "studies.mining": ("merge", "mine"),
    "studies.occlusion": ("occlude",),
    "studies.panels": ("layer_panels",),
    "studies.probing": ("probe",),
    "studies.recipe": ("Recipe", "Trained"),
    "studies.snapshots": ("SnapshotRecorder",),
    "studies.training": ("train",),
    "studies.transfer": ("transfer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Box",
    "DeconvvizError",
    "Evolution",
    "ImageStore",
    "Layer",
    "Mined",
    "Network",
    "Preprocess",
    "Projection",
    "ReceptiveField",
    "Recipe",
    "Scene",
    "Scenes",
    "SnapshotRecorder",
    "Snapshots",
    "Trained",
    "ZFNet",
    "ablate_variants",
    "cam",
    "capture",
    "correspondence",
    "diagnose",
    "evaluate",
    "evolve",
    "invariance",
    "layer_panels",
    "lesion",
    "load_mined",
    "load_model",
    "merge",
    "mine",
    "occlude",
    "pack",
    "parse_unit",
    "probe",
    "project",
    "project_units",
    "stream_features",
    "train",
    "train_explainer",
    "transfer",
    "zfnet",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: torch takes seconds, and `deconvviz --help` does not need it."""
    if name == "cam":  # a package that can be called
        return importlib.import_module("deconvviz.cam")
    if name not in _HOME:
        raise AttributeError(f"module 'deconvviz' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"deconvviz.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
