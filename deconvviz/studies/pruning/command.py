"""deconvviz prune"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from deconvviz.choices import PRUNED_RESULTS
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.explaining import method_option, typed_options
from deconvviz.cli.inputs import load, matched_outputs, output_names
from deconvviz.cli.listing import list_option
from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    figure_options,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_place, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.registry import require_name, require_options
from deconvviz.studies.pruning.options import PruningOptions
from deconvviz.studies.pruning.registry import criterion_declarations, require_trained
from deconvviz.words import counted, in_points

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import Page
    from deconvviz.models.load import LoadedModel
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.mining.result import Mined
    from deconvviz.studies.pruning.result import PruningStudy


def _criterion_lines() -> Iterator[str]:
    """Yield the criteria with their options and sources."""
    for each in criterion_declarations().values():
        needs = each.keywords.get("needs") or "nothing but the weights"
        options = ", ".join(f"{key}={value!r}" for key, value in each.defaults.items()) or "none"
        yield f"{each.name:14s}{' '.join(each.docstring.split())}"
        yield f"{'':14s}needs: {needs}; options: {options}"


def _own_criterion(_: click.Context, __: click.Parameter, name: str) -> str:
    """Return the name of a criterion that exists, before torch is imported."""
    require_name("criterion", name, criterion_declarations())
    return name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks of a pruning.

    Attributes:
        criterion: its name.
        keep: share of the filters of each convolution that stays; None for the default.
        layer: LAYER=SHARE, for single layers.
        result: "slim" or "masked".
        pairs: options of the criterion, KEY=VALUE.
        sensitivity: whether each group is also pruned alone.
        finetune: epochs of training afterwards.
        lr: learning rate of it.
        held_out: share of the images that is measured on, where others are looked at.
        validation: other images to measure on; None for a share.
        mined: a mined file, for the figure; None mines what it needs.
        filters: of the figure.
        repeats: forward passes that are timed.
    """

    criterion: str
    keep: float | None
    layer: tuple[str, ...]
    result: str
    pairs: tuple[str, ...]
    sensitivity: bool
    finetune: int
    lr: float
    held_out: float
    validation: str | None
    mined: str | None
    filters: int
    repeats: int

    def opened(self, images: str) -> Given:
        """Open what is given, and refuse what cannot be done with it, before torch is imported and a model is loaded.

        Raises:
            DataError: a file is missing or of another kind, an option of the criterion does not exist, or the images
                have no classes where some are needed.
            CamError: an explainer of another method.
            MismatchError: a mined file of other images.
            PruningError: a share that keeps nothing.
        """
        how = PruningOptions(**self.options())
        declared = criterion_declarations()[self.criterion]
        require_options(self.criterion, declared.defaults, how.criterion_options)
        require_trained(self.criterion, declared.keywords.get("trained", ""), how.criterion_options)
        from deconvviz.data.datasets import open_images
        from deconvviz.studies.mining.result import load_mined
        from deconvviz.studies.pruning.possible import require_possible

        dataset = open_images(images)
        validation = None if self.validation is None else open_images(self.validation)
        mined = None if self.mined is None else load_mined(self.mined)
        require_possible(self.criterion, declared.keywords.get("needs", ""), how, dataset, validation, mined)
        return Given(dataset, validation, mined)

    def options(self) -> dict[str, Any]:
        """Return the fields of `PruningOptions` that these options stand for."""
        return {
            "keep": self.keep,
            "layers": dict(layer_and_share(text) for text in self.layer),
            "result": self.result,
            "criterion_options": typed_options(self.pairs, "greedy=true"),
            "sensitivity": self.sensitivity,
            "finetune": self.finetune,
            "lr": self.lr,
            "held_out": self.held_out,
            "shown": self.filters,
            "repeats": self.repeats,
        }


class Given(NamedTuple):
    """The files that a pruning is given.

    Attributes:
        images: those that are looked at and measured on.
        validation: other ones to measure on; None for a share of them.
        mined: the mined file for the figure; None for none.
    """

    images: Images
    validation: Images | None
    mined: Mined | None


