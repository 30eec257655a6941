"""The picture that each filter would like best, for its page."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from deconvviz.data.pictures import resized
from deconvviz.results.results import Result, require_same
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.galleries import TILE
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.visualisation.visualise import visualise
from deconvviz.types import Array, Ints, Pathlike, Pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

WANTED_KIND, WANTED_SCHEMA = "wanted pictures", 1
AT_ONCE = 9  # filters between commits: what a CPU optimises at once


def wanted_pictures(
    inputs: AtlasInputs, layer: str, channels: Ints, out: Pathlike, **run: Unpack[RunKeywords]
) -> Pixels:
    """Make the pictures that some filters of a layer would like best; calling again with the same arguments resumes.

    Args:
        inputs: the network, and how images are prepared for it.
        layer: name of the layer.
        channels: int64 [F].
        out: path of the file.
        run: `seed` and `progress` of `RunOptions`.

    Returns:
        uint8 [F, 1, TILE, TILE, 3], made by `visualise` with its defaults.

    Raises:
        MismatchError: `out` was written with other settings.
    """
    options = RunOptions(**run)
    config = {
        "model_fingerprint": inputs.network.fingerprint,
        "preprocess": inputs.preprocess.as_dict(),
        "layer": layer,
        "channels": channels.tolist(),
        "seed": options.seed,
    }
    tiles: Pixels = np.zeros((0, 1, TILE, TILE, 3), np.uint8)
    if pathlib.Path(out).exists():
        result = Result.load(out, WANTED_KIND, WANTED_SCHEMA)
        require_same(out, result.config, config, "remove it or choose another output")
        tiles = result.arrays["pictures"]
    with options.bar("filter", len(channels), f"pictures of {layer}", len(tiles)) as bar:
        while len(tiles) < len(channels):
            some = channels[len(tiles) : len(tiles) + AT_ONCE].tolist()
            made = visualise(
                inputs.network, layer, some, preprocess=inputs.preprocess, seed=options.seed, progress=False
            )
            tiles = np.concatenate([tiles, [[_tile(inputs, picture)] for picture in made.pictures]])
            Result(WANTED_KIND, WANTED_SCHEMA, config, inputs.provenance, {"pictures": tiles}).save(out)
            bar.update(len(some))
    return tiles


def _tile(inputs: AtlasInputs, picture: Array) -> Pixels:
    """Return a picture [h, w, C] in 0..1 as a tile, uint8 [TILE, TILE, 3]."""
    shown = np.rint(255 * inputs.preprocess.coloured(picture)).astype(np.uint8)
    colours = np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))
    return resized(colours, (TILE, TILE))
