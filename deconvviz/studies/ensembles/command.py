"""deconvviz ensemble"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import matched_outputs, open_model, output_names
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    device_option,
    figure_options,
    limit_option,
    run_options,
)
from deconvviz.cli.outputs import beside, check_table, command_line, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.ensembles.measure import Member
    from deconvviz.studies.ensembles.result import Ensemble, EnsembleMaps
    from deconvviz.types import Ints

# A source or a Python file, the model's name (perhaps on a drive), and what comes after the next colon.
MEMBER = re.compile(r"((?:torchvision|timm|hf):|.*?\.py:)?((?:[A-Za-z]:[\\/])?[^:]*)(?::(.*))?", re.DOTALL)


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

    MODEL is a model as everywhere; WEIGHTS is the file with its weights, or none for random ones, and the model's own
    where it is left out. Each network has its own preprocessing. DATA, the last argument, is a packed store, a folder
    with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures. The same command resumes what was
    interrupted.

    \b
    Examples:
      deconvviz ensemble torchvision:squeezenet1_0 torchvision:resnet18 photos.h5 -o ensemble.csv
      deconvviz ensemble zfnet:seed0.pth zfnet:seed1.pth zfnet:seed2.pth validation.h5 -o seeds.csv --show 6
      deconvviz ensemble demo scenes:200:1 -o alone.csv --show 0
    """
    table = check_table(out)
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.ensembles.cams import ensemble_maps
    from deconvviz.studies.ensembles.figure import draw_ensemble
    from deconvviz.studies.ensembles.measure import ensemble as measure

    images = open_images(data)
    members, outputs, named, origins = _opened(models, images, device, names)
    result = measure(
        members,
        images,
        outputs=outputs,
        limit=limit,
        out=beside(table, ".h5"),
        sources={"networks": origins, "command": command_line()},
        **run.keywords(),
    )
    result.save_csv(table)
    caption = caption_of(result, data)
    title = f"{counted(result.count, 'network')}, alone and together" if result.count > 1 else result.names[0]
    save_figure(draw_ensemble(result, title, caption, page), beside(table, ".png"), caption)
    if show:
        chosen = _chosen(images, show, limit)
        _draw_maps(ensemble_maps(members, images, chosen, method=method, names=named), out, page)
    click.echo(f"wrote {table} and {beside(table, '.h5')}")
    click.echo(repr(result))


def member_of(text: str) -> tuple[str, str]:
    """Return the model and the weights of MODEL[:WEIGHTS]; "DEFAULT" where none are given.

    Raises:
        DataError: no model is named, or nothing comes after the colon.

    >>> member_of("torchvision:resnet18"), member_of("timm:resnet18:a.pth"), member_of("zfnet:none")
    (('torchvision:resnet18', 'DEFAULT'), ('timm:resnet18', 'a.pth'), ('zfnet', 'none'))
    >>> member_of("nets/mine.py:make:runs/a.pth"), member_of("nets/mine.py:make")
    (('nets/mine.py:make', 'runs/a.pth'), ('nets/mine.py:make', 'DEFAULT'))
    """
    match = MEMBER.fullmatch(text)
    source, model, weights = match.groups() if match else ("", "", None)
    if not model or weights == "":
        raise DataError(f"{text!r} given; expected MODEL or MODEL:WEIGHTS, such as zfnet:weights.pth")
    return f"{source or ''}{model}", weights or "DEFAULT"


def _opened(
    models: tuple[str, ...], images: Images, device: str, names: str | None
) -> tuple[list[Member], Ints, tuple[str, ...], list[dict[str, str]]]:
    """Open the networks; return them, the output for each class, the outputs' names, and where networks came from.

    Raises:
        DataError: the classes of the images are other outputs of one network than of another.
    """
    from deconvviz.studies.ensembles.measure import Member

    members: list[Member] = []
    origins: list[dict[str, str]] = []
    outputs: Ints | None = None
    named: tuple[str, ...] = ()
    for text in models:
        model, weights = member_of(text)
        opened = open_model(model, _options(weights, device))
        own_names = output_names(opened.loaded, names, opened.network, images)
        own = matched_outputs(images, opened.network, own_names, True, "")
        assert own is not None
        if outputs is not None and own.tolist() != outputs.tolist():
            raise DataError(
                f"{text} has the classes of the images at other outputs than {models[0]}; expected networks whose "
                "outputs stand in the same order (--classes FILE names them)"
            )
        outputs, named = own, named or own_names
        members.append(Member(opened.name, *opened[:2]))
        origins.append({key: value for key, value in sources(opened.loaded).items() if key != "command"})
    assert outputs is not None
    called = _told_apart([each.name for each in members], [each["weights"] for each in origins])
    members = [each._replace(name=name) for each, name in zip(members, called, strict=True)]
    return members, outputs, named, origins


def _options(weights: str, device: str) -> ModelOptions:
    return ModelOptions(
        resize=None,
        side=None,
        mean=None,
        std=None,
        limits=None,
        shown=None,
        weights=weights,
        device=device,
        outputs="auto",
        part=None,
    )


def _told_apart(names: list[str], weights: list[str]) -> list[str]:
    """Return what networks are called: those of one name by their weights too, and numbered where these are the same.

    >>> _told_apart(["ZFNet", "ZFNet", "resnet18"], ["runs/seed0.pth", "runs/seed1.pth", "DEFAULT"])
    ['ZFNet seed0', 'ZFNet seed1', 'resnet18']
    >>> _told_apart(["ZFNet", "ZFNet"], ["DEFAULT", "DEFAULT"])
    ['ZFNet', 'ZFNet (2)']
    """
    stems = ["" if file in ("DEFAULT", "none") else re.split(r"[/\\\\]", file)[-1] for file in weights]
    stems = [stem.rpartition(".")[0] or stem for stem in stems]
    longer = [
        f"{name} {stem}".strip() if names.count(name) > 1 else name for name, stem in zip(names, stems, strict=True)
    ]
    return [
        name if name not in longer[:place] else f"{name} ({longer[: place + 1].count(name)})"
        for place, name in enumerate(longer)
    ]


def _chosen(images: Images, count: int, limit: int | None) -> Ints:
    """Return the images whose maps are drawn: evenly chosen of those of known class."""
    import numpy as np

    from deconvviz.arrays import evenly

    known = np.flatnonzero(np.asarray(images.labels) >= 0)
    return np.asarray(known[evenly(len(known), min(count, limit or count))], np.int64)


def _draw_maps(maps: EnsembleMaps, out: str, page: Page) -> None:
    from deconvviz.studies.ensembles.figure import draw_ensemble_maps

    caption = (
        f"Maps of {maps.method} for the class that all decide for together, with its mean probability at the left. "
        "Each map is in 0..1; the last column is their mean over the networks that see the pixel."
    )
    figure = draw_ensemble_maps(maps, "Where the networks see the class", caption, page.beside())
    save_figure(figure, beside(out, ".maps.png"), caption)


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
