"""Record the states and gates of every step in a features file, a row for each step, in commits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.graph.computing import computing
from deconvviz.results.features import Features, FeatureWriter, write_features
from deconvviz.results.results import stamped
from deconvviz.run.options import RunOptions
from deconvviz.studies.recurrent.model import RecurrentModel
from deconvviz.studies.recurrent.naming import STATES
from deconvviz.studies.recurrent.replay import replay
from deconvviz.studies.recurrent.sequences import Sequences
from deconvviz.types import Ints, Pathlike

AT_ONCE = 64  # sequences in one pass, by default
PIECE = 2000  # steps after which a long sequence is committed; it goes on from the states that were recorded


def record(
    model: RecurrentModel,
    sequences: Sequences,
    out: Pathlike,
    *,
    carry: bool = False,
    sources: Mapping[str, Any] | None = None,
    run: RunOptions | None = None,
) -> Features:
    """Write the states and gates of all steps to a file; calling again with the same arguments resumes.

    The file is one of features, as `dv.stream_features` writes it: a row for each step, and a "layer" for each of
    "LAYER.STATE", such as "0.cell" or "1.backwards.hidden". Its labels are the numbers of the tokens.

    Args:
        model: what runs; in float32 whatever its weights are.
        sequences: the steps.
        out: path of the file.
        carry: a sequence goes on from the states after the one before, as in a training that did not set them to zero.
        sources: where model and sequences came from, for the file.
        run: `batch_size` is sequences in one pass; `progress`.

    Raises:
        DataError: the sequences do not fit the network, states are carried in a bidirectional one, or the file cannot
            be written.
        MismatchError: the file was written with other settings.
    """
    run = run or RunOptions()
    check_fit(model, sequences)
    if carry and model.directions == 2:
        raise DataError("states are to be carried on; a bidirectional network begins at both ends of each sequence")
    config = {
        "recurrent": model.kind,
        "model_fingerprint": model.fingerprint,
        "sequences_fingerprint": sequences.fingerprint,
        "carry": carry,
        "units": model.units,
        "recurrent_layers": list(model.layers),
    }
    widths = {f"{layer}.{state}": model.units for layer in model.layers for state in STATES[model.kind]}
    starts = np.array([0, len(sequences)]) if carry else sequences.starts
    rows = write_features(out, widths, sequences.ids, sequences.vocabulary, config, stamped(sources), row_of="step")
    with rows as writer, computing("fp32"):
        _Recording(model.to(model.device, torch.float32), sequences, starts, run).run(writer)
    return Features(out)


def check_fit(model: RecurrentModel, sequences: Sequences) -> None:
    """Raise DataError where sequences do not fit a network."""
    if sequences.vectors is not None:
        if sequences.vectors.shape[1] != model.width:
            raise DataError(f"vectors of {sequences.vectors.shape[1]} numbers given; the network takes {model.width}")
    elif len(sequences.vocabulary) > model.token_count:
        raise DataError(f"{len(sequences.vocabulary)} tokens given; the network takes {model.token_count}")


def steps_of(sequences: Sequences, start: int, stop: int, device: torch.device) -> Tensor:
    """Return what `RecurrentModel.inputs` takes for some steps: int64 [n] or float32 [n, D]."""
    values = sequences.ids if sequences.vectors is None else sequences.vectors
    return torch.from_numpy(values[start:stop]).to(device)


def states_after(model: RecurrentModel, states: Features, step: int) -> dict[str, Tensor]:
    """Return what a recorded step hands on to the next, "LAYER.STATE" -> float32 [1, H], on the model's device."""
    rows = {name: states.rows(name, np.array([step])) for name in model.carried}
    return {name: torch.from_numpy(values).to(model.device) for name, values in rows.items()}


class _Recording:
    """Runs over the streams, which are sequences, or all of them as one where states are carried on.

    Attributes:
        starts: int64, the first step of each stream, and the number of steps.
    """

    def __init__(self, model: RecurrentModel, sequences: Sequences, starts: Ints, run: RunOptions) -> None:
        self.model, self.sequences, self.starts, self.options = model, sequences, starts, run
        self.size = run.batch_size or AT_ONCE

    def run(self, writer: FeatureWriter) -> None:
        """Write the rows that the file does not have yet."""
        states: dict[str, Tensor] = {}
        with self.options.bar("step", len(self.sequences), "states", writer.row) as bar:
            while writer.row < len(self.sequences):
                row, stream = writer.row, int(np.searchsorted(self.starts, writer.row, "right")) - 1
                if row > self.starts[stream] or self._long(stream):
                    if row > self.starts[stream] and not states:  # a job that goes on
                        states = states_after(self.model, Features(writer.path), row - 1)
                    states = self._piece(writer, row, min(row + PIECE, int(self.starts[stream + 1])), states)
                    states = {} if writer.row == self.starts[stream + 1] else states
                else:
                    self._batch(writer, self._together(stream))
                writer.commit()
                bar.update(writer.row - row)

    def _long(self, stream: int) -> bool:
        """Whether a stream is recorded piece by piece; both ends of a bidirectional one must be there at once."""
        return self.model.directions == 1 and int(self.starts[stream + 1] - self.starts[stream]) > PIECE

    def _together(self, first: int) -> list[int]:
        """Return the streams that run in one pass, from the first one on; what follows does not depend on kills."""
        last = first + 1
        while last < len(self.starts) - 1 and last - first < self.size and not self._long(last):
            last += 1
        return list(range(first, last))

    def _batch(self, writer: FeatureWriter, streams: list[int]) -> None:
        pieces = [self._inputs(int(self.starts[each]), int(self.starts[each + 1])) for each in streams]
        lengths = torch.tensor([len(each) for each in pieces], device=self.model.device)
        x = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        states = replay(self.model, x, lengths)
        inside = torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None]
        writer.append({name: values[inside].cpu().numpy() for name, values in states.items()})

    def _piece(self, writer: FeatureWriter, start: int, stop: int, before: dict[str, Tensor]) -> dict[str, Tensor]:
        states = replay(self.model, self._inputs(start, stop)[None], None, before)
        writer.append({name: values[0].cpu().numpy() for name, values in states.items()})
        return {name: states[name][:, -1] for name in self.model.carried}

    @torch.no_grad()
    def _inputs(self, start: int, stop: int) -> Tensor:
        return self.model.inputs(steps_of(self.sequences, start, stop, self.model.device))
