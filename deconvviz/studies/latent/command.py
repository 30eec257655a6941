"""deconvviz latent"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.dependent import Dependent
from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import device_option, option_group, run_options
from deconvviz.cli.outputs import command_line

if TYPE_CHECKING:
    from deconvviz.run.options import RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookedAt:
    """What the command line says of the views; the fields are those of `LatentOptions`."""

    samples: int
    share: float
    attributes: tuple[str, ...]
    layer: str | None
    axes_layer: str | None
    axes: int
    units: int
    masked: int
    reach: float
    steps: int
    rows: int

    def keywords(self) -> dict[str, Any]:
        """Return them as the keyword arguments of `latent`."""
        return dataclasses.asdict(self)


view_options = option_group(
    "looked",
    LookedAt,
    click.option("--samples", default=2000, type=click.IntRange(20), help="Samples that are generated and scored."),
    click.option("--share", default=0.1, type=FiniteRange(), help="Share of samples that count as high, and as low."),
    click.option(
        "--attribute",
        "attributes",
        multiple=True,
        metavar="NAME|NUMBER",
        help="Output of the scorer that gets a direction; several.  [default: the four that vary most]",
    ),
    click.option("-l", "--layer", help="Layer whose units are looked at.  [default: one in the middle]"),
    click.option("--axes-layer", help="Layer whose principal axes are found.  [default: the first]"),
    click.option("--axes", default=6, type=click.IntRange(1), help="Principal axes at most."),
    click.option("--units", default=6, type=click.IntRange(1), help="Units that are switched off and on."),
    click.option("--masked", default=100, type=click.IntRange(4), help="Samples on which units meet masks."),
    click.option("--reach", default=3.0, type=FiniteRange(), help="How far codes and directions are followed."),
    click.option("--steps", default=9, type=click.IntRange(2), help="Images of each walk."),
    click.option("--rows", default=3, type=click.IntRange(1), help="Samples that each direction is followed from."),
)


@click.command()
@click.argument("model", metavar="FILE.py:FACTORY")
@click.option("-o", "--out", required=True, help="A folder; an unfinished recording in it is continued.")
@click.option("--scorer", metavar="MODEL", help="A classifier, as for the other commands, whose scores get directions.")
@click.option(
    "--scorer-weights",
    cls=Dependent,
    needs="--scorer",
    default="DEFAULT",
    metavar="DEFAULT|FILE|none",
    help="Weights of the scorer, as --weights.",
)
@click.option(
    "--segment", metavar="FILE.py:FUNCTION", help="From images [N, C, H, W] in 0..1 to name -> bool [N, H, W]: parts."
)
@view_options
@run_options(batch_size="Images in one pass.", default_batch=64, seed="Seed of the samples.")
@device_option
def latent(
    model: str,
    out: str,
    scorer: str | None,
    scorer_weights: str,
    segment: str | None,
    looked: LookedAt,
    run: RunOptions,
    device: str,
) -> None:
    """Show what the codes, directions and units of a generator change in its images. Open OUT/index.html.

    FACTORY is a function that returns a module from z [N, d] to images [N, 3, H, W] or [N, 1, H, W], or a
    dv.LatentModel, which says what z is drawn from and how black and white are written. The page has sweeps of single
    codes; with --scorer the directions in which a classifier's scores rise, free of each other too; principal axes of
    a layer; and units of a layer with the images in which they are most active, switched off and on. With --segment
    units are named by the parts that they draw.

    \b
    Examples:
      deconvviz latent examples/infogan.py:make --scorer demo -o latent
      deconvviz latent examples/infogan.py:make --segment examples/infogan.py:colours -o parts
    """
    from deconvviz.models.load import load_model
    from deconvviz.models.python_files import function_from
    from deconvviz.studies.latent.measure import latent as measure
    from deconvviz.studies.latent.model import load_latent
    from deconvviz.studies.latent.page import write_views

    views = measure(
        load_latent(model),
        scorer=load_model(scorer, scorer_weights) if scorer else None,
        segment=function_from(segment, "--segment") if segment else None,
        out=out,
        sources={"model": model, "scorer": scorer, "segment": segment, "command": command_line()},
        device=device,
        **looked.keywords(),
        **run.keywords(),
    )
    click.echo(repr(views))
    page = write_views(out, views, scorer=scorer or "", command=command_line())
    click.echo(f"open {page}")
