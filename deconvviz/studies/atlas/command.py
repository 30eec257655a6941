"""deconvviz atlas"""

from __future__ import annotations

import dataclasses
import pathlib
from functools import partial
from typing import TYPE_CHECKING

import click

from deconvviz.cli.cluster import ray_options
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.explaining import own_methods
from deconvviz.cli.inputs import OpenedModel, channels_of, matched_outputs, open_model, output_names, remote_model
from deconvviz.cli.notes import NO_SWITCHES_NOTE, PROJECTION_NOTE
from deconvviz.cli.options import (
    ModelOptions,
    classes_option,
    model_options,
    names_option,
    option_group,
    rule_option,
    run_options,
)
from deconvviz.cli.outputs import command_line, sources
from deconvviz.errors import CaptureError, DataError, LayerNotFound

if TYPE_CHECKING:
    from deconvviz.data.datasets import Store
    from deconvviz.graph.network import Network
    from deconvviz.results.names import Names
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.run.cluster import RayOptions
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.atlas.inputs import AtlasInputs
    from deconvviz.studies.atlas.result import AtlasOptions, AtlasResult
    from deconvviz.studies.mining.result import Mined
    from deconvviz.studies.relevance.result import Relevance

DECISIONS = 12  # images whose decision is explained, where no number is given


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterArguments:
    """What the command line says of the filters that are shown.

    Attributes:
        layers: names of layers; none for the default.
        filters: "active", "random", "first" or numbers, as text; None for all filters.
        count: filters of each layer, where `filters` is a word.
        top: images of each filter.
        rule: of the projections.
        mined: path of a mined file; None to mine the images.
        relevance: path of a relevance file; None for no decisions on the filters' pages.
        snapshots: path of snapshots, or "demo"; None for no evolution.
        invariance: whether to score each filter under transforms.
        occlusion: whether to move a square over each filter's strongest image.
        wanted: whether to make the picture that each filter would like best.
        off: whether to switch each filter off on its strongest images.
    """

    layers: tuple[str, ...]
    filters: str | None
    count: int
    top: int
    rule: str
    mined: str | None
    relevance: str | None
    snapshots: str | None
    invariance: bool
    occlusion: bool
    off: bool
    wanted: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionArguments:
    """What the command line says of the decisions that are explained.

    Attributes:
        decisions: number of images; None for the default.
        methods: names of methods; None for the default.
        cam_layer: the layer at which they explain; None for the default.
        examples: path of training images; None to show none that an image resembles.
    """

    decisions: int | None
    methods: tuple[str, ...] | None
    cam_layer: str | None
    examples: str | None


filter_options = option_group(
    "filter_arguments",
    FilterArguments,
    click.option(
        "-l",
        "--layer",
        "--layers",
        "layers",
        multiple=True,
        help="A layer's name; may be given several times.  [default: up to eight, evenly spread over the depth]",
    ),
    click.option(
        "--filters", help="active (highest mean), random, first, or numbers such as 5,40,100-110.  [default: all]"
    ),
    click.option(
        "-n",
        "--count",
        cls=Dependent,
        needs="--filters",
        default=64,
        type=click.IntRange(1),
        help="Filters of each layer, with --filters active, random or first.",
    ),
    click.option("--top", default=9, type=click.IntRange(1, 100), help="Images of each filter."),
    rule_option,
    click.option("--mined", metavar="FILE", help="A mined file of these layers.  [default: the images are mined]"),
    click.option(
        "--relevance",
        metavar="FILE",
        help="A file of `deconvviz relevance`: each filter's page also shows the decisions that it carries most.",
    ),
    click.option(
        "--snapshots",
        metavar="FILE",
        help="Snapshots of a training, or demo: the most active filters are followed through its epochs.",
    ),
    click.option("--invariance", is_flag=True, help="Score how much transforms of images change filters."),
    click.option("--occlusion", is_flag=True, help="Move a square over each filter's strongest image (slow)."),
    click.option(
        "--wanted",
        is_flag=True,
        help="Make the picture that each filter would like best, as `deconvviz visualise` does (slow: 5 s a filter).",
    ),
    click.option(
        "--off", is_flag=True, help="Switch each filter off on its strongest images: which classes fall? (slow)"
    ),
)
decision_options = option_group(
    "decision_arguments",
    DecisionArguments,
    click.option(
        "--decisions",
        type=click.IntRange(0),
        help="Images whose decision is explained: those on which the network hesitates, and some that are wrong; 0 for "
        f"none.  [default: {DECISIONS}]",
    ),
    click.option(
        "-m",
        "--methods",
        callback=own_methods,
        help="Methods that explain decisions, separated by commas; `deconvviz cam --list` lists them.",
    ),
    click.option("--cam-layer", help="The layer at which they explain.  [default: the last with rows and columns]"),
    click.option(
        "--examples",
        metavar="DATA",
        help="Training images, a store or a folder: the pages of decisions show those that each image resembles.",
    ),
)


