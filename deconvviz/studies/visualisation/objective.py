"""What a picture is to do to a network: objectives on a captured layer, and rectifiers that let gradients through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from deconvviz.errors import DataError, TargetError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_of
from deconvviz.types import Floats
from deconvviz.words import counted


class _LetThrough(torch.autograd.Function):
    """An op whose backward pass hands a gradient on where its own one is zero everywhere in an image."""

    @staticmethod
    def forward(context: Any, op: Any, x: Tensor, *arguments: Any) -> Tensor:
        context.op, context.arguments = op, arguments
        context.save_for_backward(x)
        value: Tensor = op(x, *arguments)
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = context.saved_tensors
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (own_gradient,) = torch.autograd.grad(context.op(leaf, *context.arguments), leaf, gradient)
        silent = (own_gradient.flatten(1) == 0).all(1)
        if silent.any():  # scores are made large: a negative gradient would push a value down that is below zero
            raised = gradient.where((x >= 0) | (gradient > 0), 0)
            own_gradient = raised.where(silent.reshape(-1, *[1] * (own_gradient.dim() - 1)), own_gradient)
        return None, own_gradient, *[None] * len(context.arguments)


class LetThrough:
    """A rectifier that lets gradients through where it would hand none on: no picture stays grey.

    Its value is the rectifier's. Its gradient is the rectifier's too, but for an image of which nothing gets through:
    then all of it is handed on that does not push a value further below zero. So a filter that is off on noise, or at
    the ceiling of a ReLU6, is found.

    Source: lucid, `redirected_relu_grad.py` (from memory).
    """

    def __init__(self, op: Any) -> None:
        self.op = op
        self._opname = getattr(op, "_opname", getattr(op, "__name__", str(op)))
        self.__name__ = self._opname

    def __call__(self, x: Tensor, *arguments: Any) -> Tensor:
        """Return the rectifier's value."""
        value: Tensor = _LetThrough.apply(self.op, x, *arguments)
        return value


def letting_through(network: Network) -> Network:
    """Return an equal network whose rectifiers let gradients through where they would hand none on."""
    out = network.replaced(network.graph, network.tensors)
    for node in out.graph.nodes:
        if node.op == "call_function" and op_of(node).kind == "rectifier" and not node.kwargs:
            node.target = LetThrough(node.target)
    return out


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is made large, of which layer, for each of N pictures.

    Attributes:
        kind: one of `choices.OBJECTIVES`.
        layer: name of the layer; "" where `kind` is "class".
        channels: of the layer, or classes, one for each picture; of directions their row; of "dream" 0.
        position: (row, column) of a unit on the layer's map; None takes the centre.
        directions: float64 [D, channels of the layer], the rows that "direction" and "cosine" follow.
    """

    kind: str
    layer: str
    channels: tuple[int, ...]
    position: tuple[int, int] | None = None
    directions: Floats | None = None

    def only(self, chosen: Sequence[int]) -> Objective:
        """Return the objective of some of the pictures."""
        channels = tuple(self.channels[number] for number in chosen)
        return Objective(
            kind=self.kind,
            layer=self.layer,
            channels=channels,
            position=self.position,
            directions=self.directions,
        )

    def of_maps(self, maps: Tensor) -> Tensor:
        """Return how large it is, [N], from the layer's maps [N, K, h, w], or scores of classes as maps of 1 x 1.

        unit: A[c, y, x]. channel, class: mean over y, x of A[c]. direction: mean of w . A, |w| = 1. cosine: mean of
        (w . A) / |A|. dream: mean of A^2, the squared norm over the number of values.
        """
        every = torch.arange(len(maps), device=maps.device)
        if self.kind == "dream":
            return maps.square().flatten(1).mean(1)
        channels = torch.tensor(self.channels, device=maps.device)
        if self.directions is not None:
            rows = torch.from_numpy(np.asarray(self.directions, np.float64)).to(maps)[channels]
            rows = rows / rows.norm(dim=1, keepdim=True)
            along = torch.einsum("nkhw,nk->nhw", maps, rows)
            along = along / (maps.norm(dim=1) + 1e-8) if self.kind == "cosine" else along
            return along.flatten(1).mean(1)
        map_of_each = maps[every, channels]
        if self.kind == "unit":
            row, column = self.position or (map_of_each.shape[1] // 2, map_of_each.shape[2] // 2)
            return map_of_each[:, row, column]
        return map_of_each.flatten(1).mean(1)

    def strongest(self, maps: Tensor) -> Tensor:
        """Return what is compared with what was mined, [N]: a channel's largest value on its map, else the objective.

        The objective of a unit is itself such a value.
        """
        if self.kind != "channel":
            return self.of_maps(maps)
        channels = torch.tensor(self.channels, device=maps.device)
        return maps[torch.arange(len(maps), device=maps.device), channels].flatten(1).amax(1)


class Head:
    """A network up to what an objective reads; nothing after it runs, so that images may have another size.

    Attributes:
        network: the network that runs.
        layer: name of the layer; "" for the scores of the classes.
    """

    def __init__(self, network: Network, layer: str) -> None:
        self.network, self.layer = network, layer

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes whose values are read."""
        return [self.network.layer(self.layer).node] if self.layer else self.network.output_nodes()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's maps [N, K, h, w], or the scores of the classes as maps of 1 x 1, for images of any size.

        Raises:
            RuntimeError: the part of the network that runs does not take images of this size.
        """
        network = self.network
        values = network.run({network.image: x.to(network.dtype)}, self.nodes, len(x))
        if self.layer:
            return network.maps(self.layer, values[self.nodes[0]])
        readout = network.readout
        scores = readout.scores(network.packed(values))
        # A probability hardly changes where it is near 0 or 1: its logarithm is followed.
        logits = readout.kind in ("softmax", "sigmoid", "log-probabilities")
        return (scores if logits else readout.log_probabilities(scores))[:, :, None, None]

    def width(self) -> int:
        """Return the number of channels, or of classes."""
        if self.layer:
            layer = self.network.layer(self.layer)
            layer.require_channels()
            return layer.units[0]
        return self.network.outputs

    def check(self, objective: Objective) -> None:
        """Raise an error where the layer lacks a channel, a position or the width that an objective names."""
        width = self.width()
        if objective.directions is not None:
            directions = objective.directions
            if directions.ndim != 2 or directions.shape[1] != width or not np.isfinite(directions).all():
                raise DataError(
                    f"directions of shape {list(directions.shape)} given; layer {self.layer!r} takes finite numbers "
                    f"[directions, {width}], one for each of its {counted(width, 'channel')}"
                )
            if not np.linalg.norm(directions, axis=1).all():
                raise DataError("a direction of zeros given; it points nowhere")
            width = len(directions)
        beyond = [channel for channel in objective.channels if not 0 <= channel < width]
        if beyond:
            what = "class" if objective.kind == "class" else f"channel of layer {self.layer!r}"
            raise (TargetError if objective.kind == "class" else DataError)(
                f"{what} {beyond[0]} given; expected 0 to {width - 1}"
            )

    def position(self, position: tuple[int, int] | None, size: tuple[int, int]) -> tuple[int, int]:
        """Return a position on the layer's map for images of this size, None is its centre; DataError beyond it."""
        x = torch.zeros(1, self.network.input_shape[0], *size, device=self.network.device, dtype=self.network.dtype)
        with torch.no_grad():
            rows, columns = self(x).shape[2:]
        if position is None:
            return rows // 2, columns // 2
        if not (0 <= position[0] < rows and 0 <= position[1] < columns):
            raise DataError(
                f"position {position} given; the map of layer {self.layer!r} has {rows} rows and {columns} columns for "
                f"pictures of {size[1]} x {size[0]} px"
            )
        return position

    def runs_at(self, size: tuple[int, int]) -> str:
        """Return why the part of the network that is needed does not take images of this size; "" where it does."""
        channels = self.network.input_shape[0]
        try:
            with torch.no_grad():
                x = torch.zeros(2, channels, *size, device=self.network.device, dtype=self.network.dtype)
                maps = self(x)
        except RuntimeError as error:
            return str(error).splitlines()[0]
        if len(maps) != 2 or maps.shape[1] != self.width() or 0 in maps.shape:
            return f"two images give values of shape {list(maps.shape)}"
        return ""


