"""deconvviz demo"""

from __future__ import annotations

import csv
import pathlib
import shlex
import time
from typing import Any

import click

from deconvviz.cli.inputs import captured
from deconvviz.cli.options import PROJECTION_NOTE
from deconvviz.cli.outputs import command_line, running, save_figure
from deconvviz.errors import DataError
from deconvviz.version import __version__

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
SHOWN = ("conv1", "conv3", "conv5")
# The training of the packaged network; tools/train_demo runs it too.
TRAINING = (
    *("train", "zfnet", "scenes:8000", "--input", "64", "--resize", "72", "--width", "0.2", "--fc", "480,480"),
    # A gentler start than the paper's, at whose rate so narrow a network starts late and by chance.
    *("--dropout", "0.2", "--batch-size", "64", "--lr", "0.004", "--epochs", "64"),
)
TEXTS = {
    "conv1": "It sees 7x7 pixels: edges of all directions, and colours. To the left of each block the filter itself.",
    "conv2": "Corners, curves, stripes and the ends of lines.",
    "conv3": "Parts begin: eyes, wheels, the panes of windows.",
    "conv4": "Parts in their surroundings, such as two eyes above a beak.",
    "conv5": "Whole objects: what a filter responds to covers most of the picture, in any colour and pose.",
}
OWN = (
    "scenes.h5",
    "mined.h5",
    "mined-trained.h5",
    "zfnet.pth",
    "evolution.h5",
    "atlas",
    "atlas-trained",
)  # what an interrupted demo leaves
EVOLUTION = (
    "Rows are filters, columns are epochs of the training. A coloured frame marks that the picture which activates the "
    "filter most is another one than at the epoch before."
)


