"""Which rule shows a layer best: the fidelity of each rule on a sample of the layer's units, and the choice by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.choices import CONTROLS, FIDELITY_FILLS
from deconvviz.deconv.plan import make_plan
from deconvviz.deconv.project import project_by_rules
from deconvviz.deconv.projection import Unit
from deconvviz.deconv.rules import PixelBounds
from deconvviz.deconv.views import UnitViews
from deconvviz.errors import require_choice
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_of
from deconvviz.metrics.fidelity import (
    BLUR,
    BLUR_STRIDES,
    NOISE,
    SHARES,
    Fidelity,
    energy,
    fidelity,
    nearest,
    smooth_noise,
)
from deconvviz.metrics.intervals import mean_interval, median_interval
from deconvviz.types import Floats, Ints
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.deconv.projection import Projection, SignalKeywords

CANDIDATES = ("deconvnet", "guided", "lrp-gamma", "lrp-zplus", "lrp-composite")  # among which "auto" chooses
SAMPLE = 32  # units that a rule is chosen by
CHOSEN_BY = (5.0, 10.0)  # per cent of the pixels that a unit sees
BLUR_FILL = 10 / 224  # of the image's side: the standard deviation of the fill "blur"


def measured_rules(
    network: Network,
    images: Tensor,
    units: Sequence[Unit],
    names: Sequence[str],
    shares: Sequence[float] = SHARES,
    fill: str = "mean",
    mirror: bool = True,
    projections: Mapping[str, Sequence[Projection]] | None = None,
    after_rule: Callable[[], object] | None = None,
    **signal: Unpack[SignalKeywords],
) -> dict[str, Fidelity]:
    """Measure the fidelity of rules, and of controls, on units of one layer.

    Args:
        network: a captured network.
        images: [N, C, H, W], prepared for the network.
        units: (image, layer, channel, (y, x)) each, of one layer.
        names: of rules (`choices.RULES`) and of CONTROLS.
        shares: per cent of the pixels that a unit sees.
        fill: what stands for pixels that are taken away: "mean" is 0, the mean colour of what the network was trained
            on; "blur" is the image itself, blurred.
        mirror: whether what is left without the strongest pixels is measured too.
        projections: rule -> the projections of the units, where they are known; else they are computed.
        after_rule: called after each name, for a progress bar.
        signal: the fields of `SignalOptions`, such as `bounds` or `shifts`.

    Returns:
        name -> `Fidelity` of the units, in their order.

    Raises:
        ProjectionError: another rule or fill, or units of several layers.
    """
    require_choice("fill", fill, FIDELITY_FILLS)
    views, side = UnitViews(network, images, units), max(images.shape[2:])
    sigma = max(BLUR * side, BLUR_STRIDES * max(network.layer(views.layer).stride))
    filled = views.pixels.new_zeros(1) if fill == "mean" else views.blurred(BLUR_FILL * side)
    rules = [name for name in names if name not in CONTROLS]
    if projections is None:
        projections = project_by_rules(network, images, units, rules, **signal)
    result = {}
    for name in names:
        if name in CONTROLS:
            near = name == "nearest"
            ranked = nearest(views.seen, views.centres()) if near else smooth_noise(views.seen, NOISE * side)
        else:
            ranked = energy(views.placed(projections[name]), sigma)
        ranked = ranked.to(views.seen.device)
        size = views.batch_size
        whole = views.unchanged.numpy()  # once for all rules
        result[name] = fidelity(
            views.activations, views.pixels, ranked, views.seen, filled, shares, size, mirror, whole
        )
        if after_rule is not None:
            after_rule()
    return result


@dataclass(frozen=True, kw_only=True)
class RuleChoice:
    """The rule that shows a layer, and the numbers that say why.

    Attributes:
        rule: the chosen rule.
        kept: rule -> (median, lower and upper end of its 95 % interval) of what the strongest pixels bring back of the
            activations, the mean over the shares CHOSEN_BY.
        units: how many units were measured.
        switches: whether the deconvnet has switches in front of the layer.
        by: "median" over the units; "mean" where the interval of the best median reaches down to zero: of many units
            hardly anything is brought back then, and medians tell no rule from another.

    >>> kept = {"guided": (0.9712, 0.9, 1.0), "deconvnet": (0.9741, 0.9, 1.0)}
    >>> RuleChoice(rule="guided", kept=kept, units=32, switches=False).words()[-70:]
    'median of 32 units: 0.97; deconvnet, which has no switches here: 0.97.'
    >>> kept = {"deconvnet": (0.36, 0.3, 0.4), "guided": (0.37, 0.32, 0.41)}
    >>> RuleChoice(rule="deconvnet", kept=kept, units=32).words()[-79:]
    '0.36; guided: 0.37. The deconvnet is within the 95 % interval of the best rule.'
    """

    rule: str
    kept: Mapping[str, tuple[float, float, float]]
    units: int
    switches: bool = True
    by: str = "median"

    def words(self) -> str:
        """Return a sentence for a caption."""
        if not self.units:
            return f"{self.rule}: no unit has a positive activation, so that no rule could be measured."
        if all(score[0] <= 0 for score in self.kept.values()):
            return (
                f"{self.rule}, by default: the strongest 5 and 10 % of the pixels bring nothing back of the activation "
                f"of {counted(self.units, 'unit')} by any rule, so that none is better than another."
            )
        other = "guided" if self.rule == "deconvnet" else "deconvnet"
        share, share_of_other = self.kept[self.rule][0], self.kept[other][0]
        reason = ", which has no switches here" if other == "deconvnet" and not self.switches else ""
        is_as_good = self.rule == "deconvnet" and share <= share_of_other
        as_good = " The deconvnet is within the 95 % interval of the best rule." if is_as_good else ""
        told = reason or as_good or f"{share:.2f}" != f"{share_of_other:.2f}"
        digits = 2 if told else 4  # so many that the choice can be seen
        few = " (of many units hardly anything comes back)" * (self.by == "mean")
        return (
            f"{self.rule}, chosen by what the strongest 5 and 10 % of the pixels bring back of the activation, "
            f"{self.by} of {counted(self.units, 'unit')}{few}: {share:.{digits}f}; "
            f"{other}{reason}: {share_of_other:.{digits}f}.{as_good}"
        )


def choose_rule(kept: Mapping[str, Floats], switches: bool) -> RuleChoice:
    """Choose the rule for a layer by the mean of what is kept at CHOSEN_BY.

    The deconvnet is chosen where its switches exist and its median lies within the interval of the best rule; else the
    best rule. Where it has no switches, its signal spreads over every position that a strided filter could have come
    from, and it is chosen only if the median of every other rule lies below its interval. Where the interval of the
    best median reaches down to zero, medians tell no rule from another, and means take their place. Without a unit of
    positive activation, or where no rule brings anything back, it is the deconvnet.

    Args:
        kept: rule -> float64 [units, 2], `Fidelity.kept` at CHOSEN_BY, of the same units; NaN for a unit whose
            activation is not positive, which is left out.
        switches: whether the deconvnet's switches exist; see `has_switches`.

    >>> good, bad = np.full((9, 2), 0.9), np.full((9, 2), 0.2)
    >>> choose_rule({"deconvnet": good, "guided": good}, switches=True).rule
    'deconvnet'
    >>> choose_rule({"deconvnet": bad, "guided": good}, switches=True).rule
    'guided'
    """
    measured = ~np.isnan(next(iter(kept.values()))[:, 0])
    if not measured.any():
        return RuleChoice(rule="deconvnet", kept={}, units=0, switches=switches)
    kept_by_rule, by = {rule: values[measured].mean(1) for rule, values in kept.items()}, "median"
    scores = {rule: median_interval(values) for rule, values in kept_by_rule.items()}
    if np.nanmin(max(scores.values(), key=lambda score: score[0])) <= 0:
        scores, by = {rule: mean_interval(values) for rule, values in kept_by_rule.items()}, "mean"
    others = [rule for rule in scores if rule != "deconvnet"] or ["deconvnet"]
    best = max(others, key=lambda rule: scores[rule][0])
    low = {name: np.nanmin(score) for name, score in scores.items()}  # a single unit has no interval, but its value
    papers = scores["deconvnet"][0]
    as_good = papers > 0 and papers >= low[best] if switches else low["deconvnet"] > scores[best][0]
    rule = "deconvnet" if as_good or scores[best][0] <= 0 else best
    return RuleChoice(rule=rule, kept=scores, units=int(measured.sum()), switches=switches, by=by)


def has_switches(network: Network, layer: str) -> bool:
    """Return whether max pooling, or nothing but a single convolution, lies between the image and a layer.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.MaxPool2d(2))
    >>> network = dv.capture(model, (3, 16, 16))
    >>> [has_switches(network, layer) for layer in ("1", "2", "3")]
    [True, False, True]
    """
    steps = [node for node in make_plan(network, layer).steps if node.op == "call_function"]
    pools = any(op_of(node).kind == "max_pool" for node in steps)
    return pools or sum(op_of(node).weighted for node in steps) <= 1


def lacks_switches(network: Network, layer: str, rule: str) -> bool:
    """Return whether a rule is the deconvnet and has no switches: its projections hardly depend on the image then."""
    return rule == "deconvnet" and not has_switches(network, layer)


def strongest_units(network: Network, images: Tensor, layer: str, most: int = SAMPLE) -> list[Unit]:
    """Return units of a layer to measure rules on, where only a few images are given.

    Args:
        network: a captured network.
        images: [N, C, H, W].
        layer: name of the layer.
        most: how many units are returned at most.

    Returns:
        For channels that are evenly chosen among those with a positive activation, the strongest unit over all images.
    """
    with torch.no_grad():
        maps = network.maps(layer, network.activations(images, [layer])[layer])
    _, channels, rows, columns = maps.shape
    values, places = maps.transpose(0, 1).reshape(channels, -1).max(1)
    alive = np.flatnonzero((values > 0).cpu().numpy())
    sampled: Ints = alive[evenly(len(alive), most)]
    units: list[Unit] = []
    for channel in sampled.tolist():
        image, place = divmod(int(places[channel]), rows * columns)
        units.append((image, layer, channel, divmod(place, columns)))
    return units


def rule_on(network: Network, images: Tensor, layer: str, bounds: PixelBounds | None = None) -> RuleChoice:
    """Choose the rule for a layer from a few images: the strongest units of up to SAMPLE channels on them are measured.

    Args:
        network: a captured network.
        images: [N, C, H, W], prepared for the network.
        layer: name of the layer.
        bounds: lowest and highest value of a pixel; see `SignalOptions`.
    """
    units = strongest_units(network, images, layer)
    if not units:
        return choose_rule({"deconvnet": np.full((1, len(CHOSEN_BY)), np.nan)}, switches=True)
    measured = measured_rules(network, images, units, CANDIDATES, CHOSEN_BY, mirror=False, bounds=bounds)
    return choose_rule({rule: each.kept for rule, each in measured.items()}, has_switches(network, layer))
