"""The `deconvviz` command: it finds its commands by name, and turns an error into one line and exit code 2."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import warnings
from typing import NamedTuple

import click

from deconvviz.errors import DeconvvizError, nearest
from deconvviz.version import __version__


class LazyCommand(NamedTuple):
    """A command that is imported when it is used.

    Attributes:
        module: the module below `deconvviz` that holds it, as a function of the command's name.
        summary: what `deconvviz --help` says about it: the first sentence of the command's own help.
        resumes: whether the same command continues an interrupted one.
    """

    module: str
    summary: str
    resumes: bool = False


COMMANDS = {
    "demo": LazyCommand(
        "cli.demo",
        "Show everything on a small network that comes with the package: OUT/index.html.",
        resumes=True,
    ),
    "layers": LazyCommand(
        "cli.layers", "List a network's layers: name, kind, shape, receptive field, stride, parameters."
    ),
    "pack": LazyCommand("cli.pack", "Pack images into one HDF5 file, or into several that read as one.", resumes=True),
    "verify": LazyCommand(
        "cli.verify",
        "Tell whether files are still what was written: stores, mined files, and every other HDF5 file of deconvviz.",
    ),
    "directions": LazyCommand(
        "cli.directions",
        "Learn directions of a layer's channels from images; they are layers of the network from then on.",
    ),
    "mine": LazyCommand(
        "studies.mining.command",
        "Find the k images that activate each channel most, in one pass over a packed store.",
        resumes=True,
    ),
    "merge": LazyCommand("studies.mining.command", "Join the mined or relevance files of all shards of one job."),
    "grid": LazyCommand(
        "studies.mining.grid_command",
        "Draw a layer: for each filter its top projections beside the image patches they came from.",
    ),
    "fidelity": LazyCommand(
        "studies.mining.fidelity_command",
        "Measure which rule's projections mark the pixels that carry a layer's units.",
    ),
    "project": LazyCommand(
        "cli.project", "Project one unit's activation back to the pixels of an image: image, projection, overlay."
    ),
    "maps": LazyCommand(
        "studies.maps.command",
        "Take one image apart: draw every map of a layer, or the strongest maps of several layers.",
    ),
    "relevance": LazyCommand(
        "studies.relevance.command",
        "Find which filters made a network's decisions, and the images in which each weighed most.",
        resumes=True,
    ),
    "visualise": LazyCommand(
        "studies.visualisation.command",
        "Make the picture that a unit, a channel, a class or a direction would like best.",
    ),
    "invert": LazyCommand(
        "studies.visualisation.invert_command",
        "Find out what of an image a layer still knows: make the picture that the layer takes for it.",
    ),
    "recurrent": LazyCommand(
        "studies.recurrent.command",
        "Show what the units of a recurrent network do, and which tokens made its outputs.",
        resumes=True,
    ),
    "latent": LazyCommand(
        "studies.latent.command",
        "Show what the codes, directions and units of a generator change in its images.",
        resumes=True,
    ),
    "train": LazyCommand(
        "studies.training.command",
        "Train a network by the paper's recipe, and record snapshots of it.",
        resumes=True,
    ),
    "compare": LazyCommand(
        "studies.comparison.command",
        "Set two networks of one architecture side by side: what a training or a change did.",
        resumes=True,
    ),
    "pretrain": LazyCommand(
        "studies.pretraining.command",
        "Train a network without labels, and watch that its embedding does not collapse.",
        resumes=True,
    ),
    "evolve": LazyCommand(
        "studies.evolution.command",
        "Draw how filters came to be: each one's strongest projection at every snapshot of a training.",
        resumes=True,
    ),
    "cam": LazyCommand(
        "cli.cam",
        "Show where in an image a network found its class, a box, a segment, or what makes it like another image.",
    ),
    "pair": LazyCommand("studies.pairs.command", "Show why a network takes two images for alike."),
    "train-cam": LazyCommand(
        "studies.explainers.command",
        "Train an explainer for a network, which then explains an image in one forward pass.",
        resumes=True,
    ),
    "evaluate": LazyCommand(
        "studies.evaluation.command",
        "Measure how well the maps of explanation methods show what a network relies on.",
        resumes=True,
    ),
    "prune": LazyCommand(
        "studies.pruning.command",
        "Take filters out of a network, and measure what it costs and finds without them.",
        resumes=True,
    ),
    "attack": LazyCommand(
        "studies.attack.command",
        "Change images a little, so that a network takes them for something else.",
        resumes=True,
    ),
    "occlude": LazyCommand(
        "studies.occlusion.command", "Cover an image piece by piece and see what the network still finds."
    ),
    "invariance": LazyCommand(
        "studies.invariance.command",
        "Measure how a network's layers and its output change as images are moved, scaled and turned.",
    ),
    "correspond": LazyCommand(
        "studies.correspondence.command",
        "Test whether masking the same part of several images changes a layer in the same way.",
    ),
    "ablate": LazyCommand(
        "studies.ablation.command",
        "Find out which layers a network needs to learn: train it without some, and compare.",
        resumes=True,
    ),
    "lesion": LazyCommand(
        "studies.lesions.command", "Find out which filters or layers a trained network needs.", resumes=True
    ),
    "ensemble": LazyCommand(
        "studies.ensembles.command",
        "Measure how much better several networks classify together than each alone.",
        resumes=True,
    ),
    "dissect": LazyCommand(
        "studies.dissection.command",
        "Find which concept each filter detects, and give the filters names.",
        resumes=True,
    ),
    "merge-dissections": LazyCommand("studies.dissection.command", "Join the dissections of all shards of one job."),
    "probe": LazyCommand(
        "studies.probing.command",
        "Measure how well a linear classifier tells the classes apart by the features of each layer.",
        resumes=True,
    ),
    "examples": LazyCommand(
        "studies.examples.command",
        "Explain a decision by training images, or find those with wrong labels.",
        resumes=True,
    ),
    "tree": LazyCommand(
        "studies.tree.command",
        "Draw a tree over a network's classes, and a decision as a path through it.",
    ),
    "diagnose": LazyCommand("studies.diagnosis.command", "Find out what is wrong with a network."),
    "atlas": LazyCommand(
        "studies.atlas.command",
        "Make pages that show a whole network: open OUT/index.html, no server needed.",
        resumes=True,
    ),
}

INTRO = """See what a CNN has learned: for each filter the image patches that activate it most, and their deconvnet
projections.

