"""Find an image again from what a layer makes of it: what is lost there, the picture found does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.progress import write_line
from deconvviz.results.results import stamped
from deconvviz.studies.visualisation import ascend
from deconvviz.studies.visualisation.canvas import Canvas, Inputs, PixelCanvas, SpectralCanvas, spectrum_of
from deconvviz.studies.visualisation.objective import Head, driven, letting_through
from deconvviz.studies.visualisation.options import InversionOptions
from deconvviz.studies.visualisation.result import Inversion, InvertedImage
from deconvviz.studies.visualisation.visualise import roughness

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.visualisation.options import InversionKeywords
    from deconvviz.types import Picture

ALPHA = 6  # of the norm that keeps pixels from black and white


def invert(
    network: Network,
    picture: Picture,
    layers: Sequence[str],
    *,
    preprocess: Preprocess,
    name: str = "an image",
    called: str | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[InversionKeywords],
) -> Inversion:
    """Find the picture that a layer takes for a given one, for several layers.

    Minimised is |F(x) - F(x0)|^2 / |F(x0)|^2 + alpha mean |2 x - 1|^6 + tv mean (dx^2 + dy^2), from nearly grey noise.
    To compare two networks, or two epochs of one, call it for each and join what it returns with `side_by_side`.

    Args:
        network: a captured network, on the device that computes.
        picture: uint8, uint16 or float32 [h, w, C], as `preprocess.picture` gives it.
        layers: names from `network.layers`.
        preprocess: how a picture becomes the network's input.
        name: of the picture.
        called: what the network is called; None takes its own name.
        sources: where model and picture came from, JSON values, for the file.
        options: fields of `InversionOptions`.

    Returns:
        The pictures found, with the error of each.

    Raises:
        LayerNotFound: a layer does not exist.
        DataError: no layer, a layer all of whose values are zero for this picture, or a picture of another size.
        CaptureError: the preprocessing does not fit the network.

    Source: Mahendran and Vedaldi 2015, "Understanding deep image representations by inverting them", equations 1 to 4.
    Adam instead of momentum, and Fourier coefficients instead of pixels by default: our choice.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> picture = preprocess.picture(dv.Scenes(1)[0][0])
    >>> inversion = invert(network, picture, ["0", "1"], preprocess=preprocess, steps=4, progress=False)
    >>> inversion.images[0].pictures.shape, inversion.images[0].errors.shape
    ((2, 32, 32, 3), (2,))
    """
    settings = InversionOptions(**options)
    inverter = Inverter(network, preprocess, picture, list(dict.fromkeys(layers)), settings)
    image = inverter.run(network.name if called is None else called)
    return Inversion(config={"image": name, **settings.words()}, sources=stamped(sources), images=(image,))


def side_by_side(inversions: Sequence[Inversion]) -> Inversion:
    """Join inversions of one image through several networks, for one figure and one table.

    Raises:
        DataError: they were made with other settings, or there is none.
    """
    if not inversions or any(inversion.config != inversions[0].config for inversion in inversions):
        raise DataError(
            "inversions with other settings given; they are compared only where image and settings are equal"
        )
    images = tuple(image for inversion in inversions for image in inversion.images)
    return Inversion(config=inversions[0].config, sources=inversions[0].sources, images=images)


class Inverter:
    """An image and the layers from which it is found again; one layer after the other, for each ends elsewhere."""

    def __init__(
        self, network: Network, preprocess: Preprocess, picture: Picture, layers: list[str], settings: InversionOptions
    ) -> None:
        network.check_input(preprocess.shape)
        if not layers:
            raise DataError("no layer given; expected at least 1")
        self.layers, self.settings = layers, settings
        for name in layers:
            network.layer(name)
        lean = network.in_precision(settings.precision).without_norms(layers)
        self.exact, self.through = lean, letting_through(lean)
        kind = torch.float64 if network.dtype == torch.float64 else torch.float32
        self.inputs = Inputs(preprocess, network.device, kind)
        x = preprocess.tensor(picture[None], network.device, kind)
        if tuple(x.shape[1:]) != network.input_shape:
            raise DataError(f"a picture of {list(picture.shape)} given; expected one as preprocess.picture gives it")
        self.original = self.inputs.pictures(x)
        self.size = (x.shape[2], x.shape[3])

    def run(self, called: str) -> InvertedImage:
        """Return what each layer still knows; `called` is the network's name."""
        settings = self.settings
        bar = settings.bar("step", settings.steps * len(self.layers), "inverting")
        pictures, errors = [], []
        with bar:
            for number, layer in enumerate(self.layers):
                picture, error = self._found(layer, bar, announce=number == 0 and settings.progress)
                pictures.append(picture)
                errors.append(error)
        original = self.original[0].permute(1, 2, 0).float().cpu().numpy()
        return InvertedImage(
            network=called,
            layers=tuple(self.layers),
            original=original,
            pictures=np.stack(pictures),
            errors=np.array(errors, np.float64),
        )

    def _found(self, layer: str, bar: Any, announce: bool) -> tuple[Any, float]:
        """Return the picture that was found from a layer, [h, w, C], and its error at the layer."""
        exact, through = Head(self.exact, layer), Head(self.through, layer)
        with torch.no_grad():
            wanted = exact(self.inputs(self.original))
        size = wanted.square().sum()
        if not size:
            raise DataError(
                f"all values of layer {layer!r} are zero for this image: it knows nothing of it; take another"
            )

        def error(head: Head, x: Tensor) -> Tensor:
            return (head(x) - wanted).square().flatten(1).sum(1) / size

        def loss(pictures: Tensor, step: int) -> Tensor:
            inputs = self.inputs(pictures)
            value = -driven(inputs, lambda head, x, _: -error(head, x), exact, through, len(pictures))[0]
            if self.settings.alpha:
                value = value + self.settings.alpha * (2 * pictures - 1).abs().pow(ALPHA).flatten(1).mean(1)
            return value + self.settings.tv * roughness(pictures) if self.settings.tv else value

        canvas = self._canvas(layer)
        if announce:
            budget = ascend.Budget(1, self.size, self.settings.steps, 1, layer)
            budget = budget.timed(ascend.seconds_of_a_step(canvas, loss), 1)
            more = (
                f"; for each of {len(self.layers)} layers, of which this is the first" if len(self.layers) > 1 else ""
            )
            write_line(f"invert: {budget.words()}{more}")
        ascend.ascended(canvas, loss, self.settings.steps, self.settings.rate, settle=True, bar=bar)
        with torch.no_grad():
            pictures = canvas.pictures().detach()
            return pictures[0].permute(1, 2, 0).float().cpu().numpy(), float(error(exact, self.inputs(pictures))[0])

    def _canvas(self, layer: str) -> Canvas:
        """Return nearly grey noise, with random numbers of the layer's own."""
        random = ascend.random_of(self.settings.seed, layer, 0, ascend.START)
        channels = self.original.shape[1]
        if self.settings.canvas == "pixels":
            return PixelCanvas.grey(ascend.normal(random, (1, channels, *self.size)).to(self.original))
        shape = (1, channels, *spectrum_of(self.size), 2)
        return SpectralCanvas.grey(ascend.normal(random, shape).to(self.original), self.size)
