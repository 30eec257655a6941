"""Methods by metrics over a store: how far each method's maps tell what the network relies on."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.cam.explain import Explainer, cam
from deconvviz.data.files import Pathlike
from deconvviz.data.images import ImageStore
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.results import Result, require_same, versions
from deconvviz.data.tables import write_csv
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.network import Network
from deconvviz.metrics import adcc, coherency, complexity, deletion, faithfulness, insertion, road_combined

KIND, SCHEMA = "evaluation", 1
SHARES = (100, 50, 15)  # percent of the pixels kept
GROUPS = ("faithfulness", "adcc", "curves", "road")
FILLS = ("mean", "black")
COSTS = ("forward_passes", "seconds")
Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        config: what was asked; sources: where it came from.
        values: method -> float64 [N, columns]; NaN in rows that are not done yet.
        columns: names of the metrics, in fractions, then the costs of one image: forward passes and seconds.
        predicted, labels: int64 [N], the class explained, and the true one (-1 unknown); probability: float64 [N] of
            the class explained.
        names: of the images; classes: of the store.
    """

    config: dict[str, Any]
    sources: dict[str, Any]
    values: Values
    columns: tuple[str, ...]
    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]
    probability: NDArray[np.float64]
    names: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True where every method has seen every image."""
        return not any(np.isnan(rows[:, -1]).any() for rows in self.values.values())

    def mean(self, method: str) -> NDArray[np.float64]:
        """Return the means over the images, [columns]."""
        found: NDArray[np.float64] = np.nanmean(self.values[method], 0)
        return found

    def error(self, method: str) -> NDArray[np.float64]:
        """Return the half-widths of the means' 95 % intervals, [columns]: 1.96 standard errors."""
        rows = self.values[method]
        count = np.maximum((~np.isnan(rows)).sum(0), 1)
        found: NDArray[np.float64] = 1.96 * np.nanstd(rows, 0, ddof=1 if len(rows) > 1 else 0) / np.sqrt(count)
        return found

    def save(self, path: Pathlike) -> None:
        """Write the file atomically."""
        arrays: dict[str, NDArray[Any]] = {f"values/{method}": rows for method, rows in self.values.items()}
        arrays |= {"predicted": self.predicted, "probability": self.probability}
        Result(KIND, SCHEMA, self.config, self.sources, arrays, {"columns": list(self.columns)}).save(path)

    def save_csv(self, path: Pathlike) -> None:
        """Write the table: a row for each method, means and half-widths of their 95 % intervals."""
        head = ["method", "images", *(name for column in self.columns for name in (column, f"{column}_95"))]
        rows = []
        for method in self.values:
            pairs = zip(self.mean(method), self.error(method), strict=True)
            seen = int((~np.isnan(self.values[method][:, -1])).sum())
            rows.append([method, seen, *(float(value) for pair in pairs for value in pair)])
        write_csv(path, head, rows)

    def __repr__(self) -> str:
        shown = [c for c in self.columns if c.endswith("_100") or c in ("adcc", "deletion", "insertion", *COSTS)]
        lines = ["  ".join(["method".ljust(16), *(name.rjust(15) for name in shown)])]
        for method in self.values:
            means = dict(zip(self.columns, self.mean(method), strict=True))
            lines.append("  ".join([method.ljust(16), *(f"{means[name]:15.3f}" for name in shown)]))
        return "\n".join(lines)


def columns_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the metrics of these groups, and of the costs."""
    names: list[str] = []
    if "faithfulness" in groups:
        names += [f"{name}_{share}" for share in SHARES for name in ("average_drop", "increase", "average_gain")]
    if "adcc" in groups:
        names += ["complexity", "coherency", "adcc"]
    if "curves" in groups:
        names += ["deletion", "insertion"]
    if "road" in groups:
        names += ["road_combined"]
    return (*names, *COSTS)


def evaluate(
    network: Network,
    store: ImageStore,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str],
    layers: Sequence[str] = (),
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    metrics: Sequence[str] = GROUPS[:3],
    fill: str = "mean",
    steps: int = 28,
    limit: int | None = None,
    batch_size: int = 32,
    precision: str = "fp32",
    seed: int = 0,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Explain each image's own top class by each method, and measure the maps.

    With `out`, what is done is committed there after every few images; the same call again goes on.

    Args:
        methods: names, or name -> options.
        layers: for the methods that explain one.
        metrics: groups of them: "faithfulness" (drop, increase, gain at 100, 50 and 15 % of the pixels), "adcc",
            "curves" (deletion and insertion), "road".
        fill: what masked pixels become, the "mean" colour or "black".
        steps: of the curves.

    Raises:
        DataError: an unknown group or fill. MismatchError: `out` belongs to another evaluation.
        CaptureError: the images do not fit the network.
    """
    chosen: dict[str, Mapping[str, Any]] = (
        dict(methods) if isinstance(methods, Mapping) else {name: {} for name in methods}
    )
    _check(metrics, fill, chosen, preprocess, network)
    explainers = {
        name: cam(name, network, layers, batch_size=batch_size, precision=precision, seed=seed, **options)
        for name, options in chosen.items()
    }
    config = {
        "model": network.name, "model_fingerprint": network.fingerprint, "store_fingerprint": store.fingerprint,
        "layers": list(layers), "methods": {name: dict(options) for name, options in chosen.items()},
        "metrics": list(metrics), "fill": fill, "steps": steps, "limit": limit, "precision": precision, "seed": seed,
        "preprocess": preprocess.as_dict(),
    }  # fmt: skip
    found = _start(store, config, columns_of(metrics), {"versions": versions(), **(sources or {})}, limit, out)
    runner = _Evaluator(network, store, preprocess, found, metrics, steps, batch_size, out)
    runner.fill = torch.zeros(len(preprocess.mean)) if fill == "mean" else _black(preprocess)
    return runner.run(explainers, progress)


