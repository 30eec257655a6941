"""What the states and gates of recurrent networks are called, and what a token may be; nothing here imports torch."""

from __future__ import annotations

TOKENS = ("characters", "words")
SPLITS = ("lines", "file")  # what is a sequence: each line of a text, or the whole of it
STATES = {
    "LSTM": ("hidden", "cell", "input", "forget", "candidate", "output"),
    "GRU": ("hidden", "reset", "update", "candidate"),
    "RNN": ("hidden",),
}
"""Kind of network -> what is recorded of a unit at each step."""
GATES = {"LSTM": ("input", "forget", "output"), "GRU": ("reset", "update"), "RNN": ()}
"""Kind of network -> the gates among these, which are between 0, shut, and 1, open."""
CARRIED = {"LSTM": ("hidden", "cell"), "GRU": ("hidden",), "RNN": ("hidden",)}
"""Kind of network -> the states that one step hands on to the next."""


def activity_words(kind: str) -> str:
    """Return what is taken for the activity of a unit, in words.

    >>> activity_words("LSTM"), activity_words("GRU")
    ('tanh of the cell state', 'hidden state')
    """
    return "tanh of the cell state" if kind == "LSTM" else "hidden state"


def layer_words(name: str) -> str:
    """Return what a layer is called in a sentence.

    >>> layer_words("0"), layer_words("1.backwards")
    ('layer 0', 'layer 1, backwards')
    """
    number, _, backwards = name.partition(".")
    return f"layer {number}{', backwards' if backwards else ''}"


def shown_token(token: str) -> str:
    """Return a token as tables and labels show it: spaces and line ends become visible signs.

    >>> shown_token(" "), shown_token("a"), shown_token(chr(10))
    ('␣', 'a', '⏎')
    """
    return token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣") or "∅"
