"""deconvviz evaluate"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from deconvviz.choices import Precision
from deconvviz.cli.cam import CAM_NOTE, layers_of, methods_options
from deconvviz.cli.inputs import captured, load, matched_outputs, output_names
from deconvviz.cli.options import ModelOptions, classes_option, explainer_option, model_options
from deconvviz.cli.outputs import save_figure, sources
from deconvviz.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from deconvviz.data.datasets import Images
    from deconvviz.data.preprocess import Preprocess
    from deconvviz.graph.network import Network
    from deconvviz.studies.evaluation.mistakes import Mistakes

SANITY_NOTE = (
    "A method whose map stays alike when the weights are random does not show what the network has learned. Explained "
    "is the randomised network's own top class."
)


@click.command(epilog=CAM_NOTE)
@click.argument("model")
@click.argument("images")
@click.option("-m", "--method", "methods", multiple=True, required=True, help="A method; give as many as you like.")
@click.option("-l", "--layer", "layers", multiple=True, help="The layer to explain; several are fused.")
@click.option("-o", "--out", required=True, help="The table, .csv; beside it the figure .png and the values .h5.")
@click.option(
    "--metrics",
    default="faithfulness,adcc,curves",
    show_default=True,
    help="Groups of metrics: faithfulness, adcc, curves, road, localisation.",
)
@click.option(
    "--truth",
    metavar="CSV|FOLDER",
    help="Where the object is, for localisation: boxes (columns image, left, top, right, bottom) or a folder of masks "
    "(IMAGE.png); scenes know it.",
)
@click.option(
    "--explain",
    default="top",
    show_default=True,
    type=click.Choice(["top", "label"]),
    help="Own top class, or label's.",
)
@click.option("--fill", default="mean", show_default=True, type=click.Choice(["mean", "black"]), help="Masked pixels.")
@click.option("--steps", default=28, show_default=True, type=click.IntRange(2), help="Of deletion and insertion.")
@click.option(
    "--sanity",
    type=click.Choice(["cascading", "independent"]),
    help="Also randomise the network's layers, all of them from the last on, or each by itself.",
)
@click.option("--sanity-images", default=8, show_default=True, type=click.IntRange(1), help="The first images only.")
@click.option("--option", "given", multiple=True, metavar="KEY=VALUE", help="An option of the methods that have it.")
@click.option("--limit", type=click.IntRange(1), help="The first images only.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Masked images at once.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--seed", default=0, show_default=True, help="Of methods that draw masks, noise or orders.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@explainer_option
@classes_option
@model_options
def evaluate(
    model: str,
    images: str,
    methods: tuple[str, ...],
    layers: tuple[str, ...],
    out: str,
    metrics: str,
    truth: str | None,
    explain: str,
    fill: str,
    steps: int,
    sanity: str | None,
    sanity_images: int,
    given: tuple[str, ...],
    limit: int | None,
    batch_size: int,
    precision: Precision,
    seed: int,
    quiet: bool,
    explainer_files: tuple[str, ...],
    names: str | None,
    options: ModelOptions,
) -> None:
    """Measure how far methods' maps tell what a network relies on.

    IMAGES is a packed store, a folder of classes or scenes[:COUNT[:SEED]]. Interrupted, the same command goes on where
    the .h5 file stands. Where it is known which output is which class, .wrong.csv lists the images named wrongly, with
    how alike the first method's maps for the true and the predicted class are, .wrong.png shows them, and
    .confusions.csv has the pairs that recur.

    \b
    Examples:
      deconvviz evaluate torchvision:resnet18 photos.h5 -l layer4 -m grad-cam -m recipro-cam -o table.csv
      deconvviz evaluate demo scenes:99:7 -l relu5 -m grad-cam -m lrp-zplus --metrics localisation -o scenes.csv
    """
    from deconvviz.data.datasets import open_images
    from deconvviz.data.truth import open_truth
    from deconvviz.studies.evaluation.figure import draw_evaluation
    from deconvviz.studies.evaluation.measure import evaluate as measure
    from deconvviz.studies.evaluation.result import directions

    table = pathlib.Path(out)
    if table.suffix != ".csv":
        raise DataError(f"{out} given; expected a name that ends in .csv")
    found_images = open_images(images)
    known = open_truth(truth, found_images)
    loaded, preprocess = load(model, options)
    network = captured(loaded, preprocess, options.device)
    called, needed = output_names(loaded, names), explain == "label" or names is not None
    told = needed or (found_images.labels >= 0).any()
    outputs = matched_outputs(found_images, network, called, needed, "mistakes are not listed") if told else None
    chosen = methods_options(methods, given, explainer_files)
    groups = [name.strip() for name in metrics.split(",")]
    found = measure(
        network,
        found_images,
        chosen,
        layers,
        table.with_suffix(".h5"),
        preprocess=preprocess,
        metrics=groups,
        truth=known if "localisation" in groups else None,
        explain=explain,
        outputs=outputs,
        fill=fill,
        steps=steps,
        limit=limit,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
        progress=not quiet,
        sources=sources(loaded),
    )
    found.save_csv(table)
    caption = (
        f"{len(found.names)} images of {pathlib.PurePath(images).name}; explained is the "
        f"{'own top class' if explain == 'top' else 'label'}"
        f"; masked pixels become {fill}. Maps are each scaled to their own range. Curves are means; bars are means, "
        "whiskers their 95 % intervals."
    )
    where = f" at {', '.join(layers)}" if layers else ""
    figure = draw_evaluation(found, directions(found.columns), f"Explanations of {network.name}{where}", caption)
    save_figure(figure, _beside(table, ".png"), caption)
    click.echo(f"wrote {table} and {table.with_suffix('.h5')}\n{found!r}")
    if outputs is not None:
        shared = {"batch_size": batch_size, "precision": precision, "seed": seed}
        _mistakes(
            table,
            network,
            found_images,
            methods[0],
            layers,
            {**shared, **chosen[methods[0]]},
            preprocess,
            outputs,
            called,
            len(found.names),
        )
    if sanity:
        _sanity(table, network, loaded.model, found_images, chosen, layers, preprocess, sanity, sanity_images, seed)


def _beside(table: pathlib.Path, ending: str) -> str:
    return str(table.with_suffix(ending))


def _mistakes(
    table: pathlib.Path,
    network: Network,
    images: Images,
    method: str,
    layers: Sequence[str],
    options: dict[str, Any],
    preprocess: Preprocess,
    outputs: NDArray[np.int64],
    names: Sequence[str],
    count: int,
) -> None:
    """List what the network gets wrong, explained by the first method, and show the first few."""
    from deconvviz.cam.explain import cam
    from deconvviz.figures.overlay import draw_maps
    from deconvviz.studies.evaluation.mistakes import mistakes

    explainer = cam(method, network, layers_of(method, layers), **options)
    told: Mistakes = mistakes(network, images, explainer, preprocess, outputs, names, range(count))
    told.save_csv(table.with_suffix(".wrong.csv"), table.with_suffix(".confusions.csv"))
    click.echo(repr(told))
    if not len(told.maps):
        return
    shown = told.found[: len(told.maps)]
    rows = [
        f"true {told.names[m.true][:20]} {m.p_true:.2f}\n{told.names[m.predicted][:14]} {m.p_predicted:.2f}, "
        f"overlap {m.overlap:.2f}"
        for m in shown
    ]
    pictures = [preprocess.picture(images[m.image][0]) for m in shown]
    caption = (
        f"The first {len(shown)} of {len(told.found)} images named wrongly, of {told.count}: {method} for the true "
        "class and for the predicted one; overlap is the maps' correlation. Each map is scaled to its own range."
    )
    title = f"Images that {network.name} names wrongly"
    figure = draw_maps(pictures, [list(m) for m in told.maps], rows, ["true class", "predicted"], title, caption)
    save_figure(figure, _beside(table, ".wrong.png"), caption)


def _sanity(
    table: pathlib.Path,
    network: Network,
    model: nn.Module,
    images: Images,
    chosen: dict[str, dict[str, Any]],
    layers: Sequence[str],
    preprocess: Preprocess,
    how: str,
    count: int,
    seed: int,
) -> None:
    """Randomise the network and see which methods' maps follow."""
    import numpy as np

    from deconvviz.studies.evaluation.sanity import explained_by, sanity_check, save_sanity
    from deconvviz.studies.evaluation.sanity_figure import draw_sanity

    pictures = np.stack([preprocess.picture(images[n][0]) for n in range(min(count, len(images)))])
    x = preprocess.tensor(pictures, network.device, network.dtype)
    model = model.to(network.device)
    found = {}
    for name, own in chosen.items():
        if "explainer" in own:
            click.echo(
                f"note: no sanity check of {name}: a trained explainer belongs to one network's weights", err=True
            )
            continue
        explain = explained_by(name, network, layers, seed=seed, **own)
        found[name] = sanity_check(explain, model, x, how, seed)
        last = found[name].similarity["spearman"][-1].mean()
        verdict = "passes" if found[name].passes() else "FAILS"
        click.echo(f"sanity, {how}: {name} {verdict} (rank correlation {last:.2f} after the last layer)")
    if not found:
        return
    save_sanity(found, _beside(table, ".sanity.csv"))
    caption = f"{len(x)} images; {how} randomisation, seed {seed}. {SANITY_NOTE}"
    save_figure(draw_sanity(found, f"Sanity check of {network.name}", caption), _beside(table, ".sanity.png"), caption)
