"""The bench's job on explanations: against pytorch-grad-cam and captum at the same batch, in the same process.

On a CPU deconvviz runs whole images of a batch 8 at once; the lines on the best batch of 8 and 32 give the peers the
same advantage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import psutil
import pytorch_grad_cam as pgc
import torch
import torchvision
from captum.attr import Occlusion
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import deconvviz as dv

BATCH = 32
SPOTS = {"resnet18": ("layer4", 2.5), "vgg16": ("features.29", 2.5), "squeezenet1_0": ("features.12", 1.1)}


def network(name: str, device: torch.device) -> tuple[nn.Module, dv.Network]:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval().to(device)
    return model, dv.capture(model, (3, 224, 224))


def by_pgc(
    method: Any, model: nn.Module, layer: str, x: Tensor, target: int, batch: int = BATCH
) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with method(model=model, target_layers=[model.get_submodule(layer)]) as explainer:
            explainer.batch_size = batch
            return torch.from_numpy(explainer(input_tensor=x, targets=[ClassifierOutputTarget(target)]))

    return run


@contextmanager
def extra_memory(found: list[float]) -> Any:
    """Append how far the process's memory rose above where it stood, in MiB."""
    process, stop = psutil.Process(), threading.Event()
    base = top = process.memory_info().rss

    def watch() -> None:
        nonlocal top
        while not stop.is_set():
            top = max(top, process.memory_info().rss)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        found.append((top - base) / 2**20)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double().cpu(), b.flatten().double().cpu()]))[0, 1])


def explain(bench: Any, race: Callable[..., list[float]], device: torch.device) -> None:
    """Grad-CAM, Ablation-CAM, Score-CAM, RISE, occlusion and Recipro-CAM."""
    x, target = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device), 3
    models = {name: network(name, device) for name in SPOTS}
    turns = 2 if bench.quick else 7
    for name, (layer, wanted) in SPOTS.items():
        model, net = models[name]
        ours = dv.cam("grad-cam", net, layer, convention="pytorch-grad-cam")
        sides = race(turns, lambda: ours(x, target), by_pgc(pgc.GradCAM, model, layer, x, target))  # noqa: B023
        bench.add(f"Grad-CAM, {name} {layer}", "pytorch-grad-cam", sides, wanted)
    model, net = models["resnet18"]
    ablation = dv.cam("ablation-cam", net, "layer4", batch_size=BATCH, convention="pytorch-grad-cam")
    theirs = by_pgc(pgc.AblationCAM, model, "layer4", x, target)
    bench.add("Ablation-CAM, resnet18 layer4", "pytorch-grad-cam", race(1, lambda: ablation(x, target), theirs), 100)
    for name in ("squeezenet1_0", "resnet18"):
        score_cam(bench, race, *models[name], name, SPOTS[name][0], x, target)
    masks(bench, race, model, net, x, target)


def score_cam(
    bench: Any,
    race: Callable[..., list[float]],
    model: nn.Module,
    net: dv.Network,
    name: str,
    layer: str,
    x: Tensor,
    target: int,
) -> None:
    theirs, turns = by_pgc(pgc.ScoreCAM, model, layer, x, target), 1 if bench.quick else 2
    exact = dv.cam("score-cam", net, layer, batch_size=BATCH)
    half = dv.cam("score-cam", net, layer, batch_size=BATCH, precision="bf16")
    small = by_pgc(pgc.ScoreCAM, model, layer, x, target, 8)
    once = race(turns, lambda: exact(x, target), lambda: half(x, target), theirs, small)
    bench.add(f"Score-CAM, {name} {layer}, fp32", "pytorch-grad-cam, same batch", (once[0], once[2]), 1.4)
    bench.add(
        f"Score-CAM, {name} {layer}, fp32", "pytorch-grad-cam, its best batch of 8 and 32", (once[0], min(once[2:]))
    )
    bench.add(f"Score-CAM, {name} {layer}, bf16", "pytorch-grad-cam, same batch", (once[1], once[2]), 4)
    rises: list[float] = []
    for run in (lambda: exact(x, target), theirs):
        with extra_memory(rises):
            run()
    alike = correlation(exact(x, target), half(x, target))
    bench.lines.append(
        f"| Score-CAM, {name}: memory above rest, MiB; correlation of bf16 and fp32 maps | | | | "
        f"{rises[0]:.0f} | {rises[1]:.0f} | {alike:.4f} | - |"
    )
    print(bench.lines[-1], flush=True)
    recipro = dv.cam("recipro-cam", net, layer, batch_size=BATCH)
    sides = race(turns, lambda: recipro(x, target), lambda: exact(x, target))
    bench.add(f"Recipro-CAM, {name} {layer}", "its own Score-CAM", sides, 100 if name == "resnet18" else 0)


def masks(
    bench: Any, race: Callable[..., list[float]], model: nn.Module, net: dv.Network, x: Tensor, target: int
) -> None:
    """RISE and occlusion against captum's Occlusion; RISE, which captum lacks, by the time of one of its passes."""
    peer, turns = Occlusion(model), 1 if bench.quick else 2

    def theirs(batch: int = BATCH) -> Tensor:
        with torch.no_grad():
            found: Tensor = peer.attribute(
                x, (3, 32, 32), strides=(3, 16, 16), target=target, perturbations_per_eval=batch
            )
            return found

    for precision, wanted in (("fp32", 1.4), ("bf16", 4.0)):
        ours = dv.cam("occlusion", net, batch_size=BATCH, precision=precision, square=32, stride=16)
        sides = race(turns, lambda: ours(x, target), theirs, lambda: theirs(8))  # noqa: B023
        bench.add(f"occlusion, resnet18, 169 windows, {precision}", "captum, same batch", sides[:2], wanted)
        best = (sides[0], min(sides[1:]))
        bench.add(f"occlusion, resnet18, 169 windows, {precision}", "captum, its best batch of 8 and 32", best)
        rise = dv.cam("rise", net, batch_size=BATCH, precision=precision, masks=1000)
        (mine,) = race(1, lambda: rise(x, target))  # noqa: B023
        passes = sides[1] / 169 * 1000
        bench.add(
            f"RISE, resnet18, 1000 masks, {precision}", "1000 passes of captum's Occlusion", (mine, passes), wanted
        )


def precision_on_photos(bench: Any, net: dv.Network, photos: Tensor) -> None:
    """Report how alike bf16 and fp32 maps of a trained network are."""
    for name, options in {"score-cam": {}, "rise": {"masks": 500}, "occlusion": {}}.items():
        layer = "features.12" if name == "score-cam" else None
        alike = []
        for x in photos[: 2 if bench.quick else len(photos)].split(1):
            exact, half = (dv.cam(name, net, layer, precision=p, **options)(x) for p in ("fp32", "bf16"))
            alike.append(correlation(exact, half))
        least, mean = min(alike), sum(alike) / len(alike)
        bench.failed |= mean < 0.98
        bench.lines.append(
            f"| {name}, trained SqueezeNet, {len(alike)} photos: bf16 and fp32 maps' correlation, mean (least) | | "
            "0.98 "
            f"| {mean:.4f} ({least:.4f}) | | | - | {'reached' if mean >= 0.98 else 'missed'} |"
        )
        print(bench.lines[-1], flush=True)
