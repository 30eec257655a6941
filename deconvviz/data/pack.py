"""Pack a folder, a list of files or a dataset of images into one HDF5 file, or shards, that `ImageStore` reads."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import warnings
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from deconvviz.data.entries import EntryReader, is_array, write_entries
from deconvviz.data.label_table import LabelTable
from deconvviz.data.packed_labels import refuse_other_rows, with_labels, with_own_labels
from deconvviz.data.parallel import cores, in_order
from deconvviz.data.sampling import spread
from deconvviz.data.shard_packing import ShardJob, pack_shards, plan_for
from deconvviz.data.shards import MOST, shards_in
from deconvviz.data.sources import EXTENSIONS, DatasetEntries, Source, find_source
from deconvviz.errors import DataError, require
from deconvviz.progress import progress_bar
from deconvviz.results.files import atomic
from deconvviz.types import Pathlike
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack


SIDE = 256  # pixels: of the pictures that a raw store holds
MANY = 100_000  # images: packing them into one file by one process takes long
MANY_IN_ONE = (
    "{} images go into one file; with shards=64 (--shards 64) several processes pack them into a folder, and after an "
    "interruption the same command goes on"
)


class PackKeywords(TypedDict, total=False):
    """The fields of `PackOptions`, as the keyword arguments of `pack`."""

    raw: bool
    size: int | None
    limit: int | None
    shards: int | None
    workers: int
    progress: bool
    command: str | None
    overwrite: bool
    labels: Pathlike | LabelTable | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How images are packed.

    Attributes:
        raw: store pixels, [H, W, C], instead of the image files as they are. This is faster to read, and larger. Files
            of arrays, which have any number of channels, are packed in this way only.
        size: side of the pixels that `raw` stores: the shorter side of an image is resized to it (bilinear) and the
            central square is kept. By default pictures have 256, and where any of the images is an array, all of them
            keep their own sizes and their values as they are.
        limit: take only so many images, spread over the classes and over the source; None takes all.
        shards: number of files that are written to a folder; None writes a single file. Several processes pack shards
            of image files. After an interruption, even a kill, the same call resumes.
        workers: threads that decode images; of shards of image files the number of processes.
        progress: whether a progress bar is shown on standard error.
        command: the command line, which is kept in the file.
        overwrite: whether an existing file is replaced, or shards of other images, labels or settings.
        labels: a table of several labels an image, or its path; it goes into the store. None leaves images their
            class, and the several labels that a dataset such as `SeveralLabels` has.

    Raises:
        DataError: a limit, a number of workers or of shards or a size below 1, or more than 99,999 shards.
    """

    raw: bool = False
    size: int | None = None
    limit: int | None = None
    shards: int | None = None
    workers: int = dataclasses.field(default_factory=cores)
    progress: bool = True
    command: str | None = None
    overwrite: bool = False
    labels: Pathlike | LabelTable | None = None

    def __post_init__(self) -> None:
        require(
            self,
            DataError,
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            shards=(self.shards is None or 1 <= self.shards <= MOST, f"at least 1 and at most {MOST}"),
            workers=(self.workers >= 1, "at least 1"),
            size=(self.size is None or self.size >= 1, "at least 1"),
        )


@dataclasses.dataclass(frozen=True)
class PackReport:
    """What `pack` did; `print(report)` lists it.

    Attributes:
        path: the file that was written, or the folder of shards.
        count: number of images that were packed.
        classes: number of classes that a packed image is of; of images with several labels, the number of these.
        skipped: (name, reason) of each image that could not be read.
        ignored: number of files that are not named like images.
        fingerprint: of the store: SHA-256 in hex over names, labels and image bytes.
        shards: number of files in the folder; 0 where a single file was written.
        found: number of these that were there before, from an earlier run.
        unlabelled: of images with several labels, how many have none; None where images have one class.
    """

    path: pathlib.Path
    count: int
    classes: int
    skipped: list[tuple[str, str]]
    ignored: int
    fingerprint: str
    shards: int = 0
    found: int = 0
    unlabelled: int | None = None

    def __str__(self) -> str:
        classes = f" of {self.classes} classes" if self.classes else ""
        if self.unlabelled is not None:
            without = f" ({self.unlabelled} have none)" if self.unlabelled else ""
            classes = f" with {counted(self.classes, 'label')}{without}"
        files = shards_in(self.path) if self.shards else [self.path]
        size = f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
        there = f", {self.found} of which were there" if self.found else ""
        size = f"{self.shards} shard{'s' * (self.shards > 1)}{there}; {size}" if self.shards else size
        lines = [f"packed {counted(self.count, 'image')}{classes} into {self.path} ({size})"]
        if self.ignored:
            lines.append(f"ignored {counted(self.ignored, 'file')} not named like images")
        if self.skipped:
            lines.append(f"skipped {counted(len(self.skipped), 'image')} that cannot be read:")
            lines += [f"  {name}: {reason}" for name, reason in self.skipped[:10]]
        if len(self.skipped) > 10:
            lines.append(f"  and {len(self.skipped) - 10} more; all are listed in ImageStore.skipped")
        return "\n".join(lines)


