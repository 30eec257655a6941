"""Why a network decided as it did: for some images, maps of several methods and targets, and occlusion."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm

from deconvviz.cam.engine import whole_images
from deconvviz.cam.explain import ConstantMapWarning, Explainer, cam
from deconvviz.cam.occluder import Occluder
from deconvviz.choices import Precision
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.choose import last_maps
from deconvviz.graph.network import Network
from deconvviz.results.files import Pathlike
from deconvviz.results.results import Array, Result, require_same
from deconvviz.studies.atlas.aspects import GREY, places_of

KIND, SCHEMA = "decisions", 1
METHODS = ("grad-cam", "layercam", "recipro-cam", "guided")
TARGETS = 5  # outputs that are explained of each image
MAP = 56  # pixels: the longer side of a map that is kept
COMMIT = 4  # images between commits


def spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return `count` images, ascending: the first of evenly chosen classes, then their second ones, and so on.

    labels: int64 [N]; images of unknown class (-1) count as one class. All images where there are not more.
    """
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    chosen: list[int] = []
    turn = 0
    while len(chosen) < min(count, len(labels)):
        left = np.flatnonzero(sizes > turn)
        wanted = min(count - len(chosen), len(left))
        some = left[np.linspace(0, len(left) - 1, wanted).round().astype(int)] if wanted > 1 else left[:1]
        chosen += [int(order[first[one] + turn]) for one in some]
        turn += 1
    return np.sort(np.array(chosen, np.int64))


def decisions(
    explaining: Explaining,
    images: Images,
    count: int,
    out: Pathlike,
    *,
    outputs: NDArray[np.int64] | None = None,
    names: Sequence[str] = (),
    progress: bool = True,
    sources: dict[str, Any] | None = None,
) -> Result:
    """Explain what a network says of some images; the same call again goes on where `out` stands.

    Args:
        explaining: the network and how its decisions are explained.
        images: labelled images; `count` of them are taken, see `spread`.
        out: the file.
        outputs: int64, the output that stands for each class of the images, None where that is not known.
        names: of the outputs, for the file; empty where unknown.

    Returns:
        A result of kind "decisions" about D images. Its arrays: images int64 [D]; targets int64 [D, T], the outputs
        explained, most probable first; the label's output stands in the last place where it is none of them;
        probabilities float64 [D, T]; label_output int64 [D], -1 unknown; maps uint8 [D, M, T, h, w], of M methods,
        each from its own minimum (0) to its maximum (255), 0 where a map is the same everywhere; occlusion/probability
        float32 [D, T, gh, gw], of each target with a grey square there; occlusion/square int64 [2], its height and
        width; occlusion/places int64 [gh * gw, 4], (top, left, bottom, right) of each.

    Raises:
        MismatchError: `out` was made otherwise. DataError: a count that is none.
    """
    if count < 1:
        raise DataError(f"{count} images given; expected at least 1")
    chosen = spread(np.asarray(images.labels), count)
    config = {
        **explaining.config,
        "images_fingerprint": images.fingerprint,
        "outputs": list(names),
        "images": len(chosen),
        "label_outputs": None if outputs is None else outputs.tolist(),
    }
    result = _begun(out, config, explaining, len(chosen), sources or {})
    bar = tqdm(total=len(chosen), initial=result.state["done"], unit="image", desc="explaining", disable=not progress)
    with bar:
        for n in range(result.state["done"], len(chosen)):
            image = int(chosen[n])
            picture, label = images[image]
            own = -1 if outputs is None or label < 0 else int(outputs[label])
            for name, value in explaining.image(picture, own).items():
                result.arrays[name][n] = value
            result.arrays["images"][n] = image
            result.state["done"] = n + 1
            if (n + 1) % COMMIT == 0 or n + 1 == len(chosen):
                result.save(out)
            bar.update()
    return result


def _begun(out: Pathlike, config: dict[str, Any], maker: Explaining, count: int, sources: dict[str, Any]) -> Result:
    if pathlib.Path(out).exists():
        found = Result.load(out, KIND, SCHEMA)
        require_same(out, found.config, config, "remove it or choose another output")
        return found
    rows, columns = (len(one) for one in maker.occluder.grid)
    shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "images": (np.int64, ()),
        "targets": (np.int64, (maker.targets,)),
        "label_output": (np.int64, ()),
        "probabilities": (np.float64, (maker.targets,)),
        "maps": (np.uint8, (len(maker.methods), maker.targets, *maker.kept)),
        "occlusion/probability": (np.float32, (maker.targets, rows, columns)),
    }
    arrays: dict[str, Array] = {name: np.zeros((count, *shape), kind) for name, (kind, shape) in shapes.items()}
    arrays["occlusion/square"] = np.asarray(maker.occluder.square, np.int64)
    arrays["occlusion/places"] = places_of(maker.occluder)
    return Result(KIND, SCHEMA, config, sources, arrays, {"done": 0})


