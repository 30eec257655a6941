"""The whole range of each filter, for its page: images from its weakest to its strongest, and whether these mislead."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deconvviz.results.results import Result, digest_of, require_same
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.mining.range_units import RangeUnits, range_units
from deconvviz.studies.mining.ranges import range_windows
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Array, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

RANGE_KIND, RANGE_SCHEMA = "ranges of filters", 1
WEAKEST = 5  # images of each filter that are shown beside those of the quantiles


def filter_ranges(
    inputs: AtlasInputs,
    mined: Mined,
    channels: Mapping[str, Sequence[int]],
    out: Pathlike,
    *,
    k: int,
    **run: Unpack[RunKeywords],
) -> dict[str, RangeUnits]:
    """Find the range of filters of several layers; what `out` holds is read from there.

    Args:
        inputs: the network and the images.
        mined: the maxima of the layers. Layers of files that older versions wrote have no range.
        channels: layer -> its filters.
        out: path of the file.
        k: how many of the strongest images are compared with those of the upper range.
        run: `batch_size`, `workers` and `progress` of `RunOptions`.

    Returns:
        Layer -> the range of these filters, with WEAKEST images beside those of the quantiles.

    Raises:
        MismatchError: `out` was written with other settings.
    """
    with_ranges = {layer: [int(c) for c in channels[layer]] for layer in channels if mined[layer].spread is not None}
    config = {**inputs.identity, "mined": digest_of(mined.config), "channels": with_ranges, "k": k}
    names = [field.name for field in dataclasses.fields(RangeUnits)]
    if not pathlib.Path(out).exists():
        options = RunOptions(**run)
        units = range_units(inputs.network, mined, inputs.feed, with_ranges, options, weakest=WEAKEST, top=k)
        arrays = {f"{layer}/range/{name}": getattr(units[layer], name) for layer in units for name in names}
        Result(RANGE_KIND, RANGE_SCHEMA, config, inputs.provenance, arrays).save(out)
    result = Result.load(out, RANGE_KIND, RANGE_SCHEMA)
    require_same(out, result.config, config, "remove it or choose another output")
    return {
        layer: RangeUnits(**{name: result.arrays[f"{layer}/range/{name}"] for name in names}) for layer in with_ranges
    }


def range_arrays(
    inputs: AtlasInputs, mined: Mined, layer: str, channels: Ints, units: RangeUnits, side: int
) -> dict[str, Array]:
    """Return what a layer's gallery tells of the range of F filters, with n images of each.

    Args:
        inputs: the network and the images.
        mined: the maxima of the layer, with its range.
        layer: name of the layer.
        channels: int64 [F].
        units: their range.
        side: of the part of an image that is shown, in pixels.

    Returns:
        "range/quantiles", "range/images" and "range/values" as in `RangeUnits`, the values as float32; "range/windows"
        int64 [F, n, 4], see `range_windows`; "range/likeness" float64 [F, 2], that of the upper range and that of the
        top; "range/counts" int64 [F, BINS], see `Spread`; "range/sampled" int64 [1], the number of sampled images.
    """
    spread = mined[layer].spread
    assert spread is not None
    return {
        "range/quantiles": units.quantiles,
        "range/images": units.images,
        "range/values": units.values.astype(np.float32),
        "range/windows": range_windows(inputs.network, layer, units.positions, side),
        "range/likeness": np.stack([units.likeness_of_upper, units.likeness_of_top], 1),
        "range/counts": spread.counts[channels],
        "range/sampled": np.array([len(spread.sampled)]),
    }
