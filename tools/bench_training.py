"""The bench's job on trainings: a step with each addition against a plain one."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import torch

import deconvviz as dv
from deconvviz.studies.training.additions.registry import ADDITIONS, options_of, register_all
from deconvviz.studies.training.options import TrainingOptions
from deconvviz.studies.training.train import NetworkTraining

Race = Callable[..., list[float]]
STEPS, BATCH, SIDE = 4, 64, 64


def training(bench: Any, race: Race, device: torch.device, folder: pathlib.Path) -> None:
    """Steps of a ZFNet of half width at 64 px, batch 64, with the defaults of each addition."""
    images = dv.Scenes(2 * BATCH, size=SIDE + 8)
    register_all()
    with contextlib.ExitStack() as stack:

        def steps(additions: list[dv.Addition]) -> Callable[[], None]:
            torch.manual_seed(0)
            model = dv.zfnet(classes=10, input_size=SIDE, width=0.5)
            recipe, options = (
                dv.Recipe(batch_size=BATCH, validation=0.5),
                TrainingOptions(device=device, progress=False),
            )
            trainer = NetworkTraining(model, recipe, folder / "t.pth", options, None, additions)
            trainer.feed(images, None, dv.Preprocess(resize=SIDE + 8, crop=SIDE), False)
            stack.enter_context(trainer.additions.taking_part(trainer.course()))
            batch = next(iter(trainer.batches(0, 0)))

            def run() -> None:
                for _ in range(STEPS):
                    trainer.step(batch, 0)
                if device.type == "cuda":
                    torch.cuda.synchronize()

            return run

        plain = steps([])
        for name, kind in ADDITIONS.items():
            needed = [option for option, default in options_of(kind).items() if default in ("", None)]
            options = options_for(name, needed, images, folder)
            if options is None:
                bench.lines.append(f"| a step with {name} | needs {', '.join(needed)} | | | | | | not run |")
                continue
            ours, theirs = race(2 if bench.quick else 5, steps([dv.addition(name, **options)]), plain)
            bench.add(f"{STEPS} steps with {name}, zfnet, {SIDE} px, batch {BATCH}", "plain steps", (ours, theirs))


def options_for(name: str, needed: list[str], images: dv.Scenes, folder: pathlib.Path) -> dict[str, Any] | None:
    """Return the options without which an addition does not run; None where they are not known here."""
    if name == "model-doctor":  # finds its layer itself; the masks of channels are there from the first step on
        return {"after": 0}
    if name == "adv-mask":  # where the points are does not matter to what a step costs
        preprocess, points = dv.Preprocess(resize=SIDE + 8, crop=SIDE), folder / "points.h5"
        network = dv.capture(dv.zfnet(classes=10, input_size=SIDE, width=0.1), (3, SIDE, SIDE))
        how = {"method_options": {"steps": 2, "mask_steps": 4}, "away_from": "top", "progress": False}
        dv.attack(network, images, "sparse", points, preprocess=preprocess, **how)
        return {"points": str(points), "epochs": 1, "final": 1.0}
    return {} if not needed else None
