"""deconvviz recurrent"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import click

from deconvviz.cli.dependent import Dependent
from deconvviz.cli.inputs import read_image
from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import device_option, option_group, run_options
from deconvviz.cli.outputs import command_line
from deconvviz.errors import DataError, ModelError
from deconvviz.studies.recurrent.naming import SPLITS, TOKENS
from deconvviz.studies.recurrent.responses import PARTS

if TYPE_CHECKING:
    from deconvviz.run.options import RunOptions
    from deconvviz.studies.recurrent.model import RecurrentModel
    from deconvviz.studies.recurrent.result import RecurrentViews


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the command line says of the sequences.

    Attributes:
        tokens: "characters" or "words"; None for the model's own.
        split: what is a sequence, "lines" or "file".
        carry: whether a sequence goes on from the states after the one before.
    """

    tokens: str | None
    split: str
    carry: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookedAt:
    """What the command line says of the views.

    Attributes:
        properties: names of properties.
        permutations: of each.
        groups: of tokens and units.
        part: by which part of the responses they are made.
        chosen: the range whose units are looked for elsewhere, as text.
        threshold: activity from which a unit is on.
        magnitude: whether a strongly negative activity counts as on.
        edges: whether the units must be off just outside of the range.
        k: passages of each unit.
        explain: which outputs are explained, as text.
        epsilon: the stabiliser of relevance.
        shown: steps of the coloured text.
    """

    properties: tuple[str, ...]
    permutations: int
    groups: int
    part: str
    chosen: str | None
    threshold: float
    magnitude: bool
    edges: bool
    k: int
    explain: tuple[str, ...]
    epsilon: float
    shown: int

    def keywords(self) -> dict[str, Any]:
        """Return them as the keyword arguments of `recurrent`; raises DataError for a text that cannot be read."""
        keywords = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        explain = keywords.pop("explain")
        return {**keywords, "chosen": _range(self.chosen), "explained": list(map(_place, explain)) or None}


read_options = option_group(
    "reading",
    ReadOptions,
    click.option("--tokens", type=click.Choice(TOKENS), help="What a token of a text is.  [default: the model's own]"),
    click.option(
        "--split",
        default=SPLITS[0],
        type=click.Choice(SPLITS),
        help="What a sequence is: each line, or the whole file.",
    ),
    click.option(
        "--carry",
        is_flag=True,
        help="A sequence goes on from the states after the one before, as in a training that did not set them to zero.",
    ),
)
view_options = option_group(
    "looked",
    LookedAt,
    click.option(
        "--property",
        "properties",
        multiple=True,
        metavar="NAME|FILE.csv:COLUMN",
        help="What units may track: position, quotes, depth, or a column with a row for each step; several.  "
        "[default: all that vary]",
    ),
    click.option("--permutations", default=200, type=click.IntRange(1), help="Rotations of each property, for chance."),
    click.option("--groups", default=4, type=click.IntRange(0), help="Groups of tokens and units; 0 for none."),
    click.option(
        "--part", default=PARTS[0], type=click.Choice(PARTS), help="Part of the responses by which groups are made."
    ),
    click.option(
        "--range",
        "chosen",
        metavar="SEQUENCE:FIRST-LAST",
        help="Steps whose units are looked for elsewhere, from 0.  [default: the longest run of the best unit, of at "
        "most 40 steps]",
    ),
    click.option("--threshold", default=0.3, type=FiniteRange(), help="Activity from which a unit counts as on."),
    click.option("--magnitude", is_flag=True, help="Count a strongly negative activity as on, too."),
    click.option("--edges", is_flag=True, help="Units of the range must be off just outside of it."),
    click.option("-k", default=5, type=click.IntRange(1), help="Passages of each unit."),
    click.option(
        "--explain",
        multiple=True,
        metavar="SEQUENCE[:STEP]",
        help="Explain the highest output at a step, from 0; several.  [default: the last one of the first three]",
    ),
    click.option("--epsilon", default=1e-3, type=FiniteRange(), help="Stabiliser of the relevance."),
    click.option("--shown", default=2000, type=click.IntRange(1), help="Steps of the coloured text on the page."),
)


