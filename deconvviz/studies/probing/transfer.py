"""Transfer: how far features that were learned elsewhere carry, against those of the same network untrained."""

from __future__ import annotations

import pathlib
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deconvviz.data.datasets import Images
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.metrics import randomised
from deconvviz.models.load import Loaded, build_model
from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv
from deconvviz.run.features import stream_features
from deconvviz.studies.probing.measure import Probed, ProbeSettings, draw_splits, probe


@dataclass(frozen=True)
class Transfer:
    """What `transfer` found.

    Attributes:
        found: a network's name -> its probes; all saw the same splits.
        config: what was asked, by network.
    """

    found: dict[str, Probed]

    @property
    def config(self) -> dict[str, Any]:
        return {name: probed.config for name, probed in self.found.items()}

    def curve(self, name: str, layer: str, kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and deviation for each number of images a class: of a network, a layer and a probe."""
        probed = self.found[name]
        place = list(probed.layers).index(layer), probed.settings.probes.index(kind)
        return probed.mean[place], probed.deviation[place]

    def save_csv(self, path: Pathlike) -> None:
        """Write the tables of all networks one below the other, as fractions."""
        columns = next(iter(self.found.values())).columns
        rows = [[name, *row] for name, probed in self.found.items() for row in probed.table()]
        write_csv(path, ("network", "layer", "values", *columns), rows)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {probed!r}" for name, probed in self.found.items())


def transfer(
    networks: Mapping[str, Network],
    images: Images,
    layers: Sequence[str],
    settings: ProbeSettings | None = None,
    out: Pathlike | None = None,
    *,
    preprocess: Preprocess,
    limit: int | None = None,
    progress: bool = True,
    sources: Mapping[str, Any] | None = None,
    **streaming: Any,
) -> Transfer:
    """Probe the same layers of several networks on the same splits of the same images.

    Unlike the paper, whose untrained network learns from the few images from its first layer on, every network's
    features stay as they are: the difference is what the features are worth.

    Args:
        networks: name -> captured network, such as {"trained": ..., "random": ...}.
        images: labelled images; those of unknown class are left out.
        layers: names that each network has.
        settings: as for `probe`.
        out: file of the first network's features; NAME is added for the others, as in features.random.h5. They are
            kept, and an interrupted call goes on where it was. None: temporary files.
        preprocess: how an image becomes the networks' input.
        limit: at most so many images of each class, drawn by the settings' seed.
        streaming: more for `stream_features`, such as pool="mean 1x1".

    Raises as `stream_features` and `probe` do.

    Source: Zeiler and Fergus 2013, section 5.2, tables 4 and 5 and figure 9.
    """
    settings = settings or ProbeSettings()
    chosen = some_of_each(np.asarray(images.labels), limit, settings.seed)
    settings.check_library()
    draw_splits(np.asarray(images.labels)[chosen], settings, images.classes)  # too few images are told before the work
    found: dict[str, Probed] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = pathlib.Path(folder, "features.h5") if out is None else pathlib.Path(out)
        for number, (name, network) in enumerate(networks.items()):
            file = first.with_suffix(f".{name}{first.suffix}") if number else first
            features = stream_features(
                network,
                images,
                layers,
                file,
                preprocess=preprocess,
                chosen=chosen,
                progress=progress,
                sources=sources,
                **streaming,
            )
            found[name] = probe(features, layers, settings, progress)
    return Transfer(found)


def some_of_each(labels: NDArray[np.int64], limit: int | None, seed: int = 0) -> NDArray[np.int64]:
    """Return the labelled images, ascending, or at most `limit` of each class, drawn at random."""
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit} given; expected at least 1 image of each class")
    rng = np.random.default_rng([seed, len(labels)])
    found = [rng.permutation(np.flatnonzero(labels == label))[:limit] for label in np.unique(labels[labels >= 0])]
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


def untrained(loaded: Loaded, seed: int = 0) -> nn.Module:
    """Return the same architecture with random weights, in eval mode.

    They are those that its source begins a training with; a model from a Python file, whose factory may return trained
    ones, gets each layer's own reset_parameters, or ModelError where a layer has none.
    """
    if ".py:" in loaded.spec:
        return deque(randomised(loaded.model, seed=seed), maxlen=1)[0][1].eval()
    arguments = getattr(loaded.model, "arguments", {})
    return build_model(loaded.spec, arguments, trained=False, seed=seed)[0].eval()
