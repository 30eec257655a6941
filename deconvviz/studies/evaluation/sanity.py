"""The sanity checks: does a map change when the weights are randomised, or when the labels were permuted?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.cam.explain import cam, constant_maps_allowed
from deconvviz.graph.network import Network
from deconvviz.metrics import hog_similarity, randomised, spearman, ssim
from deconvviz.run.options import RunOptions
from deconvviz.studies.evaluation.sanity_result import PERMUTED, SanityCheck

FUNCTIONS = {"spearman": spearman, "ssim": ssim, "hog": hog_similarity}
Explain = Callable[[nn.Module, Tensor], Tensor]
"""Makes maps [N, H, W] in 0..1 of a model and images [N, C, H, W]."""


def explanation_by(method: str, network: Network, layers: Sequence[str] = (), **options: Any) -> Explain:
    """Return what `sanity_check` asks for: a function that explains a captured network with the weights of a model.

    Args:
        method: name of the method.
        network: the network, captured once; only its weights are replaced.
        layers: names of the layers that are explained.
        options: further arguments of `cam`.
    """

    def explain(model: nn.Module, images: Tensor) -> Tensor:
        weights = {key: value for key, value in model.state_dict().items() if key in network.tensors}
        randomised_network = network.replaced(network.graph, {**network.tensors, **weights})
        with constant_maps_allowed():  # the maps of a random network may well be constant
            return cam(method, randomised_network, layers, **options)(images)

    return explain


def sanity_check(
    explain: Explain,
    model: nn.Module,
    images: Tensor,
    randomisation: str = "cascading",
    seed: int = 0,
    progress: bool = False,
) -> SanityCheck:
    """Randomise a network step by step, and compare its maps with those of the trained network.

    A method then explains the randomised network's own top class, as in the paper's code.

    Args:
        explain: makes maps [N, H, W] in 0..1 of a model and images, such as explanation_by("grad-cam", network,
            ["layer4"]), or any function of your own.
        model: the trained network; it is left unchanged.
        images: Tensor [N, C, H, W], as the network takes them.
        randomisation: "cascading" or "independent", see `SanityCheck`.
        seed: of the random weights.
        progress: whether a progress bar is shown on standard error.

    Returns:
        The similarities after each layer.

    Raises:
        DataError: another randomisation.
        ModelError: a layer that cannot be initialised again.

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 3.

    >>> model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 46 * 46, 2))
    >>> images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    >>> brightness = sanity_check(lambda model, images: images.mean(1), model, images)
    >>> brightness.layers, brightness.passes()  # the picture's brightness does not depend on the weights
    (('2', '0'), False)
    """
    maps_trained = explain(model, images).cpu()
    layers: list[str] = []
    similarity: dict[str, list[Tensor]] = {name: [] for name in FUNCTIONS}
    with RunOptions(progress=progress).bar("layer", None, "sanity") as bar:
        for layer, randomised_model in randomised(model, randomisation, seed):
            maps = explain(randomised_model.eval(), images).cpu()
            layers.append(layer)
            for name, similarity_of in FUNCTIONS.items():
                similarity[name].append(similarity_of(maps_trained, maps))
            bar.update()
    return SanityCheck(
        randomisation=randomisation,
        layers=tuple(layers),
        similarity={name: torch.stack(values).numpy() for name, values in similarity.items()},
    )


def labels_check(explain: Explain, model: nn.Module, permuted: nn.Module, images: Tensor) -> SanityCheck:
    """Compare a network's maps with those of the same architecture trained on permuted labels.

    Such a network has learned the images by heart and nothing of what they show. A method whose maps of the two are
    alike does not show what was learned. Each network's own top class is explained.

    Args:
        explain: makes maps [N, H, W] in 0..1 of a model and images; see `sanity_check`.
        model: the trained network.
        permuted: the one that was trained on permuted labels; see `permuted_labels.train_on_permuted_labels`.
        images: Tensor [N, C, H, W], as the networks take them.

    Returns:
        The similarities, with "permuted labels" as the only layer.

    Source: Adebayo et al. 2018, arXiv 1810.03292, section 4.

    >>> model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 46 * 46, 2))
    >>> images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    >>> labels_check(lambda model, images: images.mean(1), model, model, images).passes()
    False
    """
    maps, others = explain(model.eval(), images).cpu(), explain(permuted.eval(), images).cpu()
    similarity = {name: similarity_of(maps, others)[None].numpy() for name, similarity_of in FUNCTIONS.items()}
    return SanityCheck(randomisation="labels", layers=(PERMUTED,), similarity=similarity)
