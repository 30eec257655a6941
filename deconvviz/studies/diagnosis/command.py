"""deconvviz diagnose"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import click

from deconvviz.cli.inputs import captured, load, matched_outputs, output_names
from deconvviz.cli.options import ModelOptions, classes_option, model_options
from deconvviz.cli.outputs import command_line, sources
from deconvviz.errors import DataError
from deconvviz.version import __version__

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.graph.network import Network
    from deconvviz.studies.diagnosis.result import Diagnosis

MARK = "deconvviz diagnose"  # how a page of ours is known
OWN = {"diagnosis.json", "other.json", "findings.csv", "classes.csv", "evidence"}  # what a broken-off report left
NO_NEIGHBOURS = "the classes that are taken for one another, and accuracy, are left out"


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is asked alike of both networks."""

    checks: tuple[str, ...]
    layers: tuple[str, ...]
    limit: int
    truth: str | None
    batch_size: int | None
    workers: int
    seed: int
    names: str | None
    quiet: bool


def _listed(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the checks and leave: no model is needed for that."""
    if not wanted or context.resilient_parsing:
        return
    from deconvviz.studies.diagnosis.diagnose import CHECKS, NAMES

    for entry in (CHECKS[name] for name in NAMES):
        needs = f" (needs {', '.join(entry.needs)})" if entry.needs else ""
        click.echo(f"{entry.name}: {entry.title}{needs}\n  {entry.docstring.splitlines()[0]}")
    context.exit()


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--out", default="diagnosis", show_default=True, help="A folder for the page, JSON, CSV, figures.")
@click.option("-l", "--layer", "--layers", "layers", multiple=True, help="Look at these layers, also a,b,c.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1), help="Images, evenly over all.")
@click.option("--checks", default="all", show_default=True, help="Some of --list, such as dead,aliasing.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_listed, help="List the checks.")
@click.option("--snapshots", metavar="FILE", help="Of the training, to see whether features have settled.")
@click.option("--truth", metavar="FILE|FOLDER", help="Where the objects are: a CSV of boxes, or masks. Scenes know it.")
@click.option("--compare", metavar="MODEL", help="Another network, on the same images.")
@click.option(
    "--compare-weights", default="DEFAULT", show_default=True, metavar="DEFAULT|FILE|none", help="Its weights."
)
@click.option(
    "--fail-on",
    type=click.Choice(["note", "warning", "serious"]),
    help="Exit with 1 where there is a finding of that severity or a higher one.",
)
@click.option("--batch-size", type=click.IntRange(1), help="[default: 16 on a CPU, 64 on a GPU]")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode images.")
@click.option("--seed", default=0, show_default=True, help="Of what is sampled.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
@classes_option
@model_options
def diagnose(
    model: str,
    images: str,
    out: str,
    options: ModelOptions,
    compare: str | None,
    compare_weights: str,
    snapshots: str | None,
    fail_on: str | None,
    checks: str,
    layers: tuple[str, ...],
    limit: int,
    truth: str | None,
    batch_size: int | None,
    workers: int,
    seed: int,
    names: str | None,
    quiet: bool,
) -> None:
    """Find out what is wrong with a network: OUT/index.html, with evidence and what to try.

    ZFNet's authors found by looking that AlexNet's first layer had dead filters and its second aliased; this measures
    such things on your images and shows the pictures. The exit code is 0 whatever is found, but for --fail-on.

    \b
    Examples:
      deconvviz diagnose torchvision:squeezenet1_0 photos.h5 -o diagnosis
      deconvviz diagnose zfnet photos.h5 --weights zfnet.pth --snapshots evolution.h5 --fail-on serious
      deconvviz diagnose zfnet photos.h5 --weights 7x7.pth --compare zfnet --compare-weights 11x11.pth
    """
    from deconvviz.data.datasets import open_images

    wanted = () if checks == "all" else tuple(name.strip() for name in checks.split(",") if name.strip())
    spread = tuple(name.strip() for text in layers for name in text.split(",") if name.strip())
    asked = _Asked(wanted, spread, limit, truth, batch_size, workers, seed, names, quiet)
    folder = pathlib.Path(out)
    _check(folder, wanted)
    opened = open_images(images)
    network, found = _diagnosed(model, options, opened, asked, snapshots)
    other = None
    if compare is not None:
        second = dataclasses.replace(options, weights=compare_weights)
        other = _diagnosed(compare, second, opened, dataclasses.replace(asked, layers=()), None)
    _write(folder, (model, compare), images, (network, found), other)
    click.echo(repr(found))
    click.echo(f"open {folder / 'index.html'}")
    if fail_on is not None and found.at_least(fail_on):  # type: ignore[arg-type]
        raise SystemExit(1)


def _check(folder: pathlib.Path, checks: tuple[str, ...]) -> None:
    """Refuse an unknown check, and a folder that holds anything else, before the work."""
    from deconvviz.studies.diagnosis.diagnose import CHECKS

    for name in checks:
        _ = CHECKS[name]
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder with --out")
    page = folder / "index.html"
    ours = page.is_file() and MARK in page.read_text("utf-8", "replace")[:1000]
    if folder.is_dir() and not ours and any(path.name not in OWN for path in folder.iterdir()):
        raise DataError(f"{folder} holds other files; give another folder with --out")
    if not folder.resolve().parent.is_dir():
        raise DataError(f"cannot make {folder}: there is no folder {folder.resolve().parent}; create it first")


def _diagnosed(
    model: str, options: ModelOptions, images: Images, asked: _Asked, snapshots: str | None
) -> tuple[Network, Diagnosis]:
    from deconvviz.data.truth import open_truth
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.studies.diagnosis import diagnose as diagnosis

    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    names = output_names(loaded, asked.names)
    outputs = matched_outputs(images, network, names, False, NO_NEIGHBOURS) if len(images.classes) else None
    found = diagnosis.diagnose(
        network,
        images,
        preprocess=preprocess,
        checks=asked.checks,
        layers=asked.layers,
        outputs=outputs,
        names=names,
        truth=open_truth(asked.truth, images),
        snapshots=Snapshots(snapshots) if snapshots else None,
        limit=asked.limit,
        batch_size=asked.batch_size,
        workers=asked.workers,
        seed=asked.seed,
        progress=not asked.quiet,
        sources=sources(loaded),
    )
    return network, found


def _write(
    folder: pathlib.Path,
    models: tuple[str, str | None],
    images: str,
    first: tuple[Network, Diagnosis],
    second: tuple[Network, Diagnosis] | None,
) -> None:
    """Write the page last: a folder without one is no finished report."""
    from deconvviz.studies.diagnosis.diagnose import first_filters
    from deconvviz.studies.diagnosis.measures.neighbours import save_neighbours
    from deconvviz.studies.diagnosis.page import write_report

    folder.mkdir(exist_ok=True)
    for left in ("classes.csv", "other.json"):  # of an earlier report; not every one has them
        (folder / left).unlink(missing_ok=True)
    found = first[1]
    found.save_json(folder / "diagnosis.json")
    found.save_csv(folder / "findings.csv")
    if found.classes:
        save_neighbours(found.classes, folder / "classes.csv")
    if second is not None:
        second[1].save_json(folder / "other.json")
    both = [first] if second is None else [first, second]
    weights = [pathlib.Path(str(found.sources["weights"])).name for _, found in both]
    names = [f"{model} ({file})" for model, file in zip(models, weights, strict=False)]
    write_report(
        folder,
        found,
        names=names,
        images=images,
        command=command_line(),
        version=__version__,
        other=None if second is None else second[1],
        first=[first_filters(network) for network, _ in both],
    )
