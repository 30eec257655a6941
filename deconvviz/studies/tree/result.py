"""ClassTree: the classes of a network joined pair by pair, and what following the tree costs in accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deconvviz.choices import NODE_SCORES
from deconvviz.errors import require_choice
from deconvviz.metrics.intervals import paired_interval
from deconvviz.models.labels import class_label
from deconvviz.notebook import Shown
from deconvviz.results.tables import to_frame, write_csv
from deconvviz.types import Floats, Ints, Pathlike, Pixels
from deconvviz.words import counted

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("node", "name", "left", "right", "height", "leaves", "decisions", "correct")
FOLLOWED = ("soft", "hard")


@dataclass(frozen=True, kw_only=True)
class TreeAccuracy:
    """How often the network, and its tree, name the class of labelled images.

    Attributes:
        images: number of images.
        plain: images that the network classifies correctly.
        lost: (soft, hard): images that the network classifies correctly, and the tree does not.
        gained: (soft, hard): images that the tree classifies correctly, and the network does not.
        decisions: int64 [2 C - 1], hard paths that come through each node.
        below: int64 [C - 1], of those at each inner node, images whose class is below it.
        right: int64 [C - 1], of these, images that take the branch of their class.
    """

    images: int
    plain: int
    lost: tuple[int, int]
    gained: tuple[int, int]
    decisions: Ints
    below: Ints
    right: Ints

    def share(self, how: str) -> float:
        """Return the share of images that are classified correctly, 0..1; how is "plain", "soft" or "hard"."""
        if how == "plain":
            return self.plain / self.images
        place = FOLLOWED.index(how)
        return (self.plain - self.lost[place] + self.gained[place]) / self.images

    def interval(self, how: str) -> Floats:
        """Return the 95 % interval of the accuracy that following the tree loses, float64 [2], in shares of images."""
        place = FOLLOWED.index(how)
        return paired_interval(np.array(self.lost[place]), np.array(self.gained[place]), self.images)

    def words(self, nodes: str = "mean") -> str:
        """Return the accuracies in words, with the 95 % intervals of the differences to the network.

        Args:
            nodes: what the score of a node is; by "sum" the soft tree is the network, and differs from it in nothing.
        """
        parts = [f"network {100 * self.share('plain'):.1f} %"]
        for how in FOLLOWED:
            if how == "soft" and nodes == "sum" and not (self.lost[0] or self.gained[0]):
                parts.append(f"soft tree {100 * self.share(how):.1f} % (it is the network itself)")
                continue
            low, high = 100 * self.interval(how)
            change = 100 * (self.share(how) - self.share("plain"))
            parts.append(
                f"{how} tree {100 * self.share(how):.1f} % ({change:+.1f}, 95 % interval {-high:+.1f} to {-low:+.1f})"
            )
        return f"accuracy on {counted(self.images, 'image')}: {', '.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class ClassTree(Shown, drawn_by="draw_tree"):
    """A binary tree over the C outputs of a network. Nodes 0 to C - 1 are leaves, node C + i is the i-th that was made.

    Attributes:
        network: name of the network.
        weights: float64 [C, D], the last layer's rows, each of length 1.
        merges: int64 [C - 1, 2], the two nodes that were joined.
        heights: float64 [C - 1], at which they were joined, rising: Ward's distance.
        names: of the outputs; empty where they are unknown.
        nodes: what the score of a node is, one of `choices.NODE_SCORES`.
        accuracy: of the tree, where images were given.

    >>> tree = ClassTree(
    ...     network="net", weights=np.eye(3), merges=np.array([[0, 1], [2, 3]]), heights=np.array([1.0, 1.4]),
    ...     names=("cat", "dog", "car"),
    ... )
    >>> tree.soft(np.array([[2.0, 1.0, 0.0]])).round(3).tolist(), tree.path(1)
    ([[0.598, 0.22, 0.182]], ((4, 3, 2), (3, 1, 0)))
    """

    network: str
    weights: Floats
    merges: Ints
    heights: Floats
    names: tuple[str, ...] = ()
    nodes: str = "mean"
    accuracy: TreeAccuracy | None = None

    def __post_init__(self) -> None:
        require_choice("nodes", self.nodes, NODE_SCORES)

    @property
    def count(self) -> int:
        """C, the number of classes."""
        return len(self.merges) + 1

    @property
    def root(self) -> int:
        """The node above all."""
        return 2 * self.count - 2

    @cached_property
    def members(self) -> tuple[Ints, ...]:
        """Node -> the leaves below it, int64, from the left to the right of the tree; of a leaf, itself."""
        members = [np.array([leaf], np.int64) for leaf in range(self.count)]
        for left, right in self.merges:
            members.append(np.concatenate([members[left], members[right]]))
        return tuple(members)

    def children(self, node: int) -> tuple[int, int]:
        """Return the two nodes below an inner node."""
        left, right = self.merges[node - self.count].tolist()
        return left, right

    def path(self, leaf: int) -> tuple[tuple[int, int, int], ...]:
        """Return the way from the root to a leaf: (inner node, the child on the way, the other child) for each step."""
        parent = {int(child): self.count + row for row, pair in enumerate(self.merges) for child in pair}
        steps, node = [], leaf
        while node != self.root:
            above = parent[node]
            left, right = self.children(above)
            steps.append((above, node, right if node == left else left))
            node = above
        return tuple(reversed(steps))

    def node_scores(self, scores: Floats) -> Floats:
        """Return the score of each node, float64 [N, 2 C - 1], of scores of classes [N, C].

        It is the mean of its leaves' scores. Where scores are weights times an embedding, this is the product of the
        embedding with the mean of the leaves' weights, which are a node's weights in NBDT. With `nodes` "sum" it is the
        logarithm of the sum of the exponentials of its leaves' scores: a branch then has the share of the network's own
        probability that its classes have together.
        """
        of_nodes = np.zeros((len(scores), 2 * self.count - 1))
        of_nodes[:, : self.count] = scores
        add = np.logaddexp if self.nodes == "sum" else np.add
        for row, (left, right) in enumerate(self.merges.tolist()):
            of_nodes[:, self.count + row] = add(of_nodes[:, left], of_nodes[:, right])
        leaves = 1 if self.nodes == "sum" else np.array([len(members) for members in self.members])
        return np.asarray(of_nodes / leaves)

    def branches(self, scores: Floats) -> Floats:
        """Return the probability of each node given the one above it, float64 [N, 2 C - 1]; 1 for the root.

        A node decides by softmax over the scores of its two children.
        """
        means, probabilities = self.node_scores(scores), np.ones((len(scores), 2 * self.count - 1))
        left, right = self.merges.T
        with np.errstate(over="ignore"):  # exp of a large number gives a probability of 0
            probabilities[:, left] = 1 / (1 + np.exp(means[:, right] - means[:, left]))
            probabilities[:, right] = 1 / (1 + np.exp(means[:, left] - means[:, right]))
        return probabilities

    def soft(self, scores: Floats) -> Floats:
        """Return the probability of each class, float64 [N, C]: the product of the branches on the way to its leaf.

        Source: Wan et al. 2021, NBDT (arXiv 2004.00221), section 3.1, soft inference (from memory of the paper).
        """
        reached = self.branches(scores)
        for row in reversed(range(len(self.merges))):
            reached[:, self.merges[row]] *= reached[:, [self.count + row]]
        return reached[:, : self.count]

    def hard(self, scores: Floats) -> Ints:
        """Return the leaf that each image's walk from the root ends at, int64 [N]: always the more probable branch."""
        branches = self.branches(scores)
        node = np.full(len(scores), self.root)
        while (inner := node >= self.count).any():
            left, right = self.merges[node[inner] - self.count].T
            rows = np.flatnonzero(inner)
            node[inner] = np.where(branches[rows, left] >= branches[rows, right], left, right)
        return node

    def typical(self, node: int, count: int = 3) -> tuple[int, ...]:
        """Return the leaves below a node whose weights agree most with the node's, their mean."""
        leaves = self.members[node]
        agreement = self.weights[leaves] @ self.weights[leaves].mean(0)
        return tuple(leaves[np.argsort(-agreement, kind="stable")[:count]].tolist())

    def class_name(self, leaf: int) -> str:
        """Return what an output is called."""
        return self.names[leaf] if leaf < len(self.names) else str(leaf)

    def group_name(self, node: int, count: int = 3) -> str:
        """Return what a node is called: its class, or the number of its classes and the most typical of them."""
        if node < self.count:
            return self.class_name(node)
        return f"{len(self.members[node])}: {', '.join(self.class_name(leaf) for leaf in self.typical(node, count))}"

    def _cells(self) -> Iterator[list[Any]]:
        for node in range(2 * self.count - 1):
            inner = node >= self.count
            left, right = self.children(node) if inner else ("", "")
            height = float(self.heights[node - self.count]) if inner else 0.0
            decisions: Any = ""
            correct: Any = ""
            if self.accuracy is not None:
                decisions = int(self.accuracy.decisions[node])
                if inner and self.accuracy.below[node - self.count]:
                    correct = float(self.accuracy.right[node - self.count] / self.accuracy.below[node - self.count])
            name = "" if inner else self.class_name(node)
            yield [node, name, left, right, height, len(self.members[node]), decisions, correct]

    def save_csv(self, path: Pathlike) -> None:
        """Write a line for each node; raises DataError where the file cannot be written."""
        write_csv(path, "tree", COLUMNS, self._cells())

    def to_frame(self) -> pd.DataFrame:
        """Return the same as a data frame; raises DataError where pandas is not installed."""
        return to_frame("tree", COLUMNS, self._cells())

    def __repr__(self) -> str:
        left, right = self.children(self.root)
        first = f"first {self.group_name(left)} against {self.group_name(right)}"
        accuracy = "" if self.accuracy is None else f"; {self.accuracy.words(self.nodes)}"
        return f"<ClassTree of {self.network}: {counted(self.count, 'class')}; {first}{accuracy}>"


