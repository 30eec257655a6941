"""Figures of studies of what filters and layers have learned, by the functions that the commands draw with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from deconvviz.drawing.engine import contact_sheet
from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.studies.correspondence import figure as correspondence
from deconvviz.studies.dissection import figure as dissecting
from deconvviz.studies.evolution import figure as evolving
from deconvviz.studies.invariance import figure as invariant
from deconvviz.studies.maps import figure as taken_apart
from deconvviz.studies.mining import fidelity_figure, range_figure
from deconvviz.studies.mining import figure as mining
from deconvviz.studies.probing import figure as probing
from deconvviz.studies.probing.result import ProbeResult, Transfer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import ColumnsKeywords, PageKeywords
    from deconvviz.studies.correspondence.result import Correspondence
    from deconvviz.studies.dissection.result import Dissection
    from deconvviz.studies.evolution.result import Evolution
    from deconvviz.studies.invariance.result import Invariance
    from deconvviz.studies.maps.result import FeatureMaps, Kernels
    from deconvviz.studies.mining.fidelity_result import FidelityTable
    from deconvviz.studies.mining.range_result import LayerRange
    from deconvviz.studies.mining.result import LayerPanels, Mined, MinedLayer

MINED_LAYERS = 6  # layers of a mined result on one sheet


def draw_grid(
    panels: LayerPanels,
    title: str = "",
    caption: str = "",
    names: Mapping[int, str] | None = None,
    **page: Unpack[ColumnsKeywords],
) -> Figure:
    """Draw the filters of a layer: for each its top projections beside the image patches that they came from.

    Args:
        panels: what `dv.layer_panels` returns, 1 to 100 filters.
        title: text above.
        caption: text below.
        names: channel -> what the filter detects, written above it, as `Dissection.names` returns it.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Source: Zeiler and Fergus 2013, figure 2.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> scenes, preprocess = dv.Scenes(20), dv.Preprocess(resize=32, crop=32)
    >>> mined = dv.mine(network, scenes, ["1"], k=4, preprocess=preprocess, progress=False)
    >>> panels = dv.layer_panels(mined, scenes, network, "1", [3, 5], crop=9, rule="gradient", progress=False)
    >>> figure = dv.draw_grid(panels, title="Two filters of the first layer")
    >>> figure.savefig("grid.pdf")  # doctest: +SKIP
    """
    return mining.draw_grid(panels, title, caption, page=Page(**page), names=names or {})


def draw_feature_maps(
    maps: FeatureMaps,
    sort: str = "maximum",
    scale: str = "own",
    count: int | None = None,
    title: str = "",
    caption: str = "",
    **page: Unpack[ColumnsKeywords],
) -> Figure:
    """Draw an image, and below it its maps at some layers, a tile for each channel.

    Args:
        maps: what `dv.maps` returns.
        sort: "maximum" (of the map's values), "energy" (the sum of their squares) or "index"; dead maps stand last.
        scale: "own" lets the colours of each map reach up to its largest value, "common" to the layer's.
        count: maps of a layer; None for all, or for 24 where there are several layers.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: another order or scale.

    >>> import torch
    >>> import deconvviz as dv
    >>> network = dv.capture(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 8, 8))
    >>> figure = dv.draw_feature_maps(dv.maps(network, torch.rand(1, 3, 8, 8), ["0", "1"]))
    >>> len(figure.axes)  # the image, and for each layer the tiles and a colour bar
    5
    """
    return taken_apart.draw_feature_maps(maps, sort, scale, count, title, caption, page=Page(**page))


def draw_kernels(
    kernels: Kernels,
    title: str = "",
    caption: str = "",
    filters: Mapping[str, Sequence[int]] = MappingProxyType({}),
    **page: Unpack[ColumnsKeywords],
) -> Figure:
    """Draw the kernels of some layers: as pictures where they can be looked at, else the matrix of their norms.

    Args:
        kernels: what `dv.kernels` returns.
        title: text above.
        caption: text below.
        filters: name of a layer -> the filters whose pictures are drawn, in this order; of other layers the first 96.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import torch
    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 6, 3))
    >>> len(dv.draw_kernels(dv.kernels(dv.capture(model, (3, 8, 8)), ["0", "1"])).axes)
    3
    """
    return taken_apart.draw_kernels(kernels, title, caption, Page(**page), filters)


def draw_mined(
    mined: Mined | MinedLayer, images: Images | None = None, count: int = 10, **page: Unpack[ColumnsKeywords]
) -> Figure:
    """Draw the strongest image of some channels, below the channel's number and the activation: a row for each layer.

    It needs no network. `dv.draw_grid` draws patches and projections.

    Args:
        mined: what `dv.mine` or `dv.load_mined` returns, or one of its layers.
        images: the images that were mined; by default the store or folder that they were in is opened.
        count: channels of a layer, those with the highest mean activation.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: the images are gone, were in memory only, or are not those that were mined.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> scenes, preprocess = dv.Scenes(20), dv.Preprocess(resize=32, crop=32)
    >>> mined = dv.mine(network, scenes, ["0", "1"], k=4, preprocess=preprocess, progress=False)
    >>> len(dv.draw_mined(mined, scenes, count=3).axes), len(dv.draw_mined(mined["1"], scenes, count=3).axes)
    (6, 3)
    """
    layers = [*mined.values()][:MINED_LAYERS] if isinstance(mined, Mapping) else [mined]
    images = layers[0].origin.open(images)
    entries = [(layer, channel) for layer in layers for channel in layer.choose_channels("active", count)]
    alive = [(layer, channel) for layer, channel in entries if layer.images[channel, 0] >= 0]
    if not alive:
        raise DataError("no image activates a channel; there is nothing to draw")
    several = len(layers) > 1
    sheet = [
        (
            images[int(layer.images[channel, 0])][0],
            f"{layer.name[-6:] + ':' if several else ''}{channel}  {layer.values[channel, 0]:.3g}",
        )
        for layer, channel in alive
    ]
    return contact_sheet(sheet, count, page=Page(**page))


def draw_range(layer: LayerRange, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw the whole range of a layer's filters: images from the weakest to the strongest, and the histogram.

    Args:
        layer: what `dv.layer_range` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> scenes, preprocess = dv.Scenes(20), dv.Preprocess(resize=32, crop=32)
    >>> mined = dv.mine(network, scenes, ["1"], preprocess=preprocess, progress=False)
    >>> len(dv.draw_range(dv.layer_range(mined, scenes, network, "1", [3, 5], progress=False)).axes)
    20
    """
    return range_figure.draw_range(layer, title, caption, Page(**page))


