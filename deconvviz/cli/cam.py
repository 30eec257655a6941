"""deconvviz cam"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from deconvviz.choices import CONVENTIONS
from deconvviz.cli.decisions import MEASURES, embedding_asked, question_of, target_option
from deconvviz.cli.explained import explain_image, make_explainers, open_subject, place_of
from deconvviz.cli.explaining import CAM_NOTE, DISPLAY_NOTE, MethodOptions, method_options, note_of, own_methods
from deconvviz.cli.inputs import image_file, read_image
from deconvviz.cli.listing import list_option
from deconvviz.cli.options import ModelOptions, classes_option, figure_options, model_options, run_options
from deconvviz.cli.outputs import check_figure, check_place, save_figure
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconvviz.cam.explain import Explainer
    from deconvviz.cli.decisions import Question
    from deconvviz.cli.explained import ExplainedImage, Subject
    from deconvviz.figures.page import Page
    from deconvviz.run.options import RunOptions

MOST_ROWS = 100  # of a figure
EACH = ("png", "pdf", "svg", "npz")


def _method_lines() -> Iterator[str]:
    """Yield the methods with their options and sources."""
    from deconvviz.cam.catalogue import method_declarations

    for method in method_declarations().values():
        options = ", ".join(f"{key}={value!r}" for key, value in method.defaults.items())
        yield f"{method.name:33s}{' '.join(method.docstring.split())[:150]}"
        if options:
            yield f"{'':33s}options: {options}"
        yield f"{'':33s}passes an image: {method.keywords['passes']}"
    yield f"\n{PASSES_NOTE}"


PASSES_NOTE = (
    "A tail goes from the layer to the output. K: channels of the layer; P: its positions; layers: how many are "
    "explained; windows: those that fit into the image; inner: whatever the method within runs."
)


def _colour_map(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """Return the name of a colour map; raises DataError where matplotlib has none of that name."""
    if name is None:
        return None
    from deconvviz.figures.overlay import require_colour_map

    require_colour_map(name)
    return name


@click.command(epilog=CAM_NOTE)
@click.argument("methods", callback=own_methods)
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    required=True,
    help="The figure: .png, .pdf or .svg; or .npz for the maps themselves; with --each a folder.",
)
@target_option
@click.option(
    "--each",
    type=click.Choice(EACH),
    help="Write a file of this kind for each image, into the folder that -o names.",
)
@click.option(
    "--call",
    metavar="FILE.py:FUNCTION",
    help="A function that makes of images [N, C, H, W] what the model is given: a tuple of arguments, a dict of "
    "keyword arguments, or one object; list for a model that takes a list of images.",
)
@click.option(
    "--convention",
    default="paper",
    type=click.Choice(CONVENTIONS),
    help="In which order a map is resized and scaled to 0..1.",
)
@click.option(
    "--signed",
    is_flag=True,
    help="Show maps as their equation gives them, what speaks against the class too: zero is pale, red is for it, "
    "blue against it.",
)
@click.option(
    "--colours",
    callback=_colour_map,
    help="Name of a matplotlib colour map.  [default: viridis; coolwarm with --signed]",
)
@figure_options("Methods in a row.")
@list_option(_method_lines, "List the methods and exit.")
@method_options
@run_options(
    batch_size="Masked images or changed values in one pass.",
    default_batch=32,
    precision="Precision of masked images and changed values; gradients are computed in fp32.",
    seed="Seed of the methods that draw masks, noise or orders.",
)
@classes_option
@model_options
def cam(
    methods: tuple[str, ...],
    model: str,
    images: tuple[str, ...],
    out: str,
    targets: tuple[str, ...],
    layout: str,
    each: str | None,
    call: str | None,
    convention: str,
    signed: bool,
    colours: str | None,
    page: Page,
    how: MethodOptions,
    run: RunOptions,
    names: str | None,
    options: ModelOptions,
) -> None:
    """Show where in an image a network found its class, a box, a segment, or what makes it like another image.

    METHODS is one method, or several with commas between them; `deconvviz cam --list` lists them with their options.
    IMAGES are photos, or folders of them.

    \b
    Examples:
      deconvviz cam grad-cam torchvision:squeezenet1_0 cat.jpg -l features.12 -o cam.png
      deconvviz cam grad-cam,score-cam,rise torchvision:resnet18 *.jpg -l layer4 --option masks=1000 -o sheet.png
      deconvviz cam l-cam-img torchvision:squeezenet1_0 cat.jpg --explainer lcam.pth -o cam.png
      deconvviz cam grad-cam torchvision:resnet18 photos/ --each png -o maps/
      deconvviz cam grad-cam torchvision:deeplabv3_resnet50 cat.jpg -t segment:cat -l backbone.layer4 -o cat.png
      deconvviz cam d-rise torchvision:retinanet_resnet50_fpn cat.jpg -t box:cat:40,60,200,220 -o box.png
    """
    paths = _images(images)
    _check_out(out, each, len(paths) * max(len(targets), 1))
    outs = [out] if each is None else _files_of_images(paths, images, out, each)
    how.require_explainers(methods)
    # What a figure shows is read before any work; of many files each is read when its turn comes.
    files = [str(image_file(path)) for path in paths]
    photos = map(read_image, files) if each else [read_image(file) for file in files]
    if each:
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    subject = open_subject(model, options, how.layers, call)
    subject = subject.ending_at(embedding_asked(targets, subject))
    class_names = subject.names(names) if subject.whole is None else ()
    questions = [question_of(text, subject, class_names, layout) for text in targets or (None,)]
    example = subject.preprocess.picture(read_image(paths[0]))
    explainers = make_explainers(methods, subject, how, run, convention, example)
    sheet = _Sheet(subject, explainers, questions, methods, convention, signed, colours, page)
    rows: list[ExplainedImage] = []
    with run.bar("image", len(paths), "explaining") as bar:
        for number, (path, photo) in enumerate(zip(paths, photos, strict=True)):
            of_image = [explain_image(photo, path, question, subject, explainers, signed) for question in questions]
            if each is None:
                rows += of_image
            else:
                sheet.write(of_image, outs[number])
            bar.update()
    if each is None:
        sheet.write(rows, out)


def _images(given: Sequence[str]) -> list[str]:
    """Return the paths of images, with those of a folder in its place; raises DataError for a folder without images."""
    from deconvviz.data.sources import folder_source

    paths: list[str] = []
    for path in given:
        if pathlib.Path(path).is_dir():
            of_folder = [str(entry.content) for entry in folder_source(pathlib.Path(path)).entries]
            if not of_folder:
                raise DataError(f"{path} holds no images; give photos, or a folder of them")
            paths += of_folder
        else:
            paths.append(path)
    return paths


def _check_out(out: str, each: str | None, rows: int) -> None:
    """Check where results go before any work; raises DataError."""
    if each is not None:
        if pathlib.Path(out).is_file() or pathlib.Path(out).suffix in {f".{kind}" for kind in EACH}:
            raise DataError(f"-o {out} given with --each; expected a folder for the files of the images")
    elif out.endswith(".npz"):
        check_place(out)
    else:
        if pathlib.Path(out).suffix.lower().lstrip(".") not in EACH:
            raise DataError(f"-o {out} given; expected a name that ends in {', '.join(f'.{kind}' for kind in EACH)}")
        check_figure(out)
        if rows > MOST_ROWS:
            raise DataError(
                f"{rows} rows are too many for a figure of at most {MOST_ROWS}; write a file for each image with "
                "--each png, or the maps alone: -o maps.npz"
            )


def _files_of_images(paths: Sequence[str], given: Sequence[str], out: str, kind: str) -> list[str]:
    """Return the path of the file of each image; raises DataError where two images would have the same one."""
    path_by_file: dict[str, str] = {}
    for path in paths:
        file = str(pathlib.Path(out, _file_name(path, given, kind)))
        if file in path_by_file:
            raise DataError(
                f"{path_by_file[file]} and {path} would both be written to {file}; explain them in two calls, or give "
                "a folder that holds both"
            )
        path_by_file[file] = path
    return list(path_by_file)


def _file_name(path: str, given: Sequence[str], kind: str) -> str:
    """Return the name of the file of an image: its own, with the folders below the one that was given.

    >>> _file_name("photos/tabby/0900.jpg", ["photos"], "png"), _file_name("photos/cat.jpg", ["photos/cat.jpg"], "npz")
    ('tabby_0900.png', 'cat.npz')
    """
    for folder in given:
        if path != folder and pathlib.PurePath(path).is_relative_to(folder):
            path = str(pathlib.PurePath(path).relative_to(folder))
            return "_".join(pathlib.PurePath(path).with_suffix(f".{kind}").parts)
    return pathlib.PurePath(path).with_suffix(f".{kind}").name


FINISHED = {
    "paper": "Maps are resized to the image, then scaled from their lowest value (0) to their highest (1).",
    "pytorch-grad-cam": "What is positive in a map is scaled to 0..1, resized to the image, and scaled again.",
    "torch-cam": "Maps are scaled from their lowest value (0) to their highest (1), then resized to the image.",
}
SIGNED_MAPS = (
    "Maps are as their equation gives them, each divided by its largest absolute value: pale is zero, red speaks for "
    "the target and blue against it."
)


@dataclass(frozen=True)
class _Sheet:
    """What the files of a command have in common; the fields are the command's options."""

    subject: Subject
    explainers: Sequence[Explainer]
    questions: Sequence[Question]
    methods: Sequence[str]
    convention: str
    signed: bool
    colours: str | None
    page: Page

    def write(self, rows: Sequence[ExplainedImage], out: str) -> None:
        """Write a figure of rows, or their maps as arrays."""
        if out.endswith(".npz"):
            _save_arrays(out, self.methods, rows, len(self.questions), self.signed)
            return
        passes = "; ".join(f"{explainer.method.name}: {_counted(explainer.passes)}" for explainer in self.explainers)
        details = f"Passes over the last image (tail: from the layer to the output): {passes}."
        save_figure(self._figure(rows), out, self._caption(rows), details)

    def _figure(self, rows: Sequence[ExplainedImage]) -> Figure:
        from deconvviz.figures.overlay import SIGNED, VIRIDIS, Shades, draw_maps
        from deconvviz.figures.sheet import image_label, shortened

        labels = [f"{image_label(row.name, 26)}\n{shortened(row.words, 27)}, {row.measure}" for row in rows]
        return draw_maps(
            [row.picture for row in rows],
            [row.maps for row in rows],
            labels,
            self.methods,
            f"{self.subject.name}{place_of(self.explainers)}",
            self._caption(rows),
            Shades(self.colours or (SIGNED if self.signed else VIRIDIS.colours), self.signed),
            self.page,
            [row.box for row in rows],
        )

    def _caption(self, rows: Sequence[ExplainedImage]) -> str:
        measures = " ".join(dict.fromkeys(MEASURES[question.kind][1] for question in self.questions))
        kind = SIGNED_MAPS if self.signed else FINISHED[self.convention]
        lengths = _lengths(self.explainers, rows[0].size) + self.subject.preprocess.shown_words()
        return f"{measures} {kind}{lengths}\n{note_of(self.methods)} {DISPLAY_NOTE}"


