"""LatentModel: a generator from z to an image, with what is known of z; and Generator, the same captured and ready.

A factory returns a `LatentModel`, or a module that takes z [N, d] and returns images [N, 3 or 1, H, W].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconvviz.errors import CaptureError, DataError, ModelError, require_choice
from deconvviz.graph.capture import capture
from deconvviz.graph.evaluating import evaluating
from deconvviz.graph.network import Network
from deconvviz.models.python_files import returned_by
from deconvviz.types import Ints

PRIORS = ("normal", "uniform")
EXPECTED = "images [N, 3, H, W] or [N, 1, H, W]"
OF_A_MODULE = ("size", "limits", "prior", "categorical", "codes")
"""Attributes of a module that are taken as those of the same names of a `LatentModel`."""
Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LatentModel:
    """A generator, and what is known of its input.

    Attributes:
        module: takes z, float32 [N, d], and returns images [N, 3, H, W] or [N, 1, H, W]. It runs in eval mode.
        size: d, the length of z; 0 takes the number of inputs of the module's first layer.
        limits: the values of black and of white in the images, such as (-1, 1) for a network that ends in tanh.
        prior: what z is drawn from: "normal" (mean 0, deviation 1) or "uniform" (-1 to 1).
        categorical: (first, stop) of each categorical code: the places of z of which one is 1 and the others are 0.
        codes: places of continuous codes, which are drawn uniformly from -1 to 1 whatever the prior is, as InfoGAN
            does, and which are swept first.
        name: what the generator is called; by default that of the factory.

    Raises:
        ModelError: a value out of its range.

    >>> model = LatentModel(module=nn.Sequential(nn.Linear(6, 12), nn.Unflatten(1, (3, 2, 2))), categorical=((0, 3),))
    >>> model.size, model.sample(0, np.arange(2)).shape
    (6, (2, 6))
    """

    module: nn.Module
    size: int = 0
    limits: tuple[float, float] = (-1.0, 1.0)
    prior: str = "normal"
    categorical: Sequence[tuple[int, int]] = ()
    codes: Sequence[int] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise ModelError(f"{type(self.module).__name__} given as the generator; expected a torch.nn.Module")
        object.__setattr__(self, "size", int(self.size) or _inputs_of(self.module))
        object.__setattr__(self, "limits", tuple(map(float, self.limits)))
        object.__setattr__(self, "codes", tuple(map(int, self.codes)))
        pairs = tuple((int(first), int(stop)) for first, stop in self.categorical)
        object.__setattr__(self, "categorical", pairs)
        require_choice("prior", self.prior, PRIORS, ModelError)
        if self.size < 1:
            raise ModelError(f"size {self.size} given; expected the length of z, at least 1")
        if len(self.limits) != 2 or not self.limits[0] < self.limits[1]:
            raise ModelError(f"limits {self.limits} given; expected the values of black and of white, such as (-1, 1)")
        places = [*self.codes, *(place for first, stop in pairs for place in range(first, stop))]
        if len(set(places)) < len(places) or not all(0 <= place < self.size for place in places):
            raise ModelError(
                f"codes {self.codes} and {pairs} given; expected different places from 0 to {self.size - 1}"
            )
        if any(stop - first < 2 for first, stop in pairs):
            raise ModelError(f"categorical codes {pairs} given; expected (first, stop) with at least 2 categories")

    def sample(self, seed: int, indices: Ints) -> Rows:
        """Return samples of z, float32 [n, d]; each depends on its seed and index alone.

        Args:
            seed: of all samples.
            indices: int64 [n], 0 or more.
        """
        rows = np.empty((len(indices), self.size), np.float32)
        for row, index in zip(rows, indices.tolist(), strict=True):
            rng = np.random.default_rng([seed, index])
            row[:] = rng.standard_normal(self.size) if self.prior == "normal" else rng.uniform(-1, 1, self.size)
            row[list(self.codes)] = rng.uniform(-1, 1, len(self.codes))
            for first, stop in self.categorical:
                row[first:stop] = 0
                row[first + rng.integers(stop - first)] = 1
        return rows


def load_latent(spec: str) -> LatentModel:
    """Call a factory, path/to/file.py:FUNCTION, and return the generator that it makes.

    Raises:
        ModelError: the factory does not exist, raises an error, or returns no module.
    """
    returned = returned_by(spec, "path/to/file.py:FACTORY, a function that returns a generator")
    return as_latent(returned, spec.rpartition(":")[2])


def as_latent(returned: Any, name: str = "") -> LatentModel:
    """Return a generator from a `LatentModel`, or from a module, whose attributes may say what is known of z.

    Args:
        returned: what a factory returned.
        name: what the generator is called; by default the name of its class.

    Raises:
        ModelError: it is neither.

    >>> as_latent(nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 2, 2))), "tiny").size
    4
    """
    if isinstance(returned, LatentModel):
        own_name = returned.name or name or type(returned.module).__name__
        return LatentModel(**{**vars(returned), "name": own_name})
    if not isinstance(returned, nn.Module):
        raise ModelError(
            f"the factory returned {type(returned).__name__}; expected a dv.LatentModel, or a module from z to images"
        )
    parts_given = {part: getattr(returned, part) for part in OF_A_MODULE if getattr(returned, part, None) is not None}
    return LatentModel(module=returned, name=name or type(returned).__name__, **parts_given)


def _inputs_of(module: nn.Module) -> int:
    """Return the number of inputs of a module's first layer with weights; raises ModelError where it has none."""
    for part in module.modules():
        count = getattr(part, "in_features", None) or getattr(part, "in_channels", None)
        if count:
            return int(count)
    raise ModelError(f"the length of z is not told by {type(module).__name__}; return dv.LatentModel(size=...)")


