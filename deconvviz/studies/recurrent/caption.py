"""Captions: the relevance of each word goes back through the recurrent network, and on through the CNN to the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from deconvviz.cam.explain import cam, constant_maps_allowed
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, ModelError
from deconvviz.graph.capture import capture
from deconvviz.graph.network import Network
from deconvviz.studies.recurrent.caption_result import Caption
from deconvviz.studies.recurrent.lrp import InputRelevance, LinearRule, input_relevance, linear_head
from deconvviz.studies.recurrent.model import RecurrentModel
from deconvviz.studies.recurrent.replay import outputs_of, replay
from deconvviz.types import Picture

LONGEST = 20  # words of a caption
METHOD = "lrp-composite"


def explain_caption(
    model: RecurrentModel,
    image: Picture,
    *,
    words: Sequence[str] | None = None,
    method: str = METHOD,
    epsilon: float = 1e-3,
    longest: int = LONGEST,
) -> Caption:
    """Explain each word of a caption by the image and by the words before it.

    The image's vector is the first input of the recurrent network, and each word the next one; the output at a step is
    the word that follows. The score of each word goes back through the gates to these inputs (`lrp`). What arrives at
    the image's vector goes on through the CNN by a method of `cam` that adds up over pixels.

    Args:
        model: with `image`, `head`, and a vocabulary whose tokens the head scores.
        image: [H, W, C], a picture.
        words: the caption; by default the words with the highest scores, until the model's `stop`.
        method: "lrp-composite" or another one of `cam` that goes back from a score to pixels.
        epsilon: the stabiliser in the recurrent network.
        longest: words of a caption at most.

    Raises:
        ModelError: the model has no image, or no linear head over its vocabulary.
        DataError: a word is not in the vocabulary, or there is none.

    Source: Show and Tell, Vinyals et al. 2015, for how the image comes in; LRP of both parts in a row is our choice.
    Relevance that the CNN's biases and stabilisers keep is in no map.
    """
    preprocess = _check(model)
    exact, x = model.to(model.device, torch.float64), preprocess(image)[None].to(model.device)
    assert exact.image is not None and model.image is not None
    with torch.no_grad():
        vector = exact.image(x.double())
    if vector.shape != (1, exact.width):
        raise ModelError(f"image returns {list(vector.shape)} for one image; expected [1, {exact.width}]")
    numbers = _told(exact, vector, longest) if words is None else _numbers(exact, words)
    if not numbers:
        raise DataError("the caption has no word; give words")
    with torch.no_grad():
        read = torch.cat([vector, exact.inputs(torch.tensor(numbers[:-1], device=x.device, dtype=torch.long))])
        scores = _scores(exact, read)
    steps = torch.arange(len(numbers), device=x.device)
    targets = torch.tensor(numbers, device=x.device)
    found = input_relevance(exact, read, steps, targets, rule=LinearRule(epsilon=epsilon))
    maps = _maps(capture(model.image.eval(), tuple(x.shape[1:])), x, vector, found, method)
    of_steps = found.inputs.sum(2).cpu().numpy()
    return Caption(
        network=model.name or model.kind,
        picture=preprocess.display(preprocess.picture(image)),
        words=tuple(model.vocabulary[number] for number in numbers),
        probabilities=scores.softmax(1)[steps, targets].cpu().numpy(),
        scores=found.scores.cpu().numpy(),
        of_image=of_steps[:, 0],
        of_words=np.concatenate([of_steps[:, 1:], np.zeros((len(numbers), 1))], 1),
        maps=maps,
        method=method,
    )


def _check(model: RecurrentModel) -> Preprocess:
    """Raise ModelError where a model makes no captions; return how its images are prepared."""
    if model.image is None or model.preprocess is None:
        raise ModelError(f"{model.name or model.kind} has no image; give dv.RecurrentModel(image=..., preprocess=...)")
    if not model.vocabulary or linear_head(model).out_features != len(model.vocabulary):
        raise ModelError("captions need a head with one score for each token of the vocabulary")
    if model.directions == 2:
        raise ModelError("a bidirectional network reads words that are not there yet; captions need one direction")
    return model.preprocess


def _scores(model: RecurrentModel, x: Tensor) -> Tensor:
    """Return the scores of the words after each step of x [T, D], [T, words]."""
    assert model.head is not None
    scores: Tensor = model.head(outputs_of(model, replay(model, x[None]))[0])
    return scores


@torch.no_grad()
def _told(model: RecurrentModel, vector: Tensor, longest: int) -> list[int]:
    """Return the words with the highest scores one after the other, up to the stop, which is not among them."""
    assert model.head is not None
    stop = model.vocabulary.index(model.stop) if model.stop in model.vocabulary else -1
    found, x, before = list[int](), vector, dict[str, Tensor]()
    while len(found) < longest:
        states = replay(model, x[None], None, before)
        number = int(model.head(outputs_of(model, states)[0, -1]).argmax())
        if number == stop:
            break
        found.append(number)
        before = {name: states[name][:, -1] for name in model.carried}
        x = model.inputs(torch.tensor([number], device=x.device))
    return found


def _numbers(model: RecurrentModel, words: Sequence[str]) -> list[int]:
    """Return the numbers of given words."""
    unknown = [word for word in words if word not in model.vocabulary]
    if unknown:
        raise DataError(f"the word {unknown[0]!r} is not in the vocabulary: {', '.join(model.vocabulary[:20])}")
    return [model.vocabulary.index(word) for word in words]


def _maps(network: Network, x: Tensor, vector: Tensor, found: InputRelevance, method: str) -> np.ndarray:
    """Carry the relevance of the image's vector [W, D] on to its pixels, [W, H, W], a pass for each word.

    The explained score is sum_d v_d R_d / v_d with the quotients held constant, so that the signal begins with R.
    """
    maps = []
    for relevance in found.inputs[:, 0]:
        quotients = torch.where(vector[0] != 0, relevance / vector[0], 0.0).to(x.dtype)
        with constant_maps_allowed():
            explain = cam(method, network)
            maps.append(explain(x, partial(_weighed, quotients), raw=True)[0].double().cpu().numpy())
    return np.stack(maps)


def _weighed(quotients: Tensor, output: Tensor) -> Tensor:
    return (output * quotients).sum(1)
