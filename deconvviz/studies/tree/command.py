"""deconvviz tree"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import NODE_SCORES
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.following import IMAGE, PICTURE, following
from deconvviz.cli.inputs import class_number, open_model, output_names, read_image
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    figure_options,
    limit_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_figure_and_table, save_figure, save_result
from deconvviz.words import at_layers

if TYPE_CHECKING:
    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.tree.result import ClassTree, TreePath
    from deconvviz.types import Picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathOptions:
    """What the command line says of the path that is drawn.

    Attributes:
        image: path of a picture; None to draw no path.
        target: the class to which it leads, as text; None for the hard path.
        method: of the maps.
        layer: of the maps; None for the default.
    """

    image: str | None
    target: str | None
    method: str
    layer: str | None


path_options = option_group(
    "along",
    PathOptions,
    click.option("--image", metavar="FILE", help="A picture: its path is drawn too, to OUT.path.png or the like."),
    click.option(
        "-t",
        "--target",
        cls=Dependent,
        needs="--image",
        metavar="CLASS",
        help="The class to which the path leads.  [default: where the more probable branches lead]",
    ),
    click.option(
        "-m",
        "--method",
        cls=Dependent,
        needs="--image",
        default="grad-cam",
        help="Of the maps at the nodes; `deconvviz cam --list` lists them.",
    ),
    click.option(
        "-l",
        "--layer",
        cls=Dependent,
        needs="--image",
        help="Of the maps.  [default: the last one with rows and columns]",
    ),
)


@click.command()
@click.argument("model")
@click.argument("data", required=False)
@click.option("-o", "--out", required=True, help="The figure, .png, .pdf or .svg; the table OUT.csv comes beside it.")
@path_options
@click.option(
    "--nodes",
    default=NODE_SCORES[0],
    type=click.Choice(NODE_SCORES),
    help="How a node decides: by the mean score of each branch's classes, as NBDT does, or by the sum of their "
    "probabilities, which is the network's own decision step by step.",
)
@limit_option
@classes_option
@figure_options(columns="Panels of the path in a row.  [default: 5]")
@run_options(batch_size="Images in a pass.", precision="Precision of the network.", workers=DECODING)
@model_options
def tree(
    model: str,
    data: str | None,
    out: str,
    along: PathOptions,
    nodes: str,
    limit: int | None,
    names: str | None,
    page: Page,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Draw a tree over a network's classes, and a decision as a path through it.

    Classes whose weights in the last layer are similar stand together. With --image, a map at each node of the path
    shows what speaks for the branch that is taken. With DATA, the accuracy of deciding along the tree is printed beside
    the network's own: softly, by the product of the probabilities along each path, and hard, by always taking the more
    probable branch. The network is used as it is; it was not trained to follow a tree.

    DATA is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures.

    \b
    Examples:
      deconvviz tree torchvision:squeezenet1_0 -o tree.png --image cat.jpg
      deconvviz tree demo scenes:200:1 -o tree.png
    """
    check_figure_and_table(out)
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.tree.measure import tree as make_tree

    pixels = None if along.image is None else read_image(along.image)
    images = None if data is None else open_images(data)
    opened = open_model(model, options)
    outputs = output_names(opened.loaded, names, opened.network, images)
    about: dict[str, Any] = {"preprocess": opened.preprocess, "names": outputs, "nodes": nodes, "limit": limit}
    class_tree = make_tree(opened.network, images, **about, **run.keywords())
    # Before anything is written: the method or the layer may not exist.
    path = None if pixels is None else _path(opened, pixels, class_tree, along, outputs)
    _save_tree(class_tree, opened.name, out, page)
    if path is not None:
        _save_path(path, opened, out, page)
    if nodes == "mean" and (_loses(class_tree) or (path is not None and path.leaf != path.decided)):
        click.echo(
            "note: deciding by mean scores loses much where the network was not trained for it and classes are many; "
            "--nodes sum follows the network's own probabilities",
            err=True,
        )
    if path is None:
        again = ("tree", model, "--image", IMAGE, "-o", out)
        click.echo(f"next: {following(*again, carry=(*PICTURE, 'names', 'nodes'))}")


def _path(
    opened: OpenedModel, pixels: Picture, class_tree: ClassTree, along: PathOptions, outputs: tuple[str, ...]
) -> TreePath:
    """Return the path of an image."""
    from deconvviz.studies.tree.measure import tree_path

    return tree_path(
        opened.network,
        pixels,
        class_tree,
        preprocess=opened.preprocess,
        target=class_number(along.target, outputs),
        method=along.method,
        layer=along.layer,
        name=pathlib.Path(str(along.image)).name,
    )


def _save_tree(class_tree: ClassTree, network: str, out: str, page: Page) -> None:
    """Write the figure and the table of a tree, and print what it is."""
    from deconvviz.studies.tree.figure import draw_tree

    caption = caption_of(class_tree)
    save_result(class_tree, draw_tree(class_tree, f"The classes of {network} as a tree", caption, page), out, caption)


def _save_path(path: TreePath, opened: OpenedModel, out: str, page: Page) -> None:
    """Write the figure of a path, and print where it leads."""
    from deconvviz.studies.tree.figure import draw_tree_path

    words = path_caption(path) + opened.preprocess.shown_words()
    page = dataclasses.replace(page, title=None)
    figure = draw_tree_path(path, f"A decision of {opened.name}, branch by branch", words, page)
    save_figure(figure, beside(out, f".path{pathlib.Path(out).suffix}"), words)
    click.echo(repr(path))


SCORED = {"mean": "mean score", "sum": "summed probability"}
"""What the score of a node is -> how captions call it."""


def _loses(class_tree: ClassTree) -> bool:
    """Whether the hard tree is measurably worse than the network."""
    accuracy = class_tree.accuracy
    return accuracy is not None and accuracy.interval("hard")[0] > 0


def caption_of(class_tree: ClassTree) -> str:
    """Return what the figure of a tree shows: how it was made, and what following it costs."""
    from deconvviz.studies.tree.figure import CUT, TIPS

    cut = (
        f" Of {class_tree.count} classes the {CUT} topmost groups are drawn: the number of classes of each, and those "
        "whose weights agree most with the group's mean."
    ) * (class_tree.count > TIPS)
    measured = "" if class_tree.accuracy is None else f"\n{class_tree.accuracy.words(class_tree.nodes).capitalize()}."
    return (
        "The rows of the last layer's weights, each of length 1, joined pair by pair by Ward's method: what joins far "
        f"on the right is similar. A node decides by the {SCORED[class_tree.nodes]} of each branch's classes.{cut}"
        f"{measured}"
    )


def path_caption(path: TreePath) -> str:
    """Return what the figure of a path shows: the choice of each node, and what the maps explain."""
    ends = "That is the network's own class." if path.leaf == path.decided else "The network itself says otherwise."
    return (
        f"At each node, the {SCORED[path.tree.nodes]} of one branch's classes is compared with that of the other's. "
        "The probability is of the branch that is taken (black), not of the other one (vermilion). Numbers are classes "
        "of a branch, names those whose weights agree most with its mean. Maps show what speaks for the branch that is "
        f"taken: {path.method}{at_layers(path.layers)} of the difference of both branches, each map on a scale of its "
        f"own. The path ends at {path.tree.class_name(path.leaf)}. {ends}"
    )
