"""Sanity checks: whether a map changes when the network's weights are randomised, and how similar two maps are."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import rankdata  # type: ignore[import-untyped]
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from deconvviz.arrays import reset_of
from deconvviz.choices import RANDOMISATIONS
from deconvviz.errors import DataError, ModelError, require_choice
from deconvviz.lengths import Length
from deconvviz.metrics.inputs import check_pair, pairwise
from deconvviz.metrics.intervals import correlation
from deconvviz.metrics.metric import register
from deconvviz.types import Floats, Ints

# Of the maps before and after randomising: the similarity is low where a method depends on the weights.
register("ssim", "SSIM after randomising", False, "similarity, -1 to 1", "Adebayo et al. 2018")
register("spearman", "Rank correlation after randomising", False, "correlation, -1 to 1", "Adebayo et al. 2018")
register("hog_similarity", "HOG correlation after randomising", False, "correlation, -1 to 1", "Adebayo et al. 2018")
register("random_logit", "SSIM with another class's map", False, "similarity, -1 to 1", "Sixt et al. 2020")

WINDOW = 11  # pixels across the Gaussian window of SSIM
CELL, CELLS = Length(16), 3  # of HOG: the side of a cell, and cells across a block


def randomised(model: nn.Module, how: str = "cascading", seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a model whose layers are re-initialised, from the last layer to the first.

    Args:
        model: it is not changed.
        how: "cascading" re-initialises all layers from the last one down to the named one, "independent" only the
            named one.
        seed: of the new weights. A layer gets the same ones in both ways and on every device; torch's own generators
            are not changed.

    Yields:
        (the layer's name, a copy on the model's device and in its mode). Layers are the modules that own parameters,
        in reverse order of registration (in a ResNet's block, `downsample` comes before `bn2`); each is
        re-initialised by its own reset_parameters, which also resets the running statistics of a BatchNorm.

    Raises:
        DataError: `how` is neither of the two.
        ModelError: the model has no layer, or a module owns parameters but has no reset_parameters.

    Source: Adebayo et al. 2018, section 3. In their release the map to compare is that of the copy's own prediction.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [name for name, changed in randomised(model)]
    ['2', '0']
    """
    require_choice("how", how, RANDOMISATIONS)
    layers = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    lacking = [name or type(model).__name__ for name in layers if reset_of(model.get_submodule(name)) is None]
    if lacking or not layers:
        raise ModelError(
            f"{', '.join(lacking) or type(model).__name__} given; expected layers with parameters, "
            "each of a class that has reset_parameters"
        )
    return _copies(model, layers[::-1], how == "cascading", seed)