def draw_fidelity(table: FidelityTable, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]) -> Figure:
    """Draw which share of a unit's activation the strongest pixels of its projection bring back, rule by rule.

    Args:
        table: what `deconvviz.studies.mining.fidelity.fidelity_of_layers` returns.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> from deconvviz.studies.mining.fidelity_result import FidelityTable, LayerFidelity
    >>> values = {"deconvnet": np.array([[0.2, 0.6], [0.3, 0.7]])}
    >>> layer = LayerFidelity(layer="conv1", shares=(5, 20), kept=values, left=values, left_out=0, auto="deconvnet")
    >>> len(dv.draw_fidelity(FidelityTable(layers=(layer,), config={"fill": "mean"})).axes)
    2
    """
    return fidelity_figure.draw_fidelity(table, title, caption, page=Page(**page))


def draw_dissection(
    dissection: Dissection, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]
) -> Figure:
    """Draw for each layer how many channels are named after each concept, and pictures of the nine named best.

    Args:
        dissection: what `dv.dissect` returns, or `dv.Dissection.load`.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Source: Bau et al. 2017, figures 1 and 5.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()), (3, 32, 32))
    >>> dissection = dv.dissect(network, dv.Scenes(20), ["1"], truth=dv.open_truth(None, dv.Scenes(20)), progress=False)
    >>> figure = dv.draw_dissection(dissection, title="Four filters")
    >>> figure.savefig("names.pdf")  # doctest: +SKIP
    """
    return dissecting.draw_dissection(dissection, title, caption, page=Page(**page))


