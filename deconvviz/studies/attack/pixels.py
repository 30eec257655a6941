"""Pixels as attacks change them: shares of the way from black to white, the normalisation inside of the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deconvviz.cam.adversarial import ball_around
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.transfer import row_of
from deconvviz.graph.network import Network
from deconvviz.types import Picture


@dataclass(frozen=True)
class PixelScale:
    """From pictures to shares in 0..1, of the way from black to white, and from there to a network's input.

    Attributes:
        preprocess: how a picture becomes the network's input.

    >>> import deconvviz as dv
    >>> preprocess, picture = dv.Preprocess(resize=4, crop=4), dv.Scenes(1)[0][0][None, :4, :4]
    >>> scale = PixelScale(preprocess)
    >>> torch.equal(scale.inputs(scale.shares(picture)), preprocess.tensor(picture))
    True
    """

    preprocess: Preprocess

    def shares(
        self,
        pictures: Picture | Tensor,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return pictures [N, H, W, C] as shares, `dtype` [N, C, H, W] on a device."""
        count = len(self.preprocess.mean)
        plain = replace(self.preprocess, mean=(0.0,) * count, std=(1.0,) * count)
        values = plain.tensor(pictures, device, dtype)
        if self._is_plain:
            return values
        black, white = self._limits(values)
        return (values - black) / (white - black)

    def values(self, x: Tensor) -> Tensor:
        """Return what pictures hold before they are normalised, of shares [N, C, H, W]."""
        if self._is_plain:
            return x
        black, white = self._limits(x)
        return black + x * (white - black)

    def inputs(self, x: Tensor) -> Tensor:
        """Return the input of the network of shares [N, C, H, W]."""
        return (self.values(x) - _column(self.preprocess.mean, x)) / _column(self.preprocess.std, x)

    @property
    def _is_plain(self) -> bool:
        """Whether black is 0 and white is 1, so that shares are what pictures hold, to the last bit."""
        black, white = self.preprocess.black_and_white
        return set(black) == {0.0} and set(white) == {1.0}

    def _limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        black, white = self.preprocess.black_and_white
        return _column(black, x), _column(white, x)


def _column(row: tuple[float, ...], x: Tensor) -> Tensor:
    return row_of(tuple(row), x.dtype, x.device)[:, None, None]


@dataclass(frozen=True)
class PixelNetwork:
    """A network that takes shares in 0..1.

    Attributes:
        network: captured, with scores of classes. It runs as it was captured, in which form gradients are exact.
        scale: from shares to its input.
    """

    network: Network
    scale: PixelScale

    def shares(self, pictures: Picture | Tensor) -> Tensor:
        """Return pictures [N, H, W, C] as shares [N, C, H, W], on the network's device and of its dtype."""
        return self.scale.shares(pictures, self.network.device, self.network.dtype)

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores of the classes, [N, K], of shares [N, C, H, W]."""
        return self.network.scores(self.scale.inputs(x))

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probabilities of the classes, [N, K], of their scores."""
        return self.network.readout.probabilities(scores)


def with_noise(x: Tensor, noise: Tensor, epsilon: float) -> Tensor:
    """Return images [N, C, H, W] with a change that is kept in float16, within epsilon and in 0..1 exactly."""
    return ball_around(x, epsilon).nearest(x + noise.to(x))
