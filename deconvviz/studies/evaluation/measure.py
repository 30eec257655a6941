"""Methods by metrics over images: how far each method's maps tell what the network relies on."""

from __future__ import annotations

import contextlib
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.cam.explain import ConstantMapWarning, Explainer, cam
from deconvviz.cam.learned.base import LearnedExplainer
from deconvviz.cam.learned.files import digest
from deconvviz.cam.registry import METHODS
from deconvviz.choices import Precision
from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.truth import OBJECT, Truth
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.network import Network
from deconvviz.metrics.localisation import THRESHOLDS
from deconvviz.results.files import Pathlike
from deconvviz.results.results import require_same, versions
from deconvviz.studies.evaluation.measures import GROUPS, Measured, Measures, columns_of
from deconvviz.studies.evaluation.result import COSTS, Evaluation

FILLS = ("mean", "black")
EXPLAINED = ("top", "label")
SHOWN = 4  # images whose maps are kept for the figure
CHUNK = 8  # images measured together
PAUSE = 5.0  # seconds between two commits, which write the whole file


def evaluate(
    network: Network,
    images: Images,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str],
    layers: Sequence[str] = (),
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    metrics: Sequence[str] = GROUPS[:3],
    truth: Truth | None = None,
    explain: str = "top",
    outputs: NDArray[np.int64] | None = None,
    fill: str = "mean",
    steps: int = 28,
    limit: int | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    seed: int = 0,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Explain images by each method, and measure the maps.

    With `out`, what is done is committed there every few seconds; the same call again goes on.

    Args:
        images: a store, a folder of classes, scenes.
        methods: names, or name -> options; of trained ones "explainer", their file.
        layers: for the methods that explain one; a trained one has its own.
        metrics: groups of them: "faithfulness" (drop, increase, gain at 100, 50 and 15 % of the pixels), "adcc",
            "curves" (deletion and insertion), "road", "localisation" (pointing game, energy, IoU, MaxBoxAcc), which
            needs `truth`; images without a known object count for the others only.
        explain: each image's own "top" class, or the class of its "label", for which `outputs` is needed: int64
            [classes], the output that stands for each class.
        fill: what masked pixels become, the "mean" colour or "black".
        steps: of the curves.

    Raises:
        DataError: an unknown group, fill or class. MismatchError: `out` belongs to another evaluation.
        CaptureError: the images do not fit the network.
    """
    chosen: dict[str, Mapping[str, Any]] = (
        dict(methods) if isinstance(methods, Mapping) else {name: {} for name in methods}
    )
    _check(metrics, fill, explain, chosen, preprocess, network, truth)
    count = min(len(images), limit or len(images))
    classes = _classes(images, outputs, count) if explain == "label" else None
    explainers = {
        name: cam(
            name,
            network,
            layers if METHODS[name].needs != "trained" else (),
            batch_size=batch_size,
            precision=precision,
            seed=seed,
            **options,
        )
        for name, options in chosen.items()
    }
    described = {name: _described(explainers[name], options) for name, options in chosen.items()}
    config = {
        "model": network.name,
        "model_fingerprint": network.fingerprint,
        "store_fingerprint": images.fingerprint,
        "layers": list(layers),
        "methods": described,
        "metrics": list(metrics),
        "fill": fill,
        "steps": steps,
        "limit": limit,
        "precision": precision,
        "seed": seed,
        "preprocess": preprocess.as_dict(),
        "explain": explain,
        "truth": None if truth is None else truth.fingerprint,
        "outputs": None if classes is None else [int(c) for c in np.unique(classes)],
    }
    found = _start(images, config, {"versions": versions(), **(sources or {})}, count, preprocess.shape[1:], out)
    black = preprocess.level(0)
    scores = _Scores(network)
    measures = Measures(metrics, scores, torch.zeros_like(black) if fill == "mean" else black, steps, batch_size)
    runner = _Evaluator(network, images, preprocess, found, measures, truth, classes, scores)
    return runner.run(explainers, out, progress)


def _described(explainer: Explainer, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options as JSON has them: of a trained explainer, what tells it from others."""
    trained = explainer.options.get("explainer")
    return {**options, "explainer": digest(trained)} if isinstance(trained, LearnedExplainer) else dict(options)


def _check(
    metrics: Sequence[str],
    fill: str,
    explain: str,
    methods: Mapping[str, Any],
    preprocess: Preprocess,
    network: Network,
    truth: Truth | None,
) -> None:
    columns_of(metrics)
    for what, given, known in (("fill", fill, FILLS), ("explain", explain, EXPLAINED)):
        if given not in known:
            raise DataError(f"{what} {given!r} given; expected {' or '.join(known)}")
    if not methods:
        raise DataError("no method given; name at least one")
    if preprocess.shape != network.input_shape:
        raise CaptureError(f"preprocessing gives images of {preprocess.shape}; the network takes {network.input_shape}")
    if "localisation" in metrics and truth is None:
        raise DataError("localisation needs to know where the object is: give boxes or masks (--truth), or use scenes")


