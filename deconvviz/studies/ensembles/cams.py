"""Where each network of an ensemble, and all of them together, see a class in an image: their maps, and the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.cam.explain import cam, constant_maps_allowed
from deconvviz.data.datasets import Images
from deconvviz.data.framing import middle, resized_to
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.models.labels import class_label
from deconvviz.studies.ensembles.passes import Member
from deconvviz.studies.ensembles.result import EnsembleMaps
from deconvviz.types import Floats, Ints

if TYPE_CHECKING:
    from deconvviz.graph.network import Network

SIDE = 224  # pixels of the shorter side of the pictures in which maps are averaged
EDGE = 0.5  # of a pixel: as much of it a network must see to have a say there


def ensemble_maps(
    members: Sequence[Member | tuple[str, Network, Preprocess]],
    images: Images,
    indices: Sequence[int] | Ints,
    *,
    method: str = "grad-cam",
    names: Sequence[str] = (),
    outputs: Sequence[Sequence[int] | Ints] | None = None,
) -> EnsembleMaps:
    """Explain some images by each network of an ensemble, and by the mean of their maps.

    All networks explain the same class of an image: the one that the ensemble decides for, by the mean of their
    probabilities. Each map is in 0..1 over the network's own input. Networks see different parts of an image at
    different sizes, so that the maps are laid over the image itself before they are averaged; each pixel has the mean
    over the networks that see it.

    Args:
        members: the networks, as for `ensemble`.
        images: the images; their classes need not be known.
        indices: which of them are explained.
        method: of `deconvviz.cam`, one that needs no options; it explains each network's last layer with rows and
            columns.
        names: of the networks' outputs; empty where they are unknown. With `outputs`, names of the labels.
        outputs: of networks that know several labels an image, the output of each network that stands for each label,
            as for `label_ensemble`. The label with the highest mean probability is explained then, each network's by
            its own sigmoid. None where classes exclude each other.

    Raises:
        DataError: no image, or no network.
        LayerNotFound: a network has no layer with rows and columns.
        DeconvvizError: the method does not exist, or needs what a network lacks.

    >>> import deconvviz as dv
    >>> loaded = dv.load_model("demo")
    >>> preprocess = dv.Preprocess.from_dict(loaded.settings)
    >>> demo = dv.capture(loaded.model, preprocess.shape)
    >>> maps = dv.ensemble_maps([("a", demo, preprocess)], dv.Scenes(4), [0, 3])
    >>> len(maps.pictures), maps.columns, maps.maps[0].shape == (2, *maps.pictures[0].shape[:2])
    (2, ('a', 'mean'), True)
    """
    networks = [Member(*member) for member in members]
    if not networks or not len(indices):
        raise DataError(f"{len(networks)} networks and {len(indices)} images given; expected at least one of each")
    explainers = [cam(method, each.network) for each in networks]
    pictures, maps, labels = [], [], []
    for index in map(int, indices):
        image = images[index][0]
        inputs = [each.preprocess(image)[None].to(each.network.device, each.network.dtype) for each in networks]
        target, share, targets = _decided(networks, inputs, outputs)
        with constant_maps_allowed():
            own_maps = [
                explainer(x, target=each)[0].double().cpu().numpy()
                for explainer, x, each in zip(explainers, inputs, targets, strict=True)
            ]
        height, width = (round(side * SIDE / min(image.shape[:2])) for side in image.shape[:2])
        placed = [
            on_image(map_, each.preprocess, (image.shape[0], image.shape[1]), (height, width))
            for map_, each in zip(own_maps, networks, strict=True)
        ]
        maps.append(np.stack([*(np.nan_to_num(map_) for map_ in placed), mean_map(placed)]))
        picture = networks[0].preprocess.display(resized_to(image, (height, width), "bilinear"))
        pictures.append(picture)
        called = names[target] if target < len(names) else class_label(target)
        labels.append(f"{called} {share:.0%}")
    columns = (*(each.name for each in networks), "mean")
    return EnsembleMaps(
        method=explainers[0].method.name,
        columns=columns,
        pictures=tuple(pictures),
        maps=tuple(maps),
        labels=tuple(labels),
        images=tuple(str(images.names[int(index)]) for index in indices),
        layers=tuple(layer for explainer in explainers for layer in explainer.layers),
    )


def _decided(
    members: Sequence[Member], inputs: Sequence[Tensor], outputs: Sequence[Sequence[int] | Ints] | None
) -> tuple[int, float, list[int]]:
    """Return what networks decide for together, its mean probability, and the output of each that stands for it."""
    with torch.no_grad():
        if outputs is None:
            each_says = [each.network.probabilities(x)[0] for each, x in zip(members, inputs, strict=True)]
        else:
            each_says = [
                of_labels(each.network, x)[0, torch.as_tensor(np.asarray(numbers), device=x.device)]
                for each, x, numbers in zip(members, inputs, outputs, strict=True)
            ]
        mean = torch.stack([says.double().cpu() for says in each_says]).mean(0)
    decided = int(mean.argmax())
    targets = [decided] * len(members) if outputs is None else [int(numbers[decided]) for numbers in outputs]
    return decided, float(mean[decided]), targets


def of_labels(network: Network, x: Tensor) -> Tensor:
    """Return the probability of each output as that of a label for itself, [n, outputs]."""
    scores = network.scores(x).double()
    return scores if network.readout.kind == "independent" else scores.sigmoid()


def mean_map(maps: Sequence[Floats]) -> Floats:
    """Return the mean of maps [H, W] at each pixel, over those that are not NaN there; 0 where all are.

    >>> mean_map([np.array([[1.0, np.nan, np.nan]]), np.array([[0.0, 0.5, np.nan]])]).tolist()
    [[0.5, 0.5, 0.0]]
    """
    stack = np.stack(list(maps))
    is_seen = ~np.isnan(stack)
    total = np.where(is_seen, stack, 0).sum(0)
    return np.asarray(total / np.maximum(is_seen.sum(0), 1))


def on_image(map_: Floats, preprocess: Preprocess, size: tuple[int, int], shown: tuple[int, int]) -> Floats:
    """Lay a map over the image that it is of, where the network sees it.

    Args:
        map_: float64 [h, w], over the network's input.
        preprocess: how the image became that input.
        size: (height, width) of the image in pixels.
        shown: (height, width) of the result.

    Returns:
        float64 of the size `shown`; NaN where the network does not see the image.

    >>> on_image(np.ones((2, 2)), Preprocess(resize=None, crop=2), (2, 4), (2, 4)).tolist()
    [[nan, 1.0, 1.0, nan], [nan, 1.0, 1.0, nan]]
    """
    room = preprocess.resized(*size)
    canvas, covered = np.zeros(room), np.zeros(room)
    there, here = ([], [])  # type: tuple[list[slice], list[slice]]
    for length, side in zip(room, map_.shape, strict=True):
        common = min(length, side)
        there.append(middle(length, common))
        here.append(slice((side - common) // 2, (side - common) // 2 + common))
    canvas[there[0], there[1]] = map_[here[0], here[1]]
    covered[there[0], there[1]] = 1
    values, part = (_resized(array, shown) for array in (canvas, covered))
    return np.where(part >= EDGE, values / np.maximum(part, EDGE), np.nan)


def _resized(array: Floats, size: tuple[int, int]) -> Floats:
    """Return an array [h, w] resized by bilinear interpolation."""
    tensor = torch.from_numpy(array)[None, None]
    return np.asarray(functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy())
