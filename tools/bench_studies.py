"""The bench's jobs on studies: occlusion against captum; invariance, pictures and streaming against bare passes."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from captum.attr import Occlusion
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.captured import Captured
from deconvviz.cam.occluder import Occluder, UnderWindows
from deconvviz.data.datasets import open_images
from deconvviz.run.features import stream_features
from deconvviz.studies.invariance.measure import invariance as study
from deconvviz.studies.occlusion.measure import occlude as run_occlusion

Race = Callable[..., list[float]]
PLAIN = dv.Preprocess(resize=None, crop=224)
BATCH = 32
LAYERS = {"vgg16": ("features.29", "features"), "resnet18": ("layer4", "layer4")}


def squares(
    bench: Any, race: Race, device: torch.device, photos: pathlib.Path, weights: pathlib.Path, spec: str
) -> None:
    """Photos under squares of 32 px, 16 apart: probabilities of all classes, by what changes and by whole passes."""
    loaded, images = dv.load_model(spec, str(weights)), open_images(str(photos))
    prepare = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, prepare.shape).to(device)
    chosen = range(0, len(images), len(images) // 10)[: 1 if bench.quick else 10]
    inputs = torch.stack([prepare(images[n][0]) for n in chosen]).to(device)
    occluder, forward = Occluder(prepare.shape[1:], (32, 32), (16, 16)), Captured(network.forward_only())
    partly, wholly = UnderWindows(forward, occluder, BATCH, device), UnderWindows(forward, occluder, 8, device)
    wholly.changes = None
    by_side: dict[UnderWindows, Tensor] = {}

    def run(under: UnderWindows) -> None:
        with torch.inference_mode():
            outputs = [output for x in inputs for _, output in under.batches(x[None], 0.0)]
            by_side[under] = network.readout.probabilities_of(torch.cat(outputs))

    sides = race(1 if bench.quick else 3, lambda: run(partly), lambda: run(wholly))
    off = float((by_side[partly] - by_side[wholly]).abs().max())
    title = f"{len(inputs)} photos under {len(occluder)} squares, {spec}"
    bench.add(title, "whole passes, 8 at once", sides, 1, off)


def occlude(bench: Any, race: Race, device: torch.device) -> None:
    """All panels of figure 7 for one image, 169 windows, against the three runs of captum that give the same."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    x = PLAIN.tensor(picture, device).contiguous()
    for name, (layer, _) in LAYERS.items():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval().to(device).requires_grad_(False)
        network = dv.capture(model, (3, 224, 224))
        channel = int(network.activations(x, [layer])[layer][0].amax((1, 2)).argmax())
        runs = [Occlusion(forward) for forward in panels(model, name, channel)]

        def theirs(runs: list[Occlusion] = runs) -> list[Tensor]:
            with torch.no_grad():
                window, step = (3, 32, 32), (3, 16, 16)
                return [r.attribute(x, window, strides=step, perturbations_per_eval=BATCH) for r in runs]

        def ours(precision: str, network: dv.Network = network, layer: str = layer, channel: int = channel) -> None:
            run_occlusion(
                network,
                picture,
                layer,
                preprocess=PLAIN,
                targets=[3],
                fill="mean",
                channel=channel,
                rule="deconvnet",
                batch_size=BATCH,
                precision=precision,
                progress=False,
            )

        ours("fp32")
        exact, half, peer = race(1 if bench.quick else 2, lambda: ours("fp32"), lambda: ours("bf16"), theirs)
        bench.add(
            f"occlusion, all panels, {name}, 169 windows, fp32", "three captum runs, same batch", (exact, peer), 3
        )
        bench.add(f"occlusion, all panels, {name}, 169 windows, bf16", "three captum runs, same batch", (half, peer), 8)


def panels(model: nn.Module, name: str, channel: int) -> list[Callable[[Tensor], Tensor]]:
    """What captum is run on: the sum of a map (no further than its layer), the class's probability, the best class."""
    if name == "vgg16":
        features: nn.Module = model.features[:30]  # type: ignore[index]
    else:
        features = nn.Sequential(*list(model.children())[:-2])
    return [
        lambda x: features(x)[:, channel].sum((1, 2)),
        lambda x: model(x).softmax(1)[:, 3],
        lambda x: model(x).argmax(1).float(),
    ]