def _classes(images: Images, outputs: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
    labels = images.labels[:count]
    if outputs is None or (labels < 0).any():
        raise DataError(
            "to explain the label's class every image needs one that the network has; explain the top class"
        )
    found: NDArray[np.int64] = outputs[labels]
    return found


def _start(
    images: Images,
    config: dict[str, Any],
    sources: dict[str, Any],
    count: int,
    size: tuple[int, ...],
    out: Pathlike | None,
) -> Evaluation:
    """Return an evaluation with nothing done, or the one that the file holds."""
    columns, names, shown = (*columns_of(config["metrics"]), *COSTS), list(config["methods"]), min(count, SHOWN)

    def blank(*shape: int) -> NDArray[np.float64]:
        return np.full((count, *shape), np.nan)

    walks = ("deletion", "insertion") if "curves" in config["metrics"] else ()
    kinds = ("largest", "best") if "localisation" in config["metrics"] else ()
    empty = Evaluation(
        config,
        sources,
        {name: blank(len(columns)) for name in names},
        columns,
        np.full(count, -1, np.int64),
        images.labels[:count],
        np.zeros(count),
        tuple(images.names[:count]),
        tuple(images.classes),
        {f"{name}/{walk}": blank(config["steps"] + 1) for name in names for walk in walks},
        {f"{name}/{kind}": blank(len(THRESHOLDS)).astype(np.float32) for name in names for kind in kinds},
        np.zeros((shown, *size, 3), np.uint8),
        {name: np.zeros((shown, *size), np.float32) for name in names},
    )
    if out is None:
        return empty
    if not pathlib.Path(out).exists():
        empty.save(out)  # a place that cannot be written to is found out now
        return empty
    found = Evaluation.load(out)
    require_same(out, found.config, config, "remove it or choose another output")
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Constant maps are counted, not warned of: an image's number within a batch would mislead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantMapWarning)
        yield


class _Scores:
    """The network's probabilities, by its faster form where that is as exact."""

    def __init__(self, network: Network) -> None:
        self.network = network.fast() if network.dtype == torch.float32 else network

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.softmax(self.network(x).float(), 1)


class _Evaluator:
    def __init__(
        self,
        network: Network,
        images: Images,
        preprocess: Preprocess,
        found: Evaluation,
        measures: Measures,
        truth: Truth | None,
        classes: NDArray[np.int64] | None,
        scores: _Scores,
    ) -> None:
        self.network, self.images, self.preprocess, self.found = network, images, preprocess, found
        self.measures, self.truth, self.classes, self.scores = measures, truth, classes, scores

    def run(self, explainers: Mapping[str, Explainer], out: Pathlike | None, progress: bool) -> Evaluation:
        """Measure what is not measured yet, a few images at a time, and commit every few seconds."""
        found = self.found
        left = {name: np.flatnonzero(np.isnan(found.values[name][:, -1])) for name in explainers}
        saved, cost = time.monotonic(), 0.0
        try:
            with tqdm(total=sum(map(len, left.values())), unit="image", desc="evaluating", disable=not progress) as bar:
                for name, explainer in explainers.items():
                    for start in range(0, len(left[name]), CHUNK):
                        rows = left[name][start : start + CHUNK]
                        self._measure(name, explainer, rows)
                        bar.update(len(rows))
                        if out is not None and time.monotonic() - saved > max(PAUSE, 20 * cost):
                            begin = time.monotonic()
                            found.save(out)
                            saved = time.monotonic()
                            cost = saved - begin
        finally:  # an interruption keeps what is done
            for name in explainers:
                found.fit_boxes(name)
            if out is not None:
                found.save(out)
        return found

    def _measure(self, name: str, explainer: Explainer, rows: NDArray[np.int64]) -> None:
        found = self.found
        pictures = np.stack([self.preprocess.picture(self.images[int(i)][0]) for i in rows])
        x = self.preprocess.tensor(pictures, self.network.device, self.network.dtype)
        scores = self.scores(x)
        classes = scores.argmax(1) if self.classes is None else torch.from_numpy(self.classes[rows]).to(scores.device)
        before = scores.gather(1, classes[:, None])[:, 0]
        begin = time.perf_counter()
        with _quiet():
            maps = explainer(x, classes.tolist())
        seconds = (time.perf_counter() - begin) / len(rows)
        passes = explainer.passes
        forward, backward = passes["forward"] + passes["tail"], passes["backward"] + passes["tail backward"]
        found.explained[rows], found.probability[rows] = classes.cpu().numpy(), before.double().cpu().numpy()
        masks, known = self._masks(rows)
        with _quiet():
            self._keep(name, rows, self.measures.measured(explainer, x, maps, classes, before))
        if len(known):
            at = torch.from_numpy(known)
            self._keep(name, rows[known], self.measures.located(maps[at.to(maps.device)], masks))
        found.values[name][rows, -4] = (maps.amax((1, 2)) == 0).double().cpu().numpy()
        found.values[name][rows, -3:] = forward / len(rows), backward / len(rows), seconds
        for place, row in enumerate(rows):
            if row < len(found.pictures):
                found.pictures[row] = pictures[place]
                found.maps[name][row] = maps[place].float().cpu().numpy()

    def _keep(self, name: str, rows: NDArray[np.int64], measured: Measured) -> None:
        for column, values in measured.columns.items():
            self.found.values[name][rows, self.found.columns.index(column)] = values.double().cpu().numpy()
        for walk, curve in measured.curves.items():
            self.found.curves[f"{name}/{walk}"][rows] = curve
        for kind, fits in measured.fits.items():
            self.found.fits[f"{name}/{kind}"][rows] = fits

    def _masks(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return the objects' masks as the network sees them, and which of the rows have one."""
        masks, known = [], []
        if self.truth is not None and "localisation" in self.measures.groups:
            for place, row in enumerate(rows):
                parts = self.truth.masks(int(row))
                whole = parts.get(OBJECT, np.logical_or.reduce(list(parts.values())) if parts else None)
                mask = None if whole is None else self.preprocess.mask(whole)
                if mask is not None and mask.any():
                    masks.append(mask)
                    known.append(place)
        return np.array(masks, bool), np.array(known, np.int64)
