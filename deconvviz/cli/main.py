"""The `deconvviz` command: finds its sub-commands by name, and turns errors into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
import warnings

import click

from deconvviz.errors import DeconvvizError
from deconvviz.version import __version__

# A command and the module that holds it, imported when it is asked for.
COMMANDS = {
    "demo": "cli.demo",
    "layers": "cli.layers",
    "pack": "cli.pack",
    "mine": "studies.mining.command",
    "merge": "studies.mining.merge_command",
    "grid": "studies.mining.grid_command",
    "project": "cli.project",
    "train": "studies.training.command",
    "evolve": "studies.evolution.command",
    "cam": "cli.cam",
    "train-cam": "studies.explainers.command",
    "evaluate": "studies.evaluation.command",
    "occlude": "studies.occlusion.command",
    "invariance": "studies.invariance.command",
    "correspond": "studies.correspondence.command",
    "ablate": "studies.ablation.command",
    "probe": "studies.probing.command",
    "diagnose": "studies.diagnosis.command",
    "atlas": "studies.atlas.command",
}

INTRO = """See what a CNN has learned: per filter, the image patches that drive it most and their deconvnet projections.

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
How the features of a network of your own come to be:
  deconvviz train zfnet photos.h5 --epochs 64 --snapshots evolution.h5 --out zfnet.pth
  deconvviz evolve evolution.h5 photos.h5 -l conv1 -l conv3 -l conv5 -o evolution.png

\b
Why it decided so:
  deconvviz cam grad-cam,score-cam torchvision:squeezenet1_0 cat.jpg -l features.12 -o cam.png
  deconvviz train-cam l-cam-img torchvision:squeezenet1_0 photos.h5 -l features.12 -o lcam.pth

\b
What its features are sensitive to, and what they are good for:
  deconvviz occlude torchvision:squeezenet1_0 dog.jpg -o occlusion.png
  deconvviz invariance torchvision:squeezenet1_0 photos.h5 -o invariance.png
  deconvviz correspond demo scenes:500:1 -l relu5 -l relu7 -o correspondence.csv
  deconvviz ablate zfnet photos.h5 -o ablation.csv
  deconvviz probe torchvision:squeezenet1_0 photos.h5 -o probe.csv

\b
Everything about a network as pages, and what is wrong with it:
  deconvviz atlas torchvision:squeezenet1_0 photos.h5 -o atlas
  deconvviz diagnose torchvision:squeezenet1_0 photos.h5 -o diagnosis

\b
MODEL is torchvision:NAME, timm:NAME, zfnet (with --weights), demo, or path/to/file.py:FACTORY, a function that
returns a torch.nn.Module.
A layer is named by its module path; `deconvviz layers MODEL` lists them.
"""


class _Commands(click.Group):
    """Imports a command's module when it is asked for: `--help` should not wait for torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"deconvviz.{COMMANDS[name]}"), name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            from deconvviz.errors import nearest

            context.fail(f"no command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(context, args)


@click.group(
    cls=_Commands, help=INTRO, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="deconvviz")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """The group of commands; `main` reads --debug."""


def _noted(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as one line: where in the code it was raised is of no use here."""
    click.echo(f"note: {message}", err=True)


def main() -> None:
    """Run the command line; exits 0, or 2 for what the user can mend, with one line on standard error."""
    # Either place is natural: `deconvviz --debug grid` and `deconvviz grid --debug`.
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    warnings.showwarning = _noted
    try:
        cli(prog_name="deconvviz")
    except DeconvvizError as error:
        if debug:
            raise
        click.echo(f"deconvviz: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has seen enough
        sys.exit(0)
