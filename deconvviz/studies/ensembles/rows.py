"""The rows of an ensemble's result: each network alone, then the first 2, 3, ... and all of them together."""

from __future__ import annotations

from typing import Any


class RowsOfNetworks:
    """What the results of M networks share: 2 M - 1 rows, and what each is called.

    Attributes:
        config: "networks" says of each its "name".

    >>> rows = RowsOfNetworks()
    >>> rows.config = {"networks": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}
    >>> rows.names, rows.counts
    (('a', 'b', 'c', 'the first 2', 'all 3'), (1, 1, 1, 2, 3))
    """

    config: dict[str, Any]

    @property
    def count(self) -> int:
        """The number of networks."""
        return len(self.config["networks"])

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each row: the networks, then "the first 2" and so on, and "all 3" of three."""
        alone = [str(network["name"]) for network in self.config["networks"]]
        several = [f"the first {number}" for number in range(2, self.count)]
        return (*alone, *several, *([f"all {self.count}"] if self.count > 1 else []))

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of networks in each row."""
        return (*(1 for _ in range(self.count)), *range(2, self.count + 1))
