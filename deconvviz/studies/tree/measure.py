"""The tree over a network's classes: from its last weights, its accuracy on images, and the path of a decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.cluster import hierarchy  # type: ignore[import-untyped]
from torch import Tensor

from deconvviz.cam.explain import cam, constant_maps_allowed
from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.data.sampling import spread
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.classifier import last_weights
from deconvviz.graph.network import Network
from deconvviz.graph.scores import Readout
from deconvviz.models.labels import outputs_of
from deconvviz.run.options import RunOptions
from deconvviz.studies.tree.result import ClassTree, TreeAccuracy, TreePath, TreeStep
from deconvviz.types import Floats, Ints, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.run.options import RunKeywords


def tree(
    network: Network,
    images: Images | None = None,
    *,
    preprocess: Preprocess | None = None,
    outputs: Ints | None = None,
    names: tuple[str, ...] = (),
    nodes: str = "mean",
    limit: int | None = None,
    **options: Unpack[RunKeywords],
) -> ClassTree:
    """Make a tree over the classes of a network, and measure what following it costs.

    The rows of the last convolution or linear layer, each scaled to length 1, are joined pair by pair by Ward's method.
    A node decides by softmax over the scores of its children, by default the means of their leaves' scores.

    Args:
        network: a captured classifier.
        images: labelled images on which the tree is measured; None measures nothing.
        preprocess: how an image becomes the network's input; needed with images.
        outputs: int64 [classes], the output of each class of the images; None finds it by name or order.
        names: of the network's outputs.
        nodes: "mean", as NBDT has it, which loses much where classes are many and the network was not trained for it;
            or "sum", by which a branch has the share of the network's own probability that its classes have together:
            the soft tree is then the network itself (our choice).
        limit: number of images, spread over the classes; None for all.
        options: `batch_size`, `precision`, `workers` and `progress` of `RunOptions`.

    Raises:
        CaptureError: the network has not a row of weights for each class, or its labels do not exclude each other.
        DataError: the images have no labels, or other classes than the network.

    Source: Wan et al. 2021, NBDT (arXiv 2004.00221): the induced hierarchy, Ward's method and the mean weights of inner
    nodes as in its released code; the network is not fine-tuned with a tree's loss, which is ours.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> network, plain = dv.capture(model.eval(), (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> found = dv.tree(network, dv.Scenes(20), preprocess=plain, progress=False)
    >>> found.count, found.accuracy.images
    (10, 20)
    """
    if network.width < 2 or network.readout.kind in ("sigmoid", "independent"):
        raise CaptureError(
            f"the {network.width} scores of {network.name} are of labels that may hold together; a tree chooses one of "
            "several classes"
        )
    weights = last_weights(network).numpy()
    rows = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-30)
    joined = hierarchy.linkage(rows, "ward")
    class_tree = ClassTree(
        network=network.name,
        weights=rows,
        merges=joined[:, :2].astype(np.int64),
        heights=np.ascontiguousarray(joined[:, 2]),
        names=names,
        nodes=nodes,
    )
    if images is None:
        return class_tree
    if preprocess is None:
        raise DataError("images given without preprocess; say how an image becomes the network's input")
    of_class = _outputs(images, network, outputs, names)
    run = RunOptions(**options)
    return replace(class_tree, accuracy=_measured(class_tree, network, images, preprocess, of_class, limit, run))


def _outputs(images: Images, network: Network, outputs: Ints | None, names: tuple[str, ...]) -> Ints:
    labels = np.asarray(images.labels)
    if not (labels >= 0).any():
        raise DataError("the images have no labels; give a store or a folder with a sub-folder for each class")
    if outputs is not None:
        return outputs
    return outputs_of(images.classes or tuple(map(str, range(int(labels.max()) + 1))), network.width, names)


def _measured(
    class_tree: ClassTree,
    network: Network,
    images: Images,
    preprocess: Preprocess,
    of_class: Ints,
    limit: int | None,
    run: RunOptions,
) -> TreeAccuracy:
    """Return how often network and tree are right, from one pass over the labelled images."""
    labels = np.asarray(images.labels)
    labelled = np.flatnonzero(labels >= 0)
    indices = labelled if limit is None else labelled[spread(labels[labelled], limit)]
    network.check_input(preprocess.shape)
    feed, forward = Feed(images, preprocess, indices, workers=run.workers), network.forward_only(run.precision)
    counts = _Counts(class_tree)
    with torch.inference_mode(), run.bar("image", len(feed), "tree") as bar:
        for places, x in feed.tensors(run.images_at_once(network.device), network.device, network.dtype):
            scores = scores_of(network.readout, forward(x)).cpu().numpy()
            counts.add(scores, of_class[labels[indices[places]]])
            bar.update(len(places))
    return counts.accuracy()


def scores_of(readout: Readout, output: Any) -> Tensor:
    """Return the scores of classes, float64 [N, C], or the logarithms of their probabilities."""
    scores = readout.scores(output)
    return (scores if readout.kind == "softmax" else readout.log_probabilities(scores)).double()


class _Counts:
    """Counts of images along the hard paths of a tree."""

    def __init__(self, class_tree: ClassTree) -> None:
        self.tree, count = class_tree, class_tree.count
        self.images = self.plain = 0
        self.lost, self.gained = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self.decisions = np.zeros(2 * count - 1, np.int64)
        self.below, self.right = np.zeros(count - 1, np.int64), np.zeros(count - 1, np.int64)
        self.paths = {leaf: class_tree.path(leaf) for leaf in range(count)}

    def add(self, scores: Floats, truth: Ints) -> None:
        """Add some images with their scores [n, C] and their outputs [n]."""
        plain, hard = scores.argmax(1) == truth, self.tree.hard(scores)
        for place, followed in enumerate((self.tree.soft(scores).argmax(1), hard)):
            self.lost[place] += int((plain & (followed != truth)).sum())
            self.gained[place] += int((~plain & (followed == truth)).sum())
        self.images, self.plain = self.images + len(truth), self.plain + int(plain.sum())
        for leaf, label in zip(hard.tolist(), truth.tolist(), strict=True):
            branch_by_node = {node: taken for node, taken, _ in self.paths[label]}
            self.decisions[self.tree.root] += 1
            for node, taken, _ in self.paths[leaf]:
                self.decisions[taken] += 1
                if node in branch_by_node:
                    self.below[node - self.tree.count] += 1
                    self.right[node - self.tree.count] += branch_by_node[node] == taken

    def accuracy(self) -> TreeAccuracy:
        """Return what was counted."""
        (soft_lost, hard_lost), (soft_gained, hard_gained) = self.lost.tolist(), self.gained.tolist()
        return TreeAccuracy(
            images=self.images,
            plain=self.plain,
            lost=(soft_lost, hard_lost),
            gained=(soft_gained, hard_gained),
            decisions=self.decisions,
            below=self.below,
            right=self.right,
        )


@dataclass(frozen=True)
class Branch:
    """The target of a node: the score of one child less that of the other.

    Attributes:
        readout: how the output becomes scores.
        nodes: what a node's score is, as in `ClassTree`.
        taken: the leaves of the first child.
        other: those of the second.
    """

    readout: Readout
    nodes: str
    taken: tuple[int, ...]
    other: tuple[int, ...]

    def __call__(self, output: Any) -> Tensor:
        """Return the difference for each image, [N]."""
        scores = self.readout.scores(output)
        scores = scores if self.readout.kind == "softmax" else self.readout.log_probabilities(scores)
        taken, other = scores[:, list(self.taken)], scores[:, list(self.other)]
        return taken.logsumexp(1) - other.logsumexp(1) if self.nodes == "sum" else taken.mean(1) - other.mean(1)


def tree_path(
    network: Network,
    pixels: Picture,
    class_tree: ClassTree,
    *,
    preprocess: Preprocess,
    target: int | None = None,
    method: str = "grad-cam",
    layer: str | None = None,
    name: str = "",
    precision: Any = "fp32",
) -> TreePath:
    """Follow a decision through a tree, with a map at each node of what speaks for the branch that is taken.

    Args:
        network: the network that the tree was made of.
        pixels: the image, uint8, uint16 or float32 [H, W, C].
        class_tree: from `tree`.
        preprocess: how an image becomes the network's input.
        target: the leaf whose path is shown; None takes the hard path, always the more probable branch.
        method: of `cam`; it explains the difference of the two branches' scores.
        layer: at which it explains; None takes the last layer with rows and columns.
        name: of the image, for the figure.
        precision: of the passes.

    Raises:
        DataError: the target does not exist, or the tree is of another number of classes.
        DeconvvizError: as `cam` raises it.

    Source: the path is NBDT's hard inference; a map at each node with the difference of the children's scores as
    its target is ours.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> network, plain = dv.capture(model.eval(), (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> path = dv.tree_path(network, dv.Scenes(1)[0][0], dv.tree(network), preprocess=plain)
    >>> path.steps[0].node, path.steps[0].map.shape
    (6, (32, 32))
    """
    if class_tree.count != network.outputs:
        raise DataError(f"a tree of {class_tree.count} classes given for a network of {network.outputs}")
    if target is not None and not 0 <= target < class_tree.count:
        raise DataError(f"class {target} given; the network has classes 0 to {class_tree.count - 1}")
    network.check_input(preprocess.shape)
    picture = preprocess.picture(pixels)
    x = preprocess.tensor(picture[None], network.device, network.dtype)
    with torch.no_grad():
        output = network(x)
    readout = network.readout
    scores, probabilities = scores_of(readout, output).cpu().numpy(), readout.probabilities_of(output)[0]
    branches, leaf = class_tree.branches(scores)[0], int(class_tree.hard(scores)[0]) if target is None else target
    explain, steps = cam(method, network, layer, precision=precision), []
    for node, taken, other in class_tree.path(leaf):
        leaves = (tuple(class_tree.members[child].tolist()) for child in (taken, other))
        with constant_maps_allowed():
            map_ = explain(x, Branch(readout, class_tree.nodes, *leaves))[0].double().cpu().numpy()
        steps.append(TreeStep(node=node, taken=taken, other=other, probability=float(branches[taken]), map=map_))
    decided = int(probabilities.argmax())
    return TreePath(
        tree=class_tree,
        name=name,
        picture=preprocess.display(picture),
        leaf=leaf,
        decided=decided,
        probability=float(probabilities[decided]),
        soft=float(class_tree.soft(scores)[0, leaf]),
        method=method,
        layers=tuple(explain.layers),
        steps=tuple(steps),
    )
