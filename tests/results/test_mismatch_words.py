"""What a mismatch says: only what differs, both values, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from deconvviz.errors import MismatchError
from deconvviz.results.results import require_same

KEPT: dict[str, Any] = {
    "preprocess": {"resize": 72, "crop": 64, "mean": [0.4, 0.5, 0.6], "std": [1, 1, 1], "limits": None},
    "layers": [f"layer{number}" for number in range(40)],
    "images_fingerprint": "a" * 64,
    "explainer": "b" * 64,
    "k": 9,
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"k": 4}, "k: 9 in the file, 4 now"),
        ({"preprocess": {**KEPT["preprocess"], "crop": 32}}, "preprocess crop: 64 in the file, 32 now"),
        (
            {"preprocess": {**KEPT["preprocess"], "mean": [0.4, 0.5, 0.7]}},
            "preprocess mean: [0.4, 0.5, 0.6] in the file, [0.4, 0.5, 0.7] now",
        ),
        ({"layers": [*KEPT["layers"], "head"]}, "layers: nothing more in the file, ['head'] now"),
        ({"images_fingerprint": "c" * 64}, f"the images (fingerprint): {'a' * 16} in the file, {'c' * 16} now"),
        (
            {"explainer": "d" * 64, "k": 1},
            f"explainer: {'b' * 16} in the file, {'d' * 16} now; k: 9 in the file, 1 now",
        ),
    ],
)
def test_only_what_differs_is_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(MismatchError) as raised:
        require_same("m.h5", KEPT, {**KEPT, **changes}, "remove it")
    assert str(raised.value) == f"m.h5 was made with other settings ({told}); remove it"


def test_a_long_value_is_cut() -> None:
    with pytest.raises(MismatchError) as raised:
        require_same("m.h5", KEPT, {**KEPT, "layers": []}, "remove it")
    assert len(str(raised.value)) < 200 and "['layer0', 'layer1', " in str(raised.value)
