"""Figure 7 of the paper: a square is moved over an image, and every panel comes from the same forward passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View
from deconvviz.cam.occluder import Occluder, filling
from deconvviz.cam.options import ExplainOptions
from deconvviz.choices import Precision
from deconvviz.data.preprocess import Preprocess
from deconvviz.deconv.project import project
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.choose import last_maps
from deconvviz.graph.network import Network
from deconvviz.studies.occlusion.result import Occlusion, Panels

FILLS = ("grey", "mean", "black", "blur", "noise")
GREY = 0.5  # of the range of a pixel
STRONGEST = ("max", "sum")


def occlude(
    network: Network,
    pictures: NDArray[np.uint8],
    layer: str | None = None,
    *,
    preprocess: Preprocess,
    targets: Sequence[int] | None = None,
    square: int | tuple[int, int] = 32,
    stride: int | tuple[int, int] = 16,
    fill: str = "grey",
    border: str = "flush",
    channel: int | None = None,
    strongest: str = "max",
    rule: str = "deconvnet",
    names: Sequence[str] = (),
    batch_size: int = 32,
    precision: Precision = "fp32",
    seed: int = 0,
    progress: bool = True,
) -> list[Occlusion]:
    """Move a square over each image and record, under every window, what the network makes of the rest.

    Args:
        pictures: uint8 [N, H, W, 3], as `preprocess.picture` gives them.
        layer: whose strongest map is watched; by default the last one with rows and columns before the classifier.
        targets: the output that is followed for each image, the true class as a rule; None follows its own top class.
        square, stride: pixels, or (height, width).
        fill: of the square: "grey", the "mean" colour, "black", the image's own "blur", or "noise".
        border: "flush", windows end with the image; "beyond", they reach over its edge.
        channel: the map to watch; by default the one that is strongest in the unoccluded image: by its "max"imum, or
            by its "sum".
        rule: of that map's projection.
        batch_size, precision, seed: as for `cam`.

    Returns:
        An `Occlusion` for each image.

    Raises:
        DataError: a square larger than the images, another fill, border, channel or target.
        LayerNotFound: no such layer. CamError: it has no rows and columns.

    Source: Zeiler and Fergus 2013, section 4.2 and figure 7; size and stride are not given there.
    """
    _check(network, pictures, preprocess, fill, strongest)
    layer = layer or last_maps(network)
    size = (preprocess.shape[1], preprocess.shape[2])
    occluder = Occluder(size, _pair(square), _pair(stride), border)
    runner = _Occluding(
        network, preprocess, layer, occluder, fill, channel, strongest, rule, batch_size, precision, seed
    )
    names = names or [f"image {n}" for n in range(len(pictures))]
    bar = tqdm(pictures, unit="image", desc="occluding", disable=not progress)
    return [
        runner.image(picture, names[n], None if targets is None else int(targets[n])) for n, picture in enumerate(bar)
    ]


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _check(network: Network, pictures: NDArray[np.uint8], preprocess: Preprocess, fill: str, strongest: str) -> None:
    for what, given, known in (("fill", fill, FILLS), ("strongest", strongest, STRONGEST)):
        if given not in known:
            raise DataError(f"{what} {given!r} given; expected one of {', '.join(known)}")
    if preprocess.shape != network.input_shape or tuple(pictures.shape[1:3]) != preprocess.shape[1:]:
        raise MismatchError(
            f"pictures of {tuple(pictures.shape[1:3])} given, prepared as {preprocess.shape}; the network takes "
            f"{network.input_shape}"
        )


class _Watched(Captured):
    """A network whose output comes with the maps of a layer, from one pass."""

    def __init__(self, network: Network, layer: str) -> None:
        super().__init__(network)
        self.layer = layer

    def __call__(self, x: Tensor) -> Any:
        """Return (output, maps [N, K, h, w])."""
        values, output = self.network.observed(x, [self.layer])
        return output, self.network.maps(self.layer, values[self.layer])


class _Occluding:
    """One setting, image after image."""

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        layer: str,
        occluder: Occluder,
        fill: str,
        channel: int | None,
        strongest: str,
        rule: str,
        batch_size: int,
        precision: Precision,
        seed: int,
    ) -> None:
        self.network, self.preprocess, self.layer, self.occluder = network, preprocess, layer, occluder
        self.fill, self.channel, self.strongest, self.rule = fill, channel, strongest, rule
        self.batch_size, self.precision, self.seed = batch_size, precision, seed
        fast = precision == "bf16" or network.dtype == torch.float32
        self.config = {
            "model": network.name,
            "model_fingerprint": network.fingerprint,
            "layer": layer,
            "square": list(occluder.square),
            "stride": list(occluder.stride),
            "border": occluder.border,
            "fill": fill,
            "precision": precision,
            "rule": rule,
        }
        self.exact = Captured(network)
        self.watched = _Watched(network.fast(precision, keep=[layer]) if fast else network, layer)

    def image(self, picture: NDArray[np.uint8], name: str, target: int | None) -> Occlusion:
        """Occlude one picture, uint8 [H, W, 3]."""
        x = self.preprocess.tensor(picture[None], self.network.device, self.network.dtype)
        how = ExplainOptions(batch_size=self.batch_size, precision=self.precision, seed=self.seed)
        view = View(self.exact, self.watched, x, self.layer, target, how, Counter())
        outputs = self.network.outputs
        base, maps = view.output[0].float().softmax(0), view.A[0].float()
        channel = self._channel(maps)

        def read(found: Any, images: Tensor) -> Tensor:
            output, some = found
            shares = output.float().softmax(1)
            best = shares.max(1)
            total = some[:, channel].float().sum((1, 2))
            return torch.stack([view.scorer.probability(output, images), best.values, total, best.indices], 1)

        fill = self._filling(view)
        under = self.occluder.scores(view, fill, read)[0].double().cpu().numpy()
        assert view.scorer.classes is not None
        followed = int(view.scorer.classes[0])
        projection = project(self.network, x, self.layer, channel, rule=self.rule)
        return Occlusion(
            config=self.config,
            name=name,
            picture=picture,
            occluder=self.occluder,
            target=followed,
            outputs=outputs,
            channel=channel,
            whole=Panels(float(base[followed]), float(base.max()), float(maps[channel].sum()), int(base.argmax())),
            probability=under[:, 0],
            top_probability=under[:, 1],
            activation=under[:, 2],
            top=under[:, 3].astype(np.int64),
            projection=projection.full().permute(1, 2, 0).float().cpu().numpy(),
            shown=self._shown(x, fill),
        )

    def _channel(self, maps: Tensor) -> int:
        if self.channel is None:
            strength = maps.amax((1, 2)) if self.strongest == "max" else maps.sum((1, 2))
            return int(strength.argmax())
        if not 0 <= self.channel < len(maps):
            raise DataError(f"channel {self.channel} of layer {self.layer!r} given; expected 0 to {len(maps) - 1}")
        return self.channel

    def _filling(self, view: View) -> Tensor | float:
        if self.fill in ("grey", "black"):
            level = self.preprocess.level(GREY if self.fill == "grey" else 0)
            return level.to(view.x)[None, :, None, None].expand(view.x.shape)
        return 0.0 if self.fill == "mean" else filling(view, self.fill)

    def _shown(self, x: Tensor, fill: Tensor | float) -> NDArray[np.uint8]:
        """The picture with the occluder in its middle place."""
        rows, columns = (len(one) for one in self.occluder.grid)
        middle = torch.tensor([rows // 2 * columns + columns // 2])
        mask = 1 - self.occluder.covers(middle, x)[:, None]
        pictures = self.preprocess.inverse(x * mask + fill * (1 - mask))
        found: NDArray[np.uint8] = pictures[0]
        return found
