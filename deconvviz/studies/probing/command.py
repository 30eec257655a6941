"""deconvviz probe"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.cluster import ray_options
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import integers, load, names_of, numbers, remote_model
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    figure_options,
    layers_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_table, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.run.opening import captured
from deconvviz.words import counted, network_called

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.figures.page import Page
    from deconvviz.graph.network import Network
    from deconvviz.models.load import LoadedModel
    from deconvviz.results.features import Features
    from deconvviz.run.cluster import RayOptions
    from deconvviz.run.features import StreamKeywords
    from deconvviz.run.options import RunOptions
    from deconvviz.run.shipping import RemoteModel
    from deconvviz.studies.probing.result import Transfer
    from deconvviz.studies.probing.settings import ProbeSettings
    from deconvviz.studies.probing.transfer import Stream
    from deconvviz.types import Ints, Pathlike


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What the command line says of the probes.

    Attributes:
        per_class: numbers of training images of each class, as text; None for numbers that fit the images.
        splits: number of random splits.
        test: number of test images of each class, at most; None for all.
        probes: names of the probes, as text.
        costs: costs that cross-validation chooses from, as text.
    """

    per_class: str | None
    splits: int
    test: int | None
    probes: str
    costs: str

    def settings(self, seed: int) -> ProbeSettings:
        """Return the settings, which `fitted` completes; raises DataError for a value out of its range."""
        from deconvviz.studies.probing.settings import USUAL, ProbeSettings

        return ProbeSettings(
            probes=tuple(names_of(self.probes)),
            per_class=integers(self.per_class) if self.per_class else USUAL,
            splits=self.splits,
            test=self.test,
            costs=numbers(self.costs, "0.01,1,100"),
            seed=seed,
        )

    def fitted(self, settings: ProbeSettings, images: Images, limit: int | None) -> ProbeSettings:
        """Return the settings with numbers of training images that fit the images, and print them, if none were given.

        Args:
            settings: from `settings`.
            images: labelled images.
            limit: number of images of each class, at most; None for all.

        Raises:
            DataError: a class has too few images.
        """
        from deconvviz.data.datasets import labels_of
        from deconvviz.studies.probing.measure import smallest_class

        labels = labels_of(images)
        if self.per_class or not (labels >= 0).any():  # images without classes are refused in the study
            return settings
        name, count = smallest_class(labels, images.classes)
        count = min(count, limit or count)
        chosen = settings.fitted_to(count)
        click.echo(
            f"training images of each class: {', '.join(map(str, chosen.per_class))}, which leave "
            f"{count - chosen.per_class[-1]} of {counted(count, 'image')} of class {name} to test; --per-class gives "
            "other numbers",
            err=True,
        )
        return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """What the command line says of the features.

    Attributes:
        features: path of a file that keeps them; None for temporary files.
        pool: how maps become features, as text.
        half: whether they are kept in half precision.
        limit: number of images of each class, at most; None for all.
    """

    features: str | None
    pool: str
    half: bool
    limit: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeOptions:
    """What the command line says of whole networks that are trained on the few images.

    Attributes:
        scratch: whether one is trained from random weights.
        fine_tune: whether one is trained from the network's own weights, with a new last layer.
        train_epochs: passes over the images.
        train_lr: learning rate at the beginning.
        train_batch: images in a step, at most; the steps of an epoch have about as many.
        body_rate: factor on the learning rate of a fine-tuned network's layers but the last.
        keep_statistics: whether BatchNorm of a fine-tuned network keeps its statistics.
    """

    scratch: bool
    fine_tune: bool
    train_epochs: int
    train_lr: float
    train_batch: int
    body_rate: float
    keep_statistics: bool

    def starts(self, loaded: LoadedModel, network: Network, images: Images, preprocess: Preprocess) -> dict[str, Any]:
        """Return `starts` and `recipe` of `transfer`; nothing where no whole network is trained.

        Raises:
            DataError: random weights are to be fine-tuned.
            TrainingError: a value out of its range.
        """
        from deconvviz.studies.probing.few_images import FEW
        from deconvviz.studies.probing.starts import fine_tuned, from_scratch
        from deconvviz.studies.training.labelled import class_names

        if not (self.scratch or self.fine_tune):
            return {}
        if self.fine_tune and loaded.weights == "none":
            raise DataError("--fine-tune starts from trained weights, --weights none given; give --scratch instead")
        classes = len(class_names(images))
        starts = {"scratch": from_scratch(loaded, classes, preprocess.shape)} if self.scratch else {}
        if self.fine_tune:
            shape, fingerprint = preprocess.shape, network.fingerprint
            how = self.body_rate, self.keep_statistics
            starts["fine-tuned"] = fine_tuned(loaded, classes, shape, fingerprint, *how)
        recipe = dataclasses.replace(FEW, epochs=self.train_epochs, lr=self.train_lr, batch_size=self.train_batch)
        return {"starts": starts, "recipe": recipe}


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("-o", "--out", required=True, help="The table, .csv; the figure OUT.png comes beside it.")
@layers_option("A layer; several.  [default: up to 8 over the depth]")
@option_group(
    "probing",
    ProbeOptions,
    click.option(
        "--per-class",
        metavar="N,N,...",
        help="Training images of each class.  [default: those of 5,15,30 that leave a third of a class to test]",
    ),
    click.option("--splits", default=5, type=click.IntRange(2), help="Number of random splits."),
    click.option(
        "--test", type=click.IntRange(1), help="Test images of each class, at most.  [default: all that are left]"
    ),
    click.option("--probes", default="svm,softmax", help="svm, softmax or both."),
    click.option("--costs", default="0.01,0.1,1,10,100", help="C, which cross-validation chooses from these."),
)
@click.option("--random/--no-random", "compare", default=True, help="Compare with random weights.")
@option_group(
    "whole",
    WholeOptions,
    click.option("--scratch", is_flag=True, help="Also train the network on each split's images from random weights."),
    click.option(
        "--fine-tune",
        is_flag=True,
        help="Also train it on them from its own weights, with a new last layer.",
    ),
    click.option(
        "--train-epochs",
        cls=Dependent,
        needs=("--scratch", "--fine-tune"),
        default=60,
        help="Passes over the images of a split, of these trainings.",
    ),
    click.option(
        "--train-lr",
        cls=Dependent,
        needs=("--scratch", "--fine-tune"),
        default=0.01,
        help="Learning rate at their beginning.",
    ),
    click.option(
        "--train-batch",
        cls=Dependent,
        needs=("--scratch", "--fine-tune"),
        default=16,
        help="Images in a step of theirs, at most.",
    ),
    click.option(
        "--body-rate",
        cls=Dependent,
        needs="--fine-tune",
        default=0.1,
        help="Fine-tuning: factor on the rate of all but the last layer.",
    ),
    click.option(
        "--keep-statistics",
        cls=Dependent,
        needs="--fine-tune",
        is_flag=True,
        help="Fine-tuning: BatchNorm keeps its statistics.",
    ),
)
@option_group(
    "storage",
    FeatureOptions,
    click.option("--features", metavar="FILE.h5", help="Keep the features here; an unfinished file is resumed."),
    click.option("--pool", default="max", help="max, mean, all, or with a grid: 'max 6x6'."),
    click.option("--half", is_flag=True, help="Keep the features in half precision, in half the space."),
    click.option(
        "--limit", type=click.IntRange(1), help="Images of each class, at most, drawn at random.  [default: all]"
    ),
)
@figure_options()
@run_options(
    batch_size="Images in a pass.",
    precision="Precision of the network.",
    workers=DECODING,
    seed="Seed of splits and random weights.",
)
@ray_options
@model_options
def probe(
    model: str,
    data: str,
    out: str,
    layers: tuple[str, ...],
    probing: ProbeOptions,
    compare: bool,
    whole: WholeOptions,
    storage: FeatureOptions,
    page: Page,
    run: RunOptions,
    cluster: RayOptions | None,
    options: ModelOptions,
) -> None:
    """Measure how well a linear classifier tells the classes apart by the features of each layer.

    The weights of the network do not change. A linear SVM and a softmax classifier are trained on its features of a few
    images of each class, and on those of the same network with random weights. Features are pooled to at most 10,000
    values a layer. The classifiers are scikit-learn's, which the extra "probe" brings: pip install scikit-learn.

    DATA is a packed store, a folder with a sub-folder for each class, or scenes[:COUNT[:SEED]], generated pictures.
    With --features, the same command resumes what was interrupted. With --scratch and --fine-tune, whole networks are
    trained on the few images too, one for each split and number of images: rows of the paper's tables 4 and 5.

    \b
    Examples:
      deconvviz probe demo scenes:1000:5 -o probe.csv
      deconvviz probe torchvision:resnet18 photos/ -l layer1 -l layer4 --per-class 15 --features photos.h5 -o probe.csv
      deconvviz probe demo scenes:400:5 --scratch --fine-tune --per-class 5,15 --splits 2 -o whole.csv
    """
    table, settings = check_table(out), probing.settings(run.seed)  # before torch is imported
    if cluster is not None and storage.features is None:
        raise DataError("--ray needs --features FILE.h5, on storage that every node sees")
    if cluster is not None and (whole.scratch or whole.fine_tune):
        raise DataError("--scratch and --fine-tune train on this machine: give them in a second run, without --ray")
    settings.check_library()
    from deconvviz.data.datasets import open_images
    from deconvviz.graph.choose import default_layers
    from deconvviz.studies.probing.figure import draw_probing
    from deconvviz.studies.probing.transfer import transfer

    images = open_images(data)
    settings = probing.fitted(settings, images, storage.limit)
    loaded, preprocess = load(model, options)
    networks = {"trained" if loaded.weights != "none" else "random": captured(loaded, preprocess, options.device)}
    if compare and loaded.weights != "none":
        networks["random"] = captured(_with_random_weights(loaded, run.seed), preprocess, options.device)
    network: Network = next(iter(networks.values()))
    chosen = list(layers or default_layers(network))
    made_by = sources(loaded)
    keywords: StreamKeywords = {"pool": storage.pool, "dtype": "float16" if storage.half else "float32"}
    keywords = {**keywords, **run.keywords()}
    stream = None
    if cluster is not None:
        remote = remote_model(model, options, preprocess)
        stream = _stream_on_ray(remote, data, images, chosen, made_by, run.seed, cluster, keywords)
    about: dict[str, Any] = {"limit": storage.limit, "stream": stream, "preprocess": preprocess, "sources": made_by}
    about |= whole.starts(loaded, network, images, preprocess)
    result = transfer(networks, images, chosen, settings, storage.features, **about, **keywords)
    result.save_csv(table)
    caption = caption_of(result, network.name, data, storage.pool)
    figure = draw_probing(result, f"Linear probes of {network_called(loaded.spec, network.name)}", caption, page)
    save_figure(figure, beside(table, ".png"), caption)
    click.echo(repr(result))
    click.echo(f"wrote {table}" + (f"; the features are in {storage.features}" if storage.features else ""))


