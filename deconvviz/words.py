"""Numbers and names in sentences: a noun with its count, what a network is called, and what made a decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

FEWEST = 0.005  # a share that is smaller is not worth a word: it would be printed as 0 %


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


def in_points(difference: float, low: float, high: float, signed: bool = False) -> str:
    """Return a difference of two shares in percentage points, with its interval.

    Args:
        difference: as a fraction, such as 0.36.
        low: lower end of its interval.
        high: upper end.
        signed: whether a number above zero has a plus.

    >>> in_points(0.36, 0.289, 0.424), in_points(0.005, -0.01, 0.02, signed=True), in_points(-0.0, -1e-5, 0.01)
    ('36.0 points [28.9, 42.4]', '+0.5 points [-1.0, +2.0]', '0.0 points [0.0, 1.0]')
    """
    form = "+.1f" if signed else ".1f"
    value, lower, upper = (round(100 * share, 1) + 0.0 for share in (difference, low, high))  # and not -0.0
    return f"{value:{form}} points {between(lower, upper, form)}"


def between(low: float, high: float, form: str = ".2f") -> str:
    """Return an interval in brackets; it is unknown where its ends are NaN, as those of a single image are.

    Args:
        low: lower end.
        high: upper end.
        form: how each end is written, as in Python's format strings.

    >>> between(-0.25, 0.5, "+.2f"), between(float("nan"), float("nan"))
    ('[-0.25, +0.50]', '[unknown]')
    """
    return "[unknown]" if math.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def at_layers(layers: Sequence[str]) -> str:
    """Return where maps are made, behind the name of a method: " at " and the layers, or nothing where there is none.

    >>> at_layers(["layer3", "layer4"]), at_layers([])
    (' at layer3, layer4', '')
    """
    return f" at {', '.join(layers)}" if layers else ""


def readable(value: float) -> str:
    """Return a number as it is read in a figure: four digits of it, thousands with commas, millions in words.

    >>> readable(23854.2), readable(1413562.0), readable(-0.012345), readable(2e9)
    ('23,850', '1.41 million', '-0.01235', '2 billion')
    """
    rounded = float(f"{value:.4g}")
    for unit, word in ((1e9, "billion"), (1e6, "million")):
        if unit <= abs(rounded) < 1e12:
            return f"{float(f'{rounded / unit:.3g}'):,g} {word}"
    return f"{rounded:,.0f}" if 1e3 <= abs(rounded) < 1e6 else f"{rounded:.4g}"


def network_called(spec: str, own_name: str) -> str:
    """Return what a network is called: its name in the library that it comes from, or its own one.

    Args:
        spec: the model's name, as it was given to `load_model`; "" where it is unknown.
        own_name: of the network, which is that of its class.

    >>> network_called("torchvision:squeezenet1_0", "SqueezeNet"), network_called("demo", "ZFNet")
    ('squeezenet1_0', 'ZFNet')
    """
    return spec.partition(":")[2].replace("#", " ") if spec.startswith(("torchvision:", "timm:")) else own_name


def with_article(noun: str) -> str:
    """Return a noun with "a" or "an" before it, by its first letter.

    >>> with_article("mined file"), with_article("attack file")
    ('a mined file', 'an attack file')
    """
    return f"{'an' if noun[:1] in 'aeio' else 'a'} {noun}"


def listed(parts: Sequence[str]) -> str:
    """Return words with commas between them, and "and" before the last.

    >>> listed(["41"]), listed(["41", "7"]), listed(["41", "7", "150"])
    ('41', '41 and 7', '41, 7 and 150')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def because(
    answer: str,
    shares: Sequence[float],
    layer: str,
    names: Mapping[int, str] | None = None,
    places: Mapping[int, str] | None = None,
    count: int = 3,
) -> str:
    """Say in one sentence which channels of a layer made a decision.

    Args:
        answer: what was decided, such as "tabby (62 %)".
        shares: the share of each channel in the relevance of the layer, signed: below zero it speaks against.
        layer: name of the layer.
        names: channel -> what it detects; a channel without a name is a number.
        places: channel -> where in the image, such as "upper left".
        count: how many channels are named at most; one of those that speak against it is added.

    Returns:
        The sentence. Text in it is not escaped.

    Source: a sentence from the parts of an explanation, as in the section on text of Selvaraju et al. 2017, Grad-CAM
    (from memory of the paper); the template is ours.

    >>> because("tabby (62 %)", [0.0, 0.4, 0.1, -0.2], "conv5")
    'tabby (62 %), because of channels 1 and 2 of conv5 (40 and 10 % of the relevance); against it: channel 3 (20 %).'
    >>> because("tabby", [0.5, 0.0], "conv5", names={0: "ear"}, places={0: "upper left"})
    'tabby, because of channel 0 ("ear", upper left) of conv5 (50 % of the relevance).'
    >>> because("tabby", [0.0, 0.0], "conv5")
    'tabby, but no channel of conv5 speaks for it.'
    """
    order = sorted(range(len(shares)), key=lambda channel: -shares[channel])

    def told(channel: int) -> str:
        notes = [f'"{names[channel]}"'] if names and names.get(channel) else []
        notes += [places[channel]] if places and places.get(channel) else []
        return f"{channel} ({', '.join(notes)})" if notes else str(channel)

    speaking = [channel for channel in order[:count] if shares[channel] >= FEWEST]
    against = f"; against it: channel {told(order[-1])} ({-100 * shares[order[-1]]:.0f} %)" if order else ""
    against = against if order and shares[order[-1]] <= -FEWEST else ""
    if not speaking:
        return f"{answer}, but no channel of {layer} speaks for it{against}."
    noun = "channels" if len(speaking) > 1 else "channel"
    channels = listed([told(channel) for channel in speaking])
    weights = listed([f"{100 * shares[channel]:.0f}" for channel in speaking])
    return f"{answer}, because of {noun} {channels} of {layer} ({weights} % of the relevance){against}."
