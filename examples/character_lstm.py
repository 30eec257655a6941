"""Train a small LSTM to predict the next character, twenty seconds on a CPU, and see what its units do.

tools/bracket_text 6000 1 > training.txt
python examples/character_lstm.py training.txt
tools/bracket_text 400 0 > brackets.txt
deconvviz recurrent examples/character_lstm.py:make brackets.txt --split file -o views
"""

import pathlib
import sys

import torch
from torch import nn

import deconvviz as dv

VOCABULARY, WEIGHTS = tuple('ab ()[]"\n'), pathlib.Path("character_lstm.pth")


def make() -> dv.RecurrentModel:
    parts = nn.ModuleList([nn.LSTM(len(VOCABULARY), 48, batch_first=True), nn.Linear(48, len(VOCABULARY))])
    if WEIGHTS.exists():
        parts.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return dv.RecurrentModel(recurrent=parts[0], head=parts[1], vocabulary=VOCABULARY)


if __name__ == "__main__":
    torch.manual_seed(0)
    model, steps = make(), int(sys.argv[2]) if len(sys.argv) > 2 else 800
    ids = torch.from_numpy(dv.read_sequences(sys.argv[1], VOCABULARY, split="file").ids)
    parts = nn.ModuleList([model.recurrent, model.head])
    optimiser = torch.optim.Adam(parts.parameters(), 5e-3)
    for _step in range(steps):
        batch = torch.stack([ids[start : start + 101] for start in torch.randint(len(ids) - 101, (32,))])
        scores = model.head(model.recurrent(model.inputs(batch[:, :-1]))[0])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad(), loss.backward(), optimiser.step()
    torch.save(parts.state_dict(), WEIGHTS)
    print(f"loss {loss.item():.3f} nats for each character")
