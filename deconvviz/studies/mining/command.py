"""deconvviz mine and merge: from a packed store to the images that activate each channel most."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import click

from deconvviz.cli.cluster import ray_options
from deconvviz.cli.following import following
from deconvviz.cli.inputs import open_model, remote_model
from deconvviz.cli.options import (
    DECODING,
    ModelOptions,
    layers_option,
    limit_option,
    model_options,
    run_options,
    shard_option,
)
from deconvviz.cli.outputs import check_table, sources
from deconvviz.errors import DataError

if TYPE_CHECKING:
    from deconvviz.run.cluster import RayOptions
    from deconvviz.run.options import RunOptions
    from deconvviz.run.sharding import ShardedKeywords
    from deconvviz.studies.mining.result import MinedLayer

MERGES = {"mined": ("studies.mining.merge", "merge"), "relevance": ("studies.relevance.merge", "merge_relevance")}
"""Kind of file -> the module and the function that join its shards, by name: a study does not import another."""


@click.command()
@click.argument("model")
@click.argument("images")
@layers_option("Name of a layer to mine; give as many as you like.", required=True)
@click.option("-o", "--out", required=True, help="The mined file; an unfinished one is resumed.")
@click.option("-k", default=9, type=click.IntRange(1), help="Images to keep for each channel.")
@limit_option
@shard_option("Take each n-th image from the i-th on; join the n files with `deconvviz merge`.")
@click.option("--csv", "table", metavar="FILE", help="Also write a table of the images of each channel, named .csv.")
@click.option("--commit-every", default=20, type=click.IntRange(1), help="Batches between writes to the file.")
@run_options(
    batch_size="Images in one pass; halved when they do not fit in memory.",
    precision="Number format of the forward passes.",
    workers=DECODING,
)
@ray_options
@model_options
def mine(
    model: str,
    images: str,
    layers: tuple[str, ...],
    out: str,
    k: int,
    limit: int | None,
    shard: tuple[int, int] | None,
    table: str | None,
    commit_every: int,
    run: RunOptions,
    cluster: RayOptions | None,
    options: ModelOptions,
) -> None:
    """Find the k images that activate each channel most, in one pass over a packed store.

    IMAGES is a store that `deconvviz pack` wrote, or scenes[:COUNT[:SEED]]; gpu:STORE lets a GPU decode its JPEG files.
    After an interruption, even by a power cut, the same command resumes.

    \b
    Examples:
      deconvviz mine torchvision:squeezenet1_0 photos.h5 -l features.3 -l features.7 -o mined.h5
      deconvviz mine timm:resnet50 photos.h5 -l layer4 -o mined.h5 --precision bf16 --ray 10.0.0.1:6379
    """
    from deconvviz.data.datasets import open_store, place_of
    from deconvviz.run.shipping import RemoteImages
    from deconvviz.studies.mining.directions import learner
    from deconvviz.studies.mining.mine import mine as mine_images
    from deconvviz.studies.mining.on_ray import MiningJob, mine_on_ray

    if cluster is not None and shard is not None:
        raise DataError("--shard and --ray given; Ray makes the shards itself: leave --shard out")
    if table is not None:
        check_table(table)
    with open_store(images) as store:
        if cluster is not None and any("[" in layer for layer in layers):
            raise DataError("directions and --ray given; mine directions on this machine: leave --ray out")
        learn = partial(learner, images=store, out=out, limit=limit, **run.keywords())
        network, preprocess, loaded = open_model(model, options, layers, learn)
        keywords: ShardedKeywords = {
            "limit": limit,
            "shard": shard,
            "commit_every": commit_every,
            **run.keywords(),
        }
        made_by = sources(loaded)
        if cluster is not None:
            job = MiningJob(
                model=remote_model(model, options, preprocess),
                images=RemoteImages.of(images),
                sources={**place_of(store), **made_by},
                layers=tuple(dict.fromkeys(layers)),
                k=k,
                options=keywords,
            )
            mined = mine_on_ray(network, store, job, out, cluster)
        else:
            mined = mine_images(network, store, layers, k, out, preprocess=preprocess, sources=made_by, **keywords)
        if table is not None:
            mined.save_csv(table, store)
            click.echo(f"wrote {table}")
    click.echo(repr(mined))
    _warn_of_broken_values(mined)
    click.echo(_what_follows(out, layers[-1], shard))


def _what_follows(out: str, layer: str, shard: tuple[int, int] | None) -> str:
    """Return what was written and what comes next, as a line."""
    if shard is not None:
        return f"wrote {out}, shard {shard[0]} of {shard[1]}; `deconvviz merge` joins the files of all shards"
    from deconvviz.graph.directions import parsed

    own_layer, source = parsed(layer) or (layer, "")
    named = pathlib.Path(source).stem.replace(":", "")  # a file may be in a folder; pca:5 is no good name for one
    words = "grid", out, "-l", layer, "-o", f"{own_layer}.{named}.png" if named else f"{own_layer}.png"
    return f"wrote {out}; next: {following(*words, carry=('shown', 'device'))}"


def _warn_of_broken_values(mined: Mapping[str, MinedLayer]) -> None:
    for name, layer in mined.items():
        broken = int(layer.activity.broken.sum())
        if broken:
            channels = [int(channel) for channel in layer.activity.broken.nonzero()[0][:5]]
            click.echo(
                f"warning: {name} gave {broken} NaN or infinite values (channels {channels} ...); they were left out",
                err=True,
            )


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="The file of all shards.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def merge(files: tuple[str, ...], out: str, force: bool) -> None:
    """Join the mined or relevance files of all shards of one job.

    \b
    Example:
      deconvviz merge part0.h5 part1.h5 -o mined.h5
    """
    from deconvviz.results.results import kind_of

    kind, _ = kind_of(files[0])
    module, function = MERGES.get(kind, MERGES["mined"])
    join = getattr(importlib.import_module(f"deconvviz.{module}"), function)
    click.echo(repr(join(files, out, force)))
    click.echo(f"wrote {out}")