def caption_of(transfer: Transfer, network: str, data: str, pool: str) -> str:
    """Return what the figure shows: the images, the splits, and how the features were made."""
    random = " The random network has the same layers." if "random" in transfer.by_network else ""
    whole = " From scratch and fine-tuned: all layers were trained on the same images." if transfer.by_start else ""
    costs = transfer.first.settings.costs
    cost = f"C is {costs[0]:g}" if len(costs) == 1 else "C is chosen by cross-validation among the training images"
    return (
        f"{network} on {pathlib.PurePath(data).name}. Points are means over {transfer.first.settings.splits} random "
        f"splits ({transfer.first.tested} test images each), whiskers are their standard deviations. The features "
        f"({pool} pooling) are fixed; only the linear classifiers are trained.{random} Features are standardised; "
        f"{cost}.{whole}"
    )


def _stream_on_ray(
    model: RemoteModel,
    data: str,
    images: Images,
    layers: Sequence[str],
    made_by: Mapping[str, Any],
    seed: int,
    cluster: RayOptions,
    keywords: StreamKeywords,
) -> Stream:
    """Return what makes the files of features on a cluster."""
    from deconvviz.run.shipping import RemoteImages
    from deconvviz.studies.probing.on_ray import StreamJob, stream_on_ray

    def stream(name: str, network: Network, indices: Ints, out: Pathlike) -> Features:
        job = StreamJob(
            model=model,
            images=RemoteImages.of(data),
            sources=made_by,
            seed=seed if name == "random" and model.weights != "none" else None,
            indices=indices,
            layers=tuple(layers),
            options=keywords,
        )
        return stream_on_ray(network, images, job, out, cluster)

    return stream


def _with_random_weights(loaded: LoadedModel, seed: int) -> LoadedModel:
    from deconvviz.studies.probing.starts import untrained

    return dataclasses.replace(loaded, model=untrained(loaded, seed), weights="none")
