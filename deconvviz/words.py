"""Numbers in sentences: a noun with its count, and the verb that goes with it."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, which is plural unless the count is 1.

    Args:
        count: how many there are.
        noun: for one; words may stand before it, as in "labelled image".
        plural: for several; by default the noun with an "s", or with "es" where it ends in "s" or "x".

    >>> counted(1, "filter"), counted(0, "filter"), counted(1200, "class"), counted(2, "axis", "axes")
    ('1 filter', '0 filters', '1200 classes', '2 axes')
    """
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {plural or noun + ('es' if noun.endswith(('s', 'x')) else 's')}"
