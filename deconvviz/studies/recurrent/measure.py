"""Measure what the units of a recurrent network do over some sequences, from states that were recorded once."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconvviz.errors import DataError, ModelError
from deconvviz.results.folders import claim
from deconvviz.results.results import stamped
from deconvviz.studies.mining.topk import TopK
from deconvviz.studies.recurrent.lrp import LinearRule, input_relevance, linear_head
from deconvviz.studies.recurrent.model import RecurrentModel
from deconvviz.studies.recurrent.naming import GATES
from deconvviz.studies.recurrent.options import RecurrentKeywords, RecurrentOptions
from deconvviz.studies.recurrent.properties import properties_of
from deconvviz.studies.recurrent.record import check_fit, record, states_after, steps_of
from deconvviz.studies.recurrent.replay import outputs_of, replay
from deconvviz.studies.recurrent.responses import changes, co_clusters, expected_responses, gate_shares
from deconvviz.studies.recurrent.result import LayerViews, RecurrentViews, TokenRelevance
from deconvviz.studies.recurrent.sequences import Sequences
from deconvviz.studies.recurrent.together import Together, longest_run, together
from deconvviz.studies.recurrent.tracking import Tracked, tracked
from deconvviz.types import Floats, Ints, Pathlike

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from deconvviz.results.features import Features

PASSAGE = 50  # steps: a longer sequence is cut into passages of so many, of which each is in a unit's list once
CHUNK = 4096  # steps whose activities are ranked at once
BACK = 200  # steps: how far relevance goes back; what it leaves is told
EXPLAINED = 3  # sequences whose last output is explained, by default
VIEWS = "data/views.h5"


def recurrent(
    model: RecurrentModel,
    sequences: Sequences,
    *,
    out: Pathlike | None = None,
    sources: Mapping[str, Any] | None = None,
    **options: Unpack[RecurrentKeywords],
) -> RecurrentViews:
    """Record the states of a recurrent network over some sequences, and look at them in several ways.

    The activity of a unit is the tanh of its cell state in an LSTM, and its hidden state elsewhere.

    Args:
        model: from `dv.load_recurrent`, or a `dv.RecurrentModel`.
        sequences: from `dv.read_sequences` or `dv.text_sequences`.
        out: a folder, in which the states are recorded (`data/states.h5`) and the result is saved (`data/views.h5`).
            The same call resumes there. None records to a temporary folder.
        sources: where model and sequences came from, for the files.
        options: the fields of `RecurrentOptions`; `batch_size` is sequences in one pass (64 by default).

    Returns:
        For each layer and direction the expected response of units to tokens, with groups of both; shares of time in
        which gates are shut or open; how well units track properties, against rotated ones; the passages in which each
        unit is most active; units that are on together. And the relevance of tokens for some outputs.

    Raises:
        DataError: the sequences do not fit the network, or an option is out of its range.
        MismatchError: the folder holds the states of another network or of other sequences.

    Source: each part names its own.

    >>> import deconvviz as dv
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> model = dv.RecurrentModel(recurrent=torch.nn.GRU(3, 4), head=torch.nn.Linear(4, 3), vocabulary=("(", ")", "a"))
    >>> sequences = dv.text_sequences("(a)\\n((a))a", model.vocabulary)
    >>> views = dv.recurrent(model, sequences, groups=2, progress=False)
    >>> views["0"].mean.shape, sorted(views["0"].gates), len(views.relevance)
    ((3, 4), ['reset', 'update'], 2)
    """
    how = RecurrentOptions(**options)
    check_fit(model, sequences)
    properties = properties_of(how.properties, sequences)
    for name, values in properties.items():
        if np.ptp(values) == 0:
            raise DataError(f"property {name} is the same at every step; leave it out or give other sequences")
    steps = _chosen_steps(how, sequences)
    explained = _explained(how, sequences)
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(temporary if out is None else out)
        now = {"model": model.fingerprint, "sequences": sequences.fingerprint, "carry": how.carry}
        claim(place, "recording", now)
        states = record(model, sequences, place / "data" / "states.h5", carry=how.carry, sources=sources, run=how)
        measuring = _Measuring(model, sequences, states, how)
        layers = measuring.layers(properties, steps)
        relevance, skipped = measuring.relevance(explained)
        views = RecurrentViews(
            network=model.name or model.kind,
            kind=model.kind,
            sequences=dataclasses.replace(sequences, vectors=None),
            layers=layers,
            relevance=relevance,
            skipped=skipped,
            config={**now, **how.as_config()},
            sources=stamped(sources),
        )
        if out is not None:
            views.save(place / VIEWS)
    return views


def _chosen_steps(how: RecurrentOptions, sequences: Sequences) -> tuple[int, int] | None:
    """Return the chosen range as (first step, step behind the last), counted over all sequences."""
    if how.chosen is None:
        return None
    sequence, first, last = how.chosen
    if not 0 <= sequence < len(sequences.lengths):
        raise DataError(f"sequence {sequence} given; expected 0 to {len(sequences.lengths) - 1}")
    if not 0 <= first <= last < sequences.lengths[sequence]:
        raise DataError(f"steps {first}-{last} given; sequence {sequence} has 0 to {sequences.lengths[sequence] - 1}")
    start = int(sequences.starts[sequence])
    return start + first, start + last + 1


def _explained(how: RecurrentOptions, sequences: Sequences) -> list[tuple[int, int]]:
    """Return (sequence, step counted over all sequences) of the outputs that are explained."""
    count, explained = len(sequences.lengths), []
    asked_places = how.explained
    for sequence, place in [(n, -1) for n in range(min(EXPLAINED, count))] if asked_places is None else asked_places:
        if not 0 <= sequence < count:
            raise DataError(f"sequence {sequence} is to be explained; expected 0 to {count - 1}")
        length = int(sequences.lengths[sequence])
        if not -1 <= place < length:
            raise DataError(f"step {place} is to be explained; sequence {sequence} has 0 to {length - 1}")
        explained.append((sequence, int(sequences.starts[sequence]) + (length - 1 if place == -1 else place)))
    return explained


def passages_of(lengths: Ints, most: int = PASSAGE) -> Ints:
    """Return the passage of each step, int64 [N]: its sequence, or the part of at most `most` steps of a longer one.

    >>> passages_of(np.array([2, 5]), 3).tolist()
    [0, 0, 1, 1, 1, 2, 2]
    """
    places = np.concatenate([np.arange(length) for length in lengths])
    new = places % most == 0
    return np.asarray(np.cumsum(new) - 1, np.int64)


def top_passages(activity: NDArray[np.floating[Any]], passages: Ints, k: int) -> tuple[NDArray[np.float32], Ints]:
    """Return the largest activities of each unit in different passages, and their steps.

    Args:
        activity: [N, H].
        passages: int64 [N], as `passages_of` returns them.
        k: how many of each unit.

    Returns:
        float32 [H, k], the largest first; and int64 [H, k]. Where there are fewer passages: minus infinity, and -1.

    Source: the tables are those of mining, `studies.mining.topk`, with passages for images.
    """
    table = TopK.empty(activity.shape[1], k)
    for start in range(0, len(activity), CHUNK):
        values = np.asarray(activity[start : start + CHUNK].T, np.float32)
        steps = np.arange(start, start + values.shape[1])
        places = np.broadcast_to(np.stack([np.zeros_like(steps), steps], 1), (*values.shape, 2))
        numbers = np.broadcast_to(passages[start : start + CHUNK], values.shape)
        table = table.merge(TopK.of(values, numbers, places, k))
    return table.values, table.positions[..., 1].astype(np.int64)


class _Measuring:
    """Reads the recorded states layer by layer."""

    def __init__(self, model: RecurrentModel, sequences: Sequences, states: Features, how: RecurrentOptions) -> None:
        self.model, self.sequences, self.states, self.how = model, sequences, states, how
        self.all_steps = np.arange(len(sequences))
        self.passages = passages_of(sequences.lengths)

    def layers(self, properties: Mapping[str, Floats], chosen: tuple[int, int] | None) -> tuple[LayerViews, ...]:
        """Return the views of all layers."""
        views = []
        with self.how.bar("layer", len(self.model.layers), "views") as bar:
            for layer in self.model.layers:
                views.append(self._layer(layer, properties, chosen))
                bar.update()
        return tuple(views)

    def _layer(self, layer: str, properties: Mapping[str, Floats], chosen: tuple[int, int] | None) -> LayerViews:
        hidden = self._rows(f"{layer}.hidden")
        activity = np.tanh(self._rows(f"{layer}.cell")) if self.model.kind == "LSTM" else hidden
        counts, mean, quantiles = self._responses(layer, hidden)
        groups = co_clusters(mean, counts, self.how.groups, part=self.how.part, seed=self.how.seed)
        tracked = {name: self._tracked(activity, values) for name, values in properties.items()}
        values, steps = top_passages(activity, self.passages, self.how.k)
        return LayerViews(
            name=layer,
            counts=counts,
            mean=mean,
            quantiles=quantiles,
            token_groups=groups[0],
            unit_groups=groups[1],
            gates={gate: gate_shares(self._rows(f"{layer}.{gate}")) for gate in GATES[self.model.kind]},
            tracked=tracked,
            top_values=values,
            top_steps=steps,
            together=self._together(activity, tracked, chosen),
            activity=np.asarray(activity[: self.how.shown], np.float32),
        )

    def _rows(self, name: str) -> NDArray[np.float32]:
        return self.states.rows(name, self.all_steps)

    def _responses(self, layer: str, hidden: NDArray[np.float32]) -> tuple[Ints, Floats, Floats]:
        """Return the expected responses; of vectors, arrays without tokens."""
        tokens = len(self.sequences.vocabulary)
        if not tokens:
            return expected_responses(np.zeros((0, self.model.units)), np.zeros(0, np.int64), 0)
        first = np.zeros(len(hidden), bool)
        if layer.endswith("backwards"):  # what it has read before stands behind
            first[self.sequences.starts[1:] - 1] = True
            responses = changes(hidden[::-1], first[::-1])[::-1]
        else:
            first[[0] if self.how.carry else self.sequences.starts[:-1]] = True
            responses = changes(hidden, first)
        return expected_responses(responses, self.sequences.ids, tokens)

    def _tracked(self, activity: NDArray[np.float32], values: Floats) -> Tracked:
        lengths, how = self.sequences.lengths, self.how
        return tracked(activity, values, lengths, permutations=how.permutations, seed=how.seed)

    def _together(
        self, activity: NDArray[np.float32], found: Mapping[str, Tracked], chosen: tuple[int, int] | None
    ) -> Together | None:
        on = (np.abs(activity) if self.how.magnitude else activity) >= self.how.threshold
        starts = self.sequences.starts
        if chosen is None:
            best = max(found.values(), key=lambda each: abs(each.correlation[each.order[0]]), default=None)
            order = activity.std(0).argsort()[::-1] if best is None else best.order
            runs = (longest_run(on[:, unit], starts) for unit in order)
            chosen = next((run for run in runs if run is not None), None)
        return None if chosen is None else together(on, *chosen, starts, edges=self.how.edges)

    def relevance(self, explained: list[tuple[int, int]]) -> tuple[tuple[TokenRelevance, ...], dict[str, str]]:
        """Return the relevance of the tokens for the highest output at some steps, and what had to be left out."""
        try:
            linear_head(self.model)
        except ModelError as error:
            return (), {"relevance": str(error)}
        model = self.model.to(self.model.device, torch.float64)
        return tuple(self._of_step(model, *each) for each in explained), {}

    def _of_step(self, model: RecurrentModel, sequence: int, step: int) -> TokenRelevance:
        begin, end = self.sequences.starts[sequence : sequence + 2].tolist()
        both = model.directions == 2  # then what comes after the step takes part too
        start, stop = (begin, end) if both else (max(begin, step + 1 - BACK), step + 1)
        before = self._before(start) if start and (start > begin or self.how.carry) else {}
        with torch.no_grad():
            x = model.inputs(self._steps(start, stop))
            states = replay(model, x[None], None, before)
            assert model.head is not None
            output = int(model.head(outputs_of(model, states)[0, step - start]).argmax())
        places = torch.tensor([[step - start], [output]], device=x.device)
        rule = LinearRule(epsilon=self.how.epsilon)
        relevance = input_relevance(model, x, places[0], places[1], rule=rule, before=before)
        return TokenRelevance(
            start=start,
            step=step,
            output=output,
            name=model.named_outputs(linear_head(model).out_features)[output],
            score=float(relevance.scores[0]),
            relevance=relevance.inputs[0].sum(1).cpu().numpy(),
            before=float(relevance.before[0]),
        )

    def _steps(self, start: int, stop: int) -> torch.Tensor:
        return steps_of(self.sequences, start, stop, self.model.device)

    def _before(self, start: int) -> dict[str, torch.Tensor]:
        """Return the states before a step, [1, H] each, in float64."""
        return {name: values.double() for name, values in states_after(self.model, self.states, start - 1).items()}