def flat(x: Tensor) -> Tensor:
    """Return z [N, d] of the form [N, d, 1, 1] in which a captured network takes it."""
    return x.flatten(1)


class Generator:
    """A generator that was captured, on a device.

    Attributes:
        model: what a factory returned.
        network: captured; it takes z as [N, d, 1, 1].
        image_shape: (channels, height, width) of its images.

    Raises:
        ModelError: it does not take z of its size, returns no image, or cannot be captured.
    """

    def __init__(self, model: LatentModel, device: torch.device | str = "cpu") -> None:
        self.model = model
        self.image_shape = _tried(model)
        try:
            self.network: Network = capture(model.module.eval(), (model.size, 1, 1), flat).to(device)
        except CaptureError as error:
            raise ModelError(f"{model.name or 'the generator'} cannot be captured: {error}") from error

    @property
    def fingerprint(self) -> str:
        """Digest of the network and of what z is drawn from."""
        model = self.model
        description = repr((model.limits, model.prior, tuple(model.categorical), tuple(model.codes)))
        return f"{self.network.fingerprint} {description}"

    def z(self, rows: NDArray[Any]) -> Tensor:
        """Return z, float32 [N, d, 1, 1] on the network's device, of rows [N, d]."""
        return torch.from_numpy(np.ascontiguousarray(rows, np.float32))[:, :, None, None].to(
            self.network.device, self.network.dtype
        )

    @torch.no_grad()
    def images(self, rows: NDArray[Any]) -> Tensor:
        """Return images, float32 [N, C, H, W] in 0..1, of z [N, d]; raises DataError for values that are not finite."""
        return self.scaled(self.network(self.z(rows)))

    def scaled(self, images: Tensor) -> Tensor:
        """Return what the network returned with black at 0 and white at 1; what is beyond them is cut.

        Raises:
            DataError: a value is NaN or infinite.
        """
        if not bool(torch.isfinite(images).all()):
            raise DataError(
                f"{self.model.name or 'the generator'} returned values that are NaN or infinite; check its weights"
            )
        low, high = self.model.limits
        return ((images.float() - low) / (high - low)).clamp(0, 1)


def batches(z: Rows, size: int) -> Iterator[Rows]:
    """Yield samples [n, d] in parts of `size`, the last one of what is left."""
    return (z[start : start + size] for start in range(0, len(z), size))


def pictures(images: Tensor) -> NDArray[np.uint8]:
    """Return images [N, C, H, W] in 0..1 as pictures, uint8 [N, H, W, C]."""
    return np.asarray((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def _tried(model: LatentModel) -> tuple[int, int, int]:
    """Return the shape of a generator's images; raises ModelError where it gives none."""
    name = model.name or "the generator"
    parameter = next(model.module.parameters(), torch.zeros(()))
    z = torch.from_numpy(model.sample(0, np.arange(2))).to(parameter)
    with torch.no_grad(), evaluating(model.module):
        try:
            out = model.module(z)
        except Exception as error:  # the user's code may raise anything
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{name} does not take z of shape {list(z.shape)}: {reason}; return dv.LatentModel(size=...)"
            ) from error
    if not isinstance(out, Tensor):
        raise ModelError(f"{name} returned {type(out).__name__}; expected {EXPECTED}")
    if out.ndim != 4 or len(out) != 2 or out.shape[1] not in (1, 3) or not out.is_floating_point():
        raise ModelError(f"{name} returned {out.dtype} {list(out.shape)} for 2 samples; expected {EXPECTED} of floats")
    channels, height, width = out.shape[1:]
    return channels, height, width