class Explaining:
    """One network with its methods, image after image."""

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        methods: Sequence[str] = METHODS,
        layer: str | None = None,
        batch_size: int = 32,
        precision: Precision = "fp32",
    ) -> None:
        """Make what explains.

        Args:
            network: captured; it returns one score for each class.
            preprocess: how an image becomes its input.
            methods: names of `cam`'s methods.
            layer: that they explain, by default the last one with rows and columns.
            batch_size, precision: as for `cam`.

        Raises:
            LayerNotFound: no such layer, or none with rows and columns. CaptureError: the network returns no scores.
            DeconvvizError: no such method.
        """
        self.network, self.preprocess, self.methods = network, preprocess, tuple(methods)
        self.layer, self.batch_size = layer or last_maps(network), batch_size
        height, width = self.size = (preprocess.shape[1], preprocess.shape[2])
        self.targets = min(TARGETS, self.network.outputs)
        scale = min(1.0, MAP / max(self.size))
        self.kept = (max(1, round(height * scale)), max(1, round(width * scale)))
        square, stride = ((max(height // n, 1), max(width // n, 1)) for n in (4, 14))
        self.occluder = Occluder(self.size, square, stride)
        self.explainers: list[Explainer] = [
            cam(name, network, self.layer, batch_size=batch_size, precision=precision) for name in methods
        ]
        self.fast = network.fast(precision)
        self.grey = self.preprocess.level(GREY).to(network.device)[None, :, None, None]
        self.config: dict[str, Any] = {
            "model": network.name,
            "model_fingerprint": network.fingerprint,
            "layer": self.layer,
            "methods": list(methods),
            "image_size": list(self.size),
            "precision": precision,
            "square": list(square),
            "stride": list(stride),
            "preprocess": preprocess.as_dict(),
        }

    def image(self, image: NDArray[np.uint8], own: int) -> dict[str, Any]:
        """Return what the arrays hold of one image, uint8 [H, W, 3]; own: its label's output, or -1."""
        picture = self.preprocess.picture(image)
        x = self.preprocess.tensor(picture[None], self.network.device, self.network.dtype)
        with torch.no_grad():
            shares = self.network(x)[0].double().softmax(0).cpu()
        targets = shares.argsort(descending=True, stable=True)[: self.targets]
        if own >= 0 and own not in targets:
            targets[-1] = own
        return {
            "targets": targets.numpy(),
            "probabilities": shares[targets].numpy(),
            "label_output": own,
            "maps": np.stack([self._maps(one, x, targets) for one in self.explainers]),
            "occlusion/probability": self._occluded(x, targets),
        }

    def _maps(self, explainer: Explainer, x: torch.Tensor, targets: torch.Tensor) -> NDArray[np.uint8]:
        """Return a method's map of each target, [T, h, w]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantMapWarning)
            maps = explainer(x.expand(len(targets), -1, -1, -1).contiguous(), targets.tolist())
        small = functional.adaptive_avg_pool2d(maps.float()[None], self.kept)[0]
        low, high = small.amin((1, 2), keepdim=True), small.amax((1, 2), keepdim=True)
        scaled = (small - low) / (high - low).clamp(min=1e-12)
        return (255 * scaled).round().to(torch.uint8).cpu().numpy()

    def _occluded(self, x: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float32]:
        """Return each target's probability with a grey square in each place, [T, gh, gw]."""
        found, step = [], whole_images(self.batch_size, x.device)
        with torch.inference_mode():
            for windows in torch.split(torch.arange(len(self.occluder)), step):
                covered = self.occluder.covers(windows, x)[:, None]
                shares = self.fast(x * (1 - covered) + self.grey * covered).float().softmax(1)
                found.append(shares[:, targets.to(x.device)].T.cpu().numpy())
        return np.concatenate(found, 1).reshape(len(targets), *(len(one) for one in self.occluder.grid))