def invariance(bench: Any, race: Race, model: nn.Module, network: dv.Network, photos: dv.ImageStore) -> None:
    """5 photos x 60 transforms, features of two layers and the output, against the passes alone."""
    preprocess = dv.Preprocess(resize=256, crop=network.input_shape[1])
    kinds = ("translate-y", "scale", "rotation")
    steps = {"translate-y": np.linspace(-60, 60, 20), "scale": np.linspace(1, 1.8, 20)}
    steps["rotation"] = np.linspace(0, 342, 20)
    x = torch.randn(60, *network.input_shape, device=network.device)

    def ours() -> None:
        study(
            network,
            photos,
            ["features.0", "features.12"],
            preprocess=preprocess,
            kinds=list(kinds),
            steps=steps,
            which=range(5),
            progress=False,
        )

    def bare(forward: Callable[[Tensor], Tensor], size: int) -> None:
        with torch.inference_mode():
            for _ in range(5):
                for part in x.split(size):
                    forward(part)

    fast, turns = network.fast(), 1 if bench.quick else 3
    runs = [lambda n=n, f=f: bare(f, n) for f in (model, fast) for n in (8, 32)]  # type: ignore[misc]
    mine, *others = race(turns, ours, *runs)
    title = "invariance, SqueezeNet, 5 photos x 60 transforms"
    bench.add(title, "the model's bare passes", (mine, min(others[:2])), 1 / 1.2)
    bench.add(title, "the fast network's bare passes", (mine, min(others[2:])))


def relevance(bench: Any, race: Race, model: nn.Module, network: dv.Network) -> None:
    """Decisions of SqueezeNet shared out at three depths, both tables of images included, against forward passes.

    A bare pass is the model's own forward pass, to its scores: what a user would run. The rows against the fast network
    compare with the passes that the package itself runs.
    """
    side = network.input_shape[1]
    plain = dv.Preprocess(resize=None, crop=side)
    pictures = np.random.default_rng(0).integers(0, 256, (64, side, side, 3), np.uint8)
    images, x = dv.InMemoryImages(list(pictures)), plain.tensor(pictures, network.device)

    def ours(layer: str, rule: str) -> None:
        dv.relevance(network, images, [layer], rule=rule, preprocess=plain, progress=False)

    fast = network.fast()
    for layer in ("features.12", "features.7", "features.3"):
        for rule in ("lrp-composite", "gradient-x-activation"):
            runs = [lambda n=layer, r=rule: ours(n, r), lambda: forward(model, x), lambda: forward(fast, x)]
            mine, passes, of_fast = race(1 if bench.quick else 3, *runs)
            title = f"relevance at {layer}, {rule}, SqueezeNet, 64 images"
            bench.add(title, "the model's bare passes", (mine, passes), 1 / 3.5)
            bench.add(title, "the fast network's bare passes", (mine, of_fast))


def forward(run: Callable[[Tensor], object], x: Tensor) -> None:
    """Run once over images, in the batches that a study takes on a CPU."""
    with torch.inference_mode():
        for part in x.split(16):
            run(part)


def dissection(bench: Any, race: Race, model: nn.Module, network: dv.Network, photos: dv.ImageStore) -> None:
    """Both passes of a dissection of SqueezeNet over decoded photos.

    They are compared with the model's own forward passes, to its scores, and with passes of the fast network that end
    at the layer, as those of a dissection do.
    """
    preprocess = dv.Preprocess(resize=256, crop=network.input_shape[1])
    pictures = np.stack([preprocess.picture(photos[number][0]) for number in range(32 if bench.quick else 200)])
    plain = dv.Preprocess(resize=None, crop=network.input_shape[1])
    images, x = dv.InMemoryImages(list(pictures)), plain.tensor(pictures, network.device)

    def ours(layer: str) -> None:
        dv.dissect(network, images, [layer], preprocess=plain, progress=False)

    for layer in ("features.12", "features.7", "features.3"):
        fast = network.fast(keep=[layer])
        runs = [
            lambda n=layer: ours(n),
            lambda: forward(model, x),
            lambda f=fast, n=layer: forward(lambda part: f.activations(part, [n]), x),
        ]
        mine, whole, to_layer = race(1 if bench.quick else 3, *runs)
        title = f"dissect {layer}, SqueezeNet, {len(images)} photos"
        bench.add(title, "the model's bare passes", (mine, whole), 1 / 2.2)
        bench.add(title, f"the fast network's bare passes, to {layer} only", (mine, to_layer))


