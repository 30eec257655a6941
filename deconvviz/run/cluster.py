"""RayOptions: where and in how many shards a job runs on a cluster."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass

from deconvviz.errors import DataError, missing_library, require

ADDRESS = re.compile(r"auto|local|(ray://)?[^\s/]+:\d+")


def require_ray() -> None:
    """Raise DataError where Ray is not installed; it is not imported."""
    if importlib.util.find_spec("ray") is None:
        raise DataError(f"no cluster can be used: {missing_library('ray[client]')}; every node needs it")


def require_address(address: str) -> None:
    """Raise DataError where a text cannot be the address of a cluster.

    >>> require_address("10.0.0.1:6379")
    """
    if not ADDRESS.fullmatch(address):
        raise DataError(
            f"no Ray cluster answers at {address}: expected HOST:PORT or ray://HOST:PORT; for a cluster of this "
            "machine give --ray without an address, as the last word"
        )


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where and in how many shards a job runs on Ray.

    Attributes:
        address: of a running cluster, as `ray.init` takes it: "10.0.0.1:6379", "ray://10.0.0.1:10001", or "auto" for
            one that this machine belongs to, else a cluster of this machine alone.
        shards: number of parts; None takes two for each that can run at the same time.
        cpus: processors for each shard.
        gpus: GPUs for each shard, also a fraction; None takes 1 where the cluster has any.
        ship: whether weights and images are sent to the nodes; otherwise each node finds them at the same path.

    Raises:
        DataError: a number out of its range.
    """

    address: str = "auto"
    shards: int | None = None
    cpus: int = 1
    gpus: float | None = None
    ship: bool = False

    def __post_init__(self) -> None:
        require(
            self,
            DataError,
            shards=(self.shards is None or self.shards >= 1, "at least 1"),
            cpus=(self.cpus >= 1, "at least 1"),
            gpus=(self.gpus is None or self.gpus >= 0, "0 or more"),
        )
