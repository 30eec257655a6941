"""Called by tools/train_demo: train the packaged network, pack it, and print what the README tells of it."""

from __future__ import annotations

import os
import pathlib
import tempfile
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deconvviz.cli.demo import TRAINING
from deconvviz.cli.main import cli
from deconvviz.cli.outputs import running
from deconvviz.data.scenes.scenes import Scenes
from deconvviz.models.checkpoints import read_file
from deconvviz.models.load import DEMO, DEMO_SNAPSHOTS
from deconvviz.results.files import atomic


def train() -> None:
    """Train in an empty folder, so that no path of this machine gets into the files."""
    begin, home = time.monotonic(), pathlib.Path.cwd()
    arguments = [*TRAINING, "--device", "cpu", "--snapshots", "evolution.h5", "--out", "zfnet.pth"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with running(arguments):
            cli.main([*arguments, "--snapshot-half"], standalone_mode=False)
        found = read_file("zfnet.pth")
        kept = {key: found[key] for key in ("format", "schema", "arguments", "settings", "classes", "history")}
        kept["state_dict"] = {name: tensor.half() for name, tensor in found["state_dict"].items()}
        with atomic(DEMO) as temporary:
            torch.save(kept, temporary)
        with atomic(DEMO_SNAPSHOTS) as temporary:
            temporary.write_bytes(pathlib.Path("evolution.h5").read_bytes())
        os.chdir(home)
    size = (DEMO.stat().st_size + DEMO_SNAPSHOTS.stat().st_size) / 1e6
    accuracy = found["history"][-1]["validation_accuracy"]
    print(f"{DEMO.name} and {DEMO_SNAPSHOTS.name}: {size:.2f} MB, validation accuracy {accuracy:.1%}")
    print(f"{torch.get_num_threads()} threads, {time.monotonic() - begin:.0f} s")


def baselines(training: int = 3000, held: int = 1000) -> None:
    """Print the accuracy of linear classifiers on pixels and on colour histograms of the same pictures."""
    scenes = Scenes(training + held)
    images = np.stack([scenes[i][0] for i in range(len(scenes))])
    small = images.reshape(len(images), 24, 3, 24, 3, 3).mean((2, 4)).reshape(len(images), -1)
    cells = (images // 64 * np.array([16, 4, 1], np.uint8)).sum(3).reshape(len(images), -1)
    histograms = np.stack([np.bincount(row, minlength=64) for row in cells])
    for name, values in (("pixels", small), ("colour histograms", histograms)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
        model.fit(values[:training], scenes.labels[:training])
        print(f"linear classifier on {name}: {model.score(values[training:], scenes.labels[training:]):.1%}")


if __name__ == "__main__":
    train()
    baselines()
