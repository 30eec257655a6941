"""The options of commands that can run on a Ray cluster; they reach a command as one object."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import click

from deconvviz.cli.numbers import FiniteRange
from deconvviz.cli.options import Command, with_options
from deconvviz.errors import DataError
from deconvviz.run.cluster import RayOptions, require_address, require_ray


def ray_options(command: Command) -> Command:
    """Add --ray, --ray-shards, --ray-cpus, --ray-gpus and --ship; they reach the command as `cluster`.

    It is None where --ray is not given.
    """
    options = (
        click.option(
            "--ray",
            "address",
            is_flag=False,
            flag_value="auto",
            metavar="[ADDRESS]",
            callback=_address,
            help="Run on a Ray cluster, such as --ray 10.0.0.1:6379; without an address on the one that this machine "
            "belongs to, else on this machine. OUT has to be on storage that every node sees.",
        ),
        click.option(
            "--ray-shards", "shards", type=click.IntRange(1), help="Parts of the job.  [default: two for each slot]"
        ),
        click.option("--ray-cpus", "cpus", type=click.IntRange(1), help="Processors for each part.  [default: 1]"),
        click.option(
            "--ray-gpus",
            "gpus",
            type=FiniteRange(0),
            help="GPUs for each part, also a fraction.  [default: 1 where the cluster has any]",
        ),
        click.option(
            "--ship", is_flag=True, help="Send the model's files and the images to the nodes; else each has them."
        ),
    )
    names = [field.name for field in dataclasses.fields(RayOptions)]

    @functools.wraps(command)
    def grouped(**arguments: Any) -> None:
        given = {name: value for name in names if (value := arguments.pop(name)) not in (None, False)}
        if given and "address" not in given:
            raise DataError("--ray-shards, --ray-cpus, --ray-gpus and --ship belong to --ray; add --ray")
        command(cluster=RayOptions(**given) if given else None, **arguments)

    return with_options(grouped, *options)


def _address(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """Check what --ray is given before anything is loaded: it may have taken the word behind it for an address."""
    if given is not None:
        require_ray()
        require_address(given)
    return given