def layer_and_share(text: str) -> tuple[str, float]:
    """Read LAYER=SHARE; raises DataError for other text.

    >>> layer_and_share("conv3=0.25")
    ('conv3', 0.25)
    """
    layer, equals, share = text.rpartition("=")
    try:
        return (layer, float(share)) if layer and equals else (text, float(""))
    except ValueError:
        raise DataError(f"--layer {text} given; expected LAYER=SHARE, such as conv3=0.25") from None


asked_options = option_group(
    "asked",
    Asked,
    click.option("--criterion", default="l1", callback=_own_criterion, help="Which filters go; --list lists them."),
    click.option(
        "--keep",
        type=FiniteRange(),
        help="Share of the filters of each convolution that stays.  [default: 0.5; none with --layer]",
    ),
    click.option("--layer", multiple=True, metavar="LAYER=SHARE", help="The same for one layer. May be given often."),
    click.option(
        "--result",
        default="slim",
        type=click.Choice(PRUNED_RESULTS),
        help="slim has smaller tensors; masked has zeros in the old ones, and works for every network.",
    ),
    method_option("greedy=true"),
    click.option("--sensitivity", is_flag=True, help="Also prune each layer alone, by 10 to 90 %."),
    click.option("--finetune", default=0, type=click.IntRange(0), help="Epochs of training afterwards."),
    click.option(
        "--lr", cls=Dependent, needs="--finetune", default=1e-3, type=FiniteRange(), help="Learning rate of it."
    ),
    click.option(
        "--held-out",
        default=0.2,
        type=FiniteRange(),
        help="Share of the images that is measured on, where the criterion or the training looks at the others.",
    ),
    click.option("--validation", metavar="IMAGES", help="Other images to measure on, instead of that share."),
    click.option("--mined", metavar="FILE", help="Mined file whose patches the figure shows.  [default: mines a few]"),
    click.option("--filters", default=6, type=click.IntRange(0), help="Filters of the figure that went; 0 for none."),
    click.option("--repeats", default=11, type=click.IntRange(0), help="Forward passes that are timed."),
)


