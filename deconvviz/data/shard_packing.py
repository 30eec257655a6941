"""Packing into shards: each is a file that is written as a whole, so that the same command goes on after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Generator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.data.entries import EntryReader, write_entries
from deconvviz.data.images import ImageStore
from deconvviz.data.packed_labels import several_of
from deconvviz.data.parallel import in_order
from deconvviz.data.processes import Tell, in_processes
from deconvviz.data.shards import plan_of, refuse_mixture, shard_path, shards_in
from deconvviz.data.sources import DatasetEntries, Entry, Source
from deconvviz.data.store_file import StoreFile
from deconvviz.errors import DataError
from deconvviz.progress import progress_bar
from deconvviz.results.files import atomic, note_committed, one_line

if TYPE_CHECKING:
    from hashlib import _Hash

PLAN = 1  # goes up where shards that were packed by an older version would not be what this one packs


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What all shards of a store have in common.

    Attributes:
        folder: that they are written to.
        count: number of shards.
        reader: reads an image.
        classes: the class names.
        configuration: what each shard says about how it was made.
        plan: digest of what is packed; see `plan_for`.
        label_names: the names of several labels an image; None where images have one class.
    """

    folder: pathlib.Path
    count: int
    reader: EntryReader
    classes: list[str]
    configuration: dict[str, Any]
    plan: str
    label_names: tuple[str, ...] | None = None

    def path(self, index: int) -> pathlib.Path:
        """Return the path of a shard."""
        return shard_path(self.folder, index, self.count)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard to be written.

    Attributes:
        job: what it has in common with the others.
        index: of the shard, from 0.
        entries: the images that it holds.
        threads: number of threads that read images, beside the one that writes; 0 reads them in that one.
    """

    job: ShardJob
    index: int
    entries: Sequence[Entry]
    threads: int


def write_shard(shard: Shard, tell: Tell) -> None:
    """Write a shard; it is there as a whole, or not at all. `tell` is called with 1 after each image."""
    job = shard.job
    # One thread where processes read in parallel: then it is this one
    reading = (
        in_order(job.reader, shard.entries, shard.threads)
        if shard.threads
        else (job.reader(entry) for entry in shard.entries)
    )
    configuration = {**job.configuration, "shard": {"index": shard.index, "of": job.count, "plan": job.plan}}
    with atomic(job.path(shard.index)) as temporary, contextlib.closing(reading) as results:
        write_entries(temporary, results, job.reader, job.classes, configuration, tell, job.label_names)


def plan_for(images: Source, reader: EntryReader, count: int) -> str:
    """Return a digest of all that decides what shards hold: SHA-256 in hex.

    It is made of the settings, the classes, the names and labels of all images and, of files, their sizes in bytes and
    when they were changed; of a dataset, its type and its fingerprint where it has one. Of images with several labels,
    which they have follows.
    """
    digest = _plan_of_images(images, reader, count)
    if images.label_names is not None:  # without several labels, a plan is what it was before there were any
        digest.update(json.dumps([images.label_names, several_of(images)]).encode())
    return digest.hexdigest()


def _plan_of_images(images: Source, reader: EntryReader, count: int) -> _Hash:
    """Return the digest of all but several labels an image."""
    digest = sha256(json.dumps([PLAN, count, reader.raw, reader.size, images.classes, images.count]).encode())
    if isinstance(images.entries, DatasetEntries):
        digest.update(images.entries.identity().encode())
        return digest
    names, numbers = [], np.empty((images.count, 4), "<i8")
    for place, entry in enumerate(images.entries):
        name, size, changed = entry.name.encode(), -1, -1
        with contextlib.suppress(OSError, ValueError):  # a file that is not there is skipped when it is read
            status = entry.content.stat()
            size, changed = status.st_size, status.st_mtime_ns
        numbers[place] = len(name), entry.label, size, changed
        names.append(name)
    digest.update(numbers.data)
    digest.update(b"".join(names))
    return digest


def pack_shards(job: ShardJob, images: Source, workers: int, progress: bool, overwrite: bool) -> tuple[ImageStore, int]:
    """Write the shards that are not there yet.

    Args:
        job: what they have in common.
        images: the images.
        workers: number of processes, where images are files; otherwise number of threads.
        progress: whether a progress bar is shown.
        overwrite: whether shards of other images or settings are replaced.

    Returns:
        The store, and how many of its shards were there before. Where no image could be read, its new files are gone.

    Raises:
        DataError: the folder holds other things, or shards of something else; raw images are of several kinds; a shard
            cannot be written.
    """
    finished = _finished(job, overwrite)
    is_new = not job.folder.exists()
    try:
        job.folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {job.folder}: {one_line(error)}; choose another place") from error
    bounds = [index * images.count // job.count for index in range(job.count + 1)]
    left = [index for index in range(job.count) if index not in finished]
    done = images.count - sum(bounds[index + 1] - bounds[index] for index in left)
    bar = progress_bar(total=images.count, initial=done, unit="image", disable=not progress)
    new_shards = _NewShards(job, finished)
    try:
        with bar, contextlib.closing(_written(job, images, bounds, left, workers, bar.update)) as written:
            for index in written:
                new_shards.check(index)
        store = ImageStore.open(job.folder)
        if not len(store):
            new_shards.withdraw()
        return store, len(finished)
    except MixtureError:
        new_shards.withdraw()
        raise
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty, which is as it should be
                job.folder.rmdir()


class MixtureError(DataError):
    """Raw images are of several kinds."""


class _NewShards:
    """The shards of a job as they come: all must hold images of one kind."""

    def __init__(self, job: ShardJob, finished: dict[int, StoreFile]) -> None:
        self._job, self._indices = job, list[int]()
        self._first = next((file for file in finished.values() if len(file)), None)

    def check(self, index: int) -> None:
        """Take note of a shard that was written; raises MixtureError where it does not fit the first one."""
        path = self._job.path(index)
        self._indices.append(index)
        note_committed(path)
        if not self._job.reader.raw:
            return
        file = StoreFile(path)
        self._first = file if self._first is None and len(file) else self._first
        try:
            refuse_mixture([*([] if self._first is None else [self._first]), file])
        except DataError as error:
            raise MixtureError(str(error)) from None

    def withdraw(self) -> None:
        """Remove the shards that were written."""
        for index in self._indices:
            with contextlib.suppress(OSError):
                self._job.path(index).unlink()


def _written(
    job: ShardJob, images: Source, bounds: list[int], left: list[int], workers: int, tell: Tell
) -> Generator[int]:
    """Write the shards that are left; yield the index of each that is finished."""
    entries = images.entries
    if isinstance(entries, DatasetEntries):
        for index in left:
            block = entries.chosen(np.arange(bounds[index], bounds[index + 1]))
            write_shard(Shard(job, index, block, workers), tell)
            yield index
        return
    shards = [Shard(job, index, entries[bounds[index] : bounds[index + 1]], 0) for index in left]
    if min(workers, len(shards)) == 1:
        for shard in shards:
            write_shard(shard, tell)
            yield shard.index
        return
    with contextlib.closing(in_processes(write_shard, shards, workers, tell)) as outcomes:
        for shard, _ in outcomes:
            yield shard.index


def _finished(job: ShardJob, overwrite: bool) -> dict[int, StoreFile]:
    """Return the shards of this job that are there; others are refused, or removed where they are overwritten."""
    if job.folder.exists() and not job.folder.is_dir():
        raise DataError(f"{job.folder} is a file, and shards are written to a folder; give another name")
    if not job.folder.is_dir():
        return {}
    shards = shards_in(job.folder)
    others = sorted(
        {path.name for path in job.folder.iterdir() if path.name[0] != "."} - {path.name for path in shards}
    )
    if others:
        raise DataError(
            f"{job.folder} holds other things than shards, such as {others[0]}; give a new folder, or an empty one"
        )
    finished, foreign = dict[int, StoreFile](), list[tuple[pathlib.Path, str]]()
    index_by_path = {job.path(index): index for index in range(job.count)}
    for path in shards:
        try:
            file = StoreFile(path)
            if path in index_by_path and plan_of(file, index_by_path[path], job.count) == job.plan:
                finished[index_by_path[path]] = file
            else:
                foreign.append((path, "is a shard of other images, labels or settings"))
        except DataError:
            foreign.append((path, "is damaged, or no shard"))
    if foreign and not overwrite:
        path, what = foreign[0]
        raise DataError(f"{path} {what}; give another folder, or replace its shards with overwrite=True (--force)")
    for path, _ in foreign:
        path.unlink()
    return finished
