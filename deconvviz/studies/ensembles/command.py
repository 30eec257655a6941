"""deconvviz ensemble"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import matched_outputs
from deconvviz.cli.options import (
    DECODING,
    classes_option,
    device_option,
    figure_options,
    limit_option,
    run_options,
)
from deconvviz.cli.outputs import beside, check_table, command_line
from deconvviz.errors import DataError
from deconvviz.studies.ensembles.labels_command import CLASS, Asked, labelled_images, measure_labels
from deconvviz.studies.ensembles.members_command import OpenedMembers, opened
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.ensembles.result import Ensemble
    from deconvviz.types import Ints


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL[:WEIGHTS]...")
@click.argument("data")
@click.option(
    "-o", "--out", required=True, help="The table, .csv; OUT.h5, OUT.png and the maps OUT.maps.png come beside it."
)
@click.option("--show", default=4, type=click.IntRange(0, 40), help="Images whose maps are drawn, evenly chosen.")
@click.option(
    "--cam", "method", default="grad-cam", help="The method of these maps; `deconvviz cam --list` lists them."
)
@click.option(
    "--labels",
    metavar="FILE.csv",
    help="Several labels an image: a table with the columns image and label. A store packed with --labels needs none.",
)
@limit_option
@classes_option
@figure_options()
@run_options(batch_size="Images in a pass.", precision="Precision of the networks.", workers=DECODING)
@device_option
def ensemble(
    models: tuple[str, ...],
    data: str,
    out: str,
    show: int,
    method: str,
    labels: str | None,
    limit: int | None,
    names: str | None,
    page: Page,
    run: RunOptions,
    device: str,
) -> None:
    """Measure how much better several networks classify together than each alone.

    Together they give each class the mean of the probabilities that each of them gives it. The table has the error of
    each network, of the first 2, 3, ... and of all, with the 95 % interval of the difference to all. A second figure
    shows where each network, and all on the average, see the class in a few images.

    Where images have several labels each, from --labels or from the store, it is the average precision of each label
    and its mean over the labels instead: the networks rank images by the mean of their probabilities for the label. A
    single network is measured too, such as one of `train --labels` on other images. Outputs and labels are matched by
    name.

    MODEL is a model as everywhere; WEIGHTS is the file with its weights, or none for random ones, and the model's own
    where it is left out. Each network has its own preprocessing. DATA, the last argument, is a packed store, a folder
    with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures. The same command resumes what was
    interrupted.

    \b
    Examples:
      deconvviz ensemble torchvision:squeezenet1_0 torchvision:resnet18 photos.h5 -o ensemble.csv
      deconvviz ensemble zfnet:seed0.pth zfnet:seed1.pth zfnet:seed2.pth validation.h5 -o seeds.csv --show 6
      deconvviz ensemble demo scenes:200:1 -o alone.csv --show 0
      deconvviz ensemble torchvision:squeezenet1_0:labels.pth test/ --labels test.csv -o precision.csv
    """
    table = check_table(out)
    from deconvviz.data.datasets import has_several_labels, open_images

    images = labelled_images(open_images(data), labels)
    opened_members = opened(models, images, device, names)
    asked = Asked(data=data, out=out, table=table, show=show, method=method, limit=limit, page=page, run=run)
    if has_several_labels(images):
        measure_labels(opened_members, images, asked)
        return
    _measure_classes(opened_members, models, images, asked)


def _measure_classes(opened_members: OpenedMembers, models: tuple[str, ...], images: Images, asked: Asked) -> None:
    """Measure errors on images of one class each; write the table, the file and the figures."""
    from deconvviz.studies.ensembles.cams import ensemble_maps
    from deconvviz.studies.ensembles.figure import draw_ensemble
    from deconvviz.studies.ensembles.measure import ensemble as measure

    outputs, named = _common_outputs(opened_members, models, images)
    result = measure(
        opened_members.members,
        images,
        outputs=outputs,
        limit=asked.limit,
        out=beside(asked.table, ".h5"),
        sources={"networks": opened_members.origins, "command": command_line()},
        **asked.run.keywords(),
    )
    asked.write(result, draw_ensemble, caption_of(result, asked.data))
    if asked.show:
        indices = asked.chosen(images.labels >= 0)
        asked.draw_maps(ensemble_maps(opened_members.members, images, indices, method=asked.method, names=named), CLASS)
    asked.say(result)


def _common_outputs(opened: OpenedMembers, models: tuple[str, ...], images: Images) -> tuple[Ints, tuple[str, ...]]:
    """Return the output of the networks that stands for each class, and the names of their outputs.

    Raises:
        DataError: the classes of the images are other outputs of one network than of another.
    """
    outputs: Ints | None = None
    for text, member, own_names in zip(models, opened.members, opened.named, strict=True):
        outputs_of_member = matched_outputs(images, member.network, own_names, True, "")
        assert outputs_of_member is not None
        if outputs is not None and outputs_of_member.tolist() != outputs.tolist():
            raise DataError(
                f"{text} has the classes of the images at other outputs than {models[0]}; expected networks whose "
                "outputs stand in the same order (--classes FILE names them)"
            )
        outputs = outputs_of_member
    assert outputs is not None
    return outputs, next((names for names in opened.named if names), ())


def caption_of(result: Ensemble, data: str) -> str:
    """Return what the figure shows: the images, how networks decide together, and what the intervals cover."""
    text = f"{counted(result.images, 'image')} of {data}. "
    if result.count == 1:
        return f"{text}One network is an ensemble of itself."
    text += (
        "Together (orange), networks decide by the mean of their probabilities: the first 2, 3, ... in the order "
        "given, and all of them in the last row. The 95 % intervals compare the same images (Bonett and Price 2012), "
        "each row by itself; above zero all together are better."
    )
    return f"{text} That {result.names[result.best]} is the best alone was found on the same images."
