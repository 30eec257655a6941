"""What the pages tell of the whole range of a layer's filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deconvviz.studies.mining.range_bars import bars_of, ticks_of
from deconvviz.studies.mining.range_result import MISLEADING, STRONG, UPPER, misleads
from deconvviz.studies.mining.spread import edges
from deconvviz.types import Array
from deconvviz.web.scripts import exact


def range_of_layer(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return what holds for all filters: the measure's limits, the bins, and the filters whose top images mislead.

    Args:
        arrays: of a gallery, with those of "range/".
    """
    return {
        "sampled": int(arrays["range/sampled"][0]),
        "edges": exact(edges()),
        "limit": MISLEADING,
        "strong": STRONG,
        "upper": list(UPPER),
        "misleads": [misleads(upper, top) for upper, top in arrays["range/likeness"].tolist()],
    }


def range_of_filter(arrays: Mapping[str, Array], row: int) -> dict[str, Any]:
    """Return the range of the filter in one row.

    Args:
        arrays: of a gallery, with those of "range/".
        row: of the filter.

    Returns:
        "likeness", that of the upper range and that of the top; "images", rows of image, value and window; "quantiles"
        of the first of them, of which the rest are the weakest ones; "bars", rows of the first bin, left side, width of
        a bar, and numbers of images; "width" of all bars; and "ticks", rows of place and text.
    """
    images, values, windows = (arrays[f"range/{name}"][row] for name in ("images", "values", "windows"))
    quantiles, counts = arrays["range/quantiles"][row], arrays["range/counts"][row]
    bars = bars_of(counts)
    present = images >= 0
    return {
        "likeness": exact(arrays["range/likeness"][row]),
        "images": [list(shown) for shown in zip(*(exact(a[present]) for a in (images, values, windows)), strict=True)],
        "quantiles": exact(quantiles[~np.isnan(quantiles)]),
        "bars": [[b.bins.start, b.left, b.width, counts[b.bins.start : b.bins.stop].tolist()] for b in bars],
        "width": bars[-1].right if bars else 0,
        "ticks": [[place, text] for place, text in sorted(ticks_of(bars).items())],
    }
