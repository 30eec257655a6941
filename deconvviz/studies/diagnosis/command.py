"""deconvviz diagnose"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from deconvviz.choices import SEVERITIES, Severity
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import matched_outputs, open_model, output_names
from deconvviz.cli.listing import list_option
from deconvviz.cli.options import DECODING, ModelOptions, classes_option, model_options, names_option, run_options
from deconvviz.cli.outputs import command_line, sources
from deconvviz.errors import DataError
from deconvviz.registry import require_name
from deconvviz.run.options import RunOptions

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.graph.network import Network
    from deconvviz.studies.diagnosis.comparison import Difference
    from deconvviz.studies.diagnosis.result import Diagnosis

WORSE = "worse"  # of --fail-on: than the network of --compare
MARK = "deconvviz diagnose"  # every page of this command holds it
# What a report consists of besides its page; a folder with nothing else may be written into.
REPORT = {"diagnosis.json", "other.json", "findings.csv", "classes.csv", "class-channels.csv", "evidence"}
NO_NEIGHBOURS = "accuracy, and the classes that are taken for one another, are left out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the options say about the checks and about what they look at.

    Attributes:
        checks: names of the checks; empty for all.
        layers: names of the layers to look at; empty for the default ones.
        limit: how many images to look at.
        truth: path of a table of boxes or a folder of masks; None where there is none.
        snapshots: path of the snapshots of the training; None where there are none.
        names: path of a file with the names of the network's outputs; None for the model's own.
        concepts: path of a table with the names of filters; None where there is none.
    """

    checks: tuple[str, ...]
    layers: tuple[str, ...]
    limit: int
    truth: str | None
    snapshots: str | None
    names: str | None
    concepts: str | None


class Diagnosed(NamedTuple):
    """A network and its diagnosis, and a sentence about which channels of the images are shown, "" for colours."""

    network: Network
    diagnosis: Diagnosis
    shown: str


