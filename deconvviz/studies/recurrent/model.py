"""RecurrentModel: a recurrent module with what gives it its inputs and what reads its states.

A factory returns a `RecurrentModel`, or any module in which there is one LSTM, GRU or RNN of torch.nn. Of a module the
parts are found: the only Embedding whose vectors have the size of the recurrent module's inputs, and the only Linear
that reads its outputs. A list of tokens, the vocabulary, may be an attribute `vocabulary` of the module.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deconvviz.errors import ModelError, require_choice
from deconvviz.models.python_files import returned_by
from deconvviz.studies.recurrent.naming import CARRIED, TOKENS
from deconvviz.words import counted, listed

if TYPE_CHECKING:
    from deconvviz.data.preprocess import Preprocess

KINDS = (nn.LSTM, nn.GRU, nn.RNN)
EXPECTED = "an LSTM, a GRU or an RNN of torch.nn"
OF_A_MODULE = ("vocabulary", "outputs", "tokens", "unknown", "stop")
"""Attributes of a module that are taken as those of the same names of a `RecurrentModel`."""


@dataclass(frozen=True, kw_only=True)
class RecurrentModel:
    """A recurrent module, and the parts around it.

    Attributes:
        recurrent: an LSTM, a GRU or an RNN of torch.nn; stacked, bidirectional, and with or without batch_first.
        embedding: from numbers of tokens, int64 [...], to the recurrent module's inputs [..., D]. None: tokens become
            vectors with a single 1, or the sequences are vectors themselves.
        head: from the last layer's hidden states [..., H], of both directions one after the other, to scores. Only a
            linear one takes part in the relevance of tokens.
        vocabulary: the tokens in the order of their numbers. Empty: they are numbered in their order as text, which
            needs as many as the network has.
        outputs: names of the head's scores; by default the vocabulary where there are as many.
        tokens: what a token is: "characters" or "words", which are separated by spaces.
        unknown: the token that stands for those which are not in the vocabulary; None refuses them.
        image: for captions: from images [N, C, H, W] to the vectors [N, D] which are the first step of every sequence.
        preprocess: how images become the input of `image`.
        stop: the output at which a caption ends.
        name: what the network is called; by default that of the factory.

    Raises:
        ModelError: a part is missing or does not fit.

    >>> model = RecurrentModel(recurrent=nn.LSTM(2, 3), vocabulary=("(", ")"))
    >>> model.kind, model.layers
    ('LSTM', ('0',))
    """

    recurrent: nn.Module
    embedding: nn.Module | None = None
    head: nn.Module | None = None
    vocabulary: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tokens: str = "characters"
    unknown: str | None = None
    image: nn.Module | None = None
    preprocess: Preprocess | None = None
    stop: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.recurrent, KINDS):
            raise ModelError(f"{type(self.recurrent).__name__} given as the recurrent module; expected {EXPECTED}")
        if self.recurrent.proj_size:
            raise ModelError(
                f"an LSTM with proj_size={self.recurrent.proj_size} given; its hidden states are projections, which "
                "are not read here: expected proj_size=0"
            )
        require_choice("tokens", self.tokens, TOKENS, ModelError)
        object.__setattr__(self, "vocabulary", tuple(map(str, self.vocabulary)))
        object.__setattr__(self, "outputs", tuple(map(str, self.outputs)))
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ModelError("the vocabulary names a token twice; give each token once")
        if self.unknown is not None and self.unknown not in self.vocabulary:
            raise ModelError(f"the unknown token {self.unknown!r} is not in the vocabulary; add it there")
        count = self.token_count
        if self.vocabulary and len(self.vocabulary) > count:
            raise ModelError(f"a vocabulary of {len(self.vocabulary)} tokens given; the network takes {count}")

    @property
    def kind(self) -> str:
        """ "LSTM", "GRU" or "RNN"."""
        return next(kind.__name__ for kind in KINDS if isinstance(self.recurrent, kind))

    @property
    def units(self) -> int:
        """H, the number of units of each layer and direction."""
        return int(self._of("hidden_size"))

    @property
    def width(self) -> int:
        """D, the size of the recurrent module's inputs."""
        return int(self._of("input_size"))

    @property
    def directions(self) -> int:
        """1, or 2 of a bidirectional module."""
        return 2 if self._of("bidirectional") else 1

    @property
    def depth(self) -> int:
        """Number of layers, which are stacked."""
        return int(self._of("num_layers"))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers from the inputs on: their numbers, with ".backwards" for the second direction."""
        endings = ("", ".backwards")[: self.directions]
        return tuple(f"{layer}{ending}" for layer in range(self.depth) for ending in endings)

    @property
    def carried(self) -> tuple[str, ...]:
        """The states that one step hands on to the next, such as "0.hidden" and "0.cell"."""
        return tuple(f"{layer}.{state}" for layer in self.layers for state in CARRIED[self.kind])

    @property
    def token_count(self) -> int:
        """How many tokens the network can tell apart."""
        return int(getattr(self.embedding, "num_embeddings", self.width))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.recurrent.parameters()).device

    def named_outputs(self, count: int) -> tuple[str, ...]:
        """Return names of `count` outputs: their own, those of the tokens where there are as many, or numbers."""
        for names in (self.outputs, self.vocabulary):
            if len(names) == count:
                return names
        return tuple(map(str, range(count)))

    def inputs(self, values: Tensor) -> Tensor:
        """Return what the recurrent module reads, [..., D], of vectors or of numbers of tokens, int64 [...]."""
        if values.is_floating_point():
            return values.to(next(self.recurrent.parameters()).dtype)
        if self.embedding is not None:
            embedded: Tensor = self.embedding(values)
            return embedded
        return nn.functional.one_hot(values, self.width).to(next(self.recurrent.parameters()).dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> RecurrentModel:
        """Return a copy in eval mode on a device, with weights of a dtype; the modules themselves stay as they are."""
        parts = {name: getattr(self, name) for name in ("recurrent", "embedding", "head", "image")}
        moved = {
            name: None if part is None else copy.deepcopy(part).eval().to(device, dtype) for name, part in parts.items()
        }
        return RecurrentModel(**{**vars(self), **moved})

    @property
    def fingerprint(self) -> str:
        """A digest of the weights of the recurrent module, the embedding and the head, and of the vocabulary."""
        digest = hashlib.sha256(repr((self.kind, self.vocabulary, self.tokens, self.unknown)).encode())
        for part in (self.recurrent, self.embedding, self.head):
            for name, tensor in (part.state_dict() if part is not None else {}).items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _of(self, name: str) -> Any:
        return getattr(self.recurrent, name)


def load_recurrent(spec: str) -> RecurrentModel:
    """Call a factory, path/to/file.py:FUNCTION, and return the recurrent model that it makes.

    Raises:
        ModelError: the factory does not exist, raises an error, or returns no recurrent network.
    """
    returned = returned_by(spec, f"path/to/file.py:FACTORY, a function that returns {EXPECTED}")
    return as_recurrent(returned, spec.rpartition(":")[2])


def as_recurrent(returned: Any, name: str = "") -> RecurrentModel:
    """Return a recurrent model from a `RecurrentModel`, or from a module whose parts are found.

    Args:
        returned: what a factory returned.
        name: what the network is called; by default the name of its class.

    Raises:
        ModelError: it is neither, has no recurrent module or several, or parts that cannot be told apart.

    >>> class Reader(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embed, self.body, self.read = nn.Embedding(5, 4), nn.GRU(4, 3), nn.Linear(3, 5)
    ...         self.vocabulary = list("abcde")
    >>> found = as_recurrent(Reader())
    >>> found.kind, found.head, found.vocabulary, found.name
    ('GRU', Linear(in_features=3, out_features=5, bias=True), ('a', 'b', 'c', 'd', 'e'), 'Reader')
    """
    if isinstance(returned, RecurrentModel):
        own_name = returned.name or name or returned.kind
        return RecurrentModel(**{**vars(returned), "name": own_name})
    if not isinstance(returned, nn.Module):
        raise ModelError(
            f"the factory returned {type(returned).__name__}; expected a dv.RecurrentModel, or a module with {EXPECTED}"
        )
    recurrent = _only(returned, KINDS, EXPECTED, lambda _: True)
    if recurrent is None:
        raise ModelError(f"{type(returned).__name__} has no recurrent module; expected {EXPECTED} in it")
    bare = RecurrentModel(recurrent=recurrent)
    embedding = _only(returned, (nn.Embedding,), "an Embedding", lambda each: each.embedding_dim == bare.width)
    read = bare.units * bare.directions
    head = _only(returned, (nn.Linear,), "a Linear that reads the states", lambda each: each.in_features == read)
    parts_given = {part: getattr(returned, part) for part in OF_A_MODULE if getattr(returned, part, None) is not None}
    return RecurrentModel(
        recurrent=recurrent, embedding=embedding, head=head, name=name or type(returned).__name__, **parts_given
    )


def _only(module: nn.Module, kinds: tuple[type[Any], ...], what: str, fits: Any) -> Any:
    """Return the only part of some kinds that fits, None where there is none; raises ModelError for several."""
    fitting_parts = {name: part for name, part in module.named_modules() if isinstance(part, kinds) and fits(part)}
    if len(fitting_parts) > 1:
        names = listed([name or "itself" for name in fitting_parts])
        raise ModelError(
            f"{type(module).__name__} has {counted(len(fitting_parts), 'part')} that may be {what}: {names}; return a "
            "dv.RecurrentModel, which names its parts"
        )
    return next(iter(fitting_parts.values()), None)
