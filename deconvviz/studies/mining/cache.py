"""ProjectionCache: what a mined file keeps for the figures made of it, and computes where it is missing.

The names in the file: `projections/LAYER/RULE/CHANNEL/RANK` float16 [C, h, w] and the same name with `_box` int64 [4]
(top, left, bottom, right), and with `_need` int64 [4], the smallest box of the image that keeps 90 % of the unit's
activation; `projections/LAYER/map/CHANNEL/RANK` float16 [rows, columns], the channel's map in units of the entry's
value. `figures/LAYER/`: `crop_RULE` int64 [1]; `need_RULE` float64 [units, 2], the side that a unit needs and what it
keeps with the side of the layer; `kept/RULE` float64 [units, 2], the fidelity that a rule is chosen by; `switches` and
`rectified` int64 [1], whether the deconvnet has switches and whether values come from rectifiers; `receptive_field`
int64 [2]; `filters` float32 [C, h, w, 3], empty where the layer does not read the image directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.choices import CROPS, RULE_CHOICES
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.deconv.choice import CANDIDATES, CHOSEN_BY, SAMPLE, RuleChoice, choose_rule, has_switches, measured_rules
from deconvviz.deconv.needed import SHARE, bisections, kept_by, needed_boxes, needed_squares, squares_around
from deconvviz.deconv.project import project_by_rules
from deconvviz.deconv.views import UnitViews
from deconvviz.errors import DataError, MismatchError, ProjectionError, require_choice
from deconvviz.graph.digest import architecture
from deconvviz.graph.network import Network
from deconvviz.graph.ops import is_rectified
from deconvviz.results.results import other_network
from deconvviz.run.options import RunOptions
from deconvviz.studies.mining.projections import (
    ENERGY,
    StoredProjection,
    firing_maps,
    first_layer_weights,
    project_winners,
    sample_of,
    stored,
    units_of,
)
from deconvviz.studies.mining.result import Mined, Winner
from deconvviz.types import Array, Box, Ints, Pathlike
from deconvviz.words import counted

EXTENT_SAMPLE = 64  # filters whose projections' energy decides the crop "energy"
AT_ONCE = 16  # filters whose images are in memory together
PICTURES = 128 * 2**20  # bytes of decoded pictures that are kept: neighbouring filters have images in common


class Crop(NamedTuple):
    """The size of the patches of a layer.

    Attributes:
        size: height and width in pixels; they may exceed the image's.
        rule: in words, how the size was chosen.
        surrounded: whether the surroundings of the patches are shown too.
    """

    size: tuple[int, int]
    rule: str
    surrounded: bool = False


class ProjectionCache:
    """Projections of a mined result's winners by one rule: read from its file, computed where they are missing.

    Attributes:
        mined: the mined result; it stays as it is.
        feed: the images that were mined, prepared as they were then; a place is an index into the store.
        rule: of the projections, one of `choices.RULES`, or "auto": each layer has the rule that shows it best; or the
            rule of each layer by its name.
        averages: `shifts`, `noise` and `samples` of `SignalOptions`, of the projections.
    """

    def __init__(
        self,
        mined: Mined,
        store: Images,
        network: Network | Callable[[], Network],
        rule: str | Mapping[str, str] = "auto",
        progress: bool = True,
        shown: Sequence[int] = (),
        **averages: Any,
    ) -> None:
        """Begin with what the mined result keeps.

        Args:
            mined: from `mine` or `load_mined`.
            store: the images that were mined.
            network: the network that was mined, or a function that loads it. The function is called only if something
                is asked for that the file does not keep.
            rule: of the projections; see the attributes.
            progress: whether progress bars are shown.
            shown: channels of the images that are shown, as for `Preprocess`.
            averages: `shifts`, `noise` and `samples` of `SignalOptions`.

        Raises:
            ProjectionError: another rule.
            MismatchError: network or store are not those that were mined. Of a function, the network is checked when
                it is loaded.
        """
        if store.fingerprint != mined.config["store_fingerprint"]:
            raise MismatchError(
                f"{getattr(store, 'path', store)} is not the store that was mined "
                f"({mined.config['store_fingerprint'][:12]}); "
                "give the right one with --images"
            )
        for name in [rule] if isinstance(rule, str) else rule.values():
            require_choice("rule", name, RULE_CHOICES, ProjectionError)
        self.mined, self.rule, self.averages = mined, rule, averages
        self._choices: dict[str, RuleChoice] = {}
        preprocess = Preprocess.from_dict({**mined.config["preprocess"], "shown": shown})
        self.feed = Feed(store, preprocess, memory=PICTURES)
        self._source, self._run = network, RunOptions(progress=progress)
        self._arrays: dict[str, Array] = dict(mined.figure_arrays)
        self._sampled: dict[str, StoredProjection] = {}
        if isinstance(network, Network):
            _ = self.network

    @cached_property
    def network(self) -> Network:
        """The network that was mined; it is loaded here if a function was given."""
        network = self._source if isinstance(self._source, Network) else self._source()
        if network.fingerprint != self.mined.config["model_fingerprint"]:
            what = other_network(self.mined.sources.get("architecture"), architecture(network))
            raise MismatchError(
                f"the file was mined with {what} (fingerprint {self.mined.config['model_fingerprint']}; that of the "
                f"model given is {network.fingerprint}): give the right ones with --model and --weights"
            )
        return network

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.feed.preprocess.shape[1:]

    def projections(
        self, layer: str, winners: Sequence[Winner], keep: bool = True, bar: bool = True
    ) -> dict[Winner, StoredProjection]:
        """Return the projections of entries of a layer's table.

        Args:
            layer: name of a mined layer.
            winners: (channel, rank) of the entries.
            keep: whether those that are computed are added to what `save` writes.
            bar: whether a progress bar counts them.
        """
        stored = {winner: self._stored(layer, winner) for winner in winners}
        missing = [winner for winner, projection in stored.items() if projection is None]
        computed = self._computed(layer, missing, bar) if missing else {}
        projections = {winner: projection or computed[winner] for winner, projection in stored.items()}
        if keep:
            for winner, projection in projections.items():
                key = self._key(layer, winner)
                self._arrays.setdefault(key, projection.pixels)
                self._arrays.setdefault(f"{key}_box", np.asarray(projection.box))
        return projections

    def sample(self, layer: str, most: int = SAMPLE) -> list[Winner]:
        """Return the strongest entries of filters that are evenly chosen among those that are not dead.

        Raises:
            DataError: every filter of the layer is dead.
        """
        return sample_of(self.mined[layer], most)

    def patch(self, layer: str, winner: Winner, window: Box) -> Array:
        """Return the part of an entry's image inside a window as figures show it, uint8 [h, w, 3]."""
        return window.of(self.feed.display(int(self.mined[layer].images[winner])))

    def crop(self, layer: str, crop: str | int = "energy") -> Crop:
        """Return the size of the patches of a layer.

        Args:
            layer: name of a mined layer.
            crop: "need" is the smallest square that keeps 90 % of a unit's activation when all outside of it is filled
                with the mean colour, the median over 32 filters; "each" cuts every patch by what its own unit needs,
                and this is the size of a tile that the patches are scaled to; "energy" is the smallest square that
                holds 98 % of a projection's energy, the median over 64 filters; "receptive-field" is all that a unit
                can see; or a side in pixels.

        Raises:
            DataError: another crop, or every filter of the layer is dead.
        """
        if isinstance(crop, int) or crop.isdecimal():
            side = int(crop)
            if side < 1:
                raise DataError(f"crop {crop} given; expected a number of pixels")
            return Crop((side, side), "as given")
        if crop == "receptive-field":
            height, width = self._remembered(layer, "receptive_field", self._receptive_field)
            return Crop((int(height), int(width)), "the theoretical receptive field")
        if crop not in CROPS:
            raise DataError(f"crop {crop!r} given; expected {', '.join(CROPS)} or a number of pixels")
        if crop in ("need", "each"):
            sides, shares = self._remembered(layer, f"need_{self.label(layer)}", self._needed).T
            side, with_it = int(np.median(sides)), np.nanmedian(shares) if np.isfinite(shares).any() else np.nan
            share = f"{100 * SHARE:.0f} %"
            if crop == "each":
                return Crop((side, side), f"each as small as keeps {share} of its unit's activation, scaled", True)
            words = (
                f"the smallest square that keeps {share} of a unit's activation, median of "
                f"{counted(len(sides), 'filter')}; with this size for all they keep {100 * with_it:.0f} %"
            )
            return Crop((side, side), words, True)
        side = int(self._remembered(layer, f"crop_{self.label(layer)}", self._typical_extent)[0])
        words = f"the smallest square with {100 * ENERGY:.0f} % of the projections' energy, median of the layer"
        return Crop((side, side), words)

    def choice(self, layer: str) -> RuleChoice | None:
        """Return how the rule of a layer was chosen; None where the rule was given."""
        if self._given(layer) != "auto":
            return None
        if layer not in self._choices:
            names = {f"figures/{layer}/kept/{rule}": rule for rule in CANDIDATES}
            if not all(name in self._arrays for name in names):
                self._arrays |= self._measured(layer)
            fidelity_by_rule = {rule: self._arrays[name] for name, rule in names.items()}
            self._choices[layer] = choose_rule(fidelity_by_rule, self.switches(layer))
        return self._choices[layer]

    def rule_of(self, layer: str) -> str:
        """Return the rule by which a layer is projected."""
        choice = self.choice(layer)
        return self._given(layer) if choice is None else choice.rule

    def label(self, layer: str) -> str:
        """Return the rule of a layer with what is averaged over, as the file's names have it."""
        settings = [f"{name}{value:g}" for name, value in self.averages.items() if value not in (0, 1)]
        return "-".join([self.rule_of(layer), *settings])

    def boxes(self, layer: str, winners: Sequence[Winner]) -> dict[Winner, Box]:
        """Return for each entry the smallest box of its image that keeps 90 % of the unit's activation."""
        keys = {winner: f"{self._key(layer, winner)}_need" for winner in winners}
        missing = [winner for winner, key in keys.items() if key not in self._arrays]
        step = AT_ONCE * self.mined[layer].top.k
        for start in range(0, len(missing), step):
            group = missing[start : start + step]
            views, centres = self._views(layer, group)
            rounds = 5 * bisections(max(views.pixels.shape[2:]))
            with self._run.bar("round", rounds, f"size of {layer}'s patches") as bar:
                boxes = needed_boxes(views, centres, after_round=bar.update) + views.corners.repeat(1, 2)
            self._arrays |= {keys[winner]: box.numpy() for winner, box in zip(group, boxes, strict=True)}
        return {winner: Box(*self._arrays[key].tolist()) for winner, key in keys.items()}

    def maps(self, layer: str, winners: Sequence[Winner]) -> dict[Winner, NDArray[np.float16]]:
        """Return where each entry's channel fires on its image: its map in units of the entry's value."""
        keys = {winner: f"projections/{layer}/map/{winner.channel}/{winner.rank}" for winner in winners}
        missing = [winner for winner, key in keys.items() if key not in self._arrays]
        if missing:
            computed = firing_maps(self.network, self.mined[layer], self.feed, missing)
            self._arrays |= {keys[winner]: unit_map for winner, unit_map in computed.items()}
        return {winner: self._arrays[key] for winner, key in keys.items()}

    def first_filters(self, layer: str, channels: Sequence[int]) -> NDArray[np.float32] | None:
        """Return filters of a layer that reads the image directly, float32 [n, h, w, C]; None for another layer."""
        weights = self._remembered(layer, "filters", self._first_layer_weights)
        return weights[list(channels)] if weights.size else None

    def largest_weight(self, layer: str) -> float | None:
        """Return the largest absolute weight of a layer that reads the image directly; None for another layer."""
        weights = self._remembered(layer, "filters", self._first_layer_weights)
        return float(np.abs(weights).max()) if weights.size else None

    def switches(self, layer: str) -> bool:
        """Return whether a deconvnet has switches in front of a layer, see `has_switches`."""
        return self._told(layer, "switches", lambda: has_switches(self.network, layer))

    def rectified(self, layer: str) -> bool:
        """Return whether the values of a layer come from rectifiers, see `is_rectified`."""
        return self._told(layer, "rectified", lambda: is_rectified(self.network.layer(layer).node))

    def wanted(self, layer: str, channels: Sequence[int], make: Callable[..., Any]) -> dict[int, NDArray[np.float32]]:
        """Return channel -> its picture [h, w, C] in 0..1; `make(network, channels)` makes those that are missing."""
        keys = {channel: f"wanted/{layer}/{channel}" for channel in channels}
        if missing := [channel for channel in channels if keys[channel] not in self._arrays]:
            self._arrays |= {keys[c]: np.half(p) for c, p in zip(missing, make(self.network, missing), strict=True)}
        return {channel: self._arrays[key].astype(np.float32) for channel, key in keys.items()}

    def save(self, path: Pathlike) -> None:
        """Write the mined file with what was added to it; where nothing was, the file stays as it is.

        Raises:
            DataError: the file cannot be written.
        """
        if self._arrays.keys() != self.mined.figure_arrays.keys():
            replace(self.mined, figure_arrays=self._arrays).save(path)

    # --- inside ---

    def _alive(self, layer: str) -> Ints:
        """Return the filters of a layer that are not dead."""
        mined_layer = self.mined[layer]
        return np.flatnonzero(~mined_layer.activity.dead & (mined_layer.images[:, 0] >= 0))

    def _given(self, layer: str) -> str:
        """Return the rule that was asked for."""
        return self.rule if isinstance(self.rule, str) else self.rule[layer]

    def _key(self, layer: str, winner: Winner) -> str:
        return f"projections/{layer}/{self.label(layer)}/{winner.channel}/{winner.rank}"

    def _stored(self, layer: str, winner: Winner) -> StoredProjection | None:
        key = self._key(layer, winner)
        if key in self._arrays:
            return StoredProjection(pixels=self._arrays[key], box=Box(*self._arrays[f"{key}_box"].tolist()))
        return self._sampled.get(key)

    def _computed(self, layer: str, winners: Sequence[Winner], bar: bool) -> dict[Winner, StoredProjection]:
        """Compute projections in groups, so that the images of a group fit in memory."""
        mined_layer, projections = self.mined[layer], dict[Winner, StoredProjection]()
        rule = self.rule_of(layer)
        step = AT_ONCE * mined_layer.top.k
        run = self._run if bar else RunOptions(progress=False)
        with run.bar("projection", len(winners), f"projecting {layer}") as shown_bar:
            for start in range(0, len(winners), step):
                group = winners[start : start + step]
                projections |= project_winners(self.network, mined_layer, self.feed, group, rule, **self.averages)
                shown_bar.update(len(group))
        return projections

    def _remembered(self, layer: str, name: str, compute: Callable[[str], Array]) -> Array:
        """Return a small array about a layer from the file; where it is not there, compute it and add it."""
        key = f"figures/{layer}/{name}"
        if key not in self._arrays:
            self._arrays[key] = compute(layer)
        return self._arrays[key]

    def _told(self, layer: str, name: str, ask: Callable[[], bool]) -> bool:
        """Return what the file or the network tells of a layer.

        A file of an earlier version may not tell, and keep all that is shown, so that no network is loaded: then it is
        taken to be true, as it was then.
        """
        key = f"figures/{layer}/{name}"
        if key not in self._arrays and not (isinstance(self._source, Network) or "network" in self.__dict__):
            return True
        return bool(self._remembered(layer, name, lambda _: np.asarray([ask()], np.int64))[0])

    def _receptive_field(self, layer: str) -> Array:
        return np.asarray(self.network.layer(layer).receptive_field.size)

    def _first_layer_weights(self, layer: str) -> Array:
        weights = first_layer_weights(self.network, layer)
        return np.zeros(0, np.float32) if weights is None else weights

    def _typical_extent(self, layer: str) -> Array:
        """Return the median extent of the strongest projections of EXTENT_SAMPLE filters, evenly chosen."""
        projections = self._sample_projections(layer, self.sample(layer, EXTENT_SAMPLE))
        return np.asarray([int(np.median([projection.extent() for projection in projections.values()])) | 1])

    def _sample_projections(self, layer: str, winners: Sequence[Winner]) -> dict[Winner, StoredProjection]:
        """Return projections that stay at hand, and are not written for their own sake."""
        projections = self.projections(layer, winners, keep=False)
        self._sampled |= {self._key(layer, winner): projection for winner, projection in projections.items()}
        return projections

    def _views(self, layer: str, winners: Sequence[Winner]) -> tuple[UnitViews, torch.Tensor]:
        """Return what the units of some entries see, and the centres of their projections' energy in it."""
        inputs, units = units_of(self.network, self.mined[layer], self.feed, winners)
        views = UnitViews(self.network, inputs, units)
        projections = self._sample_projections(layer, winners)
        centres = torch.tensor([projections[winner].centre() for winner in winners]) - views.corners
        return views, centres

    def _needed(self, layer: str) -> Array:
        views, centres = self._views(layer, self.sample(layer))
        rounds = bisections(max(views.pixels.shape[2:]))
        with self._run.bar("round", rounds, f"size of {layer}'s patches") as bar:
            sides = needed_squares(views, centres, after_round=bar.update)
        median = torch.full_like(sides, int(np.median(sides.numpy())))  # the size of the crop
        everything = torch.full_like(sides, max(views.pixels.shape[2:]))
        whole = kept_by(views, squares_around(views, centres, everything))
        with_it = kept_by(views, squares_around(views, centres, median))
        shares = torch.where(whole > 0, with_it / whole, torch.nan)
        return np.stack([sides.numpy().astype(np.float64), shares.numpy()], 1)

    def _measured(self, layer: str) -> Mapping[str, Array]:
        """Measure the rules among which "auto" chooses; of a layer whose filters are all dead nothing is measured."""
        if not len(self._alive(layer)):
            nothing = np.full((1, len(CHOSEN_BY)), np.nan)
            return {f"figures/{layer}/kept/{rule}": nothing for rule in CANDIDATES}
        winners = self.sample(layer)
        inputs, units = units_of(self.network, self.mined[layer], self.feed, winners)
        with self._run.bar("rule", len(CANDIDATES), f"choosing {layer}'s rule") as bar:
            bounds = self.feed.preprocess.bounds()
            projections = project_by_rules(self.network, inputs, units, CANDIDATES, bounds=bounds)
            how: dict[str, Any] = {"mirror": False, "projections": projections, "after_rule": bar.update}
            measured = measured_rules(self.network, inputs, units, CANDIDATES, CHOSEN_BY, **how)
        for rule, of_rule in projections.items():  # the rule that is chosen needs its own again
            keys = (f"projections/{layer}/{rule}/{winner.channel}/{winner.rank}" for winner in winners)
            self._sampled |= zip(keys, stored(of_rule), strict=True)
        return {f"figures/{layer}/kept/{rule}": each.kept for rule, each in measured.items()}