def report_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `ReportOptions`, handed to the command as `choices`."""
    fields = [field.name for field in dataclasses.fields(ReportOptions)]

    @functools.wraps(command)
    def grouped(**arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in fields}
        chosen["checks"] = () if chosen["checks"] == "all" else _split(chosen["checks"])
        chosen["layers"] = _split(",".join(chosen["layers"]))
        command(choices=ReportOptions(**chosen), **arguments)

    options = (
        click.option("-l", "--layer", "--layers", "layers", multiple=True, help="Look at these layers, such as a,b,c."),
        click.option("--limit", default=1000, type=click.IntRange(1), help="Look at this many images, evenly chosen."),
        click.option("--checks", default="all", help="Make only these checks, such as dead,aliasing."),
        list_option(_check_lines, "List the checks."),
        click.option("--snapshots", metavar="FILE", help="Snapshots of the training, to see whether features settled."),
        click.option(
            "--truth",
            metavar="FILE|FOLDER",
            help="Where the objects are: a CSV file of boxes, or a folder of masks. Scenes know it themselves.",
        ),
        names_option,
        classes_option,
    )
    decorated: Callable[..., None] = grouped
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _split(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check_lines() -> Iterator[str]:
    """Yield the checks: no model is needed for that."""
    from deconvviz.studies.diagnosis.registry import check_declarations

    for entry in check_declarations().values():
        needs = f" (needs {', '.join(entry.keywords['needs'])})" if "needs" in entry.keywords else ""
        yield f"{entry.name}: {entry.arguments[0]}{needs}\n  {entry.docstring.splitlines()[0]}"


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-o", "--out", default="diagnosis", help="Folder for the page, JSON and CSV files, and figures.")
@report_options
@click.option("--compare", metavar="MODEL", help="Compare with another network on the same images.")
@click.option(
    "--compare-weights",
    cls=Dependent,
    needs="--compare",
    default="DEFAULT",
    metavar="DEFAULT|FILE|none",
    help="Weights of the other network.",
)
@click.option(
    "--fail-on",
    type=click.Choice((*SEVERITIES, WORSE)),
    help="Exit with 1 where there is a finding of that severity or a higher one, or where something is worse than in "
    "the network of --compare.",
)
@run_options(batch_size="Images in one pass.", workers=DECODING, seed="Seed of sampled positions and signs.")
@model_options
def diagnose(
    model: str,
    images: str,
    out: str,
    choices: ReportOptions,
    compare: str | None,
    compare_weights: str,
    fail_on: str | None,
    run: RunOptions,
    options: ModelOptions,
) -> None:
    """Find out what is wrong with a network. The report is OUT/index.html, with evidence and what to try.

    The authors of ZFNet found by looking that AlexNet's first layer had dead filters and that its second one aliased.
    This command measures such things on your images, and shows the pictures. The exit code is 0 whatever is found,
    except with --fail-on.

    \b
    Examples:
      deconvviz diagnose torchvision:squeezenet1_0 photos.h5 -o diagnosis
      deconvviz diagnose zfnet photos.h5 --weights zfnet.pth --snapshots evolution.h5 --fail-on serious
      deconvviz diagnose zfnet photos.h5 --weights 7x7.pth --compare zfnet --compare-weights 11x11.pth
    """
    folder = pathlib.Path(out)
    if fail_on == WORSE and compare is None:
        raise DataError(f"--fail-on {WORSE} given without another network; name it with --compare MODEL")
    _check(folder, choices.checks)  # before torch is imported
    from deconvviz.data.datasets import open_images
    from deconvviz.studies.diagnosis.comparison import differences

    opened = open_images(images)
    both = [_diagnosed(model, options, opened, choices, run)]
    if compare is not None:
        its_options = dataclasses.replace(options, weights=compare_weights)
        both.append(
            _diagnosed(
                compare,
                its_options,
                opened,
                dataclasses.replace(choices, layers=(), snapshots=None, concepts=None),
                run,
            )
        )
    _write(folder, [model, *([compare] if compare else [])], images, both, run.progress)
    diagnosis = both[0].diagnosis
    click.echo(repr(diagnosis))
    changes = differences(diagnosis, both[1].diagnosis) if len(both) > 1 else ()
    if compare is not None:
        click.echo(f"compared with {compare}: {_told(map(str, changes)) or 'nothing is better or worse'}")
    click.echo(f"open {folder / 'index.html'}")
    failing = _failing(diagnosis, changes, fail_on)
    if failing:
        click.echo(f"--fail-on {fail_on}: {_told(failing)}", err=True)
        raise SystemExit(1)


def _failing(diagnosis: Diagnosis, changes: Sequence[Difference], fail_on: str | None) -> list[str]:
    """Return what fails the run, a line or more each."""
    from deconvviz.studies.diagnosis.result import lines_of

    if fail_on == WORSE:
        return [str(change) for change in changes if change.worse]
    at_least = () if fail_on is None else diagnosis.at_least(cast(Severity, fail_on))
    return [line for finding in at_least for line in lines_of(finding)]


def _told(lines: Iterable[str]) -> str:
    """Return lines below each other, indented, the first one on a line of its own."""
    return "".join(f"\n  {line}" for line in lines)


def _check(folder: pathlib.Path, checks: tuple[str, ...]) -> None:
    """Refuse an unknown check, or a folder that holds other files, before the work."""
    from deconvviz.studies.diagnosis.registry import check_declarations

    for name in checks:
        require_name("check", name, check_declarations())
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder with --out")
    page = folder / "index.html"
    ours = page.is_file() and MARK in page.read_text("utf-8", "replace")[:1000]
    if folder.is_dir() and not ours and any(path.name not in REPORT for path in folder.iterdir()):
        raise DataError(f"{folder} holds other files; give another folder with --out")
    if not folder.resolve().parent.is_dir():
        raise DataError(f"cannot make {folder}: there is no folder {folder.resolve().parent}; create it first")


def _diagnosed(model: str, options: ModelOptions, images: Images, choices: ReportOptions, run: RunOptions) -> Diagnosed:
    """Load a network and diagnose it."""
    from deconvviz.data.truth import open_truth
    from deconvviz.results.names import read_names
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.studies.diagnosis.diagnose import diagnose

    network, preprocess, loaded = open_model(model, options)
    concepts = read_names(choices.concepts, tuple(network.layers)) if choices.concepts else {}
    names = output_names(loaded, choices.names, network, images)
    outputs = matched_outputs(images, network, names, False, NO_NEIGHBOURS, False) if len(images.classes) else None
    diagnosis = diagnose(
        network,
        images,
        preprocess=preprocess,
        checks=choices.checks,
        sources=sources(loaded),
        layers=choices.layers,
        limit=choices.limit,
        outputs=outputs,
        names=names,
        truth=open_truth(choices.truth, images),
        snapshots=Snapshots(choices.snapshots) if choices.snapshots else None,
        concepts=concepts,
        **run.keywords(),
    )
    return Diagnosed(network, diagnosis, preprocess.shown_words())


def _write(folder: pathlib.Path, models: list[str], images: str, both: list[Diagnosed], progress: bool) -> None:
    """Write the report, its page last: a folder without a page is an unfinished report."""
    from deconvviz.studies.diagnosis.diagnose import first_filters
    from deconvviz.studies.diagnosis.leanings import save_leanings
    from deconvviz.studies.diagnosis.page import write_report
    from deconvviz.studies.diagnosis.result import save_neighbours

    folder.mkdir(exist_ok=True)
    for name in ("classes.csv", "class-channels.csv", "other.json"):  # of an earlier report; not every report has them
        (folder / name).unlink(missing_ok=True)
    diagnosis, other = both[0].diagnosis, both[1].diagnosis if len(both) > 1 else None
    diagnosis.save_json(folder / "diagnosis.json")
    diagnosis.save_csv(folder / "findings.csv")
    if diagnosis.classes:
        save_neighbours(diagnosis.classes, folder / "classes.csv")
    if diagnosis.leanings:
        save_leanings(diagnosis.leanings, folder / "class-channels.csv")
    if other is not None:
        other.save_json(folder / "other.json")
    weights = [pathlib.Path(str(each.diagnosis.sources["weights"])).name for each in both]
    write_report(
        folder,
        diagnosis,
        names=[f"{model} ({file})" for model, file in zip(models, weights, strict=True)],
        images=f"{images}.{both[0].shown.removesuffix('.')}" if both[0].shown else images,
        command=command_line(),
        other=other,
        first_layers=[first_filters(each.network) for each in both],
        progress=progress,
    )
