"""Why a network decided as it did: for some images, maps of several methods and targets, and occlusion."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.captured import Captured
from deconvviz.cam.explain import Explainer, cam, constant_maps_allowed
from deconvviz.cam.occluder import GREY, Occluder, UnderWindows
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError
from deconvviz.graph.choose import last_maps
from deconvviz.results.results import Result, require_same
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.doubt import CANDIDATES, doubtful_images
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.reasons import SPEAKING, reasons_at
from deconvviz.studies.atlas.result import DECISIONS_KIND, DECISIONS_SCHEMA, METHODS
from deconvviz.types import Array, Ints, Pathlike, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

TARGETS = 5  # outputs that are explained of each image
MAP = 56  # pixels: the longer side of a map in the file
BATCH = 32  # images in one pass, by default
COMMIT = 4  # images between commits
LATER = ("choice", "because")  # parts of the configuration that files of earlier versions do not have
CHOICE = f"a third classified incorrectly, the others with the smallest log-odds, among {CANDIDATES} images at most"


def explain_decisions(explainer: DecisionExplainer, count: int, out: Pathlike) -> Result:
    """Explain what a network predicts for some images; calling again with the same arguments resumes.

    Args:
        explainer: the network, the images, and how decisions are explained.
        count: of images: those on which the network hesitates most, and some that it classifies incorrectly, see
            `doubtful_images`. A file of an earlier version keeps its images, evenly spread over the classes.
        out: path of the file.

    Returns:
        A result of kind "decisions". Its arrays, for D images, M methods and T targets:

        - images int64 [D], ascending.
        - targets int64 [D, T], the outputs that are explained, the most probable first. If the label's output is not
          among them, it takes the last place.
        - probabilities float64 [D, T], of the targets.
        - label_output int64 [D], the output of the image's label, -1 where it is unknown.
        - maps uint8 [D, M, T, h, w], each from its own minimum (0) to its maximum (255); 0 where a map is constant.
        - occlusion/probability float32 [D, T, gh, gw], of each target while a grey square covers each window;
          occlusion/square int64 [2], height and width of the square in pixels; occlusion/places int64 [gh * gw, 4],
          (top, left, bottom, right) of each window.
        - because/channels int64 [D, T, 6] and because/shares float64 [D, T, 6], the channels of a layer that decide
          for each target, see `Reasons.of`; absent where no layer that is shown can have shares.

    Raises:
        MismatchError: `out` was written with other settings.
        DataError: the count is not positive.
    """
    if count < 1:
        raise DataError(f"{count} images given; expected at least 1")
    inputs = explainer.inputs
    config = {
        **explainer.config,
        "images_fingerprint": inputs.store.fingerprint,
        "outputs": inputs.given_names,
        "images": min(count, len(inputs.store)),
        "choice": CHOICE,
        "label_outputs": None if inputs.outputs is None else inputs.outputs.tolist(),
    }
    result = _begin(out, config, explainer)
    images = result.arrays["images"]
    done = int(result.state["done"])
    result.state["names"] = list(inputs.output_names)
    with explainer.options.bar("image", len(images), "explaining", done) as bar:
        for row in range(done, len(images)):
            image = int(images[row])
            label = int(inputs.store.labels[image])
            label_output = -1 if inputs.outputs is None or label < 0 else int(inputs.outputs[label])
            for name, values in explainer.explain(inputs.feed.picture(image), label_output).items():
                if name in result.arrays:  # a file of an earlier version has no reasons
                    result.arrays[name][row] = values
            result.state["done"] = row + 1
            if (row + 1) % COMMIT == 0 or row + 1 == len(images):
                result.save(out)
            bar.update()
    return result


def _begin(out: Pathlike, config: Mapping[str, Any], explainer: DecisionExplainer) -> Result:
    """Return the result in the file, or an empty one that knows its images."""
    count = int(config["images"])
    if pathlib.Path(out).exists():
        result = Result.load(out, DECISIONS_KIND, DECISIONS_SCHEMA)
        config = {name: value for name, value in config.items() if name in result.config or name not in LATER}
        require_same(out, result.config, config, "remove it or choose another output")
        if "choice" not in config:  # an earlier version knew each image only when it was explained
            result.arrays["images"] = spread(np.asarray(explainer.inputs.store.labels), count)
        return result
    rows, columns = explainer.occluder.grid
    targets = explainer.targets
    shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "targets": (np.int64, (targets,)),
        "label_output": (np.int64, ()),
        "probabilities": (np.float64, (targets,)),
        "maps": (np.uint8, (len(explainer.explainers), targets, *explainer.map_size)),
        "occlusion/probability": (np.float32, (targets, len(rows), len(columns))),
    }
    if explainer.reasons is not None:
        shapes["because/channels"] = (np.int64, (targets, SPEAKING + 1))
        shapes["because/shares"] = (np.float64, (targets, SPEAKING + 1))
    arrays: dict[str, Array] = {name: np.zeros((count, *shape), dtype) for name, (dtype, shape) in shapes.items()}
    arrays["images"] = explainer.doubtful(count)
    arrays["occlusion/square"] = np.asarray(explainer.occluder.square, np.int64)
    arrays["occlusion/places"] = explainer.occluder.boxes
    return Result(DECISIONS_KIND, DECISIONS_SCHEMA, dict(config), explainer.inputs.provenance, arrays, {"done": 0})


class DecisionExplainer:
    """Explains the decisions of one network, image after image.

    Attributes:
        inputs: the network and the images.
        options: how it runs.
        targets: how many outputs are explained of each image.
        map_size: height and width of the maps in the file, in pixels.
        occluder: the grey square and its windows.
        explainers: one for each method.
        reasons: what finds the filters that decide; None where no layer that is shown allows it.
        config: network, layer, methods, sizes, preprocessing and precision, as JSON values.
    """

    def __init__(
        self,
        inputs: AtlasInputs,
        methods: Sequence[str] = METHODS,
        layer: str | None = None,
        shown: Sequence[str] = (),
        **run: Unpack[RunKeywords],
    ) -> None:
        """Make the explainers of the methods.

        Args:
            inputs: the network, which returns one score for each class, and the images.
            methods: names of methods of `cam`.
            layer: at which they explain; by default the last one with rows and columns.
            shown: the layers that the atlas shows, in the order of depth; one of them gives the reasons.
            run: `batch_size`, `precision` and `progress` of `RunOptions`.

        Raises:
            LayerNotFound: the layer does not exist, or no layer has rows and columns.
            CaptureError: the network does not return scores.
            DeconvvizError: a method does not exist.
        """
        self.inputs, self.options = inputs, RunOptions(**run)
        network, preprocess, cam_layer = inputs.network, inputs.preprocess, layer
        layer = layer or last_maps(network)
        height, width = size = preprocess.shape[1:]
        self.targets = min(TARGETS, network.outputs)
        scale = min(1.0, MAP / max(size))
        self.map_size = (max(1, round(height * scale)), max(1, round(width * scale)))
        square, stride = ((max(height // parts, 1), max(width // parts, 1)) for parts in (4, 14))
        self.occluder = Occluder(size, square, stride)
        self._batch_size = self.options.images_at_once(network.device, BATCH)
        precision = self.options.precision
        self.explainers: list[Explainer] = [
            cam(name, network, layer, batch_size=self._batch_size, precision=precision) for name in methods
        ]
        self.reasons = reasons_at(network, shown, cam_layer, self._batch_size, precision)
        self._network = network.forward_only(precision)
        self._forward = Captured(self._network)
        self._grey = preprocess.level(GREY).to(network.device, network.dtype)[None, :, None, None]
        self.config: dict[str, Any] = {
            "model": network.name,
            "model_fingerprint": network.fingerprint,
            "layer": layer,
            "methods": list(methods),
            "image_size": list(size),
            "precision": precision,
            "square": list(square),
            "stride": list(stride),
            "preprocess": preprocess.as_dict(),
            **({} if self.reasons is None else {"because": self.reasons.config}),
        }

    def doubtful(self, count: int) -> Ints:
        """Return the images whose decisions are explained, see `doubtful_images`."""
        return doubtful_images(self.inputs, self._network, count, self.options)

    def explain(self, picture: Picture, label_output: int) -> dict[str, Any]:
        """Explain what the network predicts for one image.

        Args:
            picture: [H, W, C], as the network receives it.
            label_output: the output of the image's label, -1 where it is unknown.

        Returns:
            The image's values of the arrays of `explain_decisions`, but for "images".
        """
        network = self.inputs.network
        x = self.inputs.preprocess.tensor(picture[None], network.device, network.dtype)
        with torch.no_grad():
            probabilities = network.probabilities(x)[0].double().cpu()
        targets = probabilities.argsort(descending=True, stable=True)[: self.targets]
        if label_output >= 0 and label_output not in targets:
            targets[-1] = label_output
        return {
            "targets": targets.numpy(),
            "probabilities": probabilities[targets].numpy(),
            "label_output": label_output,
            "maps": np.stack([self._maps(explainer, x, targets) for explainer in self.explainers]),
            "occlusion/probability": self._occluded(x, targets),
            **({} if self.reasons is None else self.reasons.of(x, targets)),
        }

    def _maps(self, explainer: Explainer, x: Tensor, targets: Tensor) -> NDArray[np.uint8]:
        """Return a method's map of each target, uint8 [T, h, w]."""
        with constant_maps_allowed():
            maps = explainer(x.expand(len(targets), -1, -1, -1).contiguous(), targets.tolist())
        small = functional.adaptive_avg_pool2d(maps.float()[None], self.map_size)[0]
        low, high = small.amin((1, 2), keepdim=True), small.amax((1, 2), keepdim=True)
        scaled = (small - low) / (high - low).clamp(min=1e-12)
        return (255 * scaled).round().to(torch.uint8).cpu().numpy()

    def _occluded(self, x: Tensor, targets: Tensor) -> NDArray[np.float32]:
        """Return each target's probability while a grey square covers each window, float32 [T, gh, gw]."""
        under, targets = UnderWindows(self._forward, self.occluder, self._batch_size, x.device), targets.to(x.device)
        readout = self._network.readout
        with torch.inference_mode():
            parts = [
                readout.probabilities_of(output).float()[:, targets].T.cpu().numpy()
                for _, output in under.batches(x, self._grey)
            ]
        rows, columns = self.occluder.grid
        return np.concatenate(parts, 1).reshape(len(targets), len(rows), len(columns))
