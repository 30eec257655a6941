"""The saliency metric: is the class still found in the tightest crop around what a map marks, and how small is it?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deconvviz.metrics.inputs import Scores, as_array, check_scored, scored
from deconvviz.metrics.localisation import as_thresholds
from deconvviz.metrics.metric import register
from deconvviz.types import Box, Floats, Mask

register("saliency_metric", "Saliency metric", False, "nats", "Dabkowski and Gal 2017")
register(
    "best_saliency_metric", "Saliency metric, best threshold", False, "nats", "Dabkowski and Gal 2017, of the idea"
)

CROP_THRESHOLDS = np.arange(20) / 20  # 0 to 0.95: each costs a pass, so that they are fewer than MaxBoxAcc's 1000
LEAST_AREA = 0.05  # of the image: a smaller crop is not rewarded, as in the paper
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)  # 1.2e-38: what rounds to 0 has a logarithm all the same


def saliency_metric(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    thresholds: Sequence[float] | Floats = CROP_THRESHOLDS,
    batch_size: int = 32,
) -> Tensor:
    """Return log(max(a, 0.05)) - log(p) for each map and threshold; lower is better.

    Around all pixels above the threshold lies the tightest box: a is its share of the image's area, and p the class's
    probability on this crop, resized to the image's size. Where no pixel is above the threshold, the crop is the whole
    image, so that a constant map gets -log(p). The paper says nothing of the threshold; `evaluate` takes the one that
    is best for all images together, as MaxBoxAcc does, and each image's own best one as a second column.

    Args:
        scores: see Scores; it is called under inference_mode, once for each box that is not another's too.
        images: [N, C, H, W], normalised.
        maps: [N, H, W] in 0..1.
        classes: int64 [N], the class that is explained.
        thresholds: ascending, in 0..1; a pixel of exactly a threshold is not above it. 0 to 0.95 by 0.05 is our choice.
        batch_size: images that are scored at once.

    Returns:
        float64 [N, thresholds], in nats.

    Raises:
        DataError: the inputs do not belong together, or `scores` does not return probabilities.

    Source: Dabkowski and Gal 2017, arXiv 1705.07857, section 4 (from memory of the paper; the release has no code for
    it). The crop is resized bilinearly: our choice.

    >>> def scores(images):  # class 0 is as probable as the image is bright
    ...     brightness = images.mean((1, 2, 3))
    ...     return torch.stack([brightness, 1 - brightness], 1)
    >>> images = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    >>> values = saliency_metric(scores, images, images[:, 0], torch.tensor([0]), [0.5])
    >>> round(values.item(), 3)  # the left half is all bright: log 0.5 - log 1
    -0.693
    """
    check_scored(images, maps, classes, batch_size)
    cuts = as_thresholds(thresholds)
    boxes = [[tightest_box(values > cut) for cut in cuts] for values in as_array(maps)]
    distinct = sorted({(image, box) for image, own_boxes in enumerate(boxes) for box in own_boxes})
    number = {crop: place for place, crop in enumerate(distinct)}

    def cropped(indices: Tensor) -> Tensor:
        return torch.cat([_resized(images[distinct[index][0]], distinct[index][1]) for index in indices.tolist()])

    of_image = torch.tensor([image for image, _ in distinct])
    probability = scored(scores, cropped, classes.cpu()[of_image], batch_size).numpy()
    places = np.array([[number[image, box] for box in own_boxes] for image, own_boxes in enumerate(boxes)])
    areas = np.array([[box.height * box.width for box in own_boxes] for own_boxes in boxes]) / maps[0].numel()
    logarithms = np.log(np.maximum(probability[places], LEAST_PROBABILITY))
    return torch.from_numpy(np.log(np.maximum(areas, LEAST_AREA)) - logarithms)


def tightest_box(marked: Mask) -> Box:
    """Return the smallest box that holds all marked pixels of a mask [H, W]; the whole image where none is marked.

    >>> tightest_box(np.array([[False, True], [False, True]]))
    Box(top=0, left=1, bottom=2, right=2)
    """
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    if not len(rows):
        return Box(0, 0, *marked.shape)
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _resized(image: Tensor, box: Box) -> Tensor:
    """Return the crop of an image [C, H, W] at its size, [1, C, H, W]."""
    crop = image[None, :, box.top : box.bottom, box.left : box.right]
    size = image.shape[1:]
    return crop if crop.shape[2:] == size else interpolate(crop, size, mode="bilinear", align_corners=False)