@click.command()
@click.argument("model")
@click.argument("images")
@click.option(
    "-o", "--out", required=True, help="The weights, .pth; beside them .pt2, .h5, tables and figures of the same name."
)
@list_option(_criterion_lines, "List the criteria and exit.")
@asked_options
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1),
    help="Measure on only N images, spread over the classes.  [default: all]",
)
@figure_options()
@run_options(
    batch_size="Images in one pass, also in those that are timed.",
    precision="Number format in which accuracy is measured, and of the training in bf16.",
    workers=DECODING,
    seed="Seed of what is held out, of the random criterion and of the training.",
)
@classes_option
@model_options
def prune(
    model: str,
    images: str,
    out: str,
    asked: Asked,
    limit: int | None,
    page: Page,
    run: RunOptions,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Take filters out of a network, and measure what it costs and finds without them.

    IMAGES is a packed store, a folder of classes or scenes[:COUNT[:SEED]]. Filters that a residual sum ties go
    together. Every command takes OUT as --weights of the same MODEL. The same command resumes what was interrupted.

    \b
    Examples:
      deconvviz prune demo scenes:200:7 --keep 0.7 --sensitivity -o slim.pth
      deconvviz prune zfnet photos.h5 --weights zfnet.pth --criterion l1 --layer conv3=0.25 --finetune 5 -o slim.pth
      deconvviz layers zfnet --weights slim.pth
    """
    if not out.endswith(".pth"):
        raise DataError(f"{out} given; expected a name that ends in .pth")
    check_place(out)
    how = asked.options()
    given = asked.opened(images)
    from deconvviz.run.opening import captured, device_of
    from deconvviz.studies.pruning.criteria import CRITERIA
    from deconvviz.studies.pruning.measure import prune as prune_network

    CRITERIA[asked.criterion].checked(how["criterion_options"])  # values that are out of their range
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device, options.outputs)
    class_names = output_names(loaded, names, network, given.images)
    otherwise = "it is measured in how many images the network decides as before"
    labelled = len(given.images.classes) > 0
    outputs = matched_outputs(given.images, network, class_names, False, otherwise) if labelled else None
    study, _ = prune_network(
        loaded.model,
        given.images,
        asked.criterion,
        out,
        preprocess=preprocess,
        device=device_of(options.device),
        origin=_origin(loaded, options, class_names),
        validation=given.validation,
        mined=given.mined,
        sources=sources(loaded),
        outputs=outputs,
        limit=limit,
        **how,
        **run.keywords(),
    )
    _write(study, out, network.name, page)


def _origin(loaded: LoadedModel, options: ModelOptions, names: tuple[str, ...]) -> Any:
    """Return what the file of weights says of the network; a part of a model cannot be given weights of its own."""
    from deconvviz.studies.pruning.slim import Origin

    if options.part or "#" in loaded.spec:
        raise DataError(f"{loaded.spec} is a part of a model, whose weights no file holds alone; prune the whole model")
    head = {} if loaded.head is None else loaded.head.as_dict()
    arguments = getattr(loaded.model, "arguments", {})
    return Origin(model=loaded.spec, arguments=arguments, head=head, classes=names)


def _write(study: PruningStudy, out: str, network: str, page: Page) -> None:
    """Write tables and figures beside the weights, and print what was found."""
    from deconvviz.studies.pruning.figure import draw_pruning, draw_sensitivity

    path = pathlib.Path(out)
    tables = [beside(path, ".csv"), beside(path, ".filters.csv")]
    study.save_csv(tables[0])
    study.save_filters_csv(tables[1])
    caption = caption_of(study)
    title = f"{network} pruned by {study.config['criterion']}"
    save_figure(draw_pruning(study, title, caption, page), beside(path, ".png"), caption)
    if study.shares:
        tables.append(beside(path, ".sensitivity.csv"))
        study.save_sensitivity_csv(tables[2])
        caption = sensitivity_caption_of(study)
        figure = draw_sensitivity(study, f"{network}: each layer pruned alone", caption, page.beside())
        save_figure(figure, beside(path, ".sensitivity.png"), caption)
    wrote = ", ".join(map(str, (beside(path, ".pt2"), beside(path, ".h5"), *tables)))
    click.echo(f"wrote {out}, {wrote}\n{study!r}")


def _measured(study: PruningStudy) -> str:
    held = study.config["held_out"] is not None or study.config["validation"] is not None
    return f"{counted(len(study.indices), 'image')}{', which nothing else looked at' if held else ''}"


def caption_of(study: PruningStudy) -> str:
    """Return what the figure of filters shows."""
    shown = [
        "weights on a scale of each filter's own, grey is 0" if each.weights else "its strongest patches"
        for each in study.pictures.values()
    ]
    above = "; ".join(f"{layer}: {words}" for layer, words in zip(study.pictures, shown, strict=True))
    above = f"Above, filters from the lowest score to the highest, by their numbers ({above}). " if above else ""
    intervals = [
        f"{form} {accuracy:.1%}, lost {in_points(study.accuracy[0] - accuracy, low, high)}"
        for form, accuracy, (low, high) in zip(study.forms, study.accuracy, study.lost_interval, strict=True)
        if form != "whole"
    ]
    right = "Accuracy" if study.config["measured_by"] == "labels" else "Decisions that are those of the whole network"
    time = ""
    if study.seconds.size:
        batch = counted(study.config["timed_batch"], "image")
        time = f" Time: median of {study.seconds.shape[1]} passes of {batch} each, in turn with the whole network."
    return (
        f"{above}{right} on {_measured(study)}: {'; '.join(intervals)}, with 95 % intervals of the paired difference "
        f"(Bonett and Price 2012). Tied filters are counted once.{time}"
    )


def sensitivity_caption_of(study: PruningStudy) -> str:
    """Return what the figure of curves shows."""
    return (
        f"Each curve is one layer, or layers whose filters go together, named by the first, pruned alone by "
        f"{study.config['criterion']} without fine-tuning; {_measured(study)}."
    )
