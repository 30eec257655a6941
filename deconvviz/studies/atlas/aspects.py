"""What else the atlas shows of filters: their range, invariance, occlusion, decisions that they carry, and evolution.

Each of these is measured for all layers at once, and kept in files of its own beside the galleries.
"""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from deconvviz.arrays import evenly
from deconvviz.data.pictures import resized, signed_picture
from deconvviz.results.results import Result
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.carried import carried_decisions
from deconvviz.studies.atlas.filter_arrays import LayerArrays, by_layer, loaded
from deconvviz.studies.atlas.galleries import tile_size
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.occlusion import filter_occlusion, occluder_for
from deconvviz.studies.atlas.ranges import filter_ranges, range_arrays
from deconvviz.studies.atlas.result import AtlasOptions
from deconvviz.studies.atlas.silencing import filter_silencing
from deconvviz.studies.atlas.wanted import wanted_pictures
from deconvviz.studies.evolution.evolve import evolve
from deconvviz.studies.evolution.result import LayerEvolution
from deconvviz.studies.invariance.measure import invariance
from deconvviz.studies.mining.range_units import RangeUnits
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Array, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

TRANSFORMED = 20  # images, evenly spread over the store, whose transforms measure how invariant a filter is
FOLLOWED = 12  # filters of a layer that are followed through a training
BATCH = 32  # images in one pass, by default
INVARIANCE_KIND = "invariance of filters"


@dataclass(frozen=True, kw_only=True)
class FilterAspects:
    """The aspects that an atlas asks for, measured for all layers at once when the first gallery needs them.

    Attributes:
        inputs: the network and the images.
        options: which aspects.
        mined: the maxima of the layers.
        channels: layer -> the filters that are shown.
        folder: where the measurements are kept.
        run: how the measurements run.
    """

    inputs: AtlasInputs
    options: AtlasOptions
    mined: Mined
    channels: Mapping[str, Sequence[int]]
    folder: pathlib.Path
    run: RunOptions = field(default_factory=RunOptions)

    def of(self, layer: str, channels: Ints, side: int) -> dict[str, Array]:
        """Return the arrays of some filters, name -> array; `side` is that of their patches, in pixels."""
        arrays: dict[str, Array] = {}
        if self.mined[layer].spread is not None:
            arrays |= range_arrays(self.inputs, self.mined, layer, channels, self._ranges[layer], side)
        if self.options.invariance:
            arrays |= {name: values[channels] for name, values in self._invariance[layer].items()}
        if self.options.occlusion:
            arrays |= {name: values[channels] for name, values in self._occlusion[layer].items()}
            arrays["occlusion/places"] = occluder_for(self.inputs.preprocess).boxes
        if self.options.wanted:
            path = self.folder / f"wanted-{layer.replace('/', '_')}.h5"
            arrays["wanted"] = wanted_pictures(self.inputs, layer, channels, path, **self.run.keywords())
        if self.options.off:
            arrays |= {name: values[channels] for name, values in self._silencing[layer].items()}
        if self.inputs.relevance is not None and layer in self.inputs.relevance.layers:
            arrays |= carried_decisions(self.inputs.relevance, self.inputs.feed, layer, channels, self.options.k)
        if self.inputs.snapshots is not None:
            evolution = self._evolution[layer]
            rows = np.isin(evolution["evolution/channels"], channels)
            arrays |= {name: a if name == "evolution/epochs" else a[rows] for name, a in evolution.items()}
        return arrays

    @cached_property
    def _ranges(self) -> dict[str, RangeUnits]:
        path, k = self.folder / "ranges.h5", self.options.k
        return filter_ranges(self.inputs, self.mined, self.channels, path, k=k, **self.run.keywords())

    @cached_property
    def _invariance(self) -> LayerArrays:
        path = self.folder / "invariance.h5"
        return filter_invariance(self.inputs, self.options.layers, path, **self.run.keywords())

    @cached_property
    def _occlusion(self) -> LayerArrays:
        path = self.folder / "occlusion.h5"
        return filter_occlusion(self.inputs, self.mined, self.channels, path, **self.run.keywords())

    @cached_property
    def _silencing(self) -> LayerArrays:
        path, k = self.folder / "off.h5", self.options.k
        return filter_silencing(self.inputs, self.mined, self.channels, path, k=k, **self.run.keywords())

    @cached_property
    def _evolution(self) -> LayerArrays:
        numbers, layers = self.options.filters, self.options.layers
        filters = list(numbers[:FOLLOWED]) if isinstance(numbers, tuple) else FOLLOWED
        folder = self.folder / "epochs"
        k, rule = self.options.k, self.options.rule
        return filter_evolution(self.inputs, layers, filters, folder, k=k, rule=rule, **self.run.keywords())


