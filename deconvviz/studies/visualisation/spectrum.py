"""The mean magnitude of each frequency in some photos: what pictures by phase alone are held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from deconvviz.arrays import evenly
from deconvviz.data.feed import Feed
from deconvviz.run.options import RunOptions
from deconvviz.studies.visualisation.canvas import Inputs, spectrum_of, unmixed
from deconvviz.types import Floats

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.run.options import RunKeywords
PHOTOS = 256  # whose magnitudes are averaged by default


def mean_spectrum(
    images: Images, preprocess: Preprocess, side: int, count: int = PHOTOS, **options: Unpack[RunKeywords]
) -> Floats:
    """Return the mean magnitude of each frequency over some images, in one pass.

    Images are prepared as the network's, resized to the side of the pictures, and taken in independent colours before
    the sigmoid, so that `of_spectrum` of one image's own magnitude and phase is that image.

    Args:
        images: the user's own.
        preprocess: how an image becomes the network's input; without its crop's size.
        side: of the pictures in pixels.
        count: number of images, evenly spread over all of them.
        options: `batch_size`, `workers` and `progress` of `RunOptions`.

    Returns:
        float64 [C, side, side / 2 + 1].

    Source: Fel et al. 2023 (MACO), who take the mean over ImageNet.

    >>> import deconvviz as dv
    >>> mean_spectrum(dv.Scenes(4), dv.Preprocess(resize=32, crop=32), 16, progress=False).shape
    (3, 16, 9)
    """
    run = RunOptions(**options)
    chosen = evenly(len(images), count)
    feed, inputs = Feed(images, preprocess, chosen, workers=run.workers), None
    total = torch.zeros(len(preprocess.mean), *spectrum_of((side, side)), dtype=torch.float64)
    with torch.no_grad(), run.bar("image", len(chosen), "spectrum") as bar:
        for places, x in feed.tensors(run.images_at_once("cpu"), torch.device("cpu"), torch.float32):
            inputs = inputs or Inputs(preprocess, x.device, x.dtype)
            pictures = inputs.pictures(x)
            if pictures.shape[2:] != (side, side):
                pictures = torch.nn.functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
            total += torch.fft.rfft2(unmixed(pictures).double(), norm="ortho").abs().sum(0)
            bar.update(len(places))
    mean: Floats = np.asarray((total / max(len(chosen), 1)).numpy())
    return mean
