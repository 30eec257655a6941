"""What an atlas is made of: a network, images, and what was computed of them before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from deconvviz.data.datasets import Images, Store, name_of_store
from deconvviz.data.feed import Feed
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.directions import without_directions
from deconvviz.graph.network import Network
from deconvviz.results.results import digest_of, require_same, stamped
from deconvviz.results.snapshots import Snapshots
from deconvviz.studies.mining.cache import PICTURES
from deconvviz.studies.mining.result import Mined
from deconvviz.studies.relevance.result import Relevance
from deconvviz.types import Ints


@dataclass(frozen=True, kw_only=True)
class AtlasInputs:
    """What an atlas is made of.

    Attributes:
        network: captured, on the device that computes.
        model: the module that it was captured from; the weights of snapshots are loaded into a copy of it.
        store: the images.
        preprocess: how an image becomes the network's input.
        mined: what mining found in these images; None if the atlas shall mine them.
        relevance: what `relevance` found in these images; None for no decisions on the filters' pages.
        snapshots: of a training of this kind of network, through which filters are followed; None for none.
        examples: training images, of which the pages of decisions show those that an image resembles; None for none.
        outputs: int64, the output that stands for each class of the images; None where that is unknown.
        output_names: of the network's outputs; empty where they are unknown.
        names_assumed: whether neither the network nor the user gave these names. They are shown then, but an atlas that
            was begun under other assumed names, or none, is continued.
        sources: where model and images came from, for the files.
    """

    network: Network
    model: nn.Module
    store: Store
    preprocess: Preprocess
    mined: Mined | None = None
    relevance: Relevance | None = None
    snapshots: Snapshots | None = None
    examples: Images | None = None
    outputs: Ints | None = None
    output_names: Sequence[str] = ()
    names_assumed: bool = False
    sources: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def feed(self) -> Feed:
        """All images of the store, prepared for the network; the last ones that were used stay in memory."""
        return Feed(self.store, self.preprocess, memory=PICTURES)

    @property
    def provenance(self) -> dict[str, Any]:
        """The sources with the path of the images and the versions of what computes, for the files."""
        return stamped({"images": name_of_store(self.store), **self.sources})

    @property
    def config(self) -> dict[str, Any]:
        """What identifies the inputs; it must agree for an atlas to be continued."""
        outputs = [self.given_names, None if self.outputs is None else self.outputs.tolist()]
        return {
            **self.identity,
            "model": self.network.name,
            "mined": None if self.mined is None else digest_of(self.mined.config),
            "snapshots": self.training_digest,
            "outputs": digest_of(outputs),
            **self.relevance_config,  # which atlases of earlier versions do not mention
            **({} if self.examples is None else {"examples": self.examples.fingerprint}),
        }

    @property
    def relevance_config(self) -> dict[str, Any]:
        """What identifies the relevance file, how it shares scores out, and whose; empty where none was given."""
        if self.relevance is None:
            return {}
        config = self.relevance.config
        return {"relevance": {"digest": digest_of(config), "rule": config["rule"], "target": config["target"]}}

    @property
    def given_names(self) -> list[str]:
        """The names of the outputs, where they were given and not assumed; they must agree too."""
        return [] if self.names_assumed else list(self.output_names)

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies network, images and preprocessing."""
        return {
            "model_fingerprint": self.network.fingerprint,
            "images_fingerprint": self.store.fingerprint,
            "preprocess": self.preprocess.as_dict(),
        }

    @property
    def training_digest(self) -> str | None:
        """What identifies the snapshots; None where there are none."""
        if self.snapshots is None:
            return None
        return digest_of([self.snapshots.config, self.snapshots.epochs, self.snapshots.history])

    def by_depth(self, layers: Sequence[str]) -> tuple[str, ...]:
        """Return layers in the order of depth, each once; raises LayerNotFound for a name that does not exist."""
        names = {self.network.layer(name).name for name in layers}
        return tuple(name for name in self.network.layers if name in names)

    def require_mined(self, mined: Mined, layers: Sequence[str], k: int) -> None:
        """Check that a mined result is of these inputs.

        Args:
            mined: from `mine` or `load_mined`.
            layers: that it must hold.
            k: images of each filter that it must hold.

        Raises:
            MismatchError: it is of another network, other images or another preprocessing; it is unfinished; or it
                holds too few images of a filter.
            DataError: it does not hold a layer.
        """
        self._require_same_inputs("mined", "mine", mined.config)
        for layer in layers:
            _ = mined[layer]
        if not mined.complete or mined.config["k"] < k:
            raise MismatchError(
                f"mined was the top {mined.config['k']} of {mined.done} of {mined.total} images; expected all images "
                f"and the top {k}: mine again"
            )

    def require_relevance(self, relevance: Relevance, layers: Sequence[str], k: int) -> None:
        """Check that a relevance file is of these inputs; the arguments and errors are those of `require_mined`.

        It need not hold all layers, but one of them.
        """
        self._require_same_inputs("explained", "explain", relevance.config)
        if not set(layers) & set(relevance):
            raise DataError(
                f"the relevance file holds {', '.join(relevance)}; expected one of the layers {', '.join(layers)}"
            )
        if not relevance.complete or relevance.config["k"] < k:
            raise MismatchError(
                f"the relevance file has the top {relevance.config['k']} of {relevance.done} of {relevance.total} "
                f"images; expected all images and the top {k}: run `deconvviz relevance` again, with -k {k} or more"
            )

    def _require_same_inputs(self, done: str, do: str, config: Mapping[str, Any]) -> None:
        """Raise MismatchError where a file is of another network, other images or another preprocessing."""
        # What was made of the network without the directions that this atlas shows too is of the same network.
        networks = [self.network.fingerprint, without_directions(self.network).fingerprint]
        for what, before, present in (
            ("model", config["model_fingerprint"], networks),
            ("images", config["store_fingerprint"], [self.store.fingerprint]),
        ):
            if before not in present:
                raise MismatchError(
                    f"{done} with {what} {before[:16]}, {present[0][:16]} given; {do} again, or give the same"
                )
        if config.get("shard"):
            index, parts = config["shard"]
            raise MismatchError(
                f"the {done} file is shard {index} of {parts}; join all shards with `deconvviz merge` first"
            )
        advice = f"{do} again, or give the options that it was {done} with"
        preprocess = {"preprocess": self.preprocess.as_dict()}
        require_same(f"the {done} file", {"preprocess": config["preprocess"]}, preprocess, advice)
