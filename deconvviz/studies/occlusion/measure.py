"""Figure 7 of the paper: a square is moved over an image, and every panel comes from the same forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from deconvviz.arrays import widened
from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View
from deconvviz.cam.occluder import GREY, Occluder, filling
from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.window_grid import WindowGrid
from deconvviz.data.preprocess import Preprocess
from deconvviz.deconv.choice import rule_on
from deconvviz.deconv.project import project
from deconvviz.errors import DataError, MismatchError, TargetError
from deconvviz.graph.choose import last_maps
from deconvviz.graph.network import Network
from deconvviz.graph.program import Values
from deconvviz.studies.occlusion.options import OcclusionOptions
from deconvviz.studies.occlusion.result import Occlusion, Response
from deconvviz.types import Picture, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.studies.occlusion.options import OcclusionKeywords


def occlude(
    network: Network,
    pictures: Picture,
    layer: str | None = None,
    *,
    preprocess: Preprocess,
    targets: Sequence[int] | None = None,
    names: Sequence[str] = (),
    **options: Unpack[OcclusionKeywords],
) -> list[Occlusion]:
    """Move a square over each image, and measure under every window what the network makes of the rest.

    Args:
        network: captured; it returns one score for each class.
        pictures: uint8, uint16 or float32 [N, H, W, C], as `preprocess.picture` gives them.
        layer: the layer whose strongest map is watched; by default the last one with rows and columns before the
            classifier.
        preprocess: how a picture becomes the network's input.
        targets: the class that is followed for each image, usually the true one, as an index of the output; None
            follows each image's own most probable class.
        names: of the images; by default "image 0" and so on.
        options: `square`, `stride`, `fill`, `border`, `channel`, `strongest` and `rule` of `OcclusionOptions`;
            `batch_size` (by default 32 on a CPU and 256 on a GPU), `precision`, `seed` (of "noise") and `progress` of
            `RunOptions`.

    Returns:
        An `Occlusion` for each image.

    Raises:
        DataError: a square that is larger than the images, or an option that does not exist.
        TargetError: a target that is not one of the network's outputs, or not one target for each image.
        MismatchError: pictures of another size than the preprocessing gives.
        CaptureError: the preprocessing does not fit the network.
        LayerNotFound: the layer does not exist.
        CamError: the layer has no rows and columns.

    Source: Zeiler and Fergus 2013, section 4.2 and figure 7; size and stride of the square are not given there.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    >>> network, preprocess = dv.capture(model, (3, 16, 16)), dv.Preprocess(resize=16, crop=16)
    >>> pictures = preprocess.picture(dv.Scenes(1)[0][0])[None]
    >>> (occlusion,) = occlude(network, pictures, preprocess=preprocess, square=8, stride=4, progress=False)
    >>> occlusion.grid(occlusion.probability).shape, occlusion.drop().shape
    ((3, 3), (16, 16))
    """
    settings = OcclusionOptions(**options)
    network.check_input(preprocess.shape)
    if tuple(pictures.shape[1:3]) != preprocess.shape[1:]:
        raise MismatchError(
            f"pictures of {tuple(pictures.shape[1:3])} pixels given; expected {preprocess.shape[1:]}, as "
            "`preprocess.picture` gives them"
        )
    if targets is not None and len(targets) != len(pictures):
        raise TargetError(
            f"{counted(len(targets), 'target')} given for {counted(len(pictures), 'image')}; expected one for each"
        )
    measuring = OcclusionRun(network, preprocess, layer or last_maps(network), settings)
    occlusions = []
    with settings.bar("image", len(pictures), "occluding") as bar:
        for number, picture in enumerate(pictures):
            name = names[number] if names else f"image {number}"
            occlusions.append(measuring.image(picture, name, None if targets is None else int(targets[number])))
            bar.update()
    return occlusions


class OutputWithMaps(Captured):
    """A captured network whose output comes together with the maps of a layer, from one pass."""

    def __init__(self, network: Network, layer: str) -> None:
        super().__init__(network)
        self.layer = layer

    @property
    def reads(self) -> list[fx.Node]:
        """The nodes of the output and of the layer."""
        return [*super().reads, self.network.layer(self.layer).node]

    def returned(self, values: Values) -> tuple[Any, Tensor]:
        """Return (output [N, classes], maps [N, K, h, w])."""
        return super().returned(values), self.network.maps(self.layer, values[self.network.layer(self.layer).node])


class OcclusionRun:
    """A network, a layer and the settings of an occlusion; it measures image after image."""

    def __init__(self, network: Network, preprocess: Preprocess, layer: str, settings: OcclusionOptions) -> None:
        self.network, self.preprocess, self.layer, self.settings = network, preprocess, layer, settings
        _, height, width = preprocess.shape
        size = height, width
        windows = size, settings.pair("square", size), settings.pair("stride", size), settings.border
        self.windows, self.occluder = WindowGrid(*windows), Occluder(*windows)
        self.exact = Captured(network)
        self.fast = OutputWithMaps(network.forward_only(settings.precision, keep=[layer]), layer)
        self.config = {
            "model": network.name,
            "model_fingerprint": network.fingerprint,
            "layer": layer,
            "square": list(self.windows.square),
            "stride": list(self.windows.stride),
            "border": settings.border,
            "fill": settings.fill,
            "precision": settings.precision,
        }

    def image(self, picture: Pixels, name: str, target: int | None) -> Occlusion:
        """Measure one picture, uint8 [H, W, 3]; without a target its own most probable class is followed."""
        x = self.preprocess.tensor(picture[None], self.network.device, self.network.dtype)
        view = View(self.exact, self.fast, x, self.layer, target, self._explain_options())
        probabilities, maps = view.readout.probabilities_of(view.output)[0], view.A[0]
        channel = self._channel(maps)
        fill = self._fill(view)
        under = self._under_windows(view, channel, fill)
        assert view.scorer.classes is not None  # a target here is a class
        followed = int(view.scorer.classes[0])
        rule, why = self._rule(x)
        projection = project(self.network, x, self.layer, channel, rule=rule, bounds=self.preprocess.bounds())
        return Occlusion(
            config={**self.config, "rule": rule, "why": why},
            name=name,
            picture=picture,
            occluded_picture=self._with_square(x, fill),
            windows=self.windows,
            target=followed,
            outputs=self.network.outputs,
            channel=channel,
            whole=Response(
                probability=float(probabilities[followed]),
                top_probability=float(probabilities.max()),
                activation=float(maps[channel].to(widened(maps.dtype)).sum()),
                top_class=int(probabilities.argmax()),
            ),
            probability=under[:, 0],
            top_probability=under[:, 1],
            activation=under[:, 2],
            top_class=under[:, 3].astype(np.int64),
            projection=projection.full().permute(1, 2, 0).float().cpu().numpy(),
        )

    def _rule(self, x: Tensor) -> tuple[str, str]:
        """Return the rule of the projection, and in words how it was chosen; "" where it was given."""
        if self.settings.rule != "auto":
            return self.settings.rule, ""
        choice = rule_on(self.network, x, self.layer, self.preprocess.bounds())
        return choice.rule, choice.words()

    def _explain_options(self) -> ExplainOptions:
        settings = self.settings
        return ExplainOptions(batch_size=settings.batch_size, precision=settings.precision, seed=settings.seed)

    def _under_windows(self, view: View, channel: int, fill: Tensor | float) -> Any:
        """Return what the network gives under each window, float64 [W, 4]: the fields of `Response` in their order."""

        def read(observed: Any, images: Tensor) -> Tensor:
            output, maps = observed
            best = view.readout.probabilities_of(output).max(1)
            activation = maps[:, channel].to(widened(maps.dtype)).sum((1, 2))
            return torch.stack([view.scorer.probability(output, images), best.values, activation, best.indices], 1)

        return self.occluder.scores(view, fill, read)[0].double().cpu().numpy()

    def _channel(self, maps: Tensor) -> int:
        """Return the map that is watched, of maps [K, h, w]; raises DataError for a channel that does not exist."""
        channel = self.settings.channel
        if channel is None:
            strength = maps.amax((1, 2)) if self.settings.strongest == "max" else maps.sum((1, 2))
            return int(strength.argmax())
        if channel >= len(maps):
            raise DataError(f"channel {channel} of layer {self.layer!r} given; expected 0 to {len(maps) - 1}")
        return channel

    def _fill(self, view: View) -> Tensor | float:
        """Return what stands in the square, in units of the normalised image: a number, or images [1, C, H, W]."""
        if self.settings.fill == "mean":
            return 0.0
        if self.settings.fill in ("grey", "black"):
            level = self.preprocess.level(GREY if self.settings.fill == "grey" else 0)
            return level.to(view.x)[None, :, None, None].expand(view.x.shape)
        return filling(view, self.settings.fill)

    def _with_square(self, x: Tensor, fill: Tensor | float) -> Pixels:
        """Return the picture with the square in its middle place, uint8 [H, W, 3]."""
        rows, columns = map(len, self.windows.grid)
        middle = torch.tensor([rows // 2 * columns + columns // 2])
        covered = self.occluder.covers(middle, x)[:, None]
        picture: Pixels = self.preprocess.inverse(x * (1 - covered) + fill * covered)[0]
        return picture