def draw_evolution(evolution: Evolution, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw the projections of each filter at each epoch of a training, and when the layers settled.

    Args:
        evolution: what `dv.evolve` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Source: Zeiler and Fergus 2013, figure 4.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> from deconvviz.studies.evolution.result import LayerEvolution
    >>> layer = LayerEvolution(
    ...     layer="conv1", rule="deconvnet", why="", channels=np.array([3]), values=np.ones((1, 2), np.float32),
    ...     images=np.zeros((1, 2), int), positions=np.zeros((1, 2, 2), int), top_final=np.array([0.5, 1]),
    ...     projections=np.ones((1, 2, 5, 5, 3), np.float32), patches=np.zeros((1, 2, 5, 5, 3), np.uint8),
    ...     similarity=np.array([0.2, 1]),
    ... )
    >>> evolution = dv.Evolution(layers=(layer,), epochs=(1, 4), history=(), names=("a.png",), count=1, k=9)
    >>> len(dv.draw_evolution(evolution).axes)  # two projections, a patch and three panels of curves
    6
    """
    return evolving.draw_evolution(evolution, title, caption, page=Page(**page))


def draw_invariance(invariance: Invariance, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw how invariant each layer is under each transform, against its depth, with 95 % intervals over the images.

    Args:
        invariance: what `dv.invariance` returns, of two images or more.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    >>> network, preprocess = dv.capture(model, (3, 16, 16)), dv.Preprocess(resize=16, crop=16)
    >>> options = {"kinds": ["rotation"], "steps": {"rotation": [30, 90]}, "progress": False}
    >>> invariance = dv.invariance(network, dv.Scenes(3), ["0", "1"], preprocess=preprocess, **options)
    >>> dv.draw_invariance(invariance).axes[0].get_ylabel()
    'invariance score'
    """
    if len(invariance.images) < 2:
        raise DataError("an invariance score compares images, and one was given; measure two or more")
    return invariant.draw_depth(
        {kind: invariance.scores(kind) for kind in invariance.steps}, title, caption, page=Page(**page)
    )


def draw_correspondence(
    result: Correspondence, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]
) -> Figure:
    """Draw for each part what was masked, and each layer's score beside that of random masks.

    Args:
        result: what `dv.correspondence` returns.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Source: Zeiler and Fergus 2013, table 1.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten()).eval()
    >>> network, preprocess = dv.capture(model, (3, 64, 64)), dv.Preprocess(resize=64, crop=64)
    >>> scenes, options = dv.Scenes(40), {"count": 3, "permutations": 20, "progress": False, "preprocess": preprocess}
    >>> truth = dv.open_truth(None, scenes)
    >>> result = dv.correspondence(network, scenes, truth, ["left eye"], ["0"], **options)
    >>> dv.draw_correspondence(result).axes[-1].get_title()
    '0'
    """
    return correspondence.draw_correspondence(result, title, caption, page=Page(**page))


def draw_probing(
    probes: ProbeResult | Transfer, title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw the accuracy of linear probes against the depth of the layer.

    Args:
        probes: what `dv.probe` or `dv.transfer` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> from deconvviz.studies.probing.result import ProbeResult
    >>> settings = dv.ProbeSettings(per_class=(10,), splits=2, probes=("svm",), costs=(1.0,))
    >>> accuracy = np.array([0.5, 0.6, 0.7, 0.8]).reshape(2, 1, 1, 2)
    >>> layers = {"conv1": 8, "conv2": 16}
    >>> result = ProbeResult(
    ...     layers=layers, settings=settings, chance=0.5, accuracy=accuracy, costs=accuracy, tested=20
    ... )
    >>> dv.draw_probing(result).axes[0].get_ylabel()
    'mean accuracy of a class (%)'
    """
    transfer = Transfer(by_network={"network": probes}) if isinstance(probes, ProbeResult) else probes
    return probing.draw_probing(transfer, title, caption, page=Page(**page))
