"""The public names, once: `deconvviz/__init__.py` reads this file and imports each of them on first use."""

from .cam.explain import cam as cam
from .data.datasets import open_images as open_images
from .data.images import ImageStore as ImageStore
from .data.memory import InMemoryImages as InMemoryImages
from .data.pack import pack as pack
from .data.preprocess import Preprocess as Preprocess
from .data.scenes.scenes import Scene as Scene
from .data.scenes.scenes import Scenes as Scenes
from .data.truth import open_truth as open_truth
from .deconv.project import project as project
from .deconv.project import project_units as project_units
from .deconv.projection import Projection as Projection
from .deconv.projection import parse_unit as parse_unit
from .errors import DeconvvizError as DeconvvizError
from .graph.capture import capture as capture
from .graph.layers import Layer as Layer
from .graph.layers import ReceptiveField as ReceptiveField
from .graph.network import Network as Network
from .models.load import load_model as load_model
from .models.zfnet import ZFNet as ZFNet
from .models.zfnet import zfnet as zfnet
from .results.features import Features as Features
from .results.snapshots import Snapshots as Snapshots
from .run.features import stream_features as stream_features
from .run.options import RunOptions as RunOptions
from .studies.ablation.ablate import ablate as ablate
from .studies.correspondence.measure import correspondence as correspondence
from .studies.diagnosis.diagnose import diagnose as diagnose
from .studies.diagnosis.result import Diagnosis as Diagnosis
from .studies.evaluation.measure import evaluate as evaluate
from .studies.evaluation.result import Evaluation as Evaluation
from .studies.evolution.evolve import evolve as evolve
from .studies.evolution.result import Evolution as Evolution
from .studies.explainers.train import train_explainer as train_explainer
from .studies.invariance.measure import invariance as invariance
from .studies.lesions.measure import lesion as lesion
from .studies.lesions.result import Lesions as Lesions
from .studies.mining.merge import merge as merge
from .studies.mining.mine import mine as mine
from .studies.mining.panels import layer_panels as layer_panels
from .studies.mining.result import Mined as Mined
from .studies.mining.result import load_mined as load_mined
from .studies.occlusion.measure import occlude as occlude
from .studies.probing.measure import probe as probe
from .studies.probing.settings import ProbeSettings as ProbeSettings
from .studies.probing.transfer import transfer as transfer
from .studies.training.recipe import Recipe as Recipe
from .studies.training.recorder import SnapshotRecorder as SnapshotRecorder
from .studies.training.result import Trained as Trained
from .studies.training.train import train as train
from .types import Box as Box

__all__: list[str]
__version__: str
