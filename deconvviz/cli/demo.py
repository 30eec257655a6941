"""deconvviz demo"""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.notes import PROJECTION_NOTE
from deconvviz.cli.options import (
    run_options,
)
from deconvviz.cli.outputs import command_line, running, save_figure
from deconvviz.errors import DataError
from deconvviz.run.opening import captured
from deconvviz.version import __version__

if TYPE_CHECKING:
    from deconvviz.run.options import RunOptions

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
OCCLUDED = "relu5"  # the layer whose strongest map is watched under a square: after the rectifier, as in the paper
READ_LAYER = "conv3"  # of which one filter is read as an example: it sees a part of the picture
EXAMINED = 200  # pictures that the diagnosis looks at: the fewest in which it looks for nearly dead filters
FIRST_LAYER_CHECKS = ("dead", "dominating", "frequency", "noise", "aliasing")  # of a diagnosis: what figure 6 is about
FOLLOWED = ("conv1", "conv3", "conv5")  # the layers whose evolution is shown
# The training of the packaged network; tools/train_demo runs it too.
TRAINING = (
    *("train", "zfnet", "scenes:8000", "--input", "64", "--resize", "72", "--width", "0.2", "--fc", "480,480"),
    # A gentler start than the paper's, at whose rate so narrow a network starts late and by chance.
    *("--dropout", "0.2", "--batch-size", "64", "--lr", "0.004", "--epochs", "64"),
)
TEXTS = {
    "conv1": "Each unit sees 7 × 7 pixels. The filters respond to edges of all directions and to colours. The picture "
    "at the left of each block shows the weights of the filter.",
    "conv2": "The filters respond to corners, curves, stripes and the ends of lines.",
    "conv3": "The filters begin to respond to parts: eyes, wheels, the panes of windows.",
    "conv4": "The filters respond to parts in their surroundings, such as two eyes above a beak.",
    "conv5": "The filters respond to whole objects, in any colour and pose. A unit sees most of the picture.",
}
FIGURES = {
    "evolution": (
        "How the filters developed (figure 4 of the paper)",
        "Filters' projections at several epochs of the training",
    ),
    "invariance": (
        "What shifts, scales and rotations change (figure 5 of the paper)",
        "Curves: how far layer 1, layer 7 and the probability of the class change while five pictures are transformed",
    ),
    "occlusion": (
        "What a covered part changes (figure 7 of the paper)",
        "Two pictures under a grey square: strongest map, its projections, probability and most probable class",
    ),
}
INVARIANCE = (
    "Five pictures, a line's colour for each, are moved up and down, moved left and right, enlarged, and turned, a row "
    "for each. The middle panels show how far the values of a layer then are from those of the picture as it was: 0 "
    "means that nothing has changed. The first layer changes at once, the last one before the output more slowly. The "
    "panels at the right show the probability of the right class: where it stays near 1, the network still recognises "
    "the object."
)
OCCLUSION = (
    "A grey square covers each part of a picture in turn. Colours show, at the place of the square's middle, (b) how "
    "much is left of the feature map that responds most and (d) of the probability of the right class; (e) is the "
    "class that the network then takes for the most probable one. Where (b) and (d) are dark, the network needs what "
    "the square covers. (c) shows what that map looks for: its projection in this picture, and in others that "
    "activate it most."
)
EVOLUTION = (
    "Rows are filters, columns are epochs of the training. A coloured frame means that another picture activates the "
    "filter most than at the epoch before."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """The commands that a demo runs, and the files that they write.

    Attributes:
        folder: of the demo.
        images: number of pictures that are mined.
        trains: whether the network is trained anew; otherwise the packaged one is shown.
    """

    folder: pathlib.Path
    images: int
    trains: bool

    @property
    def scenes(self) -> pathlib.Path:
        """The store of generated pictures."""
        return self.folder / "scenes.h5"

    @property
    def weights(self) -> pathlib.Path:
        """The weights of a network that is trained anew."""
        return self.folder / "zfnet.pth"

    @property
    def mined(self) -> pathlib.Path:
        """The mined file of the network that is shown."""
        return self.folder / ("mined-trained.h5" if self.trains else "mined.h5")

    @property
    def atlas(self) -> pathlib.Path:
        """The atlas of the network that is shown."""
        return self.folder / ("atlas-trained" if self.trains else "atlas")

    @property
    def diagnosis(self) -> pathlib.Path:
        """The report of the diagnosis."""
        return self.folder / "diagnosis"

    @property
    def snapshots(self) -> str:
        """The snapshots of the training, as `deconvviz evolve` takes them."""
        return str(self.folder / "evolution.h5") if self.trains else "demo"

    @property
    def model(self) -> tuple[str, ...]:
        """The model, and the options that it needs on a command line."""
        return ("zfnet", "--weights", str(self.weights)) if self.trains else ("demo",)

    @property
    def commands(self) -> dict[str, list[str]]:
        """The commands in the order in which they run: name of a step or layer -> words, without `deconvviz`."""
        folder, scenes, mined = self.folder, str(self.scenes), str(self.mined)
        model, *model_options = self.model
        commands = {"pack": ["pack", f"scenes:{self.images}:1", scenes, "--force"]}
        if self.trains:
            commands["train"] = [*TRAINING, "--snapshots", self.snapshots, "--out", str(self.weights)]
        commands["mine"] = ["mine", model, scenes, *model_options, *_repeated("-l", (*LAYERS, OCCLUDED)), "-o", mined]
        for layer in LAYERS:
            commands[layer] = ["grid", mined, "-l", layer, "-n", "12", "-o", str(folder / f"{layer}.png")]
        commands["evolution"] = [
            *("evolve", self.snapshots, scenes, *_repeated("-l", FOLLOWED), "--filters", "4"),
            *("-o", str(folder / "evolution.png"), "--force"),
        ]
        commands["invariance"] = ["invariance", model, scenes, *model_options, "-o", str(folder / "invariance.png")]
        commands["occlusion"] = [
            *("occlude", model, scenes, *model_options, "-l", OCCLUDED, "--mined", mined, "--images", "0,1"),
            *("--square", "16", "--rule", "deconvnet", "-o", str(folder / "occlusion.png")),
        ]
        commands["diagnosis"] = [
            *("diagnose", model, scenes, *model_options, "--limit", str(EXAMINED), "-o", str(self.diagnosis)),
        ]
        commands["atlas"] = [
            *("atlas", model, scenes, *model_options, "--mined", mined, *_repeated("-l", LAYERS), "--decisions", "6"),
            *("-o", str(self.atlas)),
        ]
        return commands


# What a demo that was interrupted leaves in its folder.
UNFINISHED = (
    *("scenes.h5", "mined.h5", "mined-trained.h5", "zfnet.pth", "evolution.h5", "atlas", "atlas-trained", "diagnosis"),
    *(f"{name}.png" for name in (*LAYERS, *FIGURES, "pictures")),
    *("evolution.csv", "evolution.layers.csv", "invariance.csv", "occlusion.csv"),
)


@click.command()
@click.option("-o", "--out", default="demo", help="A folder for the page and its figures.")
@click.option("--train", is_flag=True, help="Train the network anew, which takes about ten minutes on two cores.")
@click.option("--images", default=1500, type=click.IntRange(50), help="Number of pictures that are mined.")
@run_options()
def demo(out: str, train: bool, images: int, run: RunOptions) -> None:
    """Show everything on a small network that comes with the package: OUT/index.html.

    It needs no images, no weights and no network connection. The page shows the command behind each figure.

    \b
    Example:
      deconvviz demo --out demo
    """
    from deconvviz.web.page import write_page

    begin = time.monotonic()
    plan = DemoPlan(folder=pathlib.Path(out), images=images, trains=train)
    _make_folder(plan.folder)
    commands = plan.commands
    for arguments in commands.values():
        _run([*arguments, *([] if run.progress else ["--quiet"])])
    values = _page_values(plan, {name: shlex.join(["deconvviz", *words]) for name, words in commands.items()})
    seconds = round(time.monotonic() - begin)
    write_page(plan.folder / "index.html", "demo.html", {**values, "seconds": seconds})
    click.echo(f"open {plan.folder / 'index.html'} ({seconds} s)")


def _make_folder(folder: pathlib.Path) -> None:
    """Make the folder, or take that of an earlier demo; refuse a folder with other files.

    `results.folders.claim` does not serve here: a demo may be repeated in its folder with other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder with --out")
    page = folder / "index.html"
    is_finished = page.is_file() and "deconvviz demo" in page.read_text("utf-8", "replace")[:1000]
    files = [] if is_finished or not folder.is_dir() else list(folder.iterdir())
    if any(path.name not in UNFINISHED and path.suffix != ".part" for path in files):
        raise DataError(f"{folder} holds other files; give another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder}: {error.strerror}; give another folder with --out") from error


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    """Return an option that is given once for each value."""
    return [word for value in values for word in (option, value)]


def _run(arguments: list[str]) -> None:
    """Print a command on standard error, and run it as if it were typed."""
    from deconvviz.cli.main import cli

    with running(arguments):
        click.echo(f"$ {command_line()}", err=True)
        cli.main(arguments, prog_name="deconvviz", standalone_mode=False)


def _page_values(plan: DemoPlan, commands: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page's template asks for; `commands` are as they would be typed."""
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.declarations import FILES
    from deconvviz.results.results import read_config
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.web.lesson import lesson_values

    snapshots = Snapshots(plan.snapshots if plan.trains else DEMO_SNAPSHOTS)
    last_epoch = snapshots.history[-1]
    mined_config = read_config(plan.mined, "mined", FILES["mined"].version)
    return {
        **_store_values(plan),
        "version": __version__,
        "note": PROJECTION_NOTE,
        **lesson_values(),
        "reading": _reading(plan),
        "sections": [
            *(_layer_section(plan, commands, layer) for layer in LAYERS),
            *(
                _figure_section(plan, commands, name, text)
                for name, text in (("evolution", EVOLUTION), ("invariance", INVARIANCE), ("occlusion", OCCLUSION))
            ),
        ],
        **_diagnosis_values(plan),
        "diagnosis_command": commands["diagnosis"],
        "comparison_commands": _comparison_commands(plan),
        "epochs": int(last_epoch["epoch"]),
        "k": mined_config["k"],
        "accuracy": last_epoch["validation_accuracy"],
        "trained_here": plan.trains,
        "pack_command": commands["pack"],
        "atlas_command": commands["atlas"],
        "atlas": f"{plan.atlas.name}/index.html",
        "command": command_line(),
        "train_command": commands.get("train", snapshots.sources["command"]),
        "layers": _layer_table(plan.model),
        "settled": _settled(plan.folder / "evolution.layers.csv"),
        "followed": FOLLOWED,
        "fingerprint": mined_config["model_fingerprint"],
    }


def _layer_section(plan: DemoPlan, commands: Mapping[str, str], layer: str) -> dict[str, str]:
    from deconvviz.web.page import embedded

    return {
        "id": layer,
        "title": f"Layer {layer[-1]}",
        "text": TEXTS[layer],
        "command": f"{commands['mine']}\n{commands[layer]}",
        "picture": embedded(plan.folder / f"{layer}.png"),
        "alt": f"Filters of {layer}: projections beside the image patches from which they come",
    }


def _figure_section(plan: DemoPlan, commands: Mapping[str, str], name: str, text: str) -> dict[str, str]:
    from deconvviz.web.page import embedded

    title, alt = FIGURES[name]
    picture = embedded(plan.folder / f"{name}.png")
    return {"id": name, "title": title, "text": text, "command": commands[name], "picture": picture, "alt": alt}


def _reading(plan: DemoPlan) -> dict[str, Any]:
    """Return what the page says of one filter, as an example of how projections are read."""
    from deconvviz.cli.reading import clearest_filter
    from deconvviz.data.scenes.scenes import Scenes
    from deconvviz.web.page import embedded_pixels

    path = plan.atlas / "data" / f"{LAYERS.index(READ_LAYER):02d}-{READ_LAYER}.h5"
    reading = clearest_filter(path, Scenes(plan.images, seed=1))
    pictures = {name: embedded_pixels(getattr(reading, name)) for name in ("projections", "patches")}
    page = f"{plan.atlas.name}/filter.html#{reading.layer}:{reading.channel}"
    return {**dataclasses.asdict(reading), **pictures, "page": page}


def _diagnosis_values(plan: DemoPlan) -> dict[str, Any]:
    """Return what the page says of the diagnosis, and of the faults of a first layer that figure 6 is about."""
    report = json.loads((plan.diagnosis / "diagnosis.json").read_text("utf-8"))
    check_by_name = {check["name"]: check for check in report["checks"]}
    return {
        "first_layer": [check_by_name[name] for name in FIRST_LAYER_CHECKS],
        "checks": len(report["checks"]),
        "worst": report["worst"],
        "examined": report["config"]["images"],
        "diagnosis": f"{plan.diagnosis.name}/index.html",
    }


def _comparison_commands(plan: DemoPlan) -> str:
    """Return the commands that draw figure 6: a network with AlexNet's first layer, and a diagnosis of both."""
    other = str(plan.folder / "11x11.pth")
    model, *model_options = plan.model
    compared = [
        *("diagnose", model, str(plan.scenes), *model_options, "--limit", str(EXAMINED)),
        *("--compare", "zfnet", "--compare-weights", other, "-o", str(plan.folder / "comparison")),
    ]
    training = [*TRAINING, "--first", "alexnet", "--out", other]
    return "\n".join(shlex.join(["deconvviz", *words]) for words in (training, compared))


def _store_values(plan: DemoPlan) -> dict[str, Any]:
    """Draw two pictures of each class, and return what the page says of the pictures."""
    from deconvviz.data.images import ImageStore
    from deconvviz.figures.contact import draw_contact_sheet
    from deconvviz.web.page import embedded

    with ImageStore.open(plan.scenes) as store:
        images_by_class = [(store.labels == label).nonzero()[0] for label in range(len(store.classes))]
        images = [int(index) for n in (0, 1) for indices in images_by_class for index in indices[[n]]]
        names = [store.classes[store.labels[image]] for image in images]
        sheet = draw_contact_sheet([store[image][0] for image in images], names)
        path = plan.folder / "pictures.png"
        save_figure(sheet, str(path), "generated pictures")
        return {"classes": store.classes, "count": len(store), "contact": embedded(path)}


def _layer_table(model: Sequence[str]) -> str:
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.load import load_model

    loaded = load_model(model[0], *model[2:])
    return captured(loaded, Preprocess.from_dict(loaded.settings), "cpu").table(modules_only=True)


def _settled(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read the table of convergence: for each epoch (share of final pictures, similarity of projections) a layer."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    epoch = header.index("epoch")
    similarity = header.index("projection_similarity")
    share = similarity - 1  # its name tells how many pictures are compared, such as top9_already_final
    return [
        {
            "epoch": number,
            "shares": [(float(row[share]), float(row[similarity])) for row in rows if row[epoch] == number],
        }
        for number in dict.fromkeys(row[epoch] for row in rows)
    ]