def _copies(model: nn.Module, layers: list[str], cascading: bool, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield (a layer's name, a copy of the model in which it is re-initialised)."""
    current = copy.deepcopy(model)
    for number, name in enumerate(layers):
        changed = current if cascading else copy.deepcopy(model)
        _reinitialise(changed.get_submodule(name), seed, number)
        yield name, copy.deepcopy(changed) if cascading else changed


def _reinitialise(layer: nn.Module, seed: int, number: int) -> None:
    """Give a layer new parameters, drawn on the CPU so that they are the same on every device."""
    fresh = copy.deepcopy(layer).cpu()
    reset = reset_of(fresh)
    assert reset is not None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        reset()
    layer.load_state_dict(fresh.state_dict())


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair of maps, with a Gaussian window of 11 pixels, sigma 1.5.

    Args:
        a: [N, H, W] in 0..1, at least 11 x 11.
        b: [N, H, W] in 0..1.

    Returns:
        float64 [N], -1 to 1; 0 where a map is constant.

    Raises:
        DataError: one of them is not a finite [N, H, W] tensor in 0..1, their shapes differ, or they are too small.

    Source: Adebayo et al. 2018; Wang et al. 2004.
    """
    _check_size(a, b, WINDOW, unit=True)
    return pairwise(a, b, _structural_similarity)


def spearman(a: Tensor, b: Tensor, absolute: bool = True) -> Tensor:
    """Return Spearman's rank correlation of the pixels of each pair of maps.

    Args:
        a: [N, H, W], finite; it may be signed.
        b: [N, H, W], finite.
        absolute: rank the absolute values instead of the values. The paper has both.

    Returns:
        float64 [N], -1 to 1; 0 where a map (of absolute values) is constant.

    Raises:
        DataError: one of them is not a finite [N, H, W] tensor, or their shapes differ.

    Source: Adebayo et al. 2018.

    >>> a, b = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 2.0], [9.0, 3.0]]])
    >>> round(spearman(a, b).item(), 3)  # ranks 1 2 3 4 and 1 2 4 3
    0.8
    """
    check_pair(a, b, unit=False)
    return pairwise(a.abs() if absolute else a, b.abs() if absolute else b, _rank_correlation)


def hog_similarity(a: Tensor, b: Tensor, cell: int | None = None) -> Tensor:
    """Return Spearman's correlation of each pair of maps' histograms of oriented gradients.

    The histograms have blocks of 3 x 3 cells, and 9 orientations.

    Args:
        a: [N, H, W], finite, with room for a block.
        b: [N, H, W], finite.
        cell: side of a cell in pixels; by default 1/14 of the shorter side of the maps (16 px of 224).

    Returns:
        float64 [N], -1 to 1; 0 where a map or its histogram is constant.

    Raises:
        DataError: one of them is not a finite [N, H, W] tensor, their shapes differ, or they are too small.

    Source: Adebayo et al. 2018; Dalal and Triggs 2005.
    """
    side = CELL.of(*a.shape[1:]) if cell is None else cell
    if side < 1:
        raise DataError(f"cell {cell} given; expected 1 pixel or more")
    _check_size(a, b, CELLS * side, unit=False)
    return pairwise(a, b, lambda x, y: _rank_correlation(_histogram(x, side), _histogram(y, side)))


def other_classes(classes: Tensor, count: int, places: Ints, seed: int = 0) -> Tensor:
    """Draw a class for each image that is not its own, each of the others with the same probability.

    Args:
        classes: int64 [N], each image's own class.
        count: number of classes, at least 2.
        places: int64 [N], the images' places in their dataset: the same image gets the same class in any batch.
        seed: of the draws.

    Returns:
        int64 [N], on the device of `classes`.

    Raises:
        DataError: there is no other class.

    >>> other_classes(torch.tensor([0, 1]), 2, np.array([0, 1]))
    tensor([1, 0])
    """
    if count < 2:
        raise DataError(f"{count} class given; expected 2 or more, so that there is another one to explain")
    steps = [int(np.random.default_rng([seed, int(place)]).integers(1, count)) for place in places]
    return (classes + torch.tensor(steps, device=classes.device)) % count


def random_logit(maps: Tensor, maps_of_others: Tensor) -> Tensor:
    """Return the structural similarity of each map with the map of another class; lower is better.

    A method whose maps are alike for all classes does not show why it is this one.

    Args:
        maps: [N, H, W] in 0..1, at least 11 x 11.
        maps_of_others: [N, H, W] in 0..1, the same images' maps for classes drawn by `other_classes`.

    Returns:
        float64 [N], -1 to 1; 0 where a map is constant.

    Raises:
        DataError: as for `ssim`.

    Source: Sixt et al. 2020, arXiv 1912.09818 (the similarity and the drawing as in Quantus).

    >>> map_ = torch.rand(1, 16, 16)
    >>> round(random_logit(map_, map_).item(), 3)
    1.0
    """
    return ssim(maps, maps_of_others)


def _structural_similarity(x: Floats, y: Floats) -> float:
    mean = structural_similarity(x, y, gaussian_weights=True, data_range=1.0)  # type: ignore[no-untyped-call, unused-ignore]
    return float(mean)


def _histogram(values: Floats, cell: int) -> Floats:
    return np.asarray(hog(values, pixels_per_cell=(cell, cell), cells_per_block=(CELLS, CELLS)), np.float64)


def _check_size(a: Tensor, b: Tensor, least: int, unit: bool) -> None:
    """Raise DataError unless both are maps of one shape, with at least so many rows and columns."""
    check_pair(a, b, unit)
    if min(a.shape[1:]) < least:
        raise DataError(f"maps of {a.shape[1]} x {a.shape[2]} given; expected {least} x {least} or more")


def _rank_correlation(a: Floats, b: Floats) -> float:
    """Return Pearson's correlation of the ranks; equal values share their mean rank."""
    return correlation(rankdata(a), rankdata(b))
