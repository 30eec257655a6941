"""Evaluation on a Ray cluster: every shard measures its images into a file of its own, and the files are joined."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deconvviz.errors import DataError
from deconvviz.results.results import require_same
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import ShardedJob, joined_on_ray
from deconvviz.studies.evaluation.measure import TOGETHER, evaluate
from deconvviz.studies.evaluation.of_all_images import set_values_of_all
from deconvviz.studies.evaluation.options import EvaluationKeywords, EvaluationOptions
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.types import Pathlike


@dataclass(frozen=True, kw_only=True)
class EvaluationJob(ShardedJob):
    """What the nodes have to know to evaluate a shard.

    Attributes:
        methods: names of methods with their options.
        layers: names of the layers that the methods explain.
        limit: measure only so many images; None for all.
        options: of `EvaluationOptions`, as keyword arguments.
    """

    methods: Mapping[str, Mapping[str, Any]]
    layers: tuple[str, ...]
    limit: int | None
    options: EvaluationKeywords

    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Evaluate a shard; see `ShardedJob.run`."""
        options: EvaluationKeywords = {**self.options, "shard": shard, "workers": cpus, "progress": False}
        about: dict[str, Any] = {"limit": self.limit, "sources": self.sources, "preprocess": self.model.preprocess}
        evaluate(self.model.network(), self.images.open(), self.methods, self.layers, path, **about, **options)

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
    path, settings = pathlib.Path(out), EvaluationOptions(**job.options)
    if path.exists():
        raise DataError(f"{path} was begun without Ray; finish it with the same command without --ray")
    measured = min(job.limit or count, count)
    with settings.bar("image", measured * len(job.methods), "evaluating on Ray") as bar:
        most = math.ceil(measured / TOGETHER)
        return joined_on_ray(job, path, cluster, bar, most, lambda files: merge_evaluations(files, path))


def merge_evaluations(paths: Sequence[Pathlike], out: Pathlike) -> Evaluation:
    """Join the evaluations of shards: each image is taken from the file that measured it.

    Args:
        paths: files of one job, which differ in the images that were measured.
        out: path of the joined file.

    Raises:
        MismatchError: the files are of different jobs.
        DataError: a file cannot be read, or `out` cannot be written.
    """
    merged = Evaluation.load(paths[0])
    for path in paths[1:]:
        other = Evaluation.load(path)
        require_same(path, other.config, merged.config, "merge shards of one job only")
        known = other.explained >= 0
        merged.explained[known], merged.probability[known] = other.explained[known], other.probability[known]
        for method in merged.values:
            _take_over(merged, other, method, other.measured(method))
    set_values_of_all(merged)
    merged.save(out)
    return merged


def _take_over(merged: Evaluation, other: Evaluation, method: str, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """Copy what another file knows of some images, by one method."""
    merged.values[method][rows] = other.values[method][rows]
    for ours, theirs in ((merged.curves, other.curves), (merged.fits, other.fits), (merged.crops, other.crops)):
        for name in ours:
            if name == method or name.startswith(f"{method}/"):
                ours[name][rows] = theirs[name][rows]
    illustrated = np.flatnonzero(rows[: len(merged.pictures)])
    merged.pictures[illustrated] = other.pictures[illustrated]
    merged.maps[method][illustrated] = other.maps[method][illustrated]