def filter_invariance(
    inputs: AtlasInputs, layers: Sequence[str], out: Pathlike, **run: Unpack[RunKeywords]
) -> LayerArrays:
    """Score how invariant each filter is under each kind of transform; scores that `out` holds are read from there.

    Args:
        inputs: the network and the images; TRANSFORMED of them are transformed.
        layers: names of the layers.
        out: path of the file.
        run: `batch_size` and `progress` of `RunOptions`.

    Returns:
        For each layer "invariance/KIND" float64 [C], for each of TRANSFORMS (`deconvviz.choices`): 0 if a transform
        changes the filter's maximum as much as another image does, 1 if it does not change it, NaN for a dead filter.

    Raises:
        MismatchError: `out` was written with other settings.
    """
    options = RunOptions(**run)
    which = evenly(len(inputs.store), TRANSFORMED).tolist()
    config = {**inputs.identity, "layers": list(layers), "which": which}
    if not pathlib.Path(out).exists():
        result = invariance(
            inputs.network,
            inputs.store,
            layers,
            preprocess=inputs.preprocess,
            which=which,
            units=layers,
            batch_size=options.batch_size or BATCH,
            progress=options.progress,
        )
        arrays = {
            f"{layer}/invariance/{kind}": scores
            for layer in layers
            for kind, scores in zip(result.steps, result.per_unit(layer), strict=True)
        }
        Result(INVARIANCE_KIND, 1, config, {}, arrays).save(out)
    return by_layer(loaded(out, INVARIANCE_KIND, config).arrays, layers)


def filter_evolution(
    inputs: AtlasInputs,
    layers: Sequence[str],
    filters: int | Sequence[int],
    folder: Pathlike,
    *,
    k: int = 9,
    rule: str = "auto",
    **run: Unpack[RunKeywords],
) -> LayerArrays:
    """Follow filters of each layer through the epochs of a training with `evolve`, and make tiles of what it shows.

    Args:
        inputs: the network, the images and the snapshots.
        layers: names of the layers.
        filters: how many of each layer, the most active ones at the last epoch; or their channels.
        folder: where `evolve` keeps the mined file of each epoch.
        k: images of each filter that are mined.
        rule: of the projections, as for `evolve`.
        run: `progress` of `RunOptions`.

    Returns:
        For each layer, with E epochs and G filters: "evolution/epochs" int64 [E], "evolution/channels" int64 [G],
        "evolution/values" float32 [G, E], the largest activation, and the tiles "evolution/patches" and
        "evolution/projections" uint8 [G, E, h, w, 3].

    Raises:
        MismatchError: the snapshots are of another network.
    """
    assert inputs.snapshots is not None
    evolution = evolve(
        inputs.snapshots,
        copy.deepcopy(inputs.model),
        inputs.store,
        layers,
        filters,
        preprocess=inputs.preprocess,
        k=k,
        rule=rule,
        work=folder,
        device=inputs.network.device,
        progress=RunOptions(**run).progress,
    )
    coloured = inputs.preprocess.coloured
    return {layer.layer: _evolution_arrays(layer, evolution.epochs, coloured) for layer in evolution.layers}


def _evolution_arrays(
    layer: LayerEvolution, epochs: Sequence[int], coloured: Callable[[Array], Array]
) -> dict[str, Array]:
    size = tile_size((layer.patches.shape[2], layer.patches.shape[3]))
    projections = [[resized(signed_picture(coloured(values)), size) for values in row] for row in layer.projections]
    patches = [[resized(patch, size) for patch in row] for row in layer.patches]
    return {
        "evolution/epochs": np.asarray(epochs, np.int64),
        "evolution/channels": layer.channels.astype(np.int64),
        "evolution/values": layer.values,
        "evolution/patches": np.array(patches, np.uint8),
        "evolution/projections": np.array(projections, np.uint8),
    }
