"""Several labels of images that are packed: which entry of a source has which, from a table or from a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deconvviz.data.datasets import has_several_labels
from deconvviz.data.label_table import LabelTable
from deconvviz.data.sources import DatasetEntries, Source
from deconvviz.errors import DataError
from deconvviz.words import counted


def names_of(source: Source) -> list[str]:
    """Return the names of the entries of a source; no item of a dataset is asked for."""
    entries = source.entries
    return entries.names if isinstance(entries, DatasetEntries) else [entry.name for entry in entries]


def refuse_other_rows(table: LabelTable, images: Source, every: Source) -> None:
    """Raise DataError where a table has a row of an image that is not packed.

    Args:
        table: the labels.
        images: what is packed.
        every: the source before it was limited.
    """
    other = table.row_of_none(names_of(images))
    if other is None:
        return
    if other in set(names_of(every)):
        raise DataError(
            f"{table.path} has a row of {other!r}, which is not among the {counted(images.count, 'image')} that "
            "--limit takes; give a table of these images, or pack all of them"
        )
    raise table.unknown(other, names_of(every))


def with_labels(images: Source, table: LabelTable) -> Source:
    """Return a source whose entries have the labels of a table."""
    number = {name: index for index, name in enumerate(table.classes)}
    several = {image: tuple(sorted(number[label] for label in labels)) for image, labels in table.labels.items()}
    return _labelled(images, table.classes, several)


def with_own_labels(images: Source, dataset: Any, given: bool) -> Source:
    """Return a source with the several labels that its dataset has, such as `SeveralLabels` or an `ImageStore`.

    Raises:
        DataError: it has some, and others are `given`.
    """
    if not isinstance(images.entries, DatasetEntries) or not has_several_labels(dataset):
        return images
    if given:
        raise DataError("labels given for images that hold labels of their own; leave the table out")
    several = {
        str(name): tuple(np.flatnonzero(targets).tolist())
        for name, targets in zip(dataset.names, dataset.targets, strict=True)
    }
    return _labelled(dataclasses.replace(images, classes=[]), tuple(dataset.classes), several)


def several_of(images: Source) -> list[Sequence[int]]:
    """Return which labels each entry has, as indices."""
    if isinstance(images.entries, DatasetEntries):
        return images.entries.several
    return [entry.several for entry in images.entries]


def _labelled(images: Source, names: tuple[str, ...], several: Mapping[str, tuple[int, ...]]) -> Source:
    entries = images.entries
    if isinstance(entries, DatasetEntries):
        return dataclasses.replace(images, entries=entries.labelled(several), label_names=names)
    labelled = [dataclasses.replace(entry, several=several.get(entry.name, ())) for entry in entries]
    return dataclasses.replace(images, entries=labelled, label_names=names)