\b
Everything at once, on a small network that comes with the package:
  deconvviz demo

\b
A first picture, from a trained network and a folder of photos:
  deconvviz layers torchvision:squeezenet1_0
  deconvviz pack photos/ photos.h5
  deconvviz mine torchvision:squeezenet1_0 photos.h5 -l features.7 -o mined.h5
  deconvviz grid mined.h5 -l features.7 -o features.7.png

\b
How features develop while your own network is trained:
  deconvviz train zfnet photos.h5 --epochs 64 --snapshots evolution.h5 --out zfnet.pth
  deconvviz evolve evolution.h5 photos.h5 -l conv1 -l conv3 -l conv5 -o evolution.png

\b
What a filter would like best, and what a layer still knows of an image:
  deconvviz visualise torchvision:squeezenet1_0 -l features.7 -c 150 -o wanted.png
  deconvviz invert torchvision:squeezenet1_0 cat.jpg -l features.3 -l features.7 -o known.png

\b
Why a network decides as it does:
  deconvviz cam grad-cam,score-cam torchvision:squeezenet1_0 cat.jpg -l features.12 -o cam.png
  deconvviz relevance torchvision:squeezenet1_0 photos.h5 -l features.12 -o relevant.h5
  deconvviz train-cam l-cam-img torchvision:squeezenet1_0 photos.h5 -l features.12 -o lcam.pth

\b
What a network's features are sensitive to, and what they are good for:
  deconvviz occlude torchvision:squeezenet1_0 dog.jpg -o occlusion.png
  deconvviz prune demo scenes:200:7 --keep 0.7 --sensitivity -o slim.pth
  deconvviz attack demo scenes:200:7 --method pgd --epsilons 0,1,2,4,8 -o pgd.h5
  deconvviz invariance torchvision:squeezenet1_0 photos.h5 -o invariance.png
  deconvviz correspond demo scenes:500:1 -l relu5 -l relu7 -o correspondence.csv
  deconvviz lesion demo scenes:500:1 -l relu3 -o lesions.csv
  deconvviz dissect demo scenes:2000 -l relu5 -o names.csv
  deconvviz ablate zfnet photos.h5 -o ablation.csv
  deconvviz probe torchvision:squeezenet1_0 photos.h5 -o probe.csv

\b
A whole network as web pages, and what is wrong with it:
  deconvviz atlas torchvision:squeezenet1_0 photos.h5 -o atlas
  deconvviz diagnose torchvision:squeezenet1_0 photos.h5 -o diagnosis

