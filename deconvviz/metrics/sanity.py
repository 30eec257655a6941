"""Sanity checks: does a map change as the network's weights are randomised, and how alike are two maps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from deconvviz.errors import DataError, ModelError
from deconvviz.metrics.inputs import as_array, as_values, check_pair
from deconvviz.metrics.metric import register

# of the map before and after randomising: a method that answers to the weights has a low one
register("ssim", "SSIM after randomising", False, "similarity, -1 to 1", "Adebayo et al. 2018")
register("spearman", "Rank correlation after randomising", False, "correlation, -1 to 1", "Adebayo et al. 2018")
register("hog_similarity", "HOG correlation after randomising", False, "correlation, -1 to 1", "Adebayo et al. 2018")

HOWS = ("cascading", "independent")
WINDOW = 11  # pixels of the Gaussian window of SSIM
CELLS = 48  # pixels of HOG's block, 3 x 3 cells of 16

Floats = NDArray[np.float64]


def randomised(model: nn.Module, how: str = "cascading", seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a model whose layers are re-initialised, from the last layer to the first.

    Args:
        model: stays as it is.
        how: "cascading" re-initialises all layers down to the one named, "independent" only that one.
        seed: a layer gets the same new weights either way, on every device; torch's own generators stay as they are.

    Yields:
        (the layer's name, a copy on the model's device and in its mode). Layers are the modules that own parameters,
        in reverse order of registration (in a ResNet's block, `downsample` comes before `bn2`); each is
        re-initialised by its own reset_parameters, which gives BatchNorm back its first running statistics.

    Raises:
        DataError: another `how`.
        ModelError: no layer, or one that owns parameters but has no reset_parameters.

    Source: Adebayo et al. 2018, section 3. The map to compare is that of the copy's own prediction in their release.
    """
    if how not in HOWS:
        raise DataError(f"how {how!r} given; expected one of {', '.join(HOWS)}")
    layers = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    lacking = [name or type(model).__name__ for name in layers if _reset_of(model.get_submodule(name)) is None]
    if lacking or not layers:
        raise ModelError(
            f"{', '.join(lacking) or type(model).__name__} given; expected layers with parameters, "
            "each of a class that has reset_parameters"
        )
    return _copies(model, layers[::-1], how == "cascading", seed)


def _copies(model: nn.Module, layers: list[str], cascading: bool, seed: int) -> Iterator[tuple[str, nn.Module]]:
    current = copy.deepcopy(model)
    for number, name in enumerate(layers):
        changed = current if cascading else copy.deepcopy(model)
        _reinitialise(changed.get_submodule(name), seed, number)
        yield name, copy.deepcopy(changed) if cascading else changed


def _reinitialise(layer: nn.Module, seed: int, number: int) -> None:
    """Give a layer new parameters, drawn on the CPU so that they are the same on every device."""
    fresh = copy.deepcopy(layer).cpu()
    reset = _reset_of(fresh)
    assert reset is not None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        reset()
    layer.load_state_dict(fresh.state_dict())


def _reset_of(layer: nn.Module) -> Callable[[], None] | None:
    # MultiheadAttention's has an underscore
    found: Callable[[], None] | None = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
    return found


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair of maps, with a Gaussian window of 11 pixels, sigma 1.5.

    Args:
        a, b: [N,H,W] in 0..1, at least 11 x 11.

    Returns:
        float64 [N]; 0 where a map is constant.

    Raises:
        DataError: maps that are no maps, leave 0..1, differ in shape or are too small.

    Source: Adebayo et al. 2018; Wang et al. 2004.
    """
    _check_size(a, b, WINDOW, unit=True)
    return _pairwise(a, b, _structural_similarity)


def spearman(a: Tensor, b: Tensor, absolute: bool = True) -> Tensor:
    """Return Spearman's rank correlation of the pixels of each pair of maps.

    Args:
        a, b: [N,H,W], finite; signed ones are welcome.
        absolute: rank the absolute values, else the values themselves. The paper has both.

    Returns:
        float64 [N]; 0 where a map (of absolute values) is constant.

    Raises:
        DataError: maps that are no maps, or differ in shape.

    Source: Adebayo et al. 2018.
    """
    check_pair(a, b, unit=False)
    return _pairwise(a.abs() if absolute else a, b.abs() if absolute else b, _rank_correlation)


def hog_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation of each pair of maps' histograms of oriented gradients.

    Args:
        a, b: [N,H,W], finite, at least 48 x 48: cells of 16 x 16 pixels, blocks of 3 x 3 cells, 9 orientations.

    Returns:
        float64 [N]; 0 where a map or its histogram is constant.

    Raises:
        DataError: maps that are no maps, differ in shape or are too small.

    Source: Adebayo et al. 2018; Dalal and Triggs 2005.
    """
    _check_size(a, b, CELLS, unit=False)
    return _pairwise(a, b, lambda x, y: _rank_correlation(_histogram(x), _histogram(y)))


def _structural_similarity(x: Floats, y: Floats) -> float:
    found = structural_similarity(x, y, gaussian_weights=True, data_range=1.0)  # type: ignore[no-untyped-call, unused-ignore]
    return float(found)


def _histogram(values: Floats) -> Floats:
    return np.asarray(hog(values, pixels_per_cell=(16, 16)), np.float64)


def _check_size(a: Tensor, b: Tensor, least: int, unit: bool) -> None:
    check_pair(a, b, unit)
    if min(a.shape[1:]) < least:
        raise DataError(f"maps of {a.shape[1]} x {a.shape[2]} given; expected {least} x {least} or more")


def _pairwise(a: Tensor, b: Tensor, alike: Callable[[Floats, Floats], float]) -> Tensor:
    """Compare pair by pair, float64 [N]; 0 where one is constant, before any library divides by its spread."""
    pairs = zip(as_array(a), as_array(b), strict=True)
    return as_values([0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else alike(x, y) for x, y in pairs])


def _rank_correlation(a: Floats, b: Floats) -> float:
    x, y = (rankdata(some) - (some.size + 1) / 2 for some in (a, b))  # ties share their mean rank
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / spread, -1, 1)) if spread else 0.0
