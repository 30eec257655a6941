"""deconvviz mine"""

from __future__ import annotations

import re

import click

from deconvviz.cli.inputs import captured, load
from deconvviz.cli.options import ModelOptions, model_options
from deconvviz.cli.outputs import sources
from deconvviz.errors import DataError


@click.command()
@click.argument("model")
@click.argument("images")
@click.option("-l", "--layer", "layers", multiple=True, required=True, help="A layer's name; give as many as you like.")
@click.option("-o", "--out", required=True, help="The mined file; an unfinished one is continued.")
@click.option("-k", default=9, show_default=True, type=click.IntRange(1), help="Images a channel.")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Halved when it does not fit in memory. [default: 16; 64 on a GPU]"
)
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Threads that decode images.")
@click.option("--limit", type=click.IntRange(1), help="The first images only.")
@click.option(
    "--shard", metavar="i/n", help="Every n-th image from the i-th on; join the n files with `deconvviz merge`."
)
@click.option("--commit-every", default=20, show_default=True, type=click.IntRange(1), help="Batches between commits.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@model_options
def mine(
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    k: int,
    batch_size: int | None,
    precision: str,
    workers: int,
    limit: int | None,
    shard: str | None,
    commit_every: int,
    quiet: bool,
    options: ModelOptions,
) -> None:
    """Find the k images that activate each channel most, in one pass over a packed store.

    Interrupted, even by a power cut, the same command continues where the file stands.

    \b
    Example:
      deconvviz mine torchvision:squeezenet1_0 photos.h5 -l features.3 -l features.7 -o mined.h5
    """
    from deconvviz.data.images import ImageStore
    from deconvviz.studies.mining.mine import mine as mine_images

    part = _shard(shard)
    with ImageStore.open(images) as store:
        loaded, preprocess = load(model, options)
        network = captured(loaded, preprocess, options.device)
        mined = mine_images(
            network,
            store,
            layers,
            k,
            out,
            preprocess=preprocess,
            batch_size=batch_size,
            precision=precision,
            workers=workers,
            limit=limit,
            shard=part,
            commit_every=commit_every,
            progress=not quiet,
            sources=sources(loaded),
        )
    click.echo(repr(mined))
    for name, layer in mined.items():
        broken = int(layer.activity.broken.sum())
        if broken:
            worst = [int(c) for c in layer.activity.broken.nonzero()[0][:5]]
            click.echo(
                f"warning: {name} gave {broken} NaN or infinite values (channels {worst} ...); they were left out",
                err=True,
            )
    click.echo(f"wrote {out}; next: deconvviz grid {out} -l {layers[-1]} -o {layers[-1]}.png")


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise DataError(f"shard {text!r} given; expected i/n with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])