\b
MODEL is torchvision:NAME, timm:NAME, hf:FOLDER, zfnet (with --weights), demo, or path/to/file.py:FACTORY, a
function that returns a torch.nn.Module.
The name of a layer is the path of its module; `deconvviz layers MODEL` lists them.
"""


class LazyGroup(click.Group):
    """A group of commands that imports a command's module when the command is used.

    `deconvviz --help` then imports only click: torch alone takes seconds.
    """

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of the commands, in the order in which --help lists them."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command; None for a name that does not exist."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"deconvviz.{COMMANDS[name].module}")
        command = getattr(module, name.replace("-", "_"))
        assert isinstance(command, click.Command)
        from deconvviz.cli.present import looking_first  # --help needs none of it

        return looking_first(name, command)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for --help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; an unknown name is answered with the nearest ones."""
        if args[0] not in COMMANDS:
            context.fail(f"no command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(context, args)


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


@click.group(cls=LazyGroup, help=INTRO, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="deconvviz")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """The group of commands; `main` reads --debug."""


def _noted(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning on one line; where in the code it was raised is of no use to the user."""
    click.echo(f"note: {message}", err=True)


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): it ends as it does after Ctrl-C."""


def _terminated(*_: object) -> None:
    raise Terminated


def _cause(error: BaseException) -> BaseException:
    """Return the interrupt behind what click made of it."""
    return error.__cause__ or error.__context__ or error


def _say_what_is_kept() -> None:
    """Say on one line what an interrupted command has written, and how to go on."""
    files = sys.modules.get("deconvviz.results.files")
    kept = [os.path.relpath(path) for path in getattr(files, "COMMITTED", [])]
    command = next((argument for argument in sys.argv[1:] if argument in COMMANDS), None)
    if kept and command is not None and COMMANDS[command].resumes:
        more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
        said = f"what was done is kept in {kept[0]}{more}; run the same command again, and it goes on from there"
    else:
        said = "nothing was kept; run the same command again to begin anew"
    click.echo(f"\ndeconvviz: interrupted: {said}", err=True)


def told_by_click(error: click.ClickException) -> str:
    """Return what click finds wrong with a command line as one line, in the form of the package's own errors.

    >>> told_by_click(click.UsageError("Missing argument 'MODEL'."))
    "missing argument 'MODEL'"
    """
    message = " ".join(error.format_message().split()).removesuffix(".")  # click lists choices one a line
    context = error.ctx if isinstance(error, click.UsageError) else None
    see = " See" if message.endswith("?") else "; see"
    where = "" if context is None else f"{see} {context.command_path} --help"
    return f"{message[:1].lower()}{message[1:]}{where}"


def _is_help(error: click.ClickException) -> bool:
    """Return whether click asks with an error for the help: no command is given. Before 8.2 it printed the help."""
    return isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ()))


def _write_nothing_more() -> None:
    """Let what is still to be printed go nowhere: Python writes the rest when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line; it exits with 0, or with 2 and one line on standard error for what the user can mend.

    OpenMP's threads wait for each other asleep, unless the user's environment says otherwise. By default they wait
    running, and where other programs use the processors too, each of the thousands of small ops of a projection then
    waits for a thread that has no processor: two such programs on two processors took 5 to 20 times as long.

    Python looks for unreachable cycles less often: by default it walks through all that torch's modules made six to
    eight times before a command has begun its work, which took a tenth of a short command.
    """
    gc.set_threshold(50_000, 20, 20)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, which reads it once
    # Users write it in either place: `deconvviz --debug grid` and `deconvviz grid --debug`.
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    warnings.showwarning = _noted
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = cli.main(prog_name="deconvviz", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, click.Abort, SystemError) as error:
        if isinstance(error, SystemError) and not isinstance(_cause(error), KeyboardInterrupt):
            raise  # else Ctrl-C came while HDF5 was writing
        _say_what_is_kept()
        sys.exit(128 + (signal.SIGTERM if isinstance(_cause(error), Terminated) else signal.SIGINT))
    except click.ClickException as error:
        if _is_help(error):
            error.show()
        else:
            click.echo(f"deconvviz: {told_by_click(error)}", err=True)
        sys.exit(error.exit_code)
    except DeconvvizError as error:
        if debug:
            raise
        click.echo(f"deconvviz: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        _write_nothing_more()  # the reader, such as `head`, has closed the pipe
        sys.exit(0)
    except (MemoryError, RuntimeError, OSError) as error:
        from deconvviz.cli.machine import what_the_machine_lacks

        message = what_the_machine_lacks(error)
        if debug or message is None:
            raise
        _write_nothing_more()
        click.echo(f"deconvviz: {message}", err=True)
        sys.exit(2)