def _counted(passes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in passes.items())


def _lengths(explainers: Sequence[Explainer], size: tuple[int, int]) -> str:
    """Return a sentence with the methods' options that are lengths, or nothing where they have none."""
    texts = []
    for explainer in explainers:
        lengths = explainer.lengths(size)
        if lengths:
            options = ", ".join(f"{name} {_rounded(value)}" for name, value in lengths.items())
            texts.append(f"{explainer.method.name}: {options}")
    return f" In pixels: {'; '.join(texts)}." if texts else ""


def _rounded(value: float | Sequence[float]) -> str:
    """Return a length, or those of a blur, as text."""
    return " and ".join(f"{each:.3g}" for each in ([value] if isinstance(value, int | float) else value))


def _save_arrays(
    out: str, methods: Sequence[str], rows: Sequence[ExplainedImage], questions: int, signed: bool
) -> None:
    """Write the maps: an array for each method, [images, H, W], or [images, targets, H, W] of several targets."""
    import numpy as np

    from deconvviz.results.files import atomic

    sizes = {row.maps[0].shape for row in rows}
    if len(sizes) > 1:
        raise DataError(
            f"the maps have {len(sizes)} sizes, which one array cannot hold; write a file for each image: --each npz"
        )
    arrays = {method: np.stack([row.maps[number] for row in rows]) for number, method in enumerate(methods)}
    if questions > 1:
        arrays = {method: maps.reshape(-1, questions, *maps.shape[1:]) for method, maps in arrays.items()}
    shape = "[images, targets, H, W]" if questions > 1 else f"[{len(rows)}, H, W]"
    with atomic(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    click.echo(f"wrote {out}: {', '.join(methods)}, each {shape} in {'-1' if signed else '0'}..1")
