"""What else the atlas tells of filters: how invariant they are, what they lose under a square, how they came to be.

Each is measured for all layers at once, and kept in a file of its own beside the galleries.
"""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from deconvviz.cam.engine import whole_images
from deconvviz.cam.occluder import Occluder
from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.graph.network import Network
from deconvviz.results.files import Pathlike
from deconvviz.results.results import Array, Result, require_same
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.atlas.galleries import resized, signed, tile_size
from deconvviz.studies.evolution.evolve import evolve
from deconvviz.studies.evolution.result import LayerEvolution
from deconvviz.studies.invariance.measure import invariance
from deconvviz.studies.mining.result import Mined

TRANSFORMED = 20  # images, evenly chosen, whose transforms tell how invariant a filter is
GREY = 0.5  # of the range of a pixel
COMMIT = 20  # images between commits
ADVICE = "remove it or choose another output"


@dataclass(frozen=True)
class Measured:
    """Arrays of several layers: `arrays[layer][name]`, the first axis of each that of all the layer's filters."""

    arrays: Mapping[str, Mapping[str, Array]]

    def of(self, layer: str) -> Mapping[str, Array]:
        return self.arrays.get(layer, {})


def measured_invariance(
    network: Network,
    store: ImageStore,
    layers: Sequence[str],
    out: Pathlike,
    *,
    preprocess: Preprocess,
    batch_size: int = 32,
    progress: bool = True,
) -> Measured:
    """Score how invariant each filter is under each kind of transform, in 0..1; or read the scores from `out`.

    Returns for each layer "invariance/KIND" float64 [C], of KINDS (`data.transforms`), NaN for a dead filter, measured
    on TRANSFORMED images as `invariance` does it.

    Raises:
        MismatchError: `out` was made otherwise.
    """
    which = np.unique(np.linspace(0, len(store) - 1, min(TRANSFORMED, len(store))).round().astype(int)).tolist()
    config = _config(network, store, layers, preprocess) | {"which": which}
    if not pathlib.Path(out).exists():
        found = invariance(
            network,
            store,
            layers,
            preprocess=preprocess,
            which=which,
            units=layers,
            batch_size=batch_size,
            progress=progress,
        )
        arrays = {
            f"{layer}/invariance/{kind}": scores
            for layer in layers
            for kind, scores in zip(found.steps, found.per_unit(layer), strict=True)
        }
        Result("invariance of filters", 1, config, {}, arrays).save(out)
    return _by_layer(_loaded(out, "invariance of filters", config), layers)


def measured_occlusion(
    network: Network,
    store: ImageStore,
    mined: Mined,
    channels: Mapping[str, Sequence[int]],
    out: Pathlike,
    *,
    preprocess: Preprocess,
    batch_size: int = 32,
    progress: bool = True,
) -> Measured:
    """Move a grey square over each filter's strongest image; the same call again goes on where `out` stands.

    The square has a quarter of the image's sides, its stride is an eighth. All layers are seen in the same passes.

    channels: layer -> the filters to measure; the others' values are NaN.
    Returns for each layer "occlusion/values" float32 [C, W], the sum of the filter's map under each window;
    "occlusion/whole" float32 [C], without a square; "occlusion/image" int64 [C], the image, -1 for none.

    Raises:
        MismatchError: `out` was made otherwise.

    Source: Zeiler and Fergus 2013, section 4.2 and figure 7 (b).
    """
    asked = {layer: [int(c) for c in chosen] for layer, chosen in channels.items()}
    occluder = occluder_for(preprocess)
    config = _config(network, store, list(asked), preprocess) | {"channels": asked, "square": list(occluder.square)}
    state: dict[str, Any] = {"done": 0}
    if pathlib.Path(out).exists():
        result = Result.load(out, "occlusion of filters", 1)
        require_same(out, result.config, config, ADVICE)
        arrays, state = result.arrays, result.state
    else:
        arrays = _blank(mined, asked, len(occluder))
    images = sorted({int(i) for layer in asked for i in arrays[f"{layer}/occlusion/image"] if i >= 0})
    job = _Occluding(network, store, preprocess, occluder, tuple(asked), batch_size)
    bar = tqdm(images, unit="image", desc="occluding", disable=not progress)
    for n, image in enumerate(bar):
        if n < state["done"]:
            continue
        job.image(image, arrays)
        if (n + 1) % COMMIT == 0 or n + 1 == len(images):
            Result("occlusion of filters", 1, config, {}, arrays, {"done": n + 1}).save(out)
    return _by_layer(arrays, list(asked))


