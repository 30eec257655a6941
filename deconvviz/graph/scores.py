"""What a network's output says of classes: the one place where it becomes scores, and scores become probabilities.

A classifier returns one score for each of several classes that exclude each other, and softmax makes probabilities of
them. Others return one score for "yes or no", scores of labels that may hold together, or probabilities already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deconvviz.arrays import widened
from deconvviz.choices import OUTPUTS
from deconvviz.errors import CaptureError, ModelError, require_choice
from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.reach import shape_of

ENDS = {
    "softmax": "probabilities",
    "_softmax": "probabilities",
    "log_softmax": "log-probabilities",
    "_log_softmax": "log-probabilities",
    "sigmoid": "independent",
    "hardsigmoid": "independent",
}
"""The last op of a network -> what it returns."""
TOLERANCE = 1e-3  # by which the sum of probabilities may differ from 1: half precision


@dataclass(frozen=True)
class Readout:
    """How a network's output is read.

    Attributes:
        kind: "softmax": scores of classes that exclude each other; "sigmoid": scores of labels, each for itself;
            "probabilities" and "log-probabilities": these, of classes that exclude each other; "independent":
            probabilities of labels, each for itself.
        name: which of the tensors of a dict or output object holds the scores; None where there is one only.

    A network with a single output tells two classes apart: class 0 is "yes", what the output stands for, and class 1
    is "no". The score of "no" is minus the score of "yes", its probability one minus that of "yes".

    >>> scores = Readout("sigmoid").scores(torch.tensor([[2.0], [-1.0]]))
    >>> scores.tolist()
    [[2.0, -2.0], [-1.0, 1.0]]
    >>> Readout("sigmoid").probabilities(scores).argmax(1).tolist()
    [0, 1]
    """

    kind: str = "softmax"
    name: str | None = None

    def scores(self, output: Any) -> Tensor:
        """Return the scores of the classes, [N, classes], of what a network returned.

        Raises:
            CaptureError: there is no tensor [N, classes] in it, or there are several.
        """
        scores = _found(output, self.name)
        if scores.shape[1] > 1:
            return scores
        opposite = -scores if self.kind in ("softmax", "sigmoid") else 1 - scores
        return torch.cat([scores, opposite], 1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probability of each class, [N, classes], of scores as `scores` returns them; float32 or wider."""
        exact = scores.to(widened(scores.dtype))
        if self.kind == "softmax":
            return exact.softmax(1)
        if self.kind == "sigmoid":
            return exact.sigmoid()
        return exact.exp() if self.kind == "log-probabilities" else exact

    def probabilities_of(self, output: Any) -> Tensor:
        """Return the probability of each class, [N, classes], of what a network returned; errors as of `scores`."""
        return self.probabilities(self.scores(output))

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """Return the logarithm of each class's probability, [N, classes]."""
        exact = scores.to(widened(scores.dtype))
        if self.kind == "softmax":
            return exact.log_softmax(1)
        if self.kind == "sigmoid":
            return torch.nn.functional.logsigmoid(exact)
        return exact if self.kind == "log-probabilities" else exact.clamp(min=torch.finfo(exact.dtype).tiny).log()


def readout_of(output: Any, kind: str = "auto", last_op: str = "") -> Readout:
    """Return how outputs like this one are read.

    One output is read through a sigmoid. Several are what the network's last op says; where it says nothing, they are
    probabilities if each image's are positive and sum to one, or log-probabilities if that holds of their exponentials,
    and scores of classes that exclude each other otherwise.

    Args:
        output: what the network returned for some images.
        kind: one of `choices.OUTPUTS`; "auto" finds it.
        last_op: name of the op that gave the scores; "" where it is unknown.

    Raises:
        CaptureError: there is no tensor [N, classes] in the output, or several; or another kind.

    >>> readout_of(torch.tensor([[0.25, 0.75]])).kind, readout_of(torch.tensor([[3.0]])).kind
    ('probabilities', 'sigmoid')
    """
    require_choice("outputs", kind, OUTPUTS, CaptureError)
    name = _name_of_scores(output)
    scores = _found(output, name).detach()
    single = scores.shape[1] == 1
    if kind == "probabilities" and (single or not _sum_to_one(scores)):
        kind = "independent"
    if kind != "auto":
        return Readout("sigmoid" if kind == "softmax" and single else kind, name)
    ends = ENDS.get(last_op)
    if single:
        return Readout("independent" if ends == "independent" else "sigmoid", name)
    if ends is not None and not (ends == "probabilities" and not _sum_to_one(scores)):
        return Readout(ends, name)
    if _sum_to_one(scores):
        return Readout("probabilities", name)
    return Readout("log-probabilities" if _sum_to_one(scores.double().exp()) else "softmax", name)


def example_of(output: Any) -> Any:
    """Return an output as an example for `readout_of`: scores with their values, maps by their shape alone.

    >>> [leaf.shape for leaf in example_of([torch.ones(2, 10), torch.ones(2, 21, 8, 8)])]
    [torch.Size([2, 10]), torch.Size([0, 21, 8, 8])]
    """
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[:0].clone() if leaf.dim() > 2 else leaf, output)


