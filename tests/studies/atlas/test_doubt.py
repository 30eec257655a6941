"""Which decisions are explained: held against the scores of the network, and against cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gallery_case import IMAGES, Case

from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas import doubt
from deconvviz.studies.atlas.doubt import doubtful_images, most_doubtful


def test_a_third_are_the_surest_mistakes_and_the_others_the_smallest_log_odds() -> None:
    log_odds = np.array([5.0, 0.3, 4.0, 0.1, 9.0, 0.2, 8.0, 1.0])
    wrong = np.array([False, False, True, True, False, False, True, True])
    assert most_doubtful(log_odds, wrong, 6).tolist() == [1, 2, 3, 5, 6, 7]  # 6 and 2 are the surest mistakes
    assert most_doubtful(log_odds, wrong, 3).tolist() == [3, 5, 6]
    assert most_doubtful(log_odds, np.zeros(8, bool), 3).tolist() == [1, 3, 5]
    assert most_doubtful(log_odds, wrong, 50).tolist() == list(range(8))


@pytest.mark.parametrize("labelled", [True, False])
def test_images_are_chosen_by_the_scores_of_the_network(
    case: Case, labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        scores = case.model(case.x).double().numpy()
    first_two = np.sort(scores, 1)[:, -2:]
    labels = np.asarray(case.store.labels)
    outputs = np.array([np.bincount(scores.argmax(1)[labels == label]).argmax() for label in range(4)])
    wrong = scores.argmax(1) != outputs[labels]
    assert 0 < wrong.sum() < IMAGES
    inputs = case.inputs(outputs=outputs if labelled else None)
    network, options = inputs.network.forward_only("fp32"), RunOptions(batch_size=7, progress=False)
    expected = most_doubtful(first_two[:, 1] - first_two[:, 0], wrong & labelled, 9)
    assert doubtful_images(inputs, network, 9, options).tolist() == expected.tolist()
    monkeypatch.setattr(doubt, "CANDIDATES", 12)  # of a large store not every image is looked at
    assert len(doubtful_images(inputs, network, 9, options)) == 9