def _check(
    metrics: Sequence[str], fill: str, methods: Mapping[str, Any], preprocess: Preprocess, network: Network
) -> None:
    unknown = [name for name in metrics if name not in GROUPS]
    if unknown or not metrics:
        raise DataError(f"metrics {unknown[0] if unknown else 'none'!r} given; expected some of {', '.join(GROUPS)}")
    if fill not in FILLS:
        raise DataError(f"fill {fill!r} given; expected {' or '.join(FILLS)}")
    if not methods:
        raise DataError("no method given; name at least one")
    if preprocess.shape != network.input_shape:
        raise CaptureError(f"preprocessing gives images of {preprocess.shape}; the network takes {network.input_shape}")


def _black(preprocess: Preprocess) -> Tensor:
    return -torch.tensor(preprocess.mean) / torch.tensor(preprocess.std)


def _start(
    store: ImageStore, config: dict[str, Any], columns: tuple[str, ...], sources: dict[str, Any], limit: int | None,
    out: Pathlike | None,
) -> Evaluation:  # fmt: skip
    """Return an evaluation with nothing done, or the one that the file holds."""
    count = min(len(store), limit or len(store))
    values = {name: np.full((count, len(columns)), np.nan) for name in config["methods"]}
    predicted, probability = np.full(count, -1, np.int64), np.zeros(count)
    labels, names = store.labels[:count], tuple(store.names[:count])
    empty = Evaluation(config, sources, values, columns, predicted, labels, probability, names, tuple(store.classes))
    if out is None:
        return empty
    if not pathlib.Path(out).exists():
        empty.save(out)  # a place that cannot be written to is found out now
        return empty
    kept_file = Result.load(out, KIND, SCHEMA)
    require_same(out, kept_file.config, config, "remove it or choose another output")
    arrays = kept_file.arrays
    done = {name: arrays[f"values/{name}"] for name in config["methods"]}
    return replace(empty, values=done, predicted=arrays["predicted"], probability=arrays["probability"])


class _Evaluator:
    fill: Tensor

    def __init__(
        self,
        network: Network,
        store: ImageStore,
        preprocess: Preprocess,
        found: Evaluation,
        metrics: Sequence[str],
        steps: int,
        batch_size: int,
        out: Pathlike | None,
        chunk: int = 8,
    ) -> None:
        self.network, self.store, self.preprocess, self.found = network, store, preprocess, found
        self.metrics, self.steps, self.batch_size, self.out, self.chunk = metrics, steps, batch_size, out, chunk

    def run(self, explainers: Mapping[str, Explainer], progress: bool) -> Evaluation:
        """Measure what is not measured yet, a few images at a time, and commit after each of them."""
        found = self.found
        left = {name: np.flatnonzero(np.isnan(found.values[name][:, -1])) for name in explainers}
        bar = tqdm(total=sum(map(len, left.values())), unit="image", desc="evaluating", disable=not progress)
        with bar:
            for name, explainer in explainers.items():
                for start in range(0, len(left[name]), self.chunk):
                    rows = left[name][start : start + self.chunk]
                    found.values[name][rows] = self._measured(explainer, rows)
                    if self.out is not None:
                        found.save(self.out)
                    bar.update(len(rows))
        return found

    def _measured(self, explainer: Explainer, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        pictures = np.stack([self.preprocess.picture(self.store[int(i)][0]) for i in rows])
        x = self.preprocess.tensor(pictures, self.network.device, self.network.dtype)
        scores = self._scores(x)
        best = scores.max(1)
        self.found.predicted[rows] = best.indices.cpu().numpy()
        self.found.probability[rows] = best.values.double().cpu().numpy()
        begin = time.perf_counter()
        maps = explainer(x, best.indices)
        seconds = (time.perf_counter() - begin) / len(rows)
        forward = (explainer.passes["forward"] + explainer.passes["tail"]) / len(rows)
        measured = self._metrics(explainer, x, maps, best.indices)
        measured |= {"forward_passes": torch.full((len(rows),), forward), "seconds": torch.full((len(rows),), seconds)}
        return np.stack([measured[name].double().cpu().numpy() for name in self.found.columns], 1)

    def _scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.softmax(self.network(x).float(), 1)

    def _metrics(self, explainer: Explainer, x: Tensor, maps: Tensor, classes: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        fill, batch = self.fill.to(x), self.batch_size
        if "faithfulness" in self.metrics:
            for share in SHARES:
                one = faithfulness(self._scores, x, maps, classes, share / 100, fill, batch)
                found |= {f"average_drop_{share}": one.drop, f"increase_{share}": one.increase}
                found[f"average_gain_{share}"] = one.gain
        if "adcc" in self.metrics:
            drop = faithfulness(self._scores, x, maps, classes, 1.0, 0.0, batch).drop  # ADCC masks to the mean
            again = explainer(x * maps[:, None], classes)
            found |= {"complexity": complexity(maps), "coherency": coherency(maps, again)}
            found["adcc"] = adcc(drop, found["coherency"], found["complexity"])
        if "curves" in self.metrics:
            found["deletion"] = deletion(self._scores, x, maps, classes, self.steps, fill, batch).auc
            found["insertion"] = insertion(self._scores, x, maps, classes, self.steps, None, batch).auc
        if "road" in self.metrics:
            found["road_combined"] = road_combined(self._scores, x, maps, classes).score
        return found
