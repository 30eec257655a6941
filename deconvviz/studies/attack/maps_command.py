"""The options of `deconvviz attack` that are about explanations, and the caption of their figure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cam.learned.described import require_explainer_of
from deconvviz.choices import EDGE_STAGES, EDGES, GOALS, TOWARDS
from deconvviz.cli.dependent import Dependent
from deconvviz.cli.explaining import own_methods
from deconvviz.cli.notes import no_layer_named
from deconvviz.cli.options import option_group
from deconvviz.registry import require_name
from deconvviz.studies.attack.registry import LEVELS, TRAINED, attack_declarations, interpreter_declarations
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.graph.network import Network
    from deconvviz.studies.attack.result import AttackStudy


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedOfMaps:
    """What the command line asks of explanations and countermeasures; the fields are those of `AttackOptions`.

    Attributes:
        fools: names of interpreters, with commas between them; None for none.
        layer: whose maps they read.
        explainer: file of a trained explainer.
        goal: what is attacked.
        edges: where pixels may change.
        edge_stages: in which stages.
        towards: where a map moves.
        countermeasures: as text, with commas between them.
        agreement: names of explanation methods, with commas between them.
    """

    fools: str | None
    layer: str | None
    explainer: str | None
    goal: str
    edges: str
    edge_stages: str
    towards: str
    countermeasures: str | None
    agreement: str | None

    def layer_in(self, network: Network) -> str | None:
        """Return the layer that is read; a note says which where none is named."""
        from deconvviz.studies.attack.explaining import default_layer

        asked = self.keywords()
        if self.layer is not None:
            return self.layer
        layer = default_layer(network, asked["fools"], asked["agreement"])
        if layer is not None:
            click.echo(no_layer_named(f" at {layer}"), err=True)
        return layer

    def require_explainer(self) -> None:
        """Raise DataError or CamError where the file of an explainer is none, or one of another method."""
        if self.explainer is not None:
            require_explainer_of(self.explainer, [TRAINED])

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments of `dv.attack`."""
        lists = ("fools", "countermeasures", "agreement")
        named = {name: [each for each in (getattr(self, name) or "").split(",") if each] for name in lists}
        return {**dataclasses.asdict(self), **named}


def _own_interpreters(_: click.Context, __: click.Parameter, names: str | None) -> str | None:
    """Return names of interpreters that exist, before torch is imported."""
    for name in (names or "").split(","):
        if name:
            require_name("interpreter", name, interpreter_declarations())
    return names


def _own_methods(context: click.Context, option: click.Parameter, names: str | None) -> str | None:
    """Return the names that explanation methods have here, before torch is imported."""
    methods = own_methods(context, option, names or None)
    return None if methods is None else ",".join(methods)


map_options = option_group(
    "of_maps",
    AskedOfMaps,
    click.option(
        "--fools",
        metavar="NAME,NAME,...",
        callback=_own_interpreters,
        help="Interpreters whose maps are fooled together: cam, gradient, mask, real-time-masking.",
    ),
    click.option(
        "-l",
        "--layer",
        metavar="LAYER",
        help="Whose maps cam reads, and the methods of --agreement that need a layer.  [default: the last one with "
        "rows and columns]",
    ),
    click.option(
        "--explainer",
        metavar="FILE",
        help=f"File that `deconvviz train-cam {TRAINED}` wrote.",
    ),
    click.option(
        "--goal",
        cls=Dependent,
        needs="--fools",
        default="both",
        type=click.Choice(GOALS),
        help="With --fools: both is another class under a map like the one before; explanation is the same class with "
        "another map; decision is another class, and the maps are only measured.",
    ),
    click.option(
        "--edges",
        default="none",
        type=click.Choice(EDGES),
        help="With --fools: change pixels anywhere, by the weights of the edges (AdvEdge), or where an edge is above a "
        "threshold (AdvEdge+).",
    ),
    click.option(
        "--edge-stages",
        cls=Dependent,
        needs="--fools",
        default="first",
        type=click.Choice(EDGE_STAGES),
        help="Whether edges hold in the first stage of the attack alone, or in both.",
    ),
    click.option(
        "--towards",
        cls=Dependent,
        needs="--fools",
        default="away",
        type=click.Choice(TOWARDS),
        help="Where maps move with --goal explanation: away from those before, to a corner, or to their mirror image.",
    ),
    click.option(
        "--countermeasures",
        metavar="NAME=N,...",
        help="Also measure the accuracy behind these: bit-depth=4,median=3.",
    ),
    click.option(
        "--agreement",
        metavar="METHOD,METHOD,...",
        callback=_own_methods,
        help="Also measure how far the maps of these explanation methods agree, before and after, such as "
        "grad-cam,gradient.",
    ),
)


def maps_caption_of(study: AttackStudy) -> str:
    """Return what the figure of maps shows."""
    what = {
        "both": "to another class under maps like those before",
        "explanation": "so that the class stays and the maps move",
        "decision": "away from the own class, whatever the maps are",
    }[study.goal]
    other = "PGD towards the same class, which ignores maps" if study.goal == "both" else "uniform noise"
    levels = LEVELS * study.epsilons[-1]
    levels_of_other = min(levels, attack_declarations()["pgd"].keywords["levels"])
    places = study.places[study.shown]
    own = "; p of own is that of the class that it had" * bool((study.before[places] != study.own[places]).any())
    missed = study.target is not None and bool((study.after[-1, places] != study.target).any())
    target = "; p of target is that of the class that was wanted" * missed
    return (
        f"{counted(len(study.shown), 'image')} of {study.done}, attacked {what}; no pixel may change by more "
        f"than {levels:g}/255. Below a picture is the class that the network finds, and p, its "
        f"probability{own}{target}. Maps are of the class that "
        "the network finds, each with its own range of colours. The last map of an interpreter is that after "
        f"{other}, by at most "
        f"{levels_of_other:g}/255. IoU and SSIM are to the map before. "
        f"The change is {study.shown_change}, blue below zero and red above; all rows have one scale. "
    )
