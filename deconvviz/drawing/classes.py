"""Figures of training images that explain decisions, and of trees over classes, as the commands draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deconvviz.figures.page import Page
from deconvviz.studies.examples import figure as exemplary
from deconvviz.studies.tree import figure as trees

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.figures.page import ColumnsKeywords, PageKeywords
    from deconvviz.studies.examples.result import Examples, Suspects
    from deconvviz.studies.tree.result import ClassTree, TreePath


def draw_examples(examples: Examples, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]) -> Figure:
    """Draw an image beside rows of training images that explain its decision.

    Args:
        examples: what `dv.examples` returns.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> from deconvviz.studies.examples.result import ExampleRow
    >>> tiles = np.zeros((2, 8, 8, 3), np.uint8)
    >>> row = ExampleRow(
    ...     kind="nearest", title="nearest", unit="cosine", images=np.array([4, 0]), labels=np.array([1, 0]),
    ...     values=np.array([0.9, 0.8]), pictures=tiles,
    ... )
    >>> found = dv.Examples(
    ...     name="a.png", picture=tiles[0], decided=1, probability=0.9, layer="fc7", total=5, rows=(row,),
    ...     image_names=[f"{number}.png" for number in range(5)], names=("cat", "owl"),
    ... )
    >>> len(dv.draw_examples(found).axes)
    3
    """
    return exemplary.draw_examples(examples, title, caption, page=Page(**page))


def draw_suspects(suspects: Suspects, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]) -> Figure:
    """Draw the training images that are most likely to have a wrong label.

    Args:
        suspects: what `dv.suspects` returns.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> found = dv.Suspects(
    ...     method="tracin", images=np.array([2, 0, 1]), labels=np.array([1, 0, 0]), predicted=np.array([0, 0, 0]),
    ...     probability=np.array([0.1, 0.9, 0.9]), values=np.array([2.0, 0.1, 0.1]),
    ...     pictures=np.zeros((3, 8, 8, 3), np.uint8), image_names=["0.png", "1.png", "2.png"], names=("cat", "owl"),
    ... )
    >>> len(dv.draw_suspects(found).axes)
    3
    """
    return exemplary.draw_suspects(suspects, title, caption, page=Page(**page))


def draw_tree(tree: ClassTree, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw a tree over the classes of a network; of more than 60 classes its top.

    Args:
        tree: what `dv.tree` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> tree = dv.ClassTree(
    ...     network="net", weights=np.eye(3), merges=np.array([[0, 1], [2, 3]]), heights=np.array([1.0, 1.4]),
    ... )
    >>> dv.draw_tree(tree).axes[0].get_xlabel()
    'distance of weights (Ward)'
    """
    return trees.draw_tree(tree, title, caption, page=Page(**page))


def draw_tree_path(path: TreePath, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]) -> Figure:
    """Draw a decision as a path through a tree, with a map at each node.

    Args:
        path: what `dv.tree_path` returns.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    >>> network, plain = dv.capture(model.eval(), (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> path = dv.tree_path(network, dv.Scenes(1)[0][0], dv.tree(network), preprocess=plain)
    >>> len(dv.draw_tree_path(path).axes) == len(path.steps) + 1
    True
    """
    return trees.draw_tree_path(path, title, caption, page=Page(**page))