def last_op(node: fx.Node) -> str:
    """Return the name of the op that a value comes from, behind ops that only move or cast values."""
    while node.op == "call_function":
        op, sources = op_of(node), [n for n in node.all_input_nodes if n.meta.get("data")]
        if not (op.identity or op.reshapes or op_name(node) in ("to", "_to_copy", "type_as")) or len(sources) != 1:
            return op_name(node)
        node = sources[0]
    return ""


def leaves_of(output: Any) -> dict[str, Tensor]:
    """Return the tensors in what a network returned, by name: "logits" of a dict, "0" of a tuple, "" of a tensor."""
    return {name: leaf for name, leaf in named_leaves(output) if isinstance(leaf, Tensor)}


def named_leaves(output: Any) -> list[tuple[str, Any]]:
    """Return everything in what a network returned, with its name, in the order of torch's pytree.

    >>> named_leaves({"logits": 1, "hidden": (2, None)})
    [('logits', 1), ('hidden.0', 2), ('hidden.1', None)]
    """
    if isinstance(output, Mapping):
        parts = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, list | tuple):
        parts = [(str(place), value) for place, value in enumerate(output)]
    elif pytree.tree_is_leaf(output):
        return [("", output)]
    else:
        pairs, _ = pytree.tree_flatten_with_path(output)
        return [(".".join(str(getattr(key, "name", key)).strip(".") for key in path), leaf) for path, leaf in pairs]
    return [(f"{name}.{rest}".rstrip("."), leaf) for name, part in parts for rest, leaf in named_leaves(part)]


def _name_of_scores(output: Any) -> str | None:
    """Return the name of the tensor of scores: "logits", or the only one of shape [N, classes]."""
    if isinstance(output, Tensor):
        return None
    leaves = leaves_of(output)
    detections = isinstance(output, list) and any(isinstance(each, Mapping) for each in output)  # boxes of each image
    matching = [name for name, leaf in leaves.items() if leaf.dim() == 2 and not detections]
    for usual in ("logits", "out"):
        if usual in matching:
            return usual
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(f"{name or 'a tensor'} {list(leaf.shape[1:])}" for name, leaf in leaves.items()) or "no tensor"
    raise CaptureError(f"the model returns {listed} for an image; expected one score for each class")


def _found(output: Any, name: str | None) -> Tensor:
    """Return the tensor of scores, [N, classes]."""
    value = output if isinstance(output, Tensor) else leaves_of(output).get(str(name))
    if value is None or value.dim() != 2:
        shape = "nothing" if value is None else list(value.shape[1:])
        raise CaptureError(f"the model returns {shape} for an image; expected one score for each class")
    return value


def _sum_to_one(values: Tensor) -> bool:
    exact = values.double()
    return bool((exact >= 0).all()) and bool(((exact.sum(1) - 1).abs() <= TOLERANCE).all())


class WithScores(ABC):
    """What a network's scores are, for `Network`: it says which nodes it returns, and keeps an example.

    Attributes:
        outputs_are: how the output becomes probabilities, one of `choices.OUTPUTS`.
        example: what the model returned for two images; see `example_of`.
        name: what errors call the network.
        tensors: weights and buffers by their names.
    """

    outputs_are: str
    example: Any
    name: str
    tensors: dict[str, Tensor]

    @abstractmethod
    def __call__(self, x: Tensor) -> Any:
        """Return what the model returns for images."""

    @abstractmethod
    def output_nodes(self) -> list[fx.Node]:
        """Return the nodes whose values the model returns."""

    @cached_property
    def readout(self) -> Readout:
        """How the output becomes scores and probabilities.

        Raises:
            CaptureError: there are no scores of classes.
            ModelError: the scores are NaN because weights are: no class is decided for.
        """
        readout = readout_of(self.example, self.outputs_are, last_op(self.score_node))
        if bool(readout.scores(self.example).isnan().any()):
            broken = [name for name, tensor in self.tensors.items() if bool(tensor.isnan().any())]
            if broken:
                raise ModelError(
                    f"the scores of {self.name} are NaN, and so are weights, {broken[0]} first: it cannot decide. Its "
                    "training diverged; give a checkpoint from before that"
                )
        return readout

    @cached_property
    def score_node(self) -> fx.Node:
        """The node of the scores that the model returns; raises CaptureError where there are none of classes."""
        name = readout_of(self.example).name
        names = [name for name, leaf in named_leaves(self.example) if isinstance(leaf, Tensor)]
        return self.output_nodes()[0 if name is None else names.index(name)]

    @property
    def width(self) -> int:
        """Number of scores that the model itself returns for an image; one score stands for two classes."""
        return int(shape_of(self.score_node)[1])

    @property
    def outputs(self) -> int:
        """Number of classes that the scores are of; errors are those of `readout`.

        Jobs ask for it before they begin a file: so a network that diverged is refused with nothing written.
        """
        _ = self.readout
        return max(self.width, 2)

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores of the classes, [N, outputs], for images x [N, *input_shape].

        Raises:
            CaptureError: the model returns anything else than one score for each class.
        """
        return self.readout.scores(self(x))

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities of the classes, [N, outputs], float32 or wider; errors are those of `scores`."""
        return self.readout.probabilities_of(self(x))
