"""The computing half of an atlas: a folder of result files, of which the pages are made."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.arrays import evenly
from deconvviz.choices import TRANSFORMS
from deconvviz.data.datasets import labels_of
from deconvviz.data.sampling import spread
from deconvviz.errors import DataError
from deconvviz.results.features import Features
from deconvviz.results.folders import claim
from deconvviz.results.results import Result, read_config, require_same
from deconvviz.results.tiles import gallery_config
from deconvviz.run.features import stream_features
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.aspects import FilterAspects
from deconvviz.studies.atlas.decisions import DecisionExplainer, explain_decisions
from deconvviz.studies.atlas.galleries import GalleryMaker, GalleryOptions
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.atlas.occlusion import occluder_for
from deconvviz.studies.atlas.resembling import resembling_images
from deconvviz.studies.atlas.result import DECISIONS_KIND, DECISIONS_SCHEMA, AtlasOptions, AtlasResult
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

Elsewhere = Callable[["AtlasMaker", "Sequence[str]"], None]
COMPARED = 5000  # images, evenly spread over the store, in which the maxima of filters are compared


def make_atlas(
    inputs: AtlasInputs,
    options: AtlasOptions,
    out: Pathlike,
    *,
    elsewhere: Elsewhere | None = None,
    **run: Unpack[RunKeywords],
) -> AtlasResult:
    """Compute the files of an atlas; calling again with the same arguments resumes.

    Args:
        inputs: the network, the images, and what was computed of them before.
        options: what the atlas shows.
        out: the folder; the files are written into its folder `data`.
        elsewhere: what makes the files of galleries that do not exist yet, such as a cluster; None makes them here.
        run: `batch_size` (by default each step's own), `precision` (of mining and of decisions) and `progress` of
            `RunOptions`.

    Raises:
        LayerNotFound: a layer does not exist.
        DataError: a channel does not exist, or `out` holds other files.
        MismatchError: `out` was written with other settings, or the mined result is of other images or another network.
        DeconvvizError: a method does not exist.
    """
    begin = time.monotonic()
    maker = AtlasMaker(
        inputs=inputs,
        options=replace(options, layers=inputs.by_depth(options.layers), rule=_rule_begun(out, options.rule)),
        run=RunOptions(**run),
        folder=pathlib.Path(out),
    )
    maker.check()
    claim(maker.folder, "atlas", maker.config)
    galleries, filters, new_filters = maker.files, 0, 0
    new = [layer for layer, path in galleries.items() if not path.exists()]
    if elsewhere is not None and new:
        _ = maker.maxima  # also made of all images; the galleries read both files
        elsewhere(maker, new)
    for layer, path in galleries.items():
        count = len(maker.galleries.channels(layer))
        if path.exists():
            config = maker.galleries.config(layer)
            require_same(path, gallery_config(path), config, "remove it or choose another output")
        else:
            maker.galleries.make(layer).save(path)
        new_filters += count if layer in new else 0
        filters += count
    decisions = maker.explain_decisions()
    resembling = maker.find_resembling()
    return AtlasResult(
        galleries=tuple(galleries.values()),
        decisions=decisions,
        resembling=resembling,
        filters=filters,
        new_filters=new_filters,
        seconds=time.monotonic() - begin,
        picture=inputs.feed.display,
    )


def _rule_begun(folder: Pathlike, rule: str) -> str:
    """Return the rule that an atlas is made with: where none is given, that with which it was begun.

    So an atlas of version 0.1.0, whose rule was the deconvnet where none was given, goes on by the same command.
    """
    begun = pathlib.Path(folder, "data", "atlas.h5")
    return str(read_config(begun, "atlas", 1)["rule"]) if rule == "auto" and begun.is_file() else rule


@dataclass(frozen=True, kw_only=True)
class AtlasMaker:
    """The steps of an atlas; each reads from its file what an earlier call has computed.

    Attributes:
        inputs: the network and the images.
        options: what the atlas shows, its layers in the order of depth.
        run: how the steps run.
        folder: of the atlas.
    """

    inputs: AtlasInputs
    options: AtlasOptions
    run: RunOptions
    folder: pathlib.Path

    @property
    def data(self) -> pathlib.Path:
        """The folder of the result files."""
        return self.folder / "data"

    @property
    def files(self) -> dict[str, pathlib.Path]:
        """Layer -> the path of its gallery."""
        layers = self.options.layers
        return {layer: self.data / f"{depth:02d}-{layer.replace('/', '_')}.h5" for depth, layer in enumerate(layers)}

    @property
    def config(self) -> dict[str, Any]:
        """What must agree for an atlas to be continued."""
        return {**self.inputs.config, "precision": self.run.precision, **self.options.config}

    def check(self) -> None:
        """Refuse what cannot be done before the work begins."""
        numbers = self.options.filters if isinstance(self.options.filters, tuple) else ()
        for layer in self.options.layers:
            channels = self.inputs.network.layer(layer).units[0]
            wrong = [channel for channel in numbers if not 0 <= channel < channels]
            if wrong:
                raise DataError(f"channel {wrong[0]} of layer {layer!r} given; expected 0 to {channels - 1}")
        if self.inputs.mined is not None:
            self.inputs.require_mined(self.inputs.mined, self.options.layers, self.options.k)
        if self.inputs.relevance is not None:
            self.inputs.require_relevance(self.inputs.relevance, self.options.layers, self.options.k)
        if self.options.decisions:
            _ = self.explainer
        elif self.inputs.examples is not None:
            raise DataError("training images given and no decision is explained; ask for some decisions")

    @cached_property
    def explainer(self) -> DecisionExplainer:
        """What explains the decisions; its errors are those of `DecisionExplainer`."""
        options = self.options
        return DecisionExplainer(self.inputs, options.methods, options.cam_layer, options.layers, **self.run.keywords())

    @cached_property
    def mined(self) -> Mined:
        """The maxima of the layers, where they were not given."""
        if self.inputs.mined is not None:
            return self.inputs.mined
        return mine(
            self.inputs.network,
            self.inputs.store,
            self.options.layers,
            self.options.k,
            self.data / "mined.h5",
            preprocess=self.inputs.preprocess,
            sources=self.inputs.sources,
            **self.run.keywords(),
        )

    def _compared(self) -> Ints:
        """Return the images in which filters are compared, int64: evenly chosen among those that were mined."""
        total = self.mined.total
        mined = spread(labels_of(self.inputs.store), total) if "part" in self.mined.config else np.arange(total)
        return np.asarray(mined[evenly(total, COMPARED)], np.int64)

    @cached_property
    def maxima(self) -> Features:
        """The filters' maxima in the images, of all layers from one pass."""
        return stream_features(
            self.inputs.network,
            self.inputs.store,
            self.options.layers,
            self.data / "maxima.h5",
            preprocess=self.inputs.preprocess,
            pool="max 1x1",
            indices=self._compared(),
            sources=self.inputs.sources,
            **self.run.keywords(),
        )

    @cached_property
    def galleries(self) -> GalleryMaker:
        """What makes the galleries."""
        options, occluder = self.options, occluder_for(self.inputs.preprocess)
        channels: dict[str, Sequence[int]] = {}
        if options.filters is not None:
            channels = {
                layer: self.mined[layer].choose_channels(options.filters, options.count) for layer in options.layers
            }
        all_channels = {layer: range(self.inputs.network.layer(layer).units[0]) for layer in options.layers}
        aspects = FilterAspects(
            inputs=self.inputs,
            options=options,
            mined=self.mined,
            channels={**all_channels, **channels},
            folder=self.data,
            run=self.run,
        )
        settings = {
            "invariance_kinds": list(TRANSFORMS) if options.invariance else [],
            "occlusion_square": list(occluder.square) if options.occlusion else None,
            "snapshots": self.inputs.training_digest,
            **({"off": True} if options.off else {}),
            **({"wanted": True} if options.wanted else {}),
            **self.inputs.relevance_config,
        }
        return GalleryMaker(
            inputs=self.inputs,
            mined=self.mined,
            maxima=self.maxima,
            options=GalleryOptions(
                layers=options.layers, channels=channels, k=options.k, rule=options.rule, settings=settings
            ),
            aspects=aspects.of,
            run=self.run,
        )

    def explain_decisions(self) -> pathlib.Path | None:
        """Explain the decisions that were asked for; return the path of their file."""
        if not self.options.decisions:
            return None
        path = self.data / "decisions.h5"
        explain_decisions(self.explainer, self.options.decisions, path)
        return path

    def find_resembling(self) -> pathlib.Path | None:
        """Find the training images that the explained images resemble; return the path of their file."""
        if self.inputs.examples is None or not self.options.decisions:
            return None
        path = self.data / "resembling.h5"
        decisions = Result.load(self.data / "decisions.h5", DECISIONS_KIND, DECISIONS_SCHEMA)
        explained = decisions.arrays["images"]
        resembling_images(self.inputs, explained, self.inputs.examples, path, **self.run.keywords())
        return path
