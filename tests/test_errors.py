"""Errors say what was given and what was expected, and the first setting that is wrong is named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deconvviz import errors
from deconvviz.errors import CamError, DataError, DeconvvizError, nearest, require, require_choice


def test_every_error_is_one_that_the_user_can_act_on() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 8 and all(issubclass(kind, DeconvvizError) and kind.__doc__ for kind in kinds)


def test_the_first_wrong_setting_is_named_with_its_value() -> None:
    settings = SimpleNamespace(k=9, batch_size=0, share="half")
    require({}, DataError)
    require({"k": 9}, DataError, k=(True, "at least 1"))
    require(settings, DataError, k=(True, "at least 1"), batch_size=(True, "0 or more"))
    with pytest.raises(CamError, match=r"^batch size 0 given; expected at least 1$"):
        require(settings, CamError, k=(True, ""), batch_size=(False, "at least 1"), share=(False, "0 to 1"))
    with pytest.raises(DataError, match=r"^share 'half' given; expected 0 to 1$"):
        require({"share": "half"}, DataError, share=(False, "0 to 1"))


@pytest.mark.parametrize(
    ("choices", "listed"),
    [(("only",), "only"), (("fp32", "bf16"), "fp32 or bf16"), (("a", "b", "c"), "one of a, b, c")],
)
def test_choices(choices: tuple[str, ...], listed: str) -> None:
    for choice in choices:
        require_choice("precision", choice, choices)
    with pytest.raises(DataError, match=rf"^precision 'fp8' given; expected {listed}$"):
        require_choice("precision", "fp8", choices)
    with pytest.raises(CamError):
        require_choice("precision", None, choices, CamError)


def test_the_nearest_names() -> None:
    names = ["features.0", "features.3", "classifier.1", "relu"]
    assert nearest("feature.3", names).startswith("nearest: features.3")
    assert nearest("zzz", names, count=2) == "nearest: features.0, features.3"  # nothing is close: the first ones
    assert nearest("x", []) == "none are known"