def lesions(bench: Any, race: Race, model: nn.Module, network: dv.Network, photos: dv.ImageStore) -> None:
    """Every filter of three layers of SqueezeNet silenced in turn, against as many bare passes of the whole model."""
    count, preprocess = 4 if bench.quick else 16, dv.Preprocess(resize=None, crop=network.input_shape[1])
    prepare = dv.Preprocess(resize=256, crop=network.input_shape[1])
    pictures = [prepare.picture(photos[number][0]) for number in range(count)]
    images, x = dv.InMemoryImages(pictures, [0] * count, ("any",)), torch.randn(32, *network.input_shape)

    def ours(layer: str) -> None:
        dv.lesion(network, images, [layer], preprocess=preprocess, outputs=[0], progress=False)

    for layer in ("features.3", "features.7", "features.12"):
        mine, one = race(1 if bench.quick else 2, lambda n=layer: ours(n), lambda: forward(model, x))
        filters = network.layer(layer).units[0]
        passes = one / len(x) * count * (1 + filters)
        title = f"silence each of {filters} filters of {layer}, SqueezeNet, {count} photos"
        bench.add(title, "the model's bare passes", (mine, passes))


def visualise(bench: Any, race: Race, model: nn.Module, network: dv.Network) -> None:
    """Nine pictures of SqueezeNet's features.7 by 512 steps, against as many bare passes forward and backward."""
    channels, side, steps = list(range(0, 90, 10)), 128, 64 if bench.quick else 512
    preprocess = dv.Preprocess(resize=None, crop=network.input_shape[1])
    features, every = model.features[:8], torch.arange(len(channels))  # type: ignore[index]
    x = torch.rand(len(channels), 3, side, side, device=network.device)

    def ours() -> None:
        dv.visualise(
            network, "features.7", channels, preprocess=preprocess, size=side, steps=steps, batch_size=9, progress=False
        )

    def bare() -> None:
        for _ in range(steps):
            images = x.clone().requires_grad_()
            torch.autograd.grad(features(images)[every, channels].mean((1, 2)).sum(), images)

    mine, passes = race(1 if bench.quick else 2, ours, bare)
    title = f"visualise 9 channels of features.7, SqueezeNet, {side} px, {steps} steps"
    bench.add(title, "bare passes forward and backward", (mine, passes))


def stream(
    bench: Any, race: Race, model: nn.Module, network: dv.Network, photos: dv.ImageStore, folder: pathlib.Path
) -> None:
    """Features of four layers of SqueezeNet over the photos to a file, decoding included, against the passes alone."""
    preprocess = dv.Preprocess(resize=256, crop=network.input_shape[1])
    layers = ["features.3", "features.5", "features.7", "features.12"]
    x = torch.randn(64, *network.input_shape, device=network.device)

    def ours() -> None:
        out = folder / "features.h5"
        stream_features(network, photos, layers, out, preprocess=preprocess, progress=False)
        out.unlink()

    def bare(forward: Callable[[Tensor], Tensor], size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(photos), size):
                forward(x[: min(size, len(photos) - start)])

    fast = network.fast()
    runs = [lambda n=n, f=f: bare(f, n) for f in (model, fast) for n in (8, 16, 32)]  # type: ignore[misc]
    mine, *others = race(1 if bench.quick else 3, ours, *runs)
    title = f"stream 4 layers' features, SqueezeNet, {len(photos)} photos"
    bench.add(title, "the model's bare passes", (mine, min(others[:3])), 0.85)
    bench.add(title, "the fast network's bare passes", (mine, min(others[3:])))
