"""The worked example of switches, held against torch's pooling; the drawing shows its numbers before any caveat."""

from __future__ import annotations

import pathlib
import re

import torch
from torch.nn import functional

from deconvviz.web.lesson import MAP, SIDE, SIGNAL, lesson_values, switches_example
from deconvviz.web.page import write_page


def test_the_example_is_what_torch_pools_and_unpools() -> None:
    example = switches_example()
    values, signal = torch.tensor(MAP, dtype=torch.float32)[None], torch.tensor(SIGNAL, dtype=torch.float32)[None]
    pooled, indices = functional.max_pool2d(values, SIDE, return_indices=True)
    unpooled = functional.max_unpool2d(signal, indices, [SIDE, SIDE])[0]
    assert example.pooled.tolist() == pooled[0].tolist() and example.values.tolist() == values[0].tolist()
    assert example.switches.ravel().nonzero()[0].tolist() == sorted(indices.ravel().tolist())
    assert example.unpooled.tolist() == unpooled.tolist() and (unpooled < 0).any()
    assert example.rectified.tolist() == unpooled.relu().tolist()


def test_the_lesson_is_five_sentences_and_one_drawing(tmp_path: pathlib.Path) -> None:
    write_page(tmp_path / "lesson.html", "lesson.html", lesson_values())
    text = (tmp_path / "lesson.html").read_text("utf-8")
    sentences = re.findall(r"<li>(.*?)</li>", text, re.S)
    assert len(sentences) == 5 and all(len(re.findall(r"\.(?= [A-Z]|$)", sentence)) == 1 for sentence in sentences)
    assert text.count("<svg") == 1
    drawn = [number.replace("−", "-") for number in re.findall(r">(−?\d)</text>", text)]
    example = lesson_values()["example"]
    names = ("values", "pooled", "signal", "unpooled", "rectified")
    assert drawn == [str(number) for name in names for row in example[name] for number in row]


def test_without_max_pooling_no_switches_are_taught(tmp_path: pathlib.Path) -> None:
    write_page(tmp_path / "lesson.html", "lesson.html", lesson_values(pooled=False))
    text = (tmp_path / "lesson.html").read_text("utf-8")
    assert len(re.findall(r"<li>(.*?)</li>", text, re.S)) == 5
    assert "<svg" not in text and "unpools" not in text and "has no max pooling" in text