@click.command()
@click.argument("model", metavar="FILE.py:FACTORY")
@click.argument("sequences", required=False)
@click.option("-o", "--out", required=True, help="A folder; an unfinished recording in it is continued.")
@read_options
@view_options
@click.option("--image", metavar="FILE", help="Explain the caption that the network gives this picture.")
@click.option(
    "--words",
    cls=Dependent,
    needs="--image",
    help="The caption, with spaces between its words.  [default: the most probable one]",
)
@click.option(
    "-m",
    "--method",
    cls=Dependent,
    needs="--image",
    default="lrp-composite",
    help="Method of `deconvviz cam` that carries relevance through the CNN.",
)
@run_options(batch_size="Sequences in one pass.", default_batch=64, seed="Seed of rotations and groups.")
@device_option
def recurrent(
    model: str,
    sequences: str | None,
    out: str,
    reading: ReadOptions,
    looked: LookedAt,
    image: str | None,
    words: str | None,
    method: str,
    run: RunOptions,
    device: str,
) -> None:
    """Show what the units of a recurrent network do, and which tokens made its outputs. Open OUT/index.html.

    FACTORY is a function that returns a module with an LSTM, a GRU or an RNN of torch.nn in it, or a dv.RecurrentModel,
    which names its parts and its vocabulary. SEQUENCES is a text, or a .npy, .npz or HDF5 file of vectors. States and
    gates are recorded step by step. The page has text coloured by each unit, the expected response of units to tokens,
    shares of time in which gates are shut or open, units that track a property, units that are on together, the
    passages in which each is most active, and the relevance of tokens. With --image a caption is explained: each word
    by the words before, and by where in the image it comes from.

    \b
    Examples:
      deconvviz recurrent examples/character_lstm.py:make brackets.txt -o views
      deconvviz recurrent examples/captioner.py:make --image scene.png -o caption
    """
    if sequences is None and image is None:
        raise DataError("neither sequences nor an --image given; give one of them")
    options = looked.keywords()
    import torch

    from deconvviz.run.opening import device_of
    from deconvviz.studies.recurrent.caption import explain_caption
    from deconvviz.studies.recurrent.model import load_recurrent
    from deconvviz.studies.recurrent.page import write_views

    loaded = load_recurrent(model)
    if reading.tokens is not None:
        loaded = dataclasses.replace(loaded, tokens=reading.tokens)
    loaded = loaded.to(device_of(device), torch.float32)
    pixels = None if image is None else read_image(image)
    words_of_user = words.split() if words else None
    caption = None if pixels is None else explain_caption(loaded, pixels, words=words_of_user, method=method)
    views = None
    if sequences is not None:
        views = _views(loaded, model, sequences, out, reading, {**options, **run.keywords()})
        click.echo(repr(views))
    if caption is not None:
        click.echo(repr(caption))
    read = " and ".join(part for part in (sequences, image) if part)
    page = write_views(out, views, caption, read=read, command=command_line())
    click.echo(f"open {page}")


def _views(
    model: RecurrentModel, spec: str, path: str, out: str, reading: ReadOptions, options: dict[str, Any]
) -> RecurrentViews:
    """Read the sequences, and measure."""
    from deconvviz.data.vector_files import is_vector_file
    from deconvviz.studies.recurrent.measure import recurrent as measure
    from deconvviz.studies.recurrent.sequences import read_sequences

    if model.embedding is not None and is_vector_file(path):
        raise ModelError(f"{path} has vectors, and {model.name} has an embedding, which reads tokens; give a text")
    sequences = read_sequences(
        path,
        model.vocabulary,
        tokens=model.tokens,
        split=reading.split,
        unknown=model.unknown,
        count=model.token_count,
    )
    if not model.vocabulary and sequences.vocabulary:
        click.echo(
            "note: the network names no vocabulary: its tokens are numbered as those of the text are, in their order",
            err=True,
        )
    sources = {"model": spec, "sequences": path, "command": command_line()}
    return measure(model, sequences, out=out, sources=sources, carry=reading.carry, **options)


def _range(text: str | None) -> tuple[int, int, int] | None:
    """Read SEQUENCE:FIRST-LAST."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)-(\d+)", text)
    if match is None:
        raise DataError(f"--range {text} given; expected SEQUENCE:FIRST-LAST, such as 0:12-17")
    return int(match[1]), int(match[2]), int(match[3])


def _place(text: str) -> tuple[int, int]:
    """Read SEQUENCE or SEQUENCE:STEP; the last step is -1."""
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if match is None:
        raise DataError(f"--explain {text} given; expected SEQUENCE or SEQUENCE:STEP, such as 0:17")
    return int(match[1]), -1 if match[2] is None else int(match[2])