def pack(source: Any, out: Pathlike, **options: Unpack[PackKeywords]) -> PackReport:
    """Pack images into one file, or into shards. Each image is decoded once; those that cannot be read are listed.

    Args:
        source: one of these three.
            A folder: the images below each sub-folder are a class, and labels number the sorted names of the
            sub-folders; images directly in the folder have the label -1. Images are packed in the order of their names.
            A list of images, in its own order: a .txt file with a path on each line, perhaps followed by a tab and a
            label, or a .csv file with the columns path and label. Paths are relative to the list. Labels are integers,
            or class names if any of them is not an integer.
            With `raw`, files may also be arrays [H, W, C] or [H, W] of uint8, uint16 or float32: .npy, .npz with one
            array, and TIFF of any number of channels. A store holds images of one type and number of channels.
            A dataset with `len()`, whose items are (image, label): the image is a PIL image, a uint8 tensor [C, H, W]
            or a uint8 array [H, W, C], and it is packed as PNG. With `raw` it may be an array or a tensor of uint8,
            uint16 or float32 with any number of channels. Its `classes` and `names` are used if it has them.
        out: path of the file; it is written as a whole or not at all. With `shards`, path of a folder, in which each
            file is written as a whole or not at all.
        options: `raw`, `size`, `limit`, `shards`, `workers`, `progress`, `command`, `overwrite` and `labels`; see
            `PackOptions`.

    Returns:
        What was packed and what was skipped.

    Raises:
        DataError: the source does not exist or has no image that can be read, `out` exists and `overwrite` is not set,
            `out` cannot be written, an option is invalid, or raw images are of several kinds; the folder for shards
            holds other things, or there are more shards than images; the table of labels cannot be read, or has rows of
            images that are not packed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = pack([(np.zeros((4, 5, 3), np.uint8), 0)], f"{folder}/one.h5", progress=False)
    >>> report.count, report.skipped
    (1, [])
    """
    settings = PackOptions(**options)
    path = pathlib.Path(out)
    return _pack_file(source, path, settings) if settings.shards is None else _pack_folder(source, path, settings)


def _pack_file(source: Any, path: pathlib.Path, settings: PackOptions) -> PackReport:
    """Pack images into one file."""
    with atomic(path) as temporary:
        _refuse_output(path, source, settings.overwrite)
        images = _found(source, settings)
        if images.count > MANY and not isinstance(images.entries, DatasetEntries):
            warnings.warn(MANY_IN_ONE.format(images.count), stacklevel=3)
        reader = EntryReader(settings.raw, _size(images, settings))
        with (
            contextlib.closing(in_order(reader, images.entries, settings.workers)) as results,
            # Its first line comes after a moment: where nothing can be packed, the error stands alone.
            progress_bar(total=images.count, unit="image", disable=not settings.progress, delay=0.5) as bar,
        ):
            configuration = _configuration(images, reader, settings)
            written = write_entries(
                temporary, results, reader, images.classes, configuration, bar.update, images.label_names
            )
        if not written.count:
            raise DataError(_nothing_packed(images, written.skipped))
    classes = len(written.labels) if images.classes else 0
    report = PackReport(path, written.count, classes, written.skipped, images.ignored, written.fingerprint)
    if images.label_names is None:
        return report
    return dataclasses.replace(report, classes=len(images.label_names), unlabelled=written.unlabelled)


