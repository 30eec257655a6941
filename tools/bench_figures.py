"""The bench's jobs on layer figures: the default grid against the plain one, fidelity against forward passes."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import torch

import deconvviz as dv
from deconvviz.data.datasets import open_images
from deconvviz.data.feed import Feed
from deconvviz.deconv.choice import measured_rules
from deconvviz.deconv.project import project_by_rules
from deconvviz.deconv.views import UnitViews
from deconvviz.metrics.fidelity import BLUR, energy, fidelity
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.panels import panels_from
from deconvviz.studies.mining.projections import sample_of, units_of

Race = Callable[..., list[float]]
MODEL, LAYER = "timm:tf_efficientnet_lite0", "blocks.4"
IMAGES, UNITS, PASSES = 100, 64, 400
BATCHES = (4, 8, 16, 32)


def figures(bench: Any, race: Race, device: torch.device, photos: pathlib.Path, weights: pathlib.Path) -> None:
    """EfficientNet-Lite0's blocks.4: what rule "auto" and crop "need" cost, and what measuring one rule costs."""
    store, loaded = open_images(str(photos)), dv.load_model(MODEL, str(weights))
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, preprocess.shape).to(device)
    mined = dv.mine(network, store, [LAYER], preprocess=preprocess, limit=IMAGES, progress=False)
    channels = mined[LAYER].choose_channels("active", 8 if bench.quick else 64)

    def grid(rule: str, crop: str) -> None:
        panels_from(ProjectionCache(mined, store, network, rule, progress=False), LAYER, channels, crop)

    turns = 1 if bench.quick else 2
    sides = race(turns, lambda: grid("auto", "need"), lambda: grid("deconvnet", "energy"))
    title = f"grid of {len(channels)} filters x 9, auto, {MODEL} {LAYER}"
    bench.add(title, "rule deconvnet, crop energy, nothing measured", sides, 0 if bench.quick else 0.5)

    feed = Feed(store, preprocess)
    inputs, units = units_of(network, mined[LAYER], feed, sample_of(mined[LAYER], 8 if bench.quick else UNITS))
    fast = network.forward_only()

    def passes(batch: int) -> None:
        some = inputs[:1].expand(batch, -1, -1, -1)
        with torch.inference_mode():
            for _ in range(64 // batch):
                fast(some)

    runs = [lambda batch=batch: passes(batch) for batch in BATCHES]  # type: ignore[misc]
    one = min(race(turns + 1, *runs)) / 64
    views = UnitViews(network, inputs, units)
    projections = views.placed(project_by_rules(network, inputs, units, ["guided"])["guided"])
    maps = energy(projections, BLUR * inputs.shape[2]).to(device)
    size, fill = views.batch_size, views.pixels.new_zeros(1)

    def metric() -> None:
        fidelity(views.activations, views.pixels, maps, views.seen, fill, batch_size=size, mirror=False)

    def with_projections() -> None:
        measured_rules(network, inputs, units, ["guided"], mirror=False)

    count = PASSES * len(units) // UNITS
    title, against = (
        f"fidelity of {len(units)} units x 5 shares, {MODEL} {LAYER}",
        f"{count} forward passes, best batch",
    )
    alone, both = race(turns, metric, with_projections)
    bench.add(title, against, (alone, one * count), 0 if bench.quick else 1)
    bench.add(f"{title}, projections included", against, (both, one * count))
