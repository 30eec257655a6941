"""Captions: relevance of a word goes through the recurrent network and on through the CNN; replicas and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deconvviz as dv
from deconvviz.errors import DataError, ModelError

WORDS = ("a", "dog", "cat", "left", ".")
PLAIN = dv.Preprocess(resize=None, crop=8, mean=(0, 0, 0), std=(1, 1, 1))


def captioner(**changes: Any) -> dv.RecurrentModel:
    """A captioner with random weights, whose CNN is linear."""
    torch.manual_seed(3)
    image = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(144, 6, bias=False))
    parts: dict[str, Any] = {
        "recurrent": nn.LSTM(6, 7),
        "embedding": nn.Embedding(5, 6),
        "head": nn.Linear(7, 5),
        "image": image,
        "preprocess": PLAIN,
        "vocabulary": WORDS,
        "tokens": "words",
        "stop": ".",
    }
    return dv.RecurrentModel(**{**parts, **changes})


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def test_scores_are_those_of_the_modules() -> None:
    model = captioner()
    found = dv.explain_caption(model, picture(), words=["a", "cat", "left"])
    assert model.image is not None and model.embedding is not None and model.head is not None
    vector = model.image(PLAIN(picture())[None])
    read = torch.cat([vector, model.embedding(torch.tensor([0, 2]))])[:, None]
    scores = model.head(model.recurrent(read)[0][:, 0])
    wanted = scores[torch.arange(3), torch.tensor([0, 2, 3])].detach().numpy()
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-5)
    shares = scores.softmax(1)[torch.arange(3), torch.tensor([0, 2, 3])].detach().numpy()
    np.testing.assert_allclose(found.probabilities, shares, rtol=1e-5)
    assert np.triu(found.of_words).max() == 0 and found.of_words[2, :2].all()
    np.testing.assert_allclose(found.kept, found.scores - found.of_image - found.of_words.sum(1), rtol=1e-12)


def test_maps_hold_what_the_image_adds() -> None:
    """Of a linear CNN gradient times input hands all of it on to the pixels."""
    found = dv.explain_caption(captioner(), picture(), words=["a", "cat", "left"], method="gradient-x-input")
    assert found.maps.shape == (3, 8, 8) and np.abs(found.of_image).min() > 1e-4
    np.testing.assert_allclose(found.maps.sum((1, 2)), found.of_image, rtol=1e-3)
    relevant = dv.explain_caption(captioner(), picture(), words=["a", "cat", "left"], method="lrp-epsilon")
    np.testing.assert_allclose(relevant.maps.sum((1, 2)), found.of_image, rtol=1e-2)


def stopping(bias: float) -> dv.RecurrentModel:
    """A captioner whose score of the stop is moved by so much."""
    head = nn.Linear(7, 5)
    with torch.no_grad():
        head.bias[4] += bias
    return captioner(head=head)


def test_the_most_probable_caption_ends_at_the_stop() -> None:
    model = stopping(-50)
    found = dv.explain_caption(model, picture(), longest=4)
    assert len(found.words) == 4 and "." not in found.words
    again = dv.explain_caption(model, picture(), words=found.words)
    np.testing.assert_allclose(again.scores, found.scores, rtol=1e-9)
    with pytest.raises(DataError, match="the caption has no word"):
        dv.explain_caption(stopping(50), picture())


def test_what_makes_no_caption_is_refused() -> None:
    for changes, words in (
        ({"image": None}, "has no image"),
        ({"preprocess": None}, "has no image"),
        ({"head": nn.Linear(7, 3)}, "one score for each token"),
        ({"head": None}, "has no head"),
        ({"recurrent": nn.LSTM(6, 7, bidirectional=True), "head": nn.Linear(14, 5)}, "not there yet"),
        (
            {"image": nn.Sequential(nn.Flatten(), nn.Linear(192, 5))},
            r"returns \[1, 5\] for one image; expected \[1, 6\]",
        ),
    ):
        with pytest.raises(ModelError, match=words):
            dv.explain_caption(captioner(**changes), picture())
    with pytest.raises(DataError, match="'bird' is not in the vocabulary"):
        dv.explain_caption(captioner(), picture(), words=["a", "bird"])


def test_a_caption_shows_itself(tmp_path: Any) -> None:
    found = dv.explain_caption(captioner(), picture(), words=["a", "cat", "left"])
    found.save_csv(tmp_path / "c.csv")
    assert len(found.to_frame()) == 6 and "'a cat left'" in repr(found) and found._repr_html_()
    assert len(dv.draw_caption(found).axes) == 5
