"""Make the picture that a unit, a channel, a class, a direction or a whole layer would like best."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.progress import write_line
from deconvviz.results.results import stamped
from deconvviz.studies.visualisation import ascend, distort
from deconvviz.studies.visualisation.canvas import Canvas, Inputs, PhaseCanvas, PixelCanvas, SpectralCanvas, spectrum_of
from deconvviz.studies.visualisation.distort import DRAWS, Views, viewed
from deconvviz.studies.visualisation.objective import Head, Objective, alike, driven, letting_through
from deconvviz.studies.visualisation.options import PHASE_CROPS, PHASE_SIDE, SIDE, VisualisationOptions
from deconvviz.studies.visualisation.result import Visualisation
from deconvviz.types import Floats

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.visualisation.options import VisualisationKeywords
    from deconvviz.types import Array

AT_ONCE_ON_A_CPU, AT_ONCE_ON_A_GPU = 9, 64  # pictures that are optimised together


def visualise(
    network: Network,
    layer: str | None = None,
    channels: Sequence[int] = (0,),
    *,
    preprocess: Preprocess,
    spectrum: Floats | None = None,
    mined: Mapping[int, float] | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[VisualisationKeywords],
) -> Visualisation:
    """Make the pictures that some channels of a layer would like best, by gradient ascent.

    Only what comes before the layer runs, so that pictures may have another size than the network's images where the
    layer has rows and columns. Pictures hold values in 0..1 and are normalised as the network's images are. The same
    seed gives the same picture. A picture begins and changes as it would alone, whichever others are made with it; but
    a batch of another size rounds otherwise, and the optimiser makes such differences larger, so details may differ.

    Args:
        network: a captured network, on the device that computes.
        layer: name of a layer; None, with the objective "class", is the network's output.
        channels: of the layer, or classes, or rows of `directions`; "dream" has one picture and ignores them.
        preprocess: how an image becomes the network's input: its mean, deviation and range of pixels are taken.
        spectrum: floating [C, h, w / 2 + 1], the magnitudes of photos of the pictures' size, from `mean_spectrum`; the
            canvas "phase" needs it.
        mined: channel -> its largest activation over some images, to be told beside.
        sources: where the model came from, JSON values, for the file.
        options: fields of `VisualisationOptions`; `batch_size` is the number of pictures that are made at once, by
            default 9, and 64 on a GPU.

    Returns:
        The pictures with the objective's final value of each.

    Raises:
        LayerNotFound: the layer does not exist.
        DataError: a channel, position or direction that the layer lacks; a size at which it does not run; no spectrum.
        TargetError: a class that does not exist.
        CamError: the layer has no channels.

    Source: Erhan et al. 2009; Olah, Mordvintsev and Schubert 2017, "Feature Visualization"; defaults of lucent's
    released code. See `canvas`, `distort` and `objective` for each choice.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> network = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 32, 32))
    >>> preprocess = dv.Preprocess(resize=32, crop=32)
    >>> wanted = visualise(network, "1", [3, 5], preprocess=preprocess, steps=4, progress=False)
    >>> wanted.pictures.shape, wanted.channels.tolist()
    ((2, 32, 32, 3), [3, 5])
    """
    settings = VisualisationOptions(**options)
    return Visualiser(network, layer, preprocess, spectrum, settings).run(channels, mined or {}, sources or {})


class Visualiser:
    """A network, a layer and settings; it makes pictures."""

    def __init__(
        self,
        network: Network,
        layer: str | None,
        preprocess: Preprocess,
        spectrum: Floats | None,
        settings: VisualisationOptions,
    ) -> None:
        network.check_input(preprocess.shape)
        if (layer is None) != (settings.objective == "class"):
            what = "takes the network's output and no layer" if settings.objective == "class" else "needs a layer"
            raise DataError(f'the objective "{settings.objective}" {what}')
        self.original, self.layer, self.settings = network, layer or "", settings
        lean = network.in_precision(settings.precision).without_norms([layer] if layer else [])
        self.exact, self.head = Head(lean, self.layer), Head(letting_through(lean), self.layer)
        self.parameter_type = torch.float64 if network.dtype == torch.float64 else torch.float32
        self.inputs = Inputs(preprocess, network.device, self.parameter_type)
        self.size, self.seen = self._sizes()
        self.spectrum = self._magnitudes(spectrum)
        self.start = None if settings.start is None else self._start(preprocess, settings.start)

    def run(self, channels: Sequence[int], mined: Mapping[int, float], sources: Mapping[str, Any]) -> Visualisation:
        """Make the pictures of some channels; see `visualise`."""
        objective = self._objective(channels)
        parts = zip(*self._ascended(objective), strict=True)
        pictures, values, strongest, curves, opacity = parts
        return Visualisation(
            config=self._config(objective),
            sources=stamped(sources),
            channels=np.array(objective.channels, np.int64),
            pictures=np.concatenate(pictures),
            values=np.concatenate(values),
            strongest=np.concatenate(strongest),
            mined=np.array([mined.get(channel, np.nan) for channel in objective.channels], np.float64),
            curve=np.concatenate(curves, axis=1),
            opacity=np.concatenate(opacity),
        )

    def _objective(self, channels: Sequence[int]) -> Objective:
        """Return what is made large for each picture; raises an error where the layer lacks it."""
        settings = self.settings
        channels_shown = (0,) if settings.objective == "dream" else tuple(int(channel) for channel in channels)
        if not channels_shown:
            raise DataError("no channel given; expected at least 1")
        objective = Objective(
            kind=settings.objective,
            layer=self.layer,
            channels=tuple(channel for channel in channels_shown for _ in range(settings.variants)),
            position=settings.position,
            directions=None if settings.directions is None else np.asarray(settings.directions, np.float64),
        )
        self.head.check(objective)
        if objective.kind != "unit":
            return objective
        return replace(objective, position=self.exact.position(settings.position, self.seen))

    def _ascended(self, objective: Objective) -> Iterator[tuple[Array, Array, Array, Array, Array]]:
        """Yield what each batch of pictures became; what all of them take is told before."""
        settings, count, variants = self.settings, len(objective.channels), self.settings.variants
        with contextlib.ExitStack() as stack:
            bar: Any = None

            def part(start: int, stop: int) -> tuple[Array, Array, Array, Array, Array]:
                nonlocal bar
                batch = range(start * variants, stop * variants)
                ascent = _Ascent(self, objective.only(batch), [index % variants for index in batch])
                if bar is None:
                    if settings.progress:
                        seconds = ascend.seconds_of_a_step(ascent.canvas, ascent.loss)
                        write_line(f"visualise: {self._budget(count).timed(seconds, len(batch)).words()}")
                    bar = stack.enter_context(settings.bar("step", settings.steps * count, "visualising"))
                bar.n = settings.steps * batch.start  # a part that did not fit in memory begins again
                return ascent.run(bar)

            yield from self._at_once().parts(count // variants, part)

    # --- what is decided before ---

    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (height, width) of the pictures, and of what the network sees of them."""
        settings, own_size = self.settings, (self.original.input_shape[1], self.original.input_shape[2])
        if settings.start is not None:
            if settings.size is not None:
                raise DataError("a size and a start are given; pictures have the size of their start")
            return own_size, own_size
        side = min(SIDE, *own_size)
        small = own_size if settings.objective == "class" or self.exact.runs_at((side, side)) else (side, side)
        if settings.canvas == "phase":
            size = settings.size or PHASE_SIDE
            return (size, size), small
        if settings.size is None:
            return small, small
        size = settings.size
        if (size, size) != own_size and (complaint := self.exact.runs_at((size, size))):
            raise DataError(
                f"a size of {size} px given; {self.layer or 'the output'} of {self.original.name} does not run at it "
                f"({complaint}): leave --size out, or capture the model with that size (--input {size})"
            )
        return (size, size), (size, size)

    def _magnitudes(self, spectrum: Floats | None) -> Tensor | None:
        if self.settings.canvas != "phase":
            if spectrum is not None:
                raise DataError(f'a spectrum is given; the canvas "{self.settings.canvas}" takes none: "phase" does')
            return None
        expected = [self.original.input_shape[0], *spectrum_of(self.size)]
        if spectrum is None or list(np.shape(spectrum)) != expected:
            given_words = "no spectrum" if spectrum is None else f"a spectrum of shape {list(np.shape(spectrum))}"
            raise DataError(
                f"{given_words} given; pictures of {self.size[0]} px need one of {expected}: see mean_spectrum"
            )
        return torch.from_numpy(np.asarray(spectrum)).to(self.original.device, self.parameter_type)

    def _start(self, preprocess: Preprocess, picture: Array) -> Tensor:
        x = preprocess.tensor(picture[None], self.original.device, self.parameter_type)
        if tuple(x.shape[1:]) != self.original.input_shape:
            raise DataError(
                f"a start of {list(picture.shape)} given; expected a picture as preprocess.picture gives it"
            )
        return self.inputs.pictures(x).clamp(0, 1)

    def _at_once(self) -> AtOnce:
        """Return how many channels are worked at together: the variants of one always are."""
        default = AT_ONCE_ON_A_CPU if self.original.device.type == "cpu" else AT_ONCE_ON_A_GPU
        pictures = self.settings.images_at_once(self.original.device, default)
        return AtOnce(max(pictures // self.settings.variants, 1), "channels", "take a smaller --size")

    def _budget(self, count: int) -> ascend.Budget:
        until = self.layer or "the output"
        return ascend.Budget(count, self.size, self.settings.steps, self.views, until)

    @property
    def views(self) -> int:
        """Views of a picture in each step."""
        if not self.settings.distort:
            return 1
        return self.settings.views or (PHASE_CROPS if self.settings.canvas == "phase" else 1)

    @property
    def how_viewed(self) -> Views:
        """How views are drawn."""
        if not self.settings.distort:
            return distort.UNCHANGED
        return distort.CROPS if self.settings.canvas == "phase" else distort.SMALL_CHANGES

    def _config(self, objective: Objective) -> dict[str, Any]:
        settings = self.settings
        return {
            "model": self.original.name,
            "model_fingerprint": self.original.fingerprint,
            "layer": self.layer,
            "size": list(self.size),
            "seen": list(self.seen),
            "views": self.views,
            **settings.words(),
            "position": None if objective.position is None else list(objective.position),
        }


class _Ascent:
    """The ascent of the pictures of one batch."""

    def __init__(self, visualiser: Visualiser, objective: Objective, variants: Sequence[int]) -> None:
        self.visualiser, self.objective, self.settings = visualiser, objective, visualiser.settings
        self.addresses = [
            channel * self.settings.variants + variant
            for channel, variant in zip(objective.channels, variants, strict=True)
        ]
        self.maps = [self._views_of(address) for address in self.addresses]
        self.canvas = self._canvas()
        self.touched: Tensor | None = None  # sum over the steps of |dJ/dp|, which is MACO's opacity

    def run(self, bar: Any) -> tuple[Array, Array, Array, Array, Array]:
        """Return pictures, final values, strongest values, the objective at each step, and opacities."""
        settings, self.touched = self.settings, None  # what steps that were only timed looked at does not count
        curve = -ascend.ascended(self.canvas, self.loss, settings.steps, settings.rate, settle=False, bar=bar)
        with torch.no_grad():
            pictures = self.canvas.pictures().detach()
            maps = self.visualiser.exact(self.visualiser.inputs(distort.whole(pictures, self.visualiser.seen)))
            values, strongest = self.objective.of_maps(maps), self.objective.strongest(maps)
        pixels = pictures.permute(0, 2, 3, 1).float().cpu().numpy()
        numbers = (column.double().cpu().numpy() for column in (values, strongest))
        return pixels, *numbers, curve, self._opacity(len(pixels))  # type: ignore[return-value]

    def loss(self, pictures: Tensor, step: int) -> Tensor:
        """Return minus the objective of each picture, with what is taken off it."""
        job, settings = self.visualiser, self.settings
        views = pictures
        if job.how_viewed != distort.UNCHANGED:
            maps = torch.from_numpy(np.concatenate([maps[step] for maps in self.maps])).to(pictures)
            views = viewed(pictures, maps, job.seen)
        if job.how_viewed.noise:
            views = views + job.how_viewed.noise * self._noise(step, views)
        if job.spectrum is not None and pictures.requires_grad:
            pictures.register_hook(self._touch)  # type: ignore[no-untyped-call]
        many = len(views) // len(pictures)
        diversity = settings.diversity if settings.variants > 1 else 0.0

        def score(head: Head, x: Tensor, which: list[int]) -> Tensor:
            maps = head(x)
            objective = self.objective.only([picture for picture in which for _ in range(many)])
            value = objective.of_maps(maps).reshape(-1, many).mean(1)
            if not diversity or len(which) < len(pictures):  # silent pictures have no texture yet
                return value
            return value - diversity * value.detach().abs() * alike(maps[::many], settings.variants)

        score_of, value = driven(job.inputs(views), score, job.exact, job.head, len(pictures))
        if not (settings.tv or settings.l2):
            return -score_of
        taken_off = settings.tv * roughness(pictures) + settings.l2 * (pictures - 0.5).square().flatten(1).mean(1)
        return value.abs() * taken_off - score_of

    def _canvas(self) -> Canvas:
        """Return what is optimised, as it is at the start."""
        job, kind = self.visualiser, self.settings.canvas
        if job.start is not None:
            pictures = job.start.repeat(len(self.addresses), 1, 1, 1)
            return SpectralCanvas.of(pictures) if kind == "spectral" else PixelCanvas(pictures)
        channels = job.original.input_shape[0]
        shapes = {
            "spectral": (channels, *spectrum_of(job.size), 2),
            "pixels": (channels, *job.size),
            "phase": (channels, *spectrum_of(job.size)),
        }
        noise = torch.stack([ascend.normal(self._random(a, ascend.START), shapes[kind]) for a in self.addresses])
        noise = noise.to(job.original.device, job.parameter_type)
        if kind == "phase":
            assert job.spectrum is not None
            return PhaseCanvas(noise, job.spectrum, job.size)
        return SpectralCanvas.grey(noise, job.size) if kind == "spectral" else PixelCanvas.grey(noise)

    def _views_of(self, address: int) -> Array:
        """Return the affine maps of a picture's views, [steps, views, 2, 3]."""
        job = self.visualiser
        draws = self._random(address, ascend.VIEWS).random((self.settings.steps, job.views, DRAWS))
        maps = job.how_viewed.maps(draws.reshape(-1, DRAWS))
        return maps.reshape(*draws.shape[:2], 2, 3)

    def _noise(self, step: int, like: Tensor) -> Tensor:
        """Return the noise of the views of a step, standard normal."""
        shape = (self.visualiser.views, *like.shape[1:])
        drawn = [ascend.normal(self._random(a, ascend.NOISE, step), shape) for a in self.addresses]
        return torch.cat(drawn).to(like)

    def _random(self, address: int, what: int, step: int = 0) -> np.random.Generator:
        return ascend.random_of(self.settings.seed, self.visualiser.layer, address, what, step)

    def _touch(self, gradient: Tensor) -> None:
        size = gradient.detach().abs().mean(1)
        self.touched = size if self.touched is None else self.touched + size

    def _opacity(self, count: int) -> Array:
        """Return float32 [N, h, w] in 0..1, how much the objective looked at each pixel; [N, 0, 0] where not measured.

        The gradient's sizes, summed over the steps, over their 0.99 quantile (our choice).
        """
        if self.touched is None:
            return np.zeros((count, 0, 0), np.float32)
        highest = torch.quantile(self.touched.flatten(1).float(), 0.99, dim=1)[:, None, None].clamp(min=1e-30)
        opacity: Array = (self.touched / highest).clamp(0, 1).float().cpu().numpy()
        return opacity


def roughness(pictures: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels, over rows and over columns, [N].

    >>> roughness(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])).tolist()
    [1.0]
    """
    rows = pictures.diff(dim=2).square().flatten(1).mean(1)
    return rows + pictures.diff(dim=3).square().flatten(1).mean(1)
