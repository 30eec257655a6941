"""deconvviz: what a CNN has learned, and why it decides as it does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconvviz.cam.explain import cam
    from deconvviz.data.images import ImageStore
    from deconvviz.data.pack import pack
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.data.scenes.scenes import Scene, Scenes
    from deconvviz.deconv.project import Box, Projection, parse_unit, project, project_units
    from deconvviz.errors import DeconvvizError
    from deconvviz.graph.capture import capture
    from deconvviz.graph.layers import Layer, ReceptiveField
    from deconvviz.graph.network import Network
    from deconvviz.models.load import load_model
    from deconvviz.models.zfnet import ZFNet, zfnet
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.studies.ablation.train import ablate_variants
    from deconvviz.studies.correspondence.measure import correspondence
    from deconvviz.studies.diagnosis.diagnose import diagnose
    from deconvviz.studies.evaluation.measure import evaluate
    from deconvviz.studies.evolution.evolve import evolve
    from deconvviz.studies.evolution.result import Evolution
    from deconvviz.studies.explainers.train import train_explainer
    from deconvviz.studies.invariance.measure import invariance
    from deconvviz.studies.lesions.measure import lesion
    from deconvviz.studies.mining.mine import merge, mine
    from deconvviz.studies.mining.panels import layer_panels
    from deconvviz.studies.mining.result import Mined, load_mined
    from deconvviz.studies.occlusion.measure import occlude
    from deconvviz.studies.probing.features import stream_features
    from deconvviz.studies.probing.measure import probe
    from deconvviz.studies.probing.transfer import transfer
    from deconvviz.studies.training.recipe import Recipe
    from deconvviz.studies.training.recorder import SnapshotRecorder
    from deconvviz.studies.training.result import Trained
    from deconvviz.studies.training.train import train

__version__ = "0.1.0"

_HOMES = {
    "data.images": ("ImageStore",),
    "data.pack": ("pack",),
    "data.preprocess": ("Preprocess",),
    "data.scenes.scenes": ("Scene", "Scenes"),
    "results.snapshots": ("Snapshots",),
    "deconv.project": ("Box", "Projection", "parse_unit", "project", "project_units"),
    "errors": ("DeconvvizError",),
    "graph.capture": ("capture",),
    "graph.layers": ("Layer", "ReceptiveField"),
    "graph.network": ("Network",),
    "models.load": ("load_model",),
    "models.zfnet": ("ZFNet", "zfnet"),
    "studies.ablation.train": ("ablate_variants",),
    "studies.correspondence.measure": ("correspondence",),
    "studies.diagnosis.diagnose": ("diagnose",),
    "studies.evaluation.measure": ("evaluate",),
    "studies.evolution.evolve": ("evolve",),
    "studies.evolution.result": ("Evolution",),
    "studies.probing.features": ("stream_features",),
    "studies.invariance.measure": ("invariance",),
    "studies.explainers.train": ("train_explainer",),
    "studies.lesions.measure": ("lesion",),
    "studies.mining.result": ("Mined", "load_mined"),
    "studies.mining.mine": ("merge", "mine"),
    "studies.occlusion.measure": ("occlude",),
    "studies.mining.panels": ("layer_panels",),
    "studies.probing.measure": ("probe",),
    "studies.training.recipe": ("Recipe",),
    "studies.training.result": ("Trained",),
    "studies.training.recorder": ("SnapshotRecorder",),
    "studies.training.train": ("train",),
    "studies.probing.transfer": ("transfer",),
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