def driven(
    seen: Tensor, score: Callable[[Head, Tensor, list[int]], Tensor], exact: Head, through: Head, count: int
) -> tuple[Tensor, Tensor]:
    """Return scores of pictures, whose gradient reaches also pictures that the network gives none.

    A picture from which no gradient comes back, because a rectifier behind it is off everywhere, is sent through the
    network again with rectifiers that let gradients through: no picture stays grey.

    lucid lets gradients through in the first 16 steps. That it happens whenever a picture gets none, and then to this
    picture alone, is our choice: a filter that goes off on the way is found again, what is optimised together stays
    independent, and where a gradient comes it is the network's own.

    Args:
        seen: inputs of the network, [N * views, C, h, w], with a gradient.
        score: a head, the inputs of n pictures, and which pictures these are -> what is made large, [n].
        exact: the network.
        through: the network with rectifiers that let gradients through.
        count: N, number of pictures.

    Returns:
        The scores [N], with the gradient, and without.
    """
    inputs = seen.detach().requires_grad_()
    value = score(exact, inputs, list(range(count)))
    (gradient,) = torch.autograd.grad(value.sum(), inputs)
    silent = (gradient.reshape(count, -1) == 0).all(1)
    if silent.any():
        rows = silent.repeat_interleave(len(seen) // count)
        again = inputs.detach()[rows].requires_grad_()
        (lent,) = torch.autograd.grad(score(through, again, silent.nonzero().flatten().tolist()).sum(), again)
        gradient = gradient.index_put((rows,), lent)
    along = (gradient * seen).reshape(count, -1).sum(1)  # its gradient with respect to `seen` is `gradient`
    value = value.detach()
    return value + along - along.detach(), value


def alike(maps: Tensor, variants: int) -> Tensor:
    """Return how alike the textures of the pictures of one channel are, [N]: mean over others j of cos(G_i, G_j).

    G is the Gram matrix of the channels of the layer. Source: lucid and lucent, `diversity`; the mean over the others
    instead of the sum is our choice.

    Args:
        maps: [N, K, h, w]; the `variants` pictures of one channel stand together.
        variants: pictures of each channel.
    """
    flat = maps.flatten(2)
    gram = torch.nn.functional.normalize(torch.einsum("nkp,nlp->nkl", flat, flat).flatten(1), dim=1)
    groups = gram.reshape(-1, variants, gram.shape[1])
    cosines = torch.einsum("gik,gjk->gij", groups, groups)
    others = cosines.sum(2) - torch.diagonal(cosines, dim1=1, dim2=2)
    return (others / max(variants - 1, 1)).flatten()
