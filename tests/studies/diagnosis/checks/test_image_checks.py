"""Images that are enlarged, and networks that do no better than guessing, are told before everything else."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from diagnosed import Planted, found, net, noise_images, skipped, subject_of
from torch import nn

import deconvviz as dv
from deconvviz.data.datasets import Images, open_images
from deconvviz.data.feed import enlargement
from deconvviz.studies.diagnosis.diagnose import diagnose
from deconvviz.studies.diagnosis.subject import Subject

KNOWN = np.arange(40) % 4


def resized(side: int) -> Subject:
    """A network of an input of 48 px, and images of 24 px that are resized to `side` first."""
    return subject_of(net(), noise_images(), dv.Preprocess(resize=side, crop=48))


def guessing(bias: bool) -> Subject:
    """A network that decides for one class always, or by the mean of the image, of which the classes are made."""
    model = net()
    images = noise_images(40, KNOWN)
    subject = subject_of(model, images, outputs=np.arange(4))
    logits = np.zeros((40, 4), np.float32)
    logits[np.arange(40), np.zeros(40, np.int64) if bias else KNOWN] = 1
    subject.__dict__["_gathered"] = ({}, logits)
    return subject


@pytest.mark.parametrize(("side", "count"), [(72, 1), (48, 0)])
def test_enlargement_is_measured(side: int, count: int) -> None:
    assert [(f.severity, f.value, f.layer) for f in found("enlarged", resized(side))] == [("warning", 3.0, "")] * count


def test_a_folder_without_sizes_is_measured_too(tmp_path: pathlib.Path) -> None:
    from PIL import Image

    for n in range(7):
        Image.new("RGB", (20 if n else 60, 10)).save(tmp_path / f"{n}.png")
    images: Images = open_images(str(tmp_path))
    measured = enlargement(images, dv.Preprocess(resize=40, crop=40), np.arange(7))
    assert measured is not None and (measured.factor, measured.width, measured.height) == (4.0, 20, 10)


def test_chance_is_told() -> None:
    (finding,) = found("chance", guessing(True))
    assert (finding.severity, finding.value) == ("serious", 1.0) and finding.what.startswith("25.0% of 40 images")
    assert finding.evidence.arrays["values"].tolist() == [100.0]
    assert found("chance", guessing(False)) == []
    assert "score" in skipped("chance", subject_of(nn.Sequential(nn.Conv2d(3, 4, 3)), noise_images(40, KNOWN)))


def test_they_come_first_whatever_their_severity() -> None:
    model = net(edit=lambda m: m[0].bias.data.fill_(-1000))
    torch.manual_seed(0)
    preprocess = dv.Preprocess(resize=72, crop=48)
    network = dv.capture(model.eval(), preprocess.shape)
    checks = ["dead", "enlarged"]
    diagnosis = diagnose(network, noise_images(), preprocess=preprocess, checks=checks, progress=False)
    assert [(f.check, f.severity) for f in diagnosis.findings][:2] == [("enlarged", "warning"), ("dead", "serious")]
    assert repr(diagnosis).splitlines()[1].startswith("  warning: enlarged, the images: Images of 24 x 24 px")


PLANTED = {
    "enlarged": Planted(lambda folder: resized(72), lambda folder: resized(48)),
    "chance": Planted(lambda folder: guessing(True), lambda folder: guessing(False)),
}
