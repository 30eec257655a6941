"""Measuring which rule's projections mark the pixels that carry the units of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deconvviz.choices import CONTROLS, RULES
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.deconv.choice import CANDIDATES, CHOSEN_BY, choose_rule, has_switches, measured_rules
from deconvviz.errors import DataError, require
from deconvviz.graph.network import Network
from deconvviz.metrics.fidelity import SHARES
from deconvviz.run.options import RunOptions
from deconvviz.studies.mining.fidelity_result import FidelityTable, LayerFidelity
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.projections import sample_of, units_of
from deconvviz.studies.mining.result import MinedLayer
from deconvviz.types import Floats

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords

UNITS = 64


def fidelity_of_layers(
    network: Network,
    store: Images,
    layers: Sequence[str],
    *,
    preprocess: Preprocess | None = None,
    units: int = UNITS,
    rules: Sequence[str] = (*RULES, *CONTROLS),
    fill: str = "mean",
    shifts: int = 1,
    noise: float = 0.0,
    limit: int | None = None,
    **run: Unpack[RunKeywords],
) -> FidelityTable:
    """Measure what the strongest pixels of each rule's projections bring back of the activations of units.

    The units are the strongest ones of up to `units` filters that are evenly chosen among those that are not dead, each
    on the image that activates it most.

    Args:
        network: a captured network.
        store: the images.
        layers: names from `network.layers`.
        preprocess: how an image becomes the network's input; by default as for `mine`.
        units: how many units of each layer are measured, at most.
        rules: of `choices.RULES`, and the controls "nearest" and "noise".
        fill: what stands for pixels that are taken away, "mean" or "blur".
        shifts: of the projections; see `SignalOptions`.
        noise: of the projections; see `SignalOptions`.
        limit: take only that many images.
        run: see `RunOptions`.

    Raises:
        LayerNotFound: a name in `layers` does not exist.
        DataError: fewer than one unit, an unknown rule or fill, or a layer of which every filter is dead.

    Source: this package's own; see `metrics.fidelity`.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> table = fidelity_of_layers(network, dv.Scenes(20), ["1"], units=4, rules=["gradient", "noise"], progress=False)
    >>> table.layers[0].units, sorted(table.layers[0].kept)
    (4, ['gradient', 'noise'])
    """
    options, known = RunOptions(**run), (*RULES, *CONTROLS)
    unknown = [rule for rule in rules if rule not in known]
    require(
        {"units": units, "rules": list(rules)},
        DataError,
        units=(units >= 1, "at least 1"),
        rules=(bool(rules) and not unknown, f"some of {', '.join(known)}"),
    )
    mined = mine(network, store, layers, 1, preprocess=preprocess, limit=limit, **run)
    feed = Feed(store, Preprocess.from_dict(mined.config["preprocess"]))
    measured = []
    with options.bar("layer", len(mined), "fidelity") as bar:
        for layer in mined.values():
            measured.append(_of_layer(network, layer, feed, units, rules, fill, shifts, noise))
            bar.update()
    config = {**mined.config, "units": units, "fill": fill, "shifts": shifts, "noise": noise}
    return FidelityTable(layers=tuple(measured), config=config)


def _of_layer(
    network: Network,
    layer: MinedLayer,
    feed: Feed,
    count: int,
    rules: Sequence[str],
    fill: str,
    shifts: int,
    noise: float,
) -> LayerFidelity:
    inputs, units = units_of(network, layer, feed, sample_of(layer, count))
    bounds = feed.preprocess.bounds()
    measured = measured_rules(network, inputs, units, rules, bounds=bounds, fill=fill, shifts=shifts, noise=noise)
    first = next(iter(measured.values()))
    counted, columns = first.counted, [SHARES.index(share) for share in CHOSEN_BY]
    by_rule: dict[str, Floats] = {rule: each.kept[:, columns] for rule, each in measured.items() if rule in CANDIDATES}
    choice = choose_rule(by_rule, has_switches(network, layer.name)).rule if "deconvnet" in by_rule else ""
    return LayerFidelity(
        layer=layer.name,
        shares=tuple(SHARES),
        kept={name: each.kept[counted] for name, each in measured.items()},
        left={name: each.left[counted] for name, each in measured.items()},
        left_out=len(units) - len(counted),
        auto=choice,
    )
