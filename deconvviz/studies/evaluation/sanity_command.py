"""The sanity checks of `deconvviz evaluate`: random weights, and permuted labels."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import SANITY_CHECKS
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.options import option_group
from deconvviz.cli.outputs import beside, save_figure
from deconvviz.run.options import RunOptions
from deconvviz.words import counted

if TYPE_CHECKING:
    from torch import nn

    from deconvviz.cli.inputs import OpenedModel
    from deconvviz.data.datasets import Images
    from deconvviz.data.feed import Feed
    from deconvviz.figures.page import Page
    from deconvviz.studies.evaluation.sanity import Explain
    from deconvviz.studies.evaluation.sanity_result import SanityCheck
    from deconvviz.types import Ints

WEIGHTS_NOTE = (
    "A method whose maps stay similar although the weights are random does not show what the network has learned. The "
    "maps explain the top class of the randomised network itself."
)
LABELS_NOTE = (
    "A network that was trained on permuted labels knows the images by heart and nothing of what they show: a method "
    "whose maps of the two are similar does not show what was learned. The maps explain each network's own top class."
)


@dataclass(frozen=True)
class SanityOptions:
    """The sanity check, as it was typed.

    Attributes:
        sanity: "cascading", "independent" or "labels"; None for no check.
        sanity_images: number of images, the first ones.
        sanity_epochs: of the training on permuted labels, at most.
    """

    sanity: str | None
    sanity_images: int
    sanity_epochs: int


sanity_options = option_group(
    "check",
    SanityOptions,
    click.option(
        "--sanity",
        type=click.Choice(SANITY_CHECKS),
        help="Also randomise the network's layers, all of them from the last one on or one at a time; or train the "
        "architecture anew on IMAGES with permuted labels; and compare the maps.",
    ),
    click.option(
        "--sanity-images",
        cls=Dependent,
        needs="--sanity",
        default=8,
        type=click.IntRange(1),
        help="Compare maps of the first images only.",
    ),
    click.option(
        "--sanity-epochs",
        cls=Dependent,
        needs="--sanity",
        default=200,
        type=click.IntRange(1),
        help="Epochs at most until 95 % of the permuted labels are learned.",
    ),
)


@dataclass(frozen=True)
class SanitySubject:
    """What is checked.

    Attributes:
        opened: the model.
        feed: the images whose maps are compared.
        options_by_method: of the methods.
        layers: names of the layers that are explained.
        run: how it runs.
    """

    opened: OpenedModel
    feed: Feed
    options_by_method: Mapping[str, Mapping[str, Any]]
    layers: tuple[str, ...]
    run: RunOptions


def feed_of(images: Images, opened: OpenedModel, count: int, run: RunOptions) -> Feed:
    """Return some images, spread over the classes, as a feed."""
    from deconvviz.data.datasets import labels_of
    from deconvviz.data.feed import Feed
    from deconvviz.data.sampling import spread

    return Feed(images, opened.preprocess, spread(labels_of(images), count), workers=run.workers)


def check_sanity(
    options: SanityOptions,
    subject: SanitySubject,
    images: Images,
    outputs: Ints | None,
    table: pathlib.Path,
    page: Page,
) -> None:
    """Randomise weights or labels, and print and draw how similar each method's maps stay."""
    from deconvviz.studies.evaluation.sanity import explanation_by
    from deconvviz.studies.evaluation.sanity_figure import draw_sanity
    from deconvviz.studies.evaluation.sanity_result import save_sanity_checks

    network, kind = subject.opened.network, str(options.sanity)
    methods = {name: own for name, own in subject.options_by_method.items() if "explainer" not in own}
    for name in subject.options_by_method:
        if name not in methods:
            note = f"note: no sanity check of {name}: a trained explainer belongs to one network's weights"
            click.echo(note, err=True)
    if not methods:
        return
    check = _check_of(options, subject, images, outputs)
    checks = {}
    for method, own_options in methods.items():
        checks[method] = check(explanation_by(method, network, subject.layers, seed=subject.run.seed, **own_options))
        last = checks[method].similarity["spearman"][-1].mean()
        verdict = "passes" if checks[method].passes() else "FAILS"
        after = "with permuted labels" if kind == "labels" else "after the last layer"
        click.echo(f"sanity, {kind}: {method} {verdict} (rank correlation {last:.2f} {after})")
    save_sanity_checks(checks, beside(table, ".sanity.csv"))
    about = "permuted labels" if kind == "labels" else f"{kind} randomisation"
    caption = (
        f"{counted(len(subject.feed), 'image')}; {about}, seed {subject.run.seed}. Points are means over the images; "
        f"1 is the same map. {LABELS_NOTE if kind == 'labels' else WEIGHTS_NOTE}"
    )
    figure = draw_sanity(checks, f"Sanity check of {subject.opened.name}", caption, page)
    save_figure(figure, beside(table, ".sanity.png"), caption)


def _check_of(
    options: SanityOptions, subject: SanitySubject, images: Images, outputs: Ints | None
) -> Callable[[Explain], SanityCheck]:
    """Return the check of one method: a function of what explains."""
    from deconvviz.studies.evaluation.sanity import labels_check, sanity_check

    network, feed, run = subject.opened.network, subject.feed, subject.run
    inputs = feed.tensor(feed.pictures(range(len(feed))), network.device, network.dtype)
    model = subject.opened.loaded.model.to(network.device)
    if options.sanity == "labels":
        permuted = _trained_on_permuted_labels(options, subject, model, images, outputs)
        return lambda explain: labels_check(explain, model, permuted, inputs)
    randomisation = str(options.sanity)
    return lambda explain: sanity_check(explain, model, inputs, randomisation, run.seed, run.progress)


def _trained_on_permuted_labels(
    options: SanityOptions, subject: SanitySubject, model: nn.Module, images: Images, outputs: Ints | None
) -> nn.Module:
    """Return the architecture trained on permuted labels; say how well it learned them."""
    import numpy as np

    from deconvviz.data.datasets import labels_of
    from deconvviz.data.feed import Feed
    from deconvviz.data.sampling import room_for
    from deconvviz.errors import DataError
    from deconvviz.studies.evaluation.permuted_labels import FITTED, train_on_permuted_labels

    if outputs is None:
        raise DataError("--sanity labels needs images with labels that the network's outputs can be matched to")
    preprocess, run, device = subject.opened.preprocess, subject.run, subject.opened.network.device
    labelled = np.flatnonzero(labels_of(images) >= 0)
    memory = room_for(len(labelled), *preprocess.shape[1:])
    feed = Feed(images, preprocess, labelled, workers=run.workers, memory=memory)
    permuted = train_on_permuted_labels(model, feed, outputs, device, options.sanity_epochs, run.seed, run.progress)
    learned = f"{permuted.accuracy:.0%} of the permuted labels of {counted(len(feed), 'image')}"
    click.echo(f"sanity, labels: learned {learned} in {counted(permuted.epochs, 'epoch')}")
    if not permuted.fitted:
        note = f"note: fewer than {FITTED:.0%} were learned, so that the check tells little: raise --sanity-epochs"
        click.echo(note, err=True)
    return permuted.model
