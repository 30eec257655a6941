"""RayOptions: where and in how many shards a job runs on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.errors import DataError, require


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
