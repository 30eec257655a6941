"""Compare two networks of one architecture: match their filters, and set side by side what they find and decide."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.cam.arguments import method_named
from deconvviz.cam.explain import cam
from deconvviz.data.datasets import Images, place_of
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, LayerNotFound, MismatchError
from deconvviz.graph.choose import default_layers
from deconvviz.graph.digest import architecture
from deconvviz.graph.filters import filters_of
from deconvviz.graph.network import Network
from deconvviz.metrics.intervals import correlation
from deconvviz.results.folders import claim
from deconvviz.results.results import Result, digest_of, require_same, stamped
from deconvviz.studies.comparison.matching import match, sharpness, sharpness_error
from deconvviz.studies.comparison.options import ComparisonOptions
from deconvviz.studies.comparison.pictures import explained, strongest, with_tiles
from deconvviz.studies.comparison.responses import Pair, Responses, Side, respond
from deconvviz.studies.comparison.result import Comparison, LayerComparison
from deconvviz.studies.diagnosis.comparison import Change, FoundRows, changes
from deconvviz.studies.diagnosis.diagnose import CHECKS, diagnose
from deconvviz.types import Floats, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.comparison.options import ComparisonKeywords

FOUND, FOUND_SCHEMA = "compared findings", 1
RESULT = "result.h5"


def compare(
    before: Network,
    after: Network,
    images: Images,
    *,
    preprocess: Preprocess,
    preprocess_after: Preprocess | None = None,
    names: tuple[str, str] = ("before", "after"),
    out: Pathlike | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[ComparisonKeywords],
) -> Comparison:
    """Compare two networks of one architecture, such as one before and after a change, or two epochs of a training.

    The filters of each layer are matched one to one by the correlation of their responses to the same images. A filter
    is gone where no filter after the change resembles it, and new where none before does (no correlation reaches 0.5);
    it is sharper where its partner chooses among images more strictly. Accuracy and calibration have intervals that
    compare the same images; the findings of `diagnose` are compared layer by layer; both networks explain the same
    classes of the same images.

    Args:
        before: the network before the change, captured.
        after: the network after it, captured from a model of the same architecture.
        images: what both are judged by.
        preprocess: how an image becomes the input of the network before.
        preprocess_after: the same of the network after; None for the same.
        names: what the networks are called.
        out: a folder; what is computed is kept in its folder `data`, and calling again with the same arguments resumes.
        sources: where networks and images came from, to be kept in the result.
        options: the fields of `ComparisonOptions`: what is compared (`layers`, `limit`, `checks`, `method`,
            `cam_layer`, `decisions`, `filters`, `k`), what is known of the images (`outputs`, `class_names`, `truth`),
            and how it runs (`batch_size`, `precision`, `workers`, `seed`, `progress`, `commit_every`).

    Raises:
        MismatchError: the networks have different architectures, or `out` was written with other settings.
        LayerNotFound: a layer does not exist.
        DataError: there is no image, an option is out of its range, or a response is not finite.
        DeconvvizError: a check or a method does not exist.

    Source: the matching is that of Li et al. 2016; the rest is put together from this package's own measures.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> network, preprocess = dv.capture(model.eval(), (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> options = {"layers": ["1"], "checks": None, "decisions": 2, "progress": False}
    >>> same = dv.compare(network, network, dv.Scenes(8), preprocess=preprocess, **options)
    >>> same.layers[0].partner.tolist(), same.decisions.agreement
    ([0, 1, 2, 3], 1.0)
    """
    settings = ComparisonOptions(**options)
    sides = Side(before, preprocess, names[0]), Side(after, preprocess_after or preprocess, names[1])
    _check(sides, images, settings)
    layers = tuple(dict.fromkeys(settings.layers)) or default_layers(before, pooled=False)
    pair = Pair(*sides, images, settings, layers)
    work = _Work(pair, None if out is None else pathlib.Path(out), stamped({**place_of(images), **(sources or {})}))
    return work.done()


def _check(sides: tuple[Side, Side], images: Images, options: ComparisonOptions) -> None:
    """Refuse what cannot be done, before the work."""
    one, two = (side.network for side in sides)
    if architecture(one) != architecture(two) or one.input_shape != two.input_shape:
        raise MismatchError(
            f"{sides[0].name} and {sides[1].name} are of different architectures; give two sets of weights of one: "
            "`deconvviz diagnose --compare` sets other networks side by side"
        )
    for side in sides:
        side.network.check_input(side.preprocess.shape)
    if not len(images):
        raise DataError("0 images given; expected at least 1")
    for layer in options.layers:
        one.layer(layer).require_channels()
    for check in options.checks or ():
        _ = CHECKS[check]
    if options.decisions:
        method_named(options.method)


class _Work:
    """The steps of a comparison; each reads from its file what an earlier call has computed."""

    def __init__(self, pair: Pair, folder: pathlib.Path | None, sources: dict[str, Any]) -> None:
        self.pair, self.folder, self.sources = pair, folder, sources
        self.class_names = tuple(pair.options.class_names)
        self.config = self._config()
        if folder is not None:
            claim(folder, "comparing", self.config)

    def _config(self) -> dict[str, Any]:
        """Return what must agree for a comparison to be continued, JSON values."""
        pair, options = self.pair, self.pair.options
        return {
            "networks": [side.name for side in pair.sides],
            "model_fingerprints": [side.network.fingerprint for side in pair.sides],
            "preprocess": [side.preprocess.as_dict() for side in pair.sides],
            "images_fingerprint": pair.images.fingerprint,
            "images": len(pair.indices),
            "layers": list(pair.layers),
            "checks": None if options.checks is None else list(options.checks),
            "targets": digest_of(pair.targets.tolist()),
            "truth_fingerprint": None if options.truth is None else options.truth.fingerprint,
            "method": self._method(),
            "cam_layer": options.cam_layer,
            "decisions": options.decisions,
            "filters": options.filters,
            "k": options.k,
            "precision": options.precision,
            "seed": options.seed,
        }

    def _method(self) -> str | None:
        """Return the method that explains decisions; None where the network has no layer that it could explain."""
        options = self.pair.options
        if not options.decisions or not self.pair.scored:
            return None
        try:
            return cam(options.method, self.pair.before.network, options.cam_layer).method.name
        except LayerNotFound:
            if options.cam_layer is not None:
                raise
            return None

    def _place(self, name: str) -> pathlib.Path | None:
        return None if self.folder is None else self.folder / "data" / name

    def done(self) -> Comparison:
        """Do what is left, and return the comparison."""
        place = self._place(RESULT)
        if place is not None and place.is_file():
            comparison = Comparison.load(place)
            require_same(place, comparison.config, self.config, "remove it or choose another output")
            if comparison.class_names != self.class_names:  # only what outputs are called has changed
                comparison = replace(comparison, class_names=self.class_names)
                comparison.save(place)
            return comparison
        comparison = self._computed()
        if place is not None:
            comparison.save(place)
        return comparison

    def _computed(self) -> Comparison:
        pair = self.pair
        responses = respond(pair, self._place("responses.h5"), self.config)
        layers = [_layer(pair, name, responses) for name in pair.layers]
        if pair.options.filters:
            mined = [
                strongest(pair, side, self._place(f"mined-{which}.h5"))
                for which, side in zip(("before", "after"), pair.sides, strict=True)
            ]
            layers = [with_tiles(pair, layer, mined) for layer in layers]
        decisions = responses.decisions(pair)
        return Comparison(
            config=self.config,
            sources=self.sources,
            layers=tuple(layers),
            decisions=decisions,
            changes=self._changes(),
            explained=explained(pair, decisions) if self.config["method"] else None,
            names=tuple(str(pair.images.names[i]) for i in pair.indices),
            class_names=self.class_names,
        )

    def _changes(self) -> tuple[Change, ...]:
        """Return which findings came, went, grew or shrank; none where no diagnosis is asked for."""
        if self.pair.options.checks is None:
            return ()
        before = self._found(self.pair.before, "before")
        return changes(before, before if self.pair.identical else self._found(self.pair.after, "after"))

    def _found(self, side: Side, which: str) -> FoundRows:
        """Diagnose one of the networks, or read what was found before."""
        place = self._place(f"findings-{which}.h5")
        if place is not None and place.is_file():
            file = Result.load(place, FOUND, FOUND_SCHEMA)
            require_same(place, file.config, self.config, "remove it or choose another output")
            return FoundRows.from_json(file.state)
        options = self.pair.options
        found_rows = FoundRows.of(
            diagnose(
                side.network,
                self.pair.images,
                preprocess=side.preprocess,
                checks=options.checks or (),
                limit=options.limit,
                outputs=options.outputs,
                names=options.class_names,
                truth=options.truth,
                **options.keywords(),
            )
        )
        if place is not None:
            Result(FOUND, FOUND_SCHEMA, self.config, {}, {}, found_rows.as_json()).save(place)
        return found_rows


def _layer(pair: Pair, name: str, responses: Responses) -> LayerComparison:
    """Match the filters of a layer."""
    moments = responses.moments[name]
    matching = match(moments.correlations)
    before, after = responses.maxima[name]
    alive_before, alive_after = moments.alive
    return LayerComparison(
        layer=name,
        **matching._asdict(),
        alive_before=alive_before,
        alive_after=alive_after,
        sharpness_before=sharpness(before),
        sharpness_after=sharpness(after),
        sharpness_error=sharpness_error(before, after[:, matching.partner]),
        weight_cosine=_weight_cosines(pair, name),
    )


def _weight_cosines(pair: Pair, name: str) -> Floats:
    """Return the cosine between the weights of the filters of one number, float64 [C]; NaN where there are none."""
    one, two = (filters_of(side.network, name) for side in pair.sides)
    channels, _, _ = pair.before.network.layer(name).units
    if one is None or two is None or len(one.weights) != channels:
        return np.full(channels, np.nan)
    pairs = zip(one.effective, two.effective, strict=True)
    return np.array([correlation(a, b, centred=False) for a, b in pairs], np.float64)
