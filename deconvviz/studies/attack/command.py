"""deconvviz attack"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from deconvviz.choices import ATTACK_LOSSES, EXPLAINED
from deconvviz.cli.explaining import method_option, typed_options
from deconvviz.cli.inputs import (
    are_photos,
    class_number,
    folder_and_name,
    matched_outputs,
    numbers,
    open_model,
    output_names,
    read_image,
)
from deconvviz.cli.listing import list_option
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    classes_option,
    figure_options,
    limit_option,
    model_options,
    option_group,
    run_options,
)
from deconvviz.cli.outputs import beside, check_place, save_figure, sources
from deconvviz.errors import DataError
from deconvviz.registry import require_name, require_options
from deconvviz.studies.attack.maps_command import AskedOfMaps, map_options, maps_caption_of
from deconvviz.studies.attack.options import NO_LABELS, AttackOptions
from deconvviz.studies.attack.registry import (
    LEVELS,
    attack_declarations,
    fooler_declarations,
    interpreter_declarations,
    require_fooler,
)
from deconvviz.words import counted

if TYPE_CHECKING:
    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.attack.result import AttackStudy


def _attack_lines() -> Iterator[str]:
    """Yield the attacks with their options and sources, and the interpreters that they may fool."""
    for declared, more in ((attack_declarations(), ""), (fooler_declarations(), " --fools ...")):
        for each in declared.values():
            options = ", ".join(f"{key}={value!r}" for key, value in each.defaults.items()) or "none"
            yield f"{each.name + more:18s}{' '.join(each.docstring.split())}"
            yield f"{'':18s}epsilon: {each.keywords['levels']}/255; options: {options}"
    yield "Interpreters that --fools takes:"
    for each in interpreter_declarations().values():
        yield f"{each.name:18s}{' '.join(each.docstring.split())}"


def _own_attack(_: click.Context, __: click.Parameter, name: str) -> str:
    """Return the name of an attack that exists, before torch is imported."""
    require_name("attack", name, attack_declarations())
    return name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks of an attack.

    Attributes:
        method: name of the attack.
        epsilon: as text, a share or such as 8/255; None for the attack's own.
        epsilons: as text, in 255ths; None for one.
        target: the class that the network shall find, as text; None for any other.
        away_from: "label" or "top"; None for the label where it is known.
        loss: what the attack raises.
        pairs: options of the attack, KEY=VALUE.
        keep: of so many images the changes are kept; None for all.
    """

    method: str
    epsilon: str | None
    epsilons: str | None
    target: str | None
    away_from: str | None
    loss: str
    pairs: tuple[str, ...]
    keep: int | None

    def shares(self) -> list[float] | None:
        """Return the epsilons as shares of the way from black to white; None for the attack's own."""
        if self.epsilon is not None and self.epsilons is not None:
            raise DataError("--epsilon and --epsilons given; give one of them")
        if self.epsilons is not None:
            levels = numbers(self.epsilons, "0,1,2,4,8")
            if not all(0 <= level <= LEVELS for level in levels):
                raise DataError(
                    f"--epsilons {self.epsilons} given; expected numbers from 0 to {LEVELS}, such as 0,1,2,4,8"
                )
            return [level / LEVELS for level in levels]
        return None if self.epsilon is None else [_share(self.epsilon)]

    def require_possible(self, of_maps: AskedOfMaps) -> None:
        """Refuse what does not fit together, before torch is imported and images or a model are opened.

        Raises:
            DataError: an option that the attack does not have, a value out of its range, or options that contradict.
            CamError: an interpreter needs a trained explainer, and none, or one of another method, is given.
        """
        how = AttackOptions(
            epsilons=self.shares(),
            away_from=self.away_from or "label",
            target=None if self.target is None else 0,  # which one is known when the model is
            loss=self.loss,
            **of_maps.keywords(),
        )
        attacks, foolers = attack_declarations(), fooler_declarations()
        require_fooler(self.method, how.fooling, attacks, foolers)
        own = (foolers if how.fooling else attacks)[self.method]
        require_options(self.method, own.defaults, typed_options(self.pairs, "steps=50"))
        of_maps.require_explainer()


def _share(text: str) -> float:
    """Read a share: a number, or a fraction.

    >>> _share("8/255") == 8 / 255, _share("0.03")
    (True, 0.03)
    """
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise DataError(
            f"epsilon {text!r} given; expected a share of the way from black to white, such as 0.03 or 8/255"
        ) from None