@click.command(epilog=PROJECTION_NOTE)
@click.argument("model")
@click.argument("images")
@click.option("-o", "--out", required=True, help="A folder; an unfinished atlas in it is continued.")
@filter_options
@decision_options
@run_options(
    batch_size="Images in one pass; decisions, invariance and occlusion take 32 by default, the other steps as here.",
    precision="Precision of forward passes in mining and in decisions.",
)
@names_option
@classes_option
@ray_options
@model_options
def atlas(
    model: str,
    images: str,
    out: str,
    filter_arguments: FilterArguments,
    decision_arguments: DecisionArguments,
    run: RunOptions,
    concepts: str | None,
    names: str | None,
    cluster: RayOptions | None,
    options: ModelOptions,
) -> None:
    """Make pages that show a whole network: open OUT/index.html, no server needed.

    IMAGES is a packed store. Each filter is shown with its strongest images, their projections and the filters that are
    most similar to it. Some images are shown with what the network predicts for them, and why. The same command resumes
    an atlas that was interrupted.

    \b
    Examples:
      deconvviz atlas torchvision:squeezenet1_0 photos.h5 -o atlas
      deconvviz atlas demo scenes.h5 -l conv1 -l relu3 -l relu5 --snapshots demo --invariance -o atlas
    """
    if cluster is not None and cluster.shards is not None:
        raise DataError(
            "--ray-shards given; an atlas is divided by layers and blocks of their filters: leave --ray-shards out"
        )
    from deconvviz.data.datasets import name_of_store, open_images, open_store
    from deconvviz.results.names import read_names, require_names_of
    from deconvviz.studies.atlas.make import make_atlas
    from deconvviz.studies.atlas.on_ray import galleries_on_ray
    from deconvviz.studies.mining.result import load_mined
    from deconvviz.studies.relevance.result import load_relevance

    filter_names = read_names(concepts) if concepts else {}
    with open_store(images) as store:
        mined = None if filter_arguments.mined is None else load_mined(filter_arguments.mined)
        relevance = None if filter_arguments.relevance is None else load_relevance(filter_arguments.relevance)
        snapshots = _snapshots(filter_arguments.snapshots)
        opened = open_model(model, options, filter_arguments.layers)
        atlas_options = _options(opened.network, mined, filter_arguments, decision_arguments)
        require_names_of(filter_names, atlas_options.layers, concepts or "")
        inputs = _inputs(opened, store, mined, relevance, snapshots, names, labelled=bool(atlas_options.decisions))
        if decision_arguments.examples is not None:
            inputs = dataclasses.replace(inputs, examples=open_images(decision_arguments.examples))
        elsewhere = None
        if cluster is not None:
            remote = remote_model(model, options, opened.preprocess)
            elsewhere = partial(galleries_on_ray, model=remote, cluster=cluster)
        result = make_atlas(inputs, atlas_options, out, elsewhere=elsewhere, **run.keywords())
        click.echo(repr(result))
        title = f"{opened.name} on {pathlib.Path(name_of_store(store)).name}"
        _build_site(out, result, store, title, opened.preprocess.shown_words(), filter_names, run.progress)


def _options(
    network: Network, mined: Mined | None, filters: FilterArguments, decisions: DecisionArguments
) -> AtlasOptions:
    """Return what the atlas shows."""
    from deconvviz.graph.choose import default_layers
    from deconvviz.studies.atlas.result import METHODS, AtlasOptions

    channels = None if filters.filters is None else channels_of(filters.filters, "count")
    return AtlasOptions(
        layers=filters.layers or (tuple(mined) if mined is not None else default_layers(network, pooled=False)),
        filters=tuple(channels) if isinstance(channels, list) else channels,
        count=filters.count,
        k=filters.top,
        rule=filters.rule,
        decisions=_decision_count(network, decisions),
        methods=METHODS if decisions.methods is None else decisions.methods,
        cam_layer=decisions.cam_layer,
        invariance=filters.invariance,
        occlusion=filters.occlusion,
        off=filters.off,
        wanted=filters.wanted,
    )


def _inputs(
    opened: OpenedModel,
    store: Store,
    mined: Mined | None,
    relevance: Relevance | None,
    snapshots: Snapshots | None,
    class_file: str | None,
    labelled: bool,
) -> AtlasInputs:
    """Return what the atlas is made of; `labelled` says whether predictions are compared with labels."""
    from deconvviz.studies.atlas.inputs import AtlasInputs

    names, outputs = output_names(opened.loaded, class_file, opened.network, store), None
    if labelled:
        note = "decisions are not compared with labels"
        outputs = matched_outputs(store, opened.network, names, class_file is not None, note, False)
    return AtlasInputs(
        network=opened.network,
        model=opened.loaded.model,
        store=store,
        preprocess=opened.preprocess,
        mined=mined,
        relevance=relevance,
        snapshots=snapshots,
        outputs=outputs,
        output_names=names,
        names_assumed=class_file is None and not opened.loaded.classes,
        sources=sources(opened.loaded),
    )


def _build_site(
    out: str, result: AtlasResult, store: Store, title: str, shown: str, filter_names: Names, progress: bool
) -> None:
    """Write the pages and print where they are; `shown` says which channels of the images they show."""
    from deconvviz.models.labels import shown_classes
    from deconvviz.studies.atlas.site.inputs import SiteImages
    from deconvviz.studies.atlas.site.site import build_site

    site = build_site(
        out,
        result.galleries,
        result.decisions,
        SiteImages(
            names=store.names, labels=store.labels, classes=shown_classes(store.classes), picture=result.picture
        ),
        title=title,
        command=command_line(),
        note=PROJECTION_NOTE + shown,
        without_switches=NO_SWITCHES_NOTE,
        filter_names=filter_names,
        resembling=result.resembling,
        progress=progress,
    )
    click.echo(repr(site))
    click.echo(f"open {site.index}")


def _decision_count(network: Network, arguments: DecisionArguments) -> int:
    """Return how many decisions to explain; by default none of a network that returns no scores."""
    from deconvviz.graph.choose import last_maps

    if arguments.decisions is not None:
        return arguments.decisions
    try:
        _ = network.outputs, arguments.cam_layer or last_maps(network)
    except (CaptureError, LayerNotFound) as error:
        click.echo(f"note: no decisions are explained: {error}", err=True)
        return 0
    return DECISIONS


def _snapshots(path: str | None) -> Snapshots | None:
    """Open snapshots; "demo" names those of the packaged network."""
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots

    if path is None:
        return None
    return Snapshots(DEMO_SNAPSHOTS if path == "demo" else path)