@click.command()
@click.option("-o", "--out", default="demo", show_default=True, help="A folder for the page and its figures.")
@click.option("--train", is_flag=True, help="Train the network anew, which takes about ten minutes on two cores.")
@click.option("--images", default=1500, show_default=True, type=click.IntRange(50), help="Pictures to mine.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(out: str, train: bool, images: int, quiet: bool) -> None:
    """Show everything on a small network that comes with the package: OUT/index.html.

    Needs no images, no weights and no network connection. The page tells the command behind each figure.

    \b
    Example:
      deconvviz demo --out demo
    """
    begin = time.monotonic()
    folder = pathlib.Path(out)
    _make_room(folder)
    more = ["--quiet"] * quiet
    scenes, snapshots = str(folder / "scenes.h5"), "demo"
    mined = str(folder / ("mined-trained.h5" if train else "mined.h5"))
    atlas, model = "atlas-trained" if train else "atlas", ["demo"]
    commands = {"pack": ["pack", f"scenes:{images}:1", scenes, "--force"]}
    if train:
        weights, snapshots = str(folder / "zfnet.pth"), str(folder / "evolution.h5")
        model = ["zfnet", "--weights", weights]
        commands["train"] = [*TRAINING, "--snapshots", snapshots, "--out", weights]
    commands["mine"] = ["mine", *model[:1], scenes, *model[1:], *_each("-l", LAYERS), "-o", mined]
    for layer in LAYERS:
        commands[layer] = ["grid", mined, "-l", layer, "-n", "12", "-o", str(folder / f"{layer}.png")]
    figure = str(folder / "evolution.png")
    commands["evolution"] = [
        "evolve",
        snapshots,
        scenes,
        *_each("-l", SHOWN),
        "--filters",
        "4",
        "-o",
        figure,
        "--force",
    ]
    commands["atlas"] = [
        *("atlas", *model[:1], scenes, *model[1:], "--mined", mined, *_each("-l", LAYERS), "--decisions", "6"),
        *("-o", str(folder / atlas)),
    ]
    for arguments in commands.values():
        _run([*arguments, *more])
    values = _values(folder, mined, commands, model, snapshots, train)
    from deconvviz.web.page import write_page

    values["atlas"] = f"{atlas}/index.html"
    values["seconds"] = round(time.monotonic() - begin)
    write_page(folder / "index.html", "demo.html", values)
    click.echo(f"open {folder / 'index.html'} ({values['seconds']} s)")


def _make_room(folder: pathlib.Path) -> None:
    """Make the folder, or take that of an earlier demo; refuse one that holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder with --out")
    page = folder / "index.html"
    ours = page.is_file() and "deconvviz demo" in page.read_text("utf-8", "replace")[:1000]
    unfinished = folder.is_dir() and all(path.name in OWN or path.suffix == ".part" for path in folder.iterdir())
    if folder.is_dir() and any(folder.iterdir()) and not ours and not unfinished:
        raise DataError(f"{folder} holds other files; give another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder}: {error.strerror}; give another folder with --out") from error


def _each(option: str, values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _run(arguments: list[str]) -> None:
    """Run a command as if it were typed, and say so."""
    from deconvviz.cli.main import cli

    with running(arguments):
        click.echo(f"$ {command_line()}", err=True)
        cli.main(arguments, prog_name="deconvviz", standalone_mode=False)


def _values(
    folder: pathlib.Path,
    mined_file: str,
    commands: dict[str, list[str]],
    model: list[str],
    snapshots: str,
    trained_here: bool,
) -> dict[str, Any]:
    """Return what the page's template asks for."""
    from deconvviz.models.load import DEMO_SNAPSHOTS
    from deconvviz.results.snapshots import Snapshots
    from deconvviz.studies.mining.result import load_mined
    from deconvviz.web.page import embedded

    typed = {name: shlex.join(["deconvviz", *arguments]) for name, arguments in commands.items()}
    recorded = Snapshots(DEMO_SNAPSHOTS if snapshots == "demo" else snapshots)
    last, mined = recorded.history[-1], load_mined(mined_file)
    sections = [
        {
            "id": layer,
            "title": f"Layer {layer[-1]}",
            "text": TEXTS[layer],
            "command": f"{typed['mine']}\n{typed[layer]}",
            "picture": embedded(folder / f"{layer}.png"),
            "alt": f"Filters of {layer}: projections beside their patches",
        }
        for layer in LAYERS
    ]
    evolution = {
        "id": "evolution",
        "title": "How they came to be",
        "command": typed["evolution"],
        "text": EVOLUTION,
        "picture": embedded(folder / "evolution.png"),
        "alt": "Filters' projections at several epochs of the training",
    }
    return {
        **_pictures(folder),
        "version": __version__,
        "note": PROJECTION_NOTE,
        "sections": [*sections, evolution],
        "epochs": int(last["epoch"]),
        "k": mined.config["k"],
        "accuracy": last["validation_accuracy"],
        "trained_here": trained_here,
        "pack_command": typed["pack"],
        "atlas_command": typed["atlas"],
        "command": command_line(),
        "train_command": typed.get("train", recorded.sources["command"]),
        "layers": _layers(model),
        "settled": _settled(folder / "evolution.layers.csv"),
        "shown": SHOWN,
        "fingerprint": mined.config["model_fingerprint"],
    }


def _pictures(folder: pathlib.Path) -> dict[str, Any]:
    """Draw two pictures of each kind."""
    from deconvviz.data.images import ImageStore
    from deconvviz.figures.contact import draw_contact_sheet
    from deconvviz.web.page import embedded

    with ImageStore.open(folder / "scenes.h5") as store:
        chosen = [
            int(i) for n in (0, 1) for c in range(len(store.classes)) for i in (store.labels == c).nonzero()[0][[n]]
        ]
        names = [store.classes[store.labels[i]] for i in chosen]
        sheet = draw_contact_sheet([store[i][0] for i in chosen], names)
        save_figure(sheet, str(folder / "pictures.png"), "generated pictures")
        return {"classes": store.classes, "count": len(store), "contact": embedded(folder / "pictures.png")}


def _layers(model: list[str]) -> str:
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.models.load import load_model

    loaded = load_model(model[0], *model[2:])
    return captured(loaded, Preprocess.from_dict(loaded.settings), "cpu").table(modules_only=True)


def _settled(table: pathlib.Path) -> list[dict[str, Any]]:
    """Read the convergence table: for each epoch the shares, one a layer."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    epochs = dict.fromkeys(row[1] for row in rows)
    return [{"epoch": e, "shares": [(float(row[2]), float(row[3])) for row in rows if row[1] == e]} for e in epochs]