@dataclass(frozen=True, kw_only=True)
class TreeStep:
    """One decision on a path.

    Attributes:
        node: the inner node.
        taken: the child on the path.
        other: the other child.
        probability: of the child on the path, in 0..1: softmax over the two.
        map: float64 [H, W] in 0..1, the explanation of the difference of their scores.
    """

    node: int
    taken: int
    other: int
    probability: float
    map: Floats


@dataclass(frozen=True, kw_only=True)
class TreePath(Shown, drawn_by="draw_tree_path"):
    """A decision as a path from the root of a tree to one of its leaves.

    Attributes:
        tree: the tree.
        name: of the image; "" where it has none.
        picture: uint8 [H, W, 3], the image as the network sees it.
        leaf: where the path ends.
        decided: the output that the network itself predicts.
        probability: of that output by the network, in 0..1.
        soft: probability of the leaf by the tree, the product along the path.
        method: of the maps.
        steps: from the root to the leaf.
        layers: that the maps are of; none where a method needs none.
    """

    tree: ClassTree
    name: str
    picture: Pixels
    leaf: int
    decided: int
    probability: float
    soft: float
    method: str
    steps: tuple[TreeStep, ...]
    layers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        ends = "the network's own class" if self.leaf == self.decided else "another class than the network's"
        decided = class_label(self.decided, self.tree.names)
        return (
            f"<TreePath of {self.name or 'the image'}: {counted(len(self.steps), 'decision')} to "
            f"{class_label(self.leaf, self.tree.names)} ({100 * self.soft:.1f} %), {ends} ({decided}, "
            f"{100 * self.probability:.1f} %)>"
        )
