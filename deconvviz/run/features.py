"""Features of layers, pooled and streamed to a file: one pass over the images, several layers at once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from deconvviz.data.datasets import Images
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.network import Network
from deconvviz.results.features import Features, FeatureWriter, write_features
from deconvviz.results.files import Pathlike
from deconvviz.results.results import versions

LIMIT = 10_000  # values of one layer; the paper's layer 5 has 9216, which stay as they are


@dataclass(frozen=True)
class Pooling:
    """How maps become features: the maximum or the mean over the bins of a grid.

    The paper takes all values of a layer. At the first layers these are very many: by default the grid is the finest
    square one that leaves at most 10,000 values, or one value a channel. A map that is smaller stays as it is.

    how: "max", "mean", or "all" for every value.
    grid: (rows, columns) at most, or None for the default.
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
        fits = (g for g in range(max(rows, columns), 1, -1) if channels * min(rows, g) * min(columns, g) <= LIMIT)
        side = next(fits, 1)
        return min(rows, side), min(columns, side)

    def __call__(self, maps: Tensor) -> Tensor:
        """Pool maps [N, C, H, W] and lay them out as features [N, C * rows * columns].

        Bin i of g covers the rows from floor(i H / g) to ceil((i + 1) H / g), and so in columns.
        """
        grid = self.bins((maps.shape[1], maps.shape[2], maps.shape[3]))
        if grid != tuple(maps.shape[2:]):
            pool = functional.adaptive_max_pool2d if self.how == "max" else functional.adaptive_avg_pool2d
            maps = pool(maps, grid)
        return maps.flatten(1)


def stream_features(
    network: Network,
    images: Images,
    layers: Sequence[str],
    out: Pathlike,
    *,
    preprocess: Preprocess,
    pool: str = "max",
    chosen: NDArray[np.int64] | None = None,
    batch_size: int | None = None,
    precision: str = "fp32",
    dtype: str = "float32",
    workers: int = 2,
    commit_every: int = 20,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Features:
    """Write the features of images at several layers to a file, by one pass; the same call again continues it.

    Args:
        network: a captured network, on the device that shall compute.
        images: labelled images.
        layers: names from `network.layers`.
        out: path of the features file.
        preprocess: how an image becomes the network's input.
        pool: "max", "mean", "all", or with a grid: "max 6x6"; see `Pooling`.
        chosen: int64 [n], the images to take, by default all; rows of the file are in this order.
        batch_size: images at once, by default 16 on a CPU and 64 on a GPU.
        precision: "fp32" or "bf16", of the forward pass; dtype: "float32" or "float16", of the file.
        workers: threads that decode images.
        commit_every: batches between commits.
        sources: where model and images came from, for the file.

    Raises:
        LayerNotFound: no such layer. CaptureError: images of another shape than the network's, or too many at once.
        MismatchError: `out` was made with another model, other images, layers or settings.
        DataError: `out` cannot be written, an image cannot be read, or a value is not finite.

    Source: Zeiler and Fergus 2013, sections 5.2 and 5.3 (features of fixed layers; the pooling is this package's).
    """
    pooling, layers = Pooling.parse(pool), list(dict.fromkeys(layers))
    chosen = np.arange(len(images)) if chosen is None else np.asarray(chosen, np.int64)
    batch_size = batch_size if batch_size is not None else 16 if network.device.type == "cpu" else 64
    for what, count in (("layers", len(layers)), ("images", len(chosen)), ("batch size", batch_size)):
        if count < 1:
            raise DataError(f"{what} {count} given; expected at least 1")
    if preprocess.shape != network.input_shape:
        raise CaptureError(f"preprocessing gives images of {preprocess.shape}; the network takes {network.input_shape}")
    units = {name: network.layer(name).units for name in layers}
    widths = {name: channels * int(np.prod(pooling.bins(units[name]))) for name, (channels, _, _) in units.items()}
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "images_fingerprint": images.fingerprint,
        "chosen": f"{len(chosen)} images, {sha256(chosen.astype('<i8').tobytes()).hexdigest()[:16]}",
        "pool": pool,
        "precision": precision,
        "preprocess": preprocess.as_dict(),
    }
    fast, told = network.fast(precision, keep=layers), {"versions": versions(), **(sources or {})}
    labels = np.asarray(images.labels)[chosen]
    with write_features(out, widths, labels, tuple(images.classes), config, told, dtype) as writer:
        _Streamer(fast, images, preprocess, pooling, batch_size, workers, commit_every, progress).run(writer, chosen)
    return Features(out)


@dataclass
class _Streamer:
    network: Network
    images: Images
    preprocess: Preprocess
    pooling: Pooling
    batch_size: int
    workers: int
    commit_every: int
    progress: bool

    def run(self, writer: FeatureWriter, chosen: NDArray[np.int64]) -> None:
        """Write the rows that are not there; a batch is pooled and written while the next one is computed."""
        pictures = in_order(self._picture, chosen[writer.row :], self.workers)
        bar = tqdm(total=len(chosen), initial=writer.row, unit="image", desc="features", disable=not self.progress)
        with bar, torch.inference_mode(), ThreadPoolExecutor(1) as keeper:
            kept: Future[None] | None = None
            for count, batch in enumerate(iter(lambda: list(islice(pictures, self.batch_size)), []), 1):
                values = self._values(np.stack(batch), list(writer.begun.layers))
                if kept is not None:
                    kept.result()
                kept = keeper.submit(self._keep, writer, values, count % self.commit_every == 0)
                bar.update(len(batch))
            if kept is not None:
                kept.result()

    def _picture(self, index: int) -> NDArray[np.uint8]:
        return self.preprocess.picture(self.images[int(index)][0])

    def _values(self, pictures: NDArray[np.uint8], layers: list[str]) -> dict[str, Tensor]:
        with _fitting(len(pictures)):
            x = self.preprocess.tensor(pictures, self.network.device)
            return self.network.activations(x, layers)

    def _keep(self, writer: FeatureWriter, values: dict[str, Tensor], commit: bool) -> None:
        with torch.inference_mode(), _fitting(len(next(iter(values.values())))):
            pooled = {name: self.pooling(self.network.maps(name, value)) for name, value in values.items()}
            writer.append({name: value.float().cpu().numpy() for name, value in pooled.items()})
        if commit:
            writer.commit()


@contextlib.contextmanager
def _fitting(count: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CaptureError(
            f"{count} images at once do not fit in memory; give a smaller batch size: what is done is kept"
        ) from error
