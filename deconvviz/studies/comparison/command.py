"""deconvviz compare"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from deconvviz.cam.catalogue import own_names
from deconvviz.cam.learned.described import require_explainer_of
from deconvviz.cli.inputs import matched_outputs, names_of, output_names, preprocess_of
from deconvviz.cli.options import (
    DECODING,
    ImageOptions,
    classes_option,
    device_option,
    image_options,
    layers_option,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import command_line, sources
from deconvviz.errors import MismatchError
from deconvviz.registry import require_name

if TYPE_CHECKING:
    from deconvviz.cam.learned.base import LearnedExplainer
    from deconvviz.cli.networks import NamedNetwork
    from deconvviz.data.datasets import Images
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.comparison.drift import ExplanationDrift
    from deconvviz.studies.comparison.responses import Side

ALL, NONE = "all", "none"
LEFT_OUT = "accuracy and calibration are left out"  # where outputs and classes cannot be matched


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """What the command line says of what is compared.

    Attributes:
        layers: names of the layers whose filters are matched; none for the default.
        limit: images that are looked at.
        checks: "all", "none", or names of checks, as text.
        truth: path of a table of boxes or a folder of masks; None where there is none.
        method: name of the method that explains decisions.
        cam_layer: the layer at which it explains; None for the default.
        decisions: images whose decisions are explained.
        filters: pairs of filters of each layer that are shown.
        k: patches of each.
        bump: file of a bump explainer of the first network, by which the drift of explanations is measured; None for
            no drift.
    """

    layers: tuple[str, ...]
    limit: int
    checks: str
    truth: str | None
    method: str
    cam_layer: str | None
    decisions: int
    filters: int
    k: int
    bump: str | None

    @property
    def chosen_checks(self) -> tuple[str, ...] | None:
        """The names of the checks, empty for all of them, None for no diagnosis; DataError for an unknown one."""
        from deconvviz.studies.diagnosis.registry import check_declarations

        if self.checks in (ALL, NONE):
            return () if self.checks == ALL else None
        for name in names_of(self.checks):
            require_name("check", name, check_declarations())
        return tuple(names_of(self.checks))

    def require_bump(self) -> None:
        """Raise DataError or CamError where the file is no bump explainer; it needs no torch."""
        if self.bump is not None:
            require_explainer_of(self.bump, ["bump"])


@click.command()
@click.argument("before")
@click.argument("after")
@click.argument("images")
@click.option("-o", "--out", required=True, help="A folder; an unfinished comparison in it is continued.")
@click.option("--model", help="The model of weights files and snapshots that do not name it.")
@option_group(
    "compared",
    Compared,
    layers_option("A layer whose filters are matched; several.  [default: up to eight, evenly spread over the depth]"),
    click.option("--limit", default=1000, type=click.IntRange(1), help="Look at this many images, evenly chosen."),
    click.option(
        "--checks",
        default=ALL,
        metavar="all|none|NAMES",
        help="Checks of `deconvviz diagnose` that both networks go through, such as dead,aliasing.",
    ),
    click.option(
        "--truth", metavar="FILE|FOLDER", help="Where the objects are, for checks that need it; as for diagnose."
    ),
    click.option("-m", "--method", default="grad-cam", help="Method that explains decisions; cam --list lists them."),
    click.option("--cam-layer", help="The layer at which it explains.  [default: the last with rows and columns]"),
    click.option(
        "--decisions", default=6, type=click.IntRange(0, 40), help="Images whose decisions are explained; 0 for none."
    ),
    click.option(
        "--filters", default=6, type=click.IntRange(0, 100), help="Pairs of filters of a layer that are shown."
    ),
    click.option("-k", default=9, type=click.IntRange(1, 100), help="Patches of each of these filters."),
    click.option(
        "--bump",
        metavar="FILE",
        help="A file that `deconvviz train-cam bump` made of BEFORE: also measure how far explanations drift.",
    ),
)
@classes_option
@run_options(batch_size="Images in one pass.", precision="Precision of forward passes.", workers=DECODING)
@device_option
@image_options
def compare(
    before: str,
    after: str,
    images: str,
    out: str,
    model: str | None,
    compared: Compared,
    names: str | None,
    run: RunOptions,
    device: str,
    prepared: ImageOptions,
) -> None:
    """Set two networks of one architecture side by side: what a training or a change did. Open OUT/index.html.

    BEFORE and AFTER are weights files that `deconvviz train` wrote, or others with --model; MODEL or MODEL:WEIGHTS; or
    SNAPSHOTS:EPOCH, two epochs of one training. Filters are matched one to one by their responses; the page shows which
    are new, gone or sharper, the findings that came and went, accuracy and calibration with intervals, and both
    networks' explanations of the same images. The same command resumes what was interrupted.

    \b
    Examples:
      deconvviz compare demo:1 demo:64 scenes:300:1 -o compared
      deconvviz compare before.pth after.pth photos.h5 -o compared
      deconvviz compare torchvision:resnet18 torchvision:resnet18:tuned.pth photos.h5 --checks dead -o compared
      deconvviz compare before.pth masked.pth photos.h5 --bump bump.pth -o compared
    """
    checks, method = compared.chosen_checks, own_names([compared.method])[0]  # before torch is imported
    compared.require_bump()
    from deconvviz.cli.networks import named_network
    from deconvviz.data.datasets import Part, open_images
    from deconvviz.data.truth import open_truth
    from deconvviz.studies.comparison.measure import compare as compare_networks
    from deconvviz.studies.comparison.page import write_comparison
    from deconvviz.studies.comparison.responses import looked_at

    opened = open_images(images)
    both = [named_network(text, model) for text in (before, after)]
    one, two = (_side(network, prepared, device) for network in both)
    explainer = _bump_of(one, two, compared.bump)
    class_names = output_names(both[0].loaded, names, one.network, opened)
    comparison = compare_networks(
        one.network,
        two.network,
        opened,
        preprocess=one.preprocess,
        preprocess_after=two.preprocess,
        names=_distinct(one.name, two.name),
        out=out,
        sources={"before": sources(both[0].loaded), "after": sources(both[1].loaded), "command": command_line()},
        layers=compared.layers,
        limit=compared.limit,
        checks=checks,
        outputs=matched_outputs(opened, one.network, class_names, False, LEFT_OUT, False) if opened.classes else None,
        class_names=class_names,
        truth=open_truth(compared.truth, opened) if checks is not None else None,
        method=method,
        cam_layer=compared.cam_layer,
        decisions=compared.decisions,
        filters=compared.filters,
        k=compared.k,
        **run.keywords(),
    )
    described = f"{images}.{one.preprocess.shown_words()}".removesuffix(".")
    drift = _drift(one, two, Part(opened, looked_at(opened, compared.limit)), explainer, run)
    page = write_comparison(out, comparison, drift, images=described, command=command_line(), progress=run.progress)
    click.echo("\n".join([repr(comparison), *([repr(drift)] if drift else []), f"open {page}"]))


def _side(named: NamedNetwork, prepared: ImageOptions, device: str) -> Side:
    """Capture a model that was named."""
    from deconvviz.run.opening import captured
    from deconvviz.studies.comparison.responses import Side

    loaded = named.loaded
    preprocess = preprocess_of(loaded.settings, prepared, trained=loaded.weights != "none")
    return Side(captured(loaded, preprocess, device), preprocess, named.name)


def _bump_of(one: Side, two: Side, bump: str | None) -> LearnedExplainer | None:
    """Return the explainer of a file, None for none; one that does not fit is refused here, before anything runs."""
    from deconvviz.cam.learned.files import fitting

    if bump is None:
        return None
    if one.preprocess != two.preprocess:
        raise MismatchError(
            "--bump given, but both networks prepare images differently, and the drift compares what both explain of "
            "the same pixels; leave --bump out, or give --resize, --input, --mean and --std"
        )
    return fitting(bump, "bump", one.network)


def _drift(
    one: Side, two: Side, images: Images, explainer: LearnedExplainer | None, run: RunOptions
) -> ExplanationDrift | None:
    """Measure how far the explanations drift on images; None without an explainer."""
    from deconvviz.studies.comparison.drift import explanation_drift

    if explainer is None:
        return None
    settings = run.keywords()
    return explanation_drift(one.network, two.network, images, explainer, preprocess=one.preprocess, **settings)


def _distinct(before: str, after: str) -> tuple[str, str]:
    """Return two names that pages can tell apart."""
    return (before, after) if before != after else (f"{before} (before)", f"{after} (after)")
