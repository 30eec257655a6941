"""What the help and the captions of several commands say of projections."""

from __future__ import annotations

from collections.abc import Iterable

PROJECTION_NOTE = (
    "A deconvnet or guided projection shows which pixels reached the unit, and changes little when the network's "
    "weights are randomised: it is no evidence for what the network decides."
)


def projection_note(rules: Iterable[str]) -> str:
    """Return `PROJECTION_NOTE` where a projection is by one of the rules that it is about; "" elsewhere.

    >>> projection_note(["lrp-composite"]), projection_note(["gradient", "guided"]) == PROJECTION_NOTE
    ('', True)
    """
    return PROJECTION_NOTE if {"deconvnet", "guided"} & set(rules) else ""


def no_layer_named(place: str) -> str:
    """Return the note that says which layer is explained where the user names none; `place` is such as " at layer4".

    >>> no_layer_named(" at layer4")
    'note: no layer is named; the maps are those at layer4, the last with rows and columns; -l names another'
    """
    return f"note: no layer is named; the maps are those{place}, the last with rows and columns; -l names another"


NO_SWITCHES_NOTE = (
    "No max pooling lies between the image and this layer, so the deconvnet has no switches, and its projections "
    "hardly depend on the image: the rule auto takes one that follows the image."
)
