"""The options of `deconvviz train` that say where it starts: a head, what is frozen, and labels from a table."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from deconvviz.choices import HEADS
from deconvviz.cli.inputs import say_what_is_left_out, with_input
from deconvviz.cli.options import option_group
from deconvviz.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.heads import Head
    from deconvviz.models.load import LoadedModel
    from deconvviz.studies.training.fine_tuning import FineTuning


class Beginning(NamedTuple):
    """A network to train.

    Attributes:
        model: the network, with its new head.
        preprocess: how its images are prepared; None where the training finds it, as for a new zfnet.
        arguments: of the factory that built it, without its head.
        fine_tuning: its head, and what of it is trained.
    """

    model: nn.Module
    preprocess: Preprocess | None
    arguments: dict[str, Any]
    fine_tuning: FineTuning


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What the command line says of a network's head, its frozen layers and its labels.

    Attributes:
        head: kind of a new head; None keeps the network's own.
        freeze: the layer until which weights are kept, or "all"; None trains everything.
        body_rate: factor on the learning rate of everything but the head.
        keep_statistics: whether BatchNorm outside of the head keeps its statistics.
        labels: path of a table of several labels an image; None where images have one class.
    """

    head: str | None
    freeze: str | None
    body_rate: float
    keep_statistics: bool
    labels: str | None

    @property
    def tunes(self) -> bool:
        """Whether a network that has weights is adapted: its images are prepared as it knows them."""
        return self.head is not None or self.freeze is not None or self.body_rate != 1 or self.keep_statistics

    def note_weights(self, weights: str) -> None:
        """Say that a head is put on a network that has learned nothing, where no weights are named."""
        if self.tunes and weights == "none":
            click.echo(
                "note: the network begins with random weights; --weights DEFAULT, or FILE, names one that has learned",
                err=True,
            )

    def labelled(self, images: Images, validation: Images | None) -> tuple[Images, Images | None]:
        """Return the images to train and to validate on, with the labels of the table where there is one.

        Raises:
            DataError: the table cannot be read, has images that are in neither dataset, or differs from the labels that
                a store holds; or both datasets have other labels.
        """
        from deconvviz.data.label_table import LabelTable, labelled
        from deconvviz.studies.training.labelled import require_same_labels

        if self.labels is not None:
            table = LabelTable.read(self.labels)
            table.check(images, *([] if validation is None else [validation]))
            images, validation = labelled(images, table), None if validation is None else labelled(validation, table)
        require_same_labels(images, validation)
        for each in (images, validation):
            if each is not None:
                say_what_is_left_out(each, self.labels)
        return images, validation

    def beginning(
        self, model: str, weights: str, arguments: dict[str, Any], classes: int, seed: int, input_size: int | None
    ) -> Beginning:
        """Return the network to train.

        Args:
            model: its name.
            weights: "DEFAULT", the path of a file, or "none" for random ones.
            arguments: of a zfnet that is built anew.
            classes: number of outputs of a new head.
            seed: of random weights.
            input_size: side of the input in pixels; None for the network's own.

        Raises:
            ModelError: the network or its weights cannot be had, or it has no place for such a head.
        """
        from deconvviz.data.preprocess import Preprocess
        from deconvviz.models.load import load_model
        from deconvviz.run.heads import new_head
        from deconvviz.studies.training.fine_tuning import FineTuning

        if model == "demo" and self.head is None:
            raise ModelError(
                "demo is trained already; to train its kind anew: deconvviz demo --train, or train zfnet; to adapt it "
                "to other classes: --head new --weights DEFAULT"
            )
        if weights == "none" or not self.tunes:
            network, preprocess, head = network_to_train(model, weights, arguments, seed, input_size)
        else:
            loaded: LoadedModel = load_model(model, weights)
            network, head = loaded.model, loaded.head
            arguments = dict(getattr(network, "arguments", {}))
            preprocess = with_input(Preprocess.from_dict(loaded.settings), input_size, None)
        if self.head is not None:
            shape = preprocess.shape if preprocess else (3, *[arguments["input_size"]] * 2)
            head = new_head(network, self.head, classes, shape, seed)
        tuning = FineTuning(
            head=head, freeze=self.freeze, body_rate=self.body_rate, keep_statistics=self.keep_statistics
        )
        return Beginning(network, preprocess, arguments, tuning)


def network_to_train(
    model: str, weights: str, arguments: dict[str, Any], seed: int, input_size: int | None
) -> tuple[nn.Module, Preprocess | None, Head | None]:
    """Return a network as it is, its preprocessing (None where the training finds it), and the head that a file has."""
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.heads import Head
    from deconvviz.models.load import build_model
    from deconvviz.models.weights import load_weights, read_weights

    file = None if weights in ("DEFAULT", "none") else read_weights(pathlib.Path(weights))
    head = Head.from_dict(file.head) if file and file.head else None
    network, settings = build_model(model, arguments, weights == "DEFAULT" and model != "zfnet", seed, head)
    if file is not None:
        load_weights(network, file)
    preprocess = None if model == "zfnet" else with_input(Preprocess.from_dict(settings), input_size, None)
    return network, preprocess, head


head_options = option_group(
    "heads",
    HeadOptions,
    click.option(
        "--head",
        type=click.Choice(HEADS),
        help="A new head for the classes of DATA: another last layer (new), or one that pools the last maps by their "
        "mean (gap, CAM's own architecture), maximum, LSE or WILDCAT.",
    ),
    click.option(
        "--freeze",
        metavar="LAYER|all",
        help="Keep the weights of this layer and of all before it, or of everything but the head.",
    ),
    click.option("--body-rate", default=1.0, help="Factor on the learning rate of everything but the head."),
    click.option(
        "--keep-statistics",
        is_flag=True,
        help="BatchNorm keeps the statistics that it has; those of a few images are uncertain.",
    ),
    click.option(
        "--labels",
        metavar="FILE.csv",
        help="Several labels an image: a table with the columns image and label, a row for each label. A store that "
        "was packed with --labels needs none.",
    ),
)
