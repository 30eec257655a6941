"""Evaluation on a Ray cluster: every shard measures its images into a file of its own, and the files are joined."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.results.results import require_same
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import run_on_ray
from deconvviz.run.shipping import RemoteImages, RemoteModel
from deconvviz.studies.evaluation.measure import evaluate, set_box_accuracies
from deconvviz.studies.evaluation.options import EvaluationKeywords, EvaluationOptions
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.types import Pathlike


@dataclass(frozen=True)
class EvaluationJob:
    """What the nodes have to know to evaluate a shard.

    Attributes:
        model: loaded and captured by each node.
        images: opened by each node.
        methods: names of methods with their options.
        layers: names of the layers that the methods explain.
        preprocess: arguments of `Preprocess`.
        limit: measure only so many images; None for all.
        sources: where model and images came from, for the file.
        options: of `EvaluationOptions`, as keyword arguments.
    """

    model: RemoteModel
    images: RemoteImages
    methods: Mapping[str, Mapping[str, Any]]
    layers: tuple[str, ...]
    preprocess: Mapping[str, Any]
    limit: int | None
    sources: Mapping[str, Any]
    options: EvaluationKeywords

    def shipped(self, put: Callable[[Any], Any]) -> EvaluationJob:
        """Return the job with its files; see `ShardedJob.shipped`."""
        return replace(self, model=self.model.shipped(put), images=self.images.shipped(put))

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Evaluate a shard; see `ShardedJob.run`."""
        options: EvaluationKeywords = {**self.options, "shard": shard, "workers": cpus, "progress": False}
        evaluate(
            self.model.network(),
            self.images.open(),
            self.methods,
            self.layers,
            path,
            preprocess=Preprocess.from_dict(dict(self.preprocess)),
            limit=self.limit,
            sources=self.sources,
            **options,
        )

    def done(self, path: pathlib.Path) -> int:
        """Return how many images the methods have explained in a file; an image counts once for each method."""
        evaluation = Evaluation.load(path)
        return sum(int(evaluation.measured(method).sum()) for method in evaluation.values)


def evaluate_on_ray(job: EvaluationJob, count: int, out: Pathlike, cluster: RayOptions) -> Evaluation:
    """Measure explanation methods on a Ray cluster; the values are those that `evaluate` would have measured here.

    Unfinished shards are in the folder `OUT.shards`; calling again with the same arguments goes on with them.

    Args:
        job: what is measured of what.
        count: number of images, of which `job.limit` are measured.
        out: path of the file, .h5, on storage that every node sees.
        cluster: where, and in how many shards.

    Raises:
        DataError: `cluster` cannot be used, or a file cannot be read or written.
        MismatchError: a shard of an earlier run is of another job.
        DeconvvizError: what `evaluate` raises.
    """
    path, folder = pathlib.Path(out), pathlib.Path(f"{out}.shards")
    if path.exists():
        raise DataError(f"{path} was begun without Ray; finish it with the same command without --ray")
    settings = EvaluationOptions(**job.options)
    with settings.bar("image", min(job.limit or count, count) * len(job.methods), "evaluating on Ray") as bar:
        files = run_on_ray(job, folder, cluster, bar)
    evaluation = merge_evaluations(files)
    evaluation.save(path)
    shutil.rmtree(folder, ignore_errors=True)
    return evaluation


def merge_evaluations(paths: Sequence[Pathlike]) -> Evaluation:
    """Join the evaluations of shards: each image is taken from the file that measured it.

    Args:
        paths: files of one job, which differ in the images that were measured.

    Raises:
        MismatchError: the files are of different jobs.
        DataError: a file cannot be read.
    """
    merged = Evaluation.load(paths[0])
    for path in paths[1:]:
        other = Evaluation.load(path)
        require_same(path, other.config, merged.config, "merge shards of one job only")
        known = other.explained >= 0
        merged.explained[known], merged.probability[known] = other.explained[known], other.probability[known]
        for method in merged.values:
            _take_over(merged, other, method, other.measured(method))
    set_box_accuracies(merged)
    return merged


def _take_over(merged: Evaluation, other: Evaluation, method: str, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """Copy what another file knows of some images, by one method."""
    merged.values[method][rows] = other.values[method][rows]
    for ours, theirs in ((merged.curves, other.curves), (merged.fits, other.fits)):
        for name in ours:
            if name.startswith(f"{method}/"):
                ours[name][rows] = theirs[name][rows]
    illustrated = np.flatnonzero(rows[: len(merged.pictures)])
    merged.pictures[illustrated] = other.pictures[illustrated]
    merged.maps[method][illustrated] = other.maps[method][illustrated]
