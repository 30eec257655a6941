"""Jobs in shards on a Ray cluster: Ray places the shards, and gives those of a node that died to another one.

A job says how one shard is done, and how many images its file holds. The files are in a folder that every node sees. A
shard that is begun again resumes from its file. Ray schedules, retries and sends files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import secrets
import shutil
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from deconvviz.data.shards import shard_path, shards_in, shards_of
from deconvviz.errors import DataError, DeconvvizError
from deconvviz.results.files import one_line
from deconvviz.run.cluster import RayOptions, require_address, require_ray
from deconvviz.run.shipping import RemoteImages, RemoteModel
from deconvviz.version import __version__

if TYPE_CHECKING:
    from tqdm import tqdm
    from typing_extensions import Self

Joined = TypeVar("Joined")
MARK = "shared-with-all-nodes"
RETRIES = 100  # of a shard whose node or process died; errors of the job itself are not retried
KNOCK = 10.0  # seconds that a cluster has for its first answer
PAUSE = 1.0  # seconds between two looks at what is committed
SHARDS_PER_SLOT = 2  # so that a fast node can take over what a slow one would have done


@dataclass(frozen=True, kw_only=True)
class ShardedJob(ABC):
    """A job that Ray can do in shards. It travels to the nodes, so that it holds paths and numbers, no open files.

    Attributes:
        model: loaded and captured by each node.
        images: opened by each node.
        sources: where model and images came from, for the files; JSON values.
    """

    model: RemoteModel
    images: RemoteImages
    sources: Mapping[str, Any]

    def shipped(self, put: Callable[[Any], Any]) -> Self:
        """Return the job with the files that it needs, each put in the object store by `put`."""
        return replace(self, model=self.model.shipped(put), images=self.images.shipped(put))

    @abstractmethod
    def run(self, shard: tuple[int, int], path: pathlib.Path, cpus: int) -> None:
        """Do shard (i, n) and commit it to a file along the way; a file that is there already is gone on with."""

    @abstractmethod
    def done(self, path: pathlib.Path) -> int:
        """Return how many images the file of a shard holds."""


def joined_on_ray(
    job: ShardedJob,
    out: pathlib.Path,
    cluster: RayOptions,
    bar: tqdm[Any],
    most: int,
    join: Callable[[list[pathlib.Path]], Joined],
) -> Joined:
    """Do every shard of a job on a Ray cluster, in the folder `OUT.shards`, and join their files.

    Args:
        job: what is done.
        out: path of the joined file, which `join` writes.
        cluster: where the job runs.
        bar: shows the committed images of all shards.
        most: the largest number of shards, such as the number of images.
        join: makes the result of the shards' files, in their order; the folder is removed after it.

    Raises:
        DeconvvizError: as `run_on_ray` does, and what `join` raises.
    """
    folder = pathlib.Path(f"{out}.shards")
    result = join(run_on_ray(job, folder, cluster, bar, lambda slots: _shard_files(folder, cluster, slots, most)))
    shutil.rmtree(folder, ignore_errors=True)
    return result


def run_on_ray(
    job: ShardedJob,
    folder: pathlib.Path,
    cluster: RayOptions,
    bar: tqdm[Any],
    divide: Callable[[int], list[pathlib.Path]],
) -> list[pathlib.Path]:
    """Do every shard of a job on a Ray cluster, and return their files in order.

    Shards that stand in the folder already are gone on with. A node that dies costs what its shards had not committed.

    Args:
        job: what is done.
        folder: where the shards' files are; every node has to see it at the same path. It is made.
        cluster: where it runs.
        bar: shows the committed images of all shards.
        divide: number of shards that can run at the same time -> the shards' files in the folder.

    Raises:
        DataError: Ray is not installed or the cluster does not answer, a node does not see the folder or a file, or
            the folder holds another number of shards.
        DeconvvizError: what the job raised.
    """
    with connected(cluster.address) as ray:
        gpus = _gpus(ray.cluster_resources(), cluster)
        slots = _slots(ray.cluster_resources(), cluster.cpus, gpus)
        _make(folder)
        paths = divide(slots)
        (folder / MARK).write_text(token := secrets.token_hex(8))
        task = ray.remote(num_cpus=cluster.cpus, num_gpus=gpus, max_retries=RETRIES)(_do_shard)
        job_there = job.shipped(ray.put) if cluster.ship else job
        # Put there once for all shards. Paths are absolute: a node works in another folder.
        sent = ray.put((job_there, folder.absolute(), token, __version__))
        waiting = [
            task.remote(sent, (index, len(paths)), path.absolute(), cluster.cpus) for index, path in enumerate(paths)
        ]
        committed = _Committed(job, paths)
        try:
            while waiting:
                finished, waiting = ray.wait(waiting, timeout=PAUSE)
                for each in finished:
                    _raise_what_it_raised(ray, each)
                bar.update(committed.count() - bar.n)
        finally:
            for each in waiting:
                ray.cancel(each, force=True)
            (folder / MARK).unlink(missing_ok=True)
    return paths


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, or begin one on this machine, and give the module `ray`.

    Raises:
        DataError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's default from its next version on
    require_ray()
    require_address(address)
    import ray

    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    settings |= {"include_dashboard": False} if address == "auto" else {"address": address}
    running, on_termination = ray.is_initialized(), signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        if not running:
            ray.init(**settings)
    except Exception as error:  # Ray raises many kinds for an address that is wrong, or does not answer
        raise DataError(
            f"no Ray cluster answers at {address}: {one_line(error)}; begin one with `ray start --head`, or leave the "
            "address out"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_termination)  # Ray sets one of its own, which says nothing
    try:
        yield ray
    finally:
        if not running:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where no program listens at an address, host:port; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK).close()


def _gpus(resources: Mapping[str, float], cluster: RayOptions) -> float:
    """Return how many GPUs a shard gets; raises DataError where the cluster has not enough for one."""
    gpus = (1.0 if resources.get("GPU") else 0.0) if cluster.gpus is None else cluster.gpus
    for kind, wanted in (("CPU", cluster.cpus), ("GPU", gpus)):
        if wanted > resources.get(kind, 0):
            raise DataError(
                f"{wanted:g} {kind}s wanted for each shard; the cluster has {resources.get(kind, 0):g}: ask for fewer"
            )
    return gpus


def _slots(resources: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Return how many shards can run at the same time.

    >>> _slots({"CPU": 32.0, "GPU": 4.0}, cpus=1, gpus=0.5)
    8
    """
    counts = [resources.get("CPU", 0) // cpus]
    counts += [resources.get("GPU", 0) // gpus] if gpus else []
    return max(int(min(counts)), 1)


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {one_line(error)}; choose another OUT") from error


def _shard_files(folder: pathlib.Path, cluster: RayOptions, slots: int, most: int) -> list[pathlib.Path]:
    """Return the paths of the shards' files; those of an unfinished run decide how many there are."""
    begun, wanted = {shards_of(path) for path in shards_in(folder)}, cluster.shards
    if len(begun) > 1 or (begun and wanted not in (None, *begun)):
        listed = " and ".join(map(str, sorted(begun)))
        raise DataError(
            f"{folder} holds shards of a division into {listed}, {wanted} wanted; go on with --ray-shards "
            f"{min(begun)}, or remove the folder"
        )
    count = min(begun) if begun else min(wanted or slots * SHARDS_PER_SLOT, max(most, 1))
    return [shard_path(folder, index, count) for index in range(count)]


class _Committed:
    """Counts the images that the files of all shards hold; a file is read where it was written to."""

    def __init__(self, job: ShardedJob, paths: list[pathlib.Path]) -> None:
        self._job = job
        self._known: dict[pathlib.Path, tuple[int, int]] = dict.fromkeys(paths, (0, 0))

    def count(self) -> int:
        for path, (written, _) in self._known.items():
            with contextlib.suppress(OSError, DataError):  # it may be replaced just now
                now = path.stat().st_mtime_ns
                if now != written:
                    self._known[path] = (now, self._job.done(path))
        return sum(images for _, images in self._known.values())


def _do_shard(
    sent: tuple[ShardedJob, pathlib.Path, str, str], shard: tuple[int, int], path: pathlib.Path, cpus: int
) -> None:
    """Do a shard on a node; Ray calls it."""
    job, folder, token, version = sent
    mark, node = folder / MARK, socket.gethostname()
    if version != __version__:
        raise DataError(f"node {node} has deconvviz {__version__}, this one {version}; install the same on every node")
    if not mark.is_file() or mark.read_text() != token:
        raise DataError(f"node {node} does not see {folder}; put OUT on storage that every node has at the same path")
    job.run(shard, path, cpus)


def _raise_what_it_raised(ray: Any, finished: Any) -> None:
    """Raise what a shard raised, in this process's words; a shard that was lost too often is a DataError."""
    try:
        ray.get(finished)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, DeconvvizError):
            raise cause from error
        raise
    except ray.exceptions.RayError as error:
        raise DataError(
            f"a shard was lost {RETRIES + 1} times, the last time by {one_line(error)}; see whether its node has "
            "enough memory. What is done is kept: the same command goes on"
        ) from error