def occluder_for(preprocess: Preprocess) -> Occluder:
    """Return the windows of `measured_occlusion` on a preprocessed picture."""
    height, width = preprocess.shape[1:]
    square, stride = ((max(height // n, 1), max(width // n, 1)) for n in (4, 8))
    return Occluder((height, width), square, stride)


def places_of(occluder: Occluder) -> NDArray[np.int64]:
    """Return an occluder's windows, int64 [W, 4]: top, left, bottom, right."""
    return occluder.boxes


def followed(
    snapshots: Snapshots,
    model: nn.Module,
    store: ImageStore,
    layers: Sequence[str],
    filters: int | Sequence[int],
    work: Pathlike,
    *,
    preprocess: Preprocess,
    k: int = 9,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, dict[str, Array]]:
    """Return each layer's filters through the epochs of a training, as `evolve` finds them, in tiles.

    filters: how many of each layer, the most active at the last epoch; or which. work: a folder for `evolve`.
    For each layer: "evolution/epochs" int64 [E], "evolution/channels" int64 [G], "evolution/values" float32 [G, E],
    "evolution/patches" and "evolution/projections" uint8 [G, E, h, w, 3].

    Raises:
        MismatchError: the snapshots are of another network.
    """
    found = evolve(
        snapshots,
        copy.deepcopy(model),
        store,
        layers,
        filters,
        preprocess=preprocess,
        k=k,
        work=work,
        device=device,
        progress=progress,
    )
    return {one.layer: _evolution(one, found.epochs) for one in found.layers}


def _evolution(found: LayerEvolution, epochs: Sequence[int]) -> dict[str, Array]:
    size = tile_size((found.patches.shape[2], found.patches.shape[3]))
    projections = [[resized(signed(one), size) for one in row] for row in found.projections]
    patches = [[resized(one, size) for one in row] for row in found.patches]
    return {
        "evolution/epochs": np.asarray(epochs, np.int64),
        "evolution/channels": found.channels.astype(np.int64),
        "evolution/values": found.values,
        "evolution/patches": np.array(patches, np.uint8),
        "evolution/projections": np.array(projections, np.uint8),
    }


@dataclass
class _Occluding:
    network: Network
    store: ImageStore
    preprocess: Preprocess
    occluder: Occluder
    layers: tuple[str, ...]
    batch_size: int

    def __post_init__(self) -> None:
        self.fast = self.network.fast("fp32", keep=self.layers)
        self.grey = self.preprocess.level(GREY).to(self.network.device)[None, :, None, None]

    def image(self, image: int, arrays: Mapping[str, Array]) -> None:
        """Note the sums of the maps of the filters whose strongest image this is."""
        picture = self.preprocess.picture(self.store[image][0])
        x = self.preprocess.tensor(picture[None], self.network.device)
        own = {layer: np.flatnonzero(arrays[f"{layer}/occlusion/image"] == image) for layer in self.layers}
        own = {layer: chosen for layer, chosen in own.items() if len(chosen)}
        for layer, sums in self._sums(x, own).items():
            arrays[f"{layer}/occlusion/whole"][own[layer]] = sums[0]
        step = whole_images(self.batch_size, x.device)
        for start in range(0, len(self.occluder), step):
            windows = torch.arange(start, min(start + step, len(self.occluder)))
            covered = self.occluder.covers(windows, x)[:, None]
            for layer, sums in self._sums(x * (1 - covered) + self.grey * covered, own).items():
                arrays[f"{layer}/occlusion/values"][own[layer], start : start + step] = sums.T

    def _sums(self, x: torch.Tensor, own: Mapping[str, NDArray[np.intp]]) -> dict[str, NDArray[np.float32]]:
        """Return the sums of the chosen filters' maps, [m, filters] each layer."""
        with torch.inference_mode():
            values = self.fast.activations(x, list(own))
            return {
                layer: self.fast.maps(layer, values[layer])[:, chosen].sum((2, 3)).float().cpu().numpy()
                for layer, chosen in own.items()
            }


def _blank(mined: Mined, asked: Mapping[str, Sequence[int]], windows: int) -> dict[str, Array]:
    """Return the arrays of an occlusion that has not begun: which image each filter asked for is measured on."""
    arrays: dict[str, Array] = {}
    for layer, chosen in asked.items():
        images = np.full(len(mined[layer].values), -1)
        shown = mined[layer].values[:, 0] > 0
        images[chosen] = np.where(shown, mined[layer].images[:, 0], -1)[chosen]
        arrays[f"{layer}/occlusion/image"] = images
        arrays[f"{layer}/occlusion/whole"] = np.full(len(images), np.nan, np.float32)
        arrays[f"{layer}/occlusion/values"] = np.full((len(images), windows), np.nan, np.float32)
    return arrays


def _config(network: Network, store: ImageStore, layers: Sequence[str], preprocess: Preprocess) -> dict[str, Any]:
    return {
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": store.fingerprint,
        "layers": list(layers),
        "preprocess": preprocess.as_dict(),
    }


def _loaded(out: Pathlike, kind: str, config: Mapping[str, Any]) -> dict[str, Array]:
    result = Result.load(out, kind, 1)
    require_same(out, result.config, config, ADVICE)
    return result.arrays


def _by_layer(arrays: Mapping[str, Array], layers: Sequence[str]) -> Measured:
    return Measured(
        {
            layer: {
                name.removeprefix(f"{layer}/"): array for name, array in arrays.items() if name.startswith(f"{layer}/")
            }
            for layer in layers
        }
    )