asked_options = option_group(
    "asked",
    Asked,
    click.option("-m", "--method", default="pgd", callback=_own_attack, help="The attack; --list lists them."),
    click.option(
        "--epsilon", metavar="SHARE", help="How far a pixel may go: 0.03 or 8/255.  [default: the attack's own]"
    ),
    click.option(
        "--epsilons",
        metavar="N,N,...",
        help="Several of them in 255ths, such as 0,1,2,4,8: OUT.robustness.png shows the accuracy over them.",
    ),
    click.option("-t", "--target", metavar="CLASS", help="The class that the network shall find.  [default: any]"),
    click.option(
        "--away-from",
        type=click.Choice(EXPLAINED),
        help="The class that it shall not find any more: the label's, or the one that it finds in the unchanged "
        "image.  [default: the label's where it is known]",
    ),
    click.option(
        "--loss",
        default="cross-entropy",
        type=click.Choice(ATTACK_LOSSES),
        help="What fgsm and pgd raise: the cross-entropy, or the distance to the nearest other score.",
    ),
    method_option("steps=50"),
    click.option(
        "--keep", type=click.IntRange(0), help="Keep the changes of so many images, evenly spread.  [default: all]"
    ),
)


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    required=True,
    help="The file, .h5; beside it the tables OUT.csv and OUT.images.csv and the figure OUT.png.",
)
@list_option(_attack_lines, "List the attacks and exit.")
@asked_options
@map_options
@limit_option
@click.option("--commit-every", default=20, type=click.IntRange(1), help="Batches between writes to the file.")
@figure_options()
@run_options(
    batch_size="Images in one pass; halved when they do not fit in memory.",
    workers=DECODING,
    seed="Seed of the images that an attack starts from.",
)
@classes_option
@model_options
def attack(
    model: str,
    images: tuple[str, ...],
    out: str,
    asked: Asked,
    of_maps: AskedOfMaps,
    limit: int | None,
    commit_every: int,
    page: Page,
    run: RunOptions,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Change images a little, so that a network takes them for something else.

    IMAGES are picture files, or one packed store, folder of classes or scenes[:COUNT[:SEED]]. Pixels are those that the
    network sees, from black, 0, to white, 1, and no pixel goes farther than epsilon. The same command resumes what was
    interrupted.

    \b
    Examples:
      deconvviz attack demo scenes:200:7 --method pgd --epsilons 0,1,2,4,8 -o pgd.h5
      deconvviz attack torchvision:squeezenet1_0 dog.jpg --method sparse -o sparse.h5
      deconvviz attack torchvision:squeezenet1_0 photos.h5 --method pgd --epsilon 2/255 -t tabby -o tabby.h5
      deconvviz attack demo scenes:20:7 --fools cam,gradient -l relu5 --edges threshold -o advedge.h5
    """
    if not out.endswith(".h5"):
        raise DataError(f"{out} given; expected a name that ends in .h5")
    check_place(out)
    asked.require_possible(of_maps)
    dataset = _opened(images)
    labelled = bool((dataset.labels >= 0).all())
    if asked.away_from == "label" and not labelled:
        raise DataError(NO_LABELS)
    from deconvviz.studies.attack.measure import attack as attack_images

    opened = open_model(model, options)
    network, preprocess, loaded = opened
    class_names = output_names(loaded, names, network, dataset)
    outputs = None
    if asked.away_from == "label" or (asked.away_from is None and labelled):
        otherwise = "each image is attacked away from the class that the network finds"
        outputs = matched_outputs(dataset, network, class_names, asked.away_from == "label", otherwise)
    study = attack_images(
        network,
        dataset,
        asked.method,
        out,
        preprocess=preprocess,
        names=class_names if len(class_names) == network.outputs else (),
        sources=sources(loaded),
        epsilons=asked.shares(),
        away_from=asked.away_from or ("top" if outputs is None else "label"),
        outputs=outputs,
        target=class_number(asked.target, class_names),
        loss=asked.loss,
        method_options=typed_options(asked.pairs, "steps=50"),
        limit=limit,
        keep=asked.keep,
        commit_every=commit_every,
        **{**of_maps.keywords(), "layer": of_maps.layer_in(network)},
        **run.keywords(),
    )
    _write(study, out, opened.name, page, preprocess.shown_words())


def _opened(paths: Sequence[str]) -> Images:
    """Open picture files, or one store, folder of classes or scenes."""
    from deconvviz.data.datasets import open_images
    from deconvviz.data.memory import InMemoryImages

    if not are_photos(paths):
        return open_images(paths[0])
    return InMemoryImages([read_image(path) for path in paths], names=[folder_and_name(path) for path in paths])


def _write(study: AttackStudy, out: str, network: str, page: Page, shown: str) -> None:
    """Write tables and figures beside the file, and print what was found."""
    from deconvviz.studies.attack.figure import draw_attack, draw_robustness
    from deconvviz.studies.attack.maps_figure import draw_fooled

    path = pathlib.Path(out)
    study.save_csv(beside(path, ".csv"))
    study.save_images_csv(beside(path, ".images.csv"))
    if len(study.shown):
        caption = (caption_of(study) if study.maps is None else maps_caption_of(study)) + shown
        draw = draw_attack if study.maps is None else draw_fooled
        what = network if study.maps is None else f"{network} and its {', '.join(study.fools)}"
        figure = draw(study, -1, f"{what} attacked by {study.config['method']}", caption, page)
        save_figure(figure, beside(path, ".png"), caption)
    if len(study.epsilons) > 1:
        caption = curves_caption_of(study)
        title = f"{network} under {study.config['method']}"
        figure = draw_robustness({study.config["method"]: study}, title, caption, page.beside())
        save_figure(figure, beside(path, ".robustness.png"), caption)
    click.echo(f"wrote {out}, {beside(path, '.csv')} and {beside(path, '.images.csv')}\n{study!r}")


def caption_of(study: AttackStudy) -> str:
    """Return what the figure of images shows."""
    wanted = {
        "label": "each away from its label's class",
        "top": "each away from the class that the network finds in it",
    }[study.config["away_from"]]
    epsilon, p = LEVELS * study.epsilons[-1], "p, the probability of the class that it shall not find"
    if study.target is not None:
        wanted = f"each towards {study.class_name(study.target)}"
        p = "p, the probability of the class that it shall leave, and then of the one that it shall find"
    return (
        f"{counted(len(study.shown), 'image')} of {study.done}, attacked, {wanted}; no pixel may change by more than "
        f"{epsilon:g}/255. Below each picture is the class that the network finds, and {p}. The change is "
        f"{study.shown_change}, from blue, darker, to red, lighter; all rows have one scale."
    )


def curves_caption_of(study: AttackStudy) -> str:
    """Return what the figure of curves shows."""
    return (
        f"{counted(study.done, 'image')}. Left: share of the images in which the network finds their own class. Right: "
        f"share of the {study.attackable.sum()} in which it found it before that fool it. Bands are 95 % intervals of "
        "each share by itself (Wilson 1927)."
    )
