"""Features of layers, pooled and streamed to a file: one pass over the images, several layers at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.choices import FEATURE_DTYPES
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, require
from deconvviz.graph.memory import fitting
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.results.features import Features, FeatureWriter, write_features
from deconvviz.results.results import stamped
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Values of one layer of one image, at most. Our choice: the 9216 values of the paper's layer 5 stay as they are.
MOST_VALUES = 10_000


@dataclass(frozen=True)
class Pooling:
    """How maps become features: the maximum or the mean over the bins of a grid.

    The paper takes all values of a layer. The first layers have very many: by default the grid is the finest square one
    that leaves at most 10,000 values, or one value a channel. A map with fewer rows or columns than the grid stays as
    it is.

    Attributes:
        how: "max", "mean", or "all" for every value.
        grid: (rows, columns), at most; None for the default.

    >>> Pooling().bins((256, 6, 6)), Pooling().bins((96, 110, 110))
    ((6, 6), (10, 10))
    """

    how: str = "max"
    grid: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Pooling:
        """Read "max", "mean", "all", "max 6x6" or "mean 1x1"; raises DataError for another text."""
        match = re.fullmatch(r"(all)|(max|mean)(?: ([1-9]\d*)x([1-9]\d*))?", text.strip())
        if not match:
            raise DataError(f"pooling {text!r} given; expected max, mean, all, or with a grid such as 'max 6x6'")
        return cls(match[1] or match[2], (int(match[3]), int(match[4])) if match[3] else None)

    def bins(self, units: tuple[int, int, int]) -> tuple[int, int]:
        """Return the grid (rows, columns) for a layer with `units` (channels, rows, columns)."""
        channels, rows, columns = units
        if self.how == "all":
            return rows, columns
        if self.grid is not None:
            return min(rows, self.grid[0]), min(columns, self.grid[1])
        fits = (g for g in range(max(rows, columns), 1, -1) if channels * min(rows, g) * min(columns, g) <= MOST_VALUES)
        side = next(fits, 1)
        return min(rows, side), min(columns, side)

    def __call__(self, maps: Tensor) -> Tensor:
        """Pool maps [N, C, H, W] and lay them out as features [N, C * rows * columns].

        Bin i of g covers the rows from floor(i H / g) to ceil((i + 1) H / g) - 1, and the columns alike.
        """
        grid = self.bins((maps.shape[1], maps.shape[2], maps.shape[3]))
        if grid != tuple(maps.shape[2:]):
            pool = functional.adaptive_max_pool2d if self.how == "max" else functional.adaptive_avg_pool2d
            maps = pool(maps, grid)
        return maps.flatten(1)


class StreamKeywords(RunKeywords, total=False):
    """The fields of `StreamOptions`, as the keyword arguments of `stream_features` and of what calls it."""

    pool: str
    dtype: str
    commit_every: int


@dataclass(frozen=True, kw_only=True)
class StreamOptions(RunOptions):
    """How features are pooled and kept, and how the job runs.

    Attributes:
        pool: "max", "mean", "all", or with a grid: "max 6x6"; see `Pooling`.
        dtype: "float32" or "float16", of the values in the file.
        commit_every: number of batches between commits.

    Raises:
        DataError: a value out of its range.
    """

    pool: str = "max"
    dtype: str = "float32"
    commit_every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = Pooling.parse(self.pool)
        require(
            self,
            DataError,
            dtype=(self.dtype in FEATURE_DTYPES, " or ".join(FEATURE_DTYPES)),
            commit_every=(self.commit_every >= 1, "at least 1"),
        )


def stream_features(
    network: Network,
    images: Images,
    layers: Sequence[str],
    out: Pathlike,
    *,
    preprocess: Preprocess,
    indices: Sequence[int] | Ints | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[StreamKeywords],
) -> Features:
    """Write the features of images at several layers to a file, in one pass over the images.

    Calling again with the same arguments resumes where the file ends.

    Args:
        network: a captured network, on the device that computes.
        images: labelled images.
        layers: names from `network.layers`.
        out: path of the features file.
        preprocess: how an image becomes the network's input.
        indices: the images to take; None takes all of them. The file has a row for each, in this order.
        sources: where the model and the images came from, for the file.
        options: `pool`, `dtype` and `commit_every` of `StreamOptions`, and `batch_size` (by default 16 images on a CPU
            and 64 on a GPU), `precision`, `workers` and `progress` of `RunOptions`.

    Returns:
        The file, opened for reading.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        CaptureError: the preprocessing gives images of another shape, or one image does not fit in memory.
        MismatchError: `out` was written with another model, other images, layers or settings.
        DataError: `out` cannot be written, an image cannot be read, a value is not finite, or an option is out of its
            range.

    Source: Zeiler and Fergus 2013, sections 5.2 and 5.3 (features of fixed layers). The pooling is this package's.

    >>> import tempfile
    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> plain = dv.Preprocess(resize=16, crop=16)
    >>> job = {"preprocess": plain, "pool": "mean 1x1", "progress": False}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     network = dv.capture(model.eval(), plain.shape)
    ...     features = dv.stream_features(network, dv.Scenes(5), ["1"], f"{folder}/f.h5", **job)
    ...     features.layers, features.rows("1", np.array([0, 3])).shape
    ({'1': 4}, (2, 4))
    """
    how, layers = StreamOptions(**options), list(dict.fromkeys(layers))
    feed = Feed(images, preprocess, indices, workers=how.workers)
    if not layers or not len(feed):
        raise DataError(f"{len(layers)} layers and {len(feed)} images given; expected at least 1 of each")
    network.check_input(preprocess.shape)
    pooling = Pooling.parse(how.pool)
    units = {name: network.layer(name).units for name in layers}
    widths = {name: channels * int(np.prod(pooling.bins(units[name]))) for name, (channels, _, _) in units.items()}
    config = configuration(network, images, feed.indices, preprocess, how)
    origin = stamped(sources)
    stream = FeatureStream(network.forward_only(how.precision, keep=layers), feed, pooling, how, network.dtype)
    with write_features(out, widths, feed.labels, tuple(images.classes), config, origin, how.dtype) as writer:
        stream.run(writer)
    return Features(out)


def configuration(
    network: Network, images: Images, indices: Ints, preprocess: Preprocess, how: StreamOptions
) -> dict[str, Any]:
    """Return what has to be equal for a features file to be gone on with, beside its layers and their dtype.

    Arguments are those of `stream_features`; the values are JSON's.
    """
    return {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "chosen": f"{len(indices)} images, {sha256(indices.astype('<i8').tobytes()).hexdigest()[:16]}",
        "pool": how.pool,
        "precision": how.precision,
        "preprocess": preprocess.as_dict(),
    }


class FeatureStream:
    """The stream from images to rows of a file: one batch is written while the next one is computed.

    Attributes:
        network: in the form that runs forward only.
        feed: the images.
        pooling: how maps become features.
        options: how the job runs.
        input_dtype: dtype of the images that the network is given.
    """

    def __init__(
        self, network: Network, feed: Feed, pooling: Pooling, options: StreamOptions, input_dtype: torch.dtype
    ) -> None:
        self.network, self.feed, self.pooling, self.options = network, feed, pooling, options
        self.input_dtype = input_dtype

    def run(self, writer: FeatureWriter) -> None:
        """Write the rows that the file does not have yet, and commit after every few batches."""
        layers, device = list(writer.widths), self.network.device
        size = fitting(self.network, self.options.images_at_once(device), layers, kept=False)
        at_once = AtOnce(size, "images", "ask for fewer layers at once, or use another --device: what is done is kept")
        bar = self.options.bar("image", len(self.feed), "features", writer.row)
        with bar, torch.inference_mode(), ThreadPoolExecutor(1) as pool:
            writing: Future[None] | None = None
            for count, batch in enumerate(self.feed.on_device(size, device, start=writer.row), 1):
                compute = partial(self._features, batch.pictures, layers)
                for features in at_once.parts(len(batch.places), compute):
                    if writing is not None:
                        writing.result()
                    writing = pool.submit(self._write, writer, features)
                if count % self.options.commit_every == 0:
                    writing = pool.submit(self._commit, writer, writing)
                bar.update(len(batch.places))
            if writing is not None:
                writing.result()

    def _features(self, pictures: Tensor, layers: list[str], start: int, stop: int) -> dict[str, Tensor]:
        x = self.feed.tensor(pictures[start:stop], self.network.device, self.input_dtype)
        return self.network.reduced(x, layers, lambda name, value: self.pooling(self.network.maps(name, value)).float())

    @staticmethod
    def _write(writer: FeatureWriter, features: dict[str, Tensor]) -> None:
        with torch.inference_mode():
            writer.append({name: value.cpu().numpy() for name, value in features.items()})

    @staticmethod
    def _commit(writer: FeatureWriter, writing: Future[None] | None) -> None:
        if writing is not None:
            writing.result()
        writer.commit()
