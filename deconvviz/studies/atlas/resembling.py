"""The training images that each explained image resembles, for its page."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.pictures import resized
from deconvviz.graph.classifier import values_for_scores
from deconvviz.models.labels import shown_classes
from deconvviz.results.features import Features
from deconvviz.results.results import Result, require_same
from deconvviz.run.features import Pooling, stream_features
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.result import RESEMBLING_KIND, RESEMBLING_SCHEMA
from deconvviz.types import Array, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

COUNT, TILE, BLOCK = 8, 96, 4096  # nearest images; pixels of a picture's longer side; training images at once
POOL = "mean 1x1"  # how the embedding is kept


@dataclass(frozen=True)
class _Nearest:
    """The nearest training images so far: cosines float32 [D, k], falling, and indices int64 [D, k]."""

    cosines: torch.Tensor
    indices: torch.Tensor

    def with_block(self, cosines: torch.Tensor, first: int) -> _Nearest:
        """Return the nearest with some more images, the first of which has this index; of equal ones the first stay."""
        indices = torch.arange(first, first + cosines.shape[1]).expand(len(cosines), -1)
        all_cosines, all_indices = torch.cat([self.cosines, cosines], 1), torch.cat([self.indices, indices], 1)
        order = all_cosines.argsort(dim=1, descending=True, stable=True)[:, :COUNT]
        return _Nearest(all_cosines.gather(1, order), all_indices.gather(1, order))


def resembling_images(
    inputs: AtlasInputs, explained: Ints, examples: Images, out: Pathlike, **run: Unpack[RunKeywords]
) -> Result:
    """Find the training images whose embeddings are nearest to those of some images; calling again resumes.

    The embedding is the mean of each channel of the layer that the classifier reads.

    Args:
        inputs: the network and the images.
        explained: int64 [D], the images of the store.
        examples: the training images.
        out: path of the file; the training images' embeddings stand beside it.
        run: `batch_size`, `precision` and `progress` of `RunOptions`.

    Returns:
        A result of kind "resembling images": images int64 [D]; nearest int64 [D, k]; cosine float32 [D, k], falling;
        pictures uint8 [D, k, h, w, 3]. Its state has the "names" and "classes" of the nearest images.

    Raises:
        MismatchError: `out` was written with other settings.
        DeconvvizError: as `stream_features` raises it.
    """
    options, network = RunOptions(**run), inputs.network
    layer = values_for_scores(network)
    config = {**inputs.identity, "layer": layer, "images": explained.tolist(), "examples": examples.fingerprint}
    if pathlib.Path(out).exists():
        result = Result.load(out, RESEMBLING_KIND, RESEMBLING_SCHEMA)
        require_same(out, result.config, config, "remove it or choose another output")
        return result
    file = pathlib.Path(out).with_suffix(".features.h5")
    job: dict[str, Any] = {"preprocess": inputs.preprocess, "sources": inputs.sources, **options.keywords()}
    features = stream_features(network, examples, [layer], file, pool=POOL, **job)
    nearest = _nearest(features, layer, _embedded(inputs, layer, explained, options))
    indices = nearest.indices.numpy()
    classes = shown_classes(examples.classes)
    labels = [[int(examples.labels[place]) for place in row] for row in indices.tolist()]
    state: Mapping[str, Any] = {
        "names": [[examples.names[place] for place in row] for row in indices.tolist()],
        "classes": [[classes[label] if 0 <= label < len(classes) else "" for label in row] for row in labels],
    }
    arrays: dict[str, Array] = {
        "images": explained,
        "nearest": indices,
        "cosine": nearest.cosines.numpy(),
        "pictures": _pictures(Feed(examples, inputs.preprocess), inputs.preprocess.shape[1:], indices),
    }
    result = Result(RESEMBLING_KIND, RESEMBLING_SCHEMA, config, inputs.provenance, arrays, dict(state))
    result.save(out)
    return result


def _embedded(inputs: AtlasInputs, layer: str, explained: Ints, options: RunOptions) -> torch.Tensor:
    """Return the embeddings of the explained images, float32 [D, C], each of length 1."""
    network, pooling = inputs.network.forward_only(options.precision, keep=[layer]), Pooling.parse(POOL)
    rows = []
    with torch.inference_mode():
        for image in explained.tolist():
            x = inputs.preprocess.tensor(inputs.feed.picture(image)[None], inputs.network.device, inputs.network.dtype)
            rows.append(pooling(network.maps(layer, network.activations(x, [layer])[layer])).float().cpu())
    return functional.normalize(torch.cat(rows))


def _nearest(features: Features, layer: str, embedded: torch.Tensor) -> _Nearest:
    count = len(embedded)
    found = _Nearest(torch.zeros(count, 0), torch.zeros(count, 0, dtype=torch.int64))
    for first in range(0, len(features), BLOCK):
        rows = features.rows(layer, np.arange(first, min(first + BLOCK, len(features))))
        found = found.with_block(embedded @ functional.normalize(torch.from_numpy(rows)).T, first)
    return found


def _pictures(feed: Feed, shape: tuple[int, int], indices: Ints) -> Array:
    scale = min(1.0, TILE / max(shape))
    size = (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    return np.stack([np.stack([resized(feed.display(place), size) for place in row]) for row in indices.tolist()])
