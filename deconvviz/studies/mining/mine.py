"""Top-k mining: one pass over a store, and for every channel of every asked layer the images that drive it most."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.data.images import ImageStore
from deconvviz.data.parallel import in_order
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CaptureError, DataError, MismatchError
from deconvviz.graph.network import Network
from deconvviz.results.files import Pathlike
from deconvviz.results.results import require_same, versions
from deconvviz.studies.mining.result import Mined, MinedLayer, load_mined
from deconvviz.studies.mining.topk import Activity, TopK


def mine(
    network: Network,
    store: ImageStore,
    layers: Sequence[str],
    k: int = 9,
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    precision: str = "fp32",
    workers: int = 2,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    commit_every: int = 20,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Mined:
    """Find, for every channel of `layers`, the k images of the store that activate it most, and where.

    An image counts once, with its strongest position. The result does not depend on batch size, workers or
    order. With `out`, progress is committed there every `commit_every` batches; the same call again continues it.

    Args:
        network: a captured network, on the device that shall compute.
        store: the images.
        layers: names from `network.layers`.
        k: entries a channel.
        out: path of the mined file.
        preprocess: how an image becomes the network's input; the default fits ImageNet networks.
        batch_size: images at once, by default 16 on a CPU (whose caches hold no more) and 64 on a GPU; halved when
            they do not fit in memory.
        precision: "fp32" or "bf16".
        workers: threads that decode images.
        limit: take the first images only.
        shard: (i, n), i from 0: take each n-th image from the i-th on; `merge` joins the n files.
        sources: where model and weights came from, for the file.

    Raises:
        LayerNotFound, CaptureError: a layer that does not exist, images of another shape than the network's.
        MismatchError: `out` was made with another model, store, layer list or configuration.

    Source: Zeiler and Fergus 2013, section 4 (top 9 activations of a feature map).
    """
    preprocess = preprocess or Preprocess(resize=max(network.input_shape[-2:]), crop=network.input_shape[-2:])  # type: ignore[arg-type]
    if preprocess.shape != network.input_shape:
        raise CaptureError(
            f"preprocessing gives images of {preprocess.shape}; the network takes {network.input_shape}: set crop"
        )
    batch_size = batch_size if batch_size is not None else 16 if network.device.type == "cpu" else 64
    layers = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    for what, given in (("layers", len(layers)), ("k", k), ("batch size", batch_size)):
        if given < 1:
            raise DataError(f"{what} {given} given; expected at least 1")
    chosen = _chosen(len(store), limit, shard)
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "store_fingerprint": store.fingerprint,
        "layers": layers,
        "k": k,
        "preprocess": preprocess.as_dict(),
        "precision": precision,
        "limit": limit,
        "shard": list(shard) if shard else None,
    }
    sources = {"images": str(pathlib.Path(store.path).resolve()), "versions": versions(), **(sources or {})}
    fast = network.fast(precision, keep=layers)
    start = _start(network, layers, k, config, sources, len(chosen), out)
    if start.complete:
        return start
    return _Miner(fast, store, preprocess, batch_size, workers, commit_every, progress, out).run(start, chosen)


def _chosen(count: int, limit: int | None, shard: tuple[int, int] | None) -> range:
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} given; expected at least 1")
    index, parts = shard or (0, 1)
    if not 0 <= index < parts:
        raise DataError(f"shard {index}/{parts} given; expected i/n with i from 0 to n - 1")
    return range(index, min(count, limit or count), parts)


def _start(
    network: Network,
    layers: list[str],
    k: int,
    config: dict[str, Any],
    sources: dict[str, Any],
    total: int,
    out: Pathlike | None,
) -> Mined:
    """Return the unfinished result to continue, or an empty one; the file must be writable before the work starts."""
    if out is not None and pathlib.Path(out).exists():
        found = load_mined(out)
        require_same(out, found.config, config, "remove it or choose another output")
        if not found.complete:
            found.save(out)  # the same bytes: a place that cannot be written to any more is found out now
        return found
    tables = {}
    for name in layers:
        channels, _, _ = network.layer(name).units
        tables[name] = MinedLayer(name=name, top=TopK.empty(channels, k), activity=Activity.empty(channels))
    path = pathlib.Path(out) if out is not None else None
    start = Mined(layers=tables, config=config, sources=sources, done=0, total=total, path=path)
    if out is not None:
        start.save(out)
    return start


@dataclass
class _Miner:
    network: Network
    store: ImageStore
    preprocess: Preprocess
    batch_size: int
    workers: int
    commit_every: int
    progress: bool
    out: Pathlike | None

    def run(self, mined: Mined, chosen: range) -> Mined:
        pictures = in_order(self._picture, chosen[mined.done :], self.workers)
        bar = tqdm(total=len(chosen), initial=mined.done, unit="image", desc="mining", disable=not self.progress)
        since, size = 0, self.batch_size
        with bar, torch.inference_mode():
            for batch in iter(lambda: list(islice(pictures, size)), []):
                images = np.asarray(chosen[mined.done : mined.done + len(batch)])
                layers = self._add(mined.layers, np.stack(batch), images)
                mined, since = replace(mined, layers=layers, done=mined.done + len(batch)), since + 1
                if self.out is not None and (since >= self.commit_every or mined.complete):
                    mined.save(self.out)
                    since = 0
                bar.update(len(batch))
        return mined

    def _picture(self, index: int) -> NDArray[np.uint8]:
        return self.preprocess.picture(self.store[index][0])

    def _add(
        self, layers: dict[str, MinedLayer], pictures: NDArray[np.uint8], images: NDArray[np.int64]
    ) -> dict[str, MinedLayer]:
        """Add one batch to every layer; a batch that does not fit in memory goes in halves, and so do later ones."""
        start = 0
        while start < len(pictures):
            part = slice(start, start + self.batch_size)
            try:
                x = self.preprocess.tensor(pictures[part], self.network.device)
                values = self.network.activations(x, list(layers))
                layers = {
                    name: layer.merge(_reduced(layer, self.network.maps(name, values.pop(name)), images[part]))
                    for name, layer in layers.items()
                }
                start += self.batch_size
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise CaptureError(
                        f"one image does not fit in memory with layers {', '.join(layers)}; "
                        "ask for fewer layers at once, or use another --device"
                    ) from error
                self.batch_size = (self.batch_size + 1) // 2
            else:
                continue
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            tqdm.write(f"out of memory: continuing with batches of {self.batch_size}", file=sys.stderr)
        return layers


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    )


def _reduced(so_far: MinedLayer, maps: Tensor, images: NDArray[np.int64]) -> MinedLayer:
    """Reduce maps [N, C, H, W] to a table and a record of activity.

    Only a map whose maximum exceeds the weakest entry of the table so far is searched for its position: images come
    in ascending order, so one that ties with that entry would stand behind it.
    """
    threshold, k = so_far.values[:, -1], so_far.top.k
    maximum = maps.amax((2, 3)).float()
    mean = maps.sum((2, 3)).float() / maps[0, 0].numel()  # as fast as reading them once; bf16 sums in fp32, rounds once
    broken = torch.zeros_like(maximum, dtype=torch.int64)
    if not bool(torch.isfinite(mean).all() and torch.isfinite(maximum).all()):
        bad = ~torch.isfinite(maps)
        broken = bad.sum((2, 3))
        maximum = maps.masked_fill(bad, -torch.inf).amax((2, 3)).float()
        mean = maps.masked_fill(bad, 0).sum((2, 3)).float() / maps[0, 0].numel()
        maps = maps.masked_fill(bad, -torch.inf)
    values = maximum.cpu().numpy().T
    rows, columns = np.nonzero(values > threshold[:, None])
    positions = np.full((*values.shape, 2), -1, np.int64)
    if len(rows):
        picked = maps[torch.from_numpy(columns).to(maps.device), torch.from_numpy(rows).to(maps.device)]
        flat = picked.flatten(1).argmax(1).cpu().numpy()
        positions[rows, columns] = np.stack(np.divmod(flat, maps.shape[3]), 1)
    candidates = np.full_like(values, -np.inf)
    candidates[rows, columns] = values[rows, columns]
    table = TopK.of(candidates, np.broadcast_to(images, values.shape), positions, k)
    activity = Activity(
        len(images),
        (maximum > 0).sum(0).cpu().numpy(),
        mean.double().sum(0).cpu().numpy(),
        values.max(1),
        broken.sum(0).cpu().numpy(),
    )
    return MinedLayer(name=so_far.name, top=table, activity=activity)


def merge(paths: Sequence[Pathlike], out: Pathlike, overwrite: bool = False) -> Mined:
    """Join the files of all shards of one mining job into the file that a single run would have made.

    Raises:
        MismatchError: the files are not the complete shards 0 .. n - 1 of one job.
        DataError: a file cannot be read, or `out` exists (unless `overwrite`) or cannot be written.
    """
    if pathlib.Path(out).exists() and not overwrite:
        raise DataError(f"{out} exists already; choose another output, or --force to replace it")
    files = [load_mined(path) for path in paths]
    if not files:
        raise MismatchError("no files to merge; give the n files of shards 0/n to n-1/n")
    for path, file in zip(paths, files, strict=True):
        expected = files[0].config | {"shard": file.config["shard"]}
        require_same(path, file.config, expected, "merge shards of one job only")
        if not file.complete:
            raise MismatchError(
                f"{path} is unfinished: {file.done} of {file.total} images; run its command again first"
            )
    whole = [path for path, file in zip(paths, files, strict=True) if file.config["shard"] is None]
    if whole:
        raise MismatchError(f"{whole[0]} is no shard: it was mined without --shard; there is nothing to merge it with")
    files.sort(key=lambda file: tuple(file.config["shard"]))  # the result does not depend on the order they came in
    shards = [tuple(file.config["shard"]) for file in files]
    parts = shards[0][1]
    if shards != [(i, parts) for i in range(parts)]:
        given = ", ".join(f"{i}/{n}" for i, n in shards)
        raise MismatchError(f"shards {given} given; expected each of 0/{parts} to {parts - 1}/{parts} once")
    layers = dict(files[0].layers)
    for file in files[1:]:
        layers = {name: layer.merge(file[name]) for name, layer in layers.items()}
    total = sum(file.total for file in files)
    merged = Mined(
        layers=layers,
        config=files[0].config | {"shard": None},
        sources=files[0].sources,
        done=total,
        total=total,
        path=pathlib.Path(out),
    )
    merged.save(out)
    return merged