def _pack_folder(source: Any, path: pathlib.Path, settings: PackOptions) -> PackReport:
    """Pack images into shards in a folder."""
    _refuse_output(path, source, settings.overwrite, folder=True)
    images = _found(source, settings)
    count = settings.shards or 1
    if not images.count:
        raise DataError(_nothing_packed(images, []))
    if count > images.count:
        raise DataError(f"{count} shards given for {images.count} images; give {images.count} shards at most")
    reader = EntryReader(settings.raw, _size(images, settings))
    configuration = _configuration(images, reader, settings)
    plan = plan_for(images, reader, count)
    job = ShardJob(
        folder=path,
        count=count,
        reader=reader,
        classes=images.classes,
        configuration=configuration,
        plan=plan,
        label_names=images.label_names,
    )
    store, found = pack_shards(job, images, settings.workers, settings.progress, settings.overwrite)
    skipped = list(store.skipped)
    if not len(store):
        raise DataError(_nothing_packed(images, skipped))
    classes = len({*store.labels.tolist()} - {-1}) if images.classes else 0
    report = PackReport(path, len(store), classes, skipped, images.ignored, store.fingerprint, count, found)
    if store.known is None:
        return report
    return dataclasses.replace(report, classes=len(store.classes), unlabelled=int((~store.known).sum()))


def _found(source: Any, settings: PackOptions) -> Source:
    """Return the images to pack, with the labels that they have."""
    labels = settings.labels
    table = LabelTable.read(labels) if isinstance(labels, str | os.PathLike) else labels  # before the images are listed
    every = find_source(source, settings.raw)
    images = _limited(every, settings.limit)
    if table is not None:
        refuse_other_rows(table, images, every)
        images = with_labels(images, table)
    return with_own_labels(images, source, table is not None)


def _size(images: Source, settings: PackOptions) -> int | None:
    """Return the side of the squares that are stored; None where images keep their own sizes."""
    if not settings.raw:
        return None
    return SIDE if settings.size is None and not _any_array(images) else settings.size


def _configuration(images: Source, reader: EntryReader, settings: PackOptions) -> dict[str, Any]:
    """Return what a store says about how it was made."""
    made_by = {"command": settings.command, "source": images.description, "limit": settings.limit}
    table = settings.labels.path if isinstance(settings.labels, LabelTable) else settings.labels
    labels = {} if table is None else {"labels": str(table)}
    return {**made_by, **labels, "raw": reader.raw, "size": reader.size}


def _any_array(images: Source) -> bool:
    """Return whether a source has arrays: any of its files, or the first image of a dataset."""
    entries = images.entries[:1] if isinstance(images.entries, DatasetEntries) else images.entries
    return any(is_array(entry.content) for entry in entries)


def _limited(source: Source, limit: int | None) -> Source:
    """Return a source with a part of its images, spread over its classes where they are known beforehand."""
    if limit is None or limit >= source.count:
        return source
    entries = source.entries
    if isinstance(entries, DatasetEntries):
        return dataclasses.replace(source, count=limit, entries=entries.chosen(spread(entries.labels, limit)))
    places = spread(np.array([entry.label for entry in entries]), limit)
    return dataclasses.replace(source, count=limit, entries=[entries[place] for place in places])


def _refuse_output(out: pathlib.Path, source: Any, overwrite: bool, folder: bool = False) -> None:
    """Raise DataError where the output is named like an image, is the source itself, or exists."""
    if out.suffix.lower() in EXTENSIONS:
        raise DataError(f"{out} is named like an image; an image store is named like photos.h5")
    origin = source if isinstance(source, str | os.PathLike) else getattr(source, "path", None)
    if isinstance(origin, str | os.PathLike) and os.path.realpath(origin) == os.path.realpath(out):
        raise DataError(f"{out} is both what to pack and where to; give another output file")
    if out.is_file() and not overwrite and not folder:
        raise DataError(f"{out} exists; choose another name, or overwrite it with overwrite=True (--force)")


def _nothing_packed(source: Source, skipped: list[tuple[str, str]]) -> str:
    """Return the message for a source without an image that can be read."""
    if skipped:
        name, reason = skipped[0]
        return f"no readable image in {source.description}: {len(skipped)} skipped, the first {name}: {reason}"
    others = f"; {counted(source.ignored, 'file')} there with another name" if source.ignored else ""
    return f"no image in {source.description}; expected files named {', '.join(EXTENSIONS)}{others}; arrays need --raw"
