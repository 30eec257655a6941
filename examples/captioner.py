"""A captioner of generated scenes: the package's small CNN, and an LSTM that says how large, what, and where.

tools/train_captioner scene.png        # a minute; without it the weights are random
deconvviz recurrent examples/captioner.py:make --image scene.png -o caption
"""

import pathlib

import torch
from torch import nn

import deconvviz as dv
from deconvviz.models.load import load_model

WORDS = ("a", "small", "large", *dv.Scenes(1).classes, "left", "middle", "right", ".")
DEMO, WEIGHTS = load_model("demo"), pathlib.Path("captioner.pth")
TRUNK = nn.Sequential(*list(DEMO.model.children())[:16])  # up to the maps of the fifth convolution, in one row
PREPROCESS = dv.Preprocess(**DEMO.settings)


def make() -> dv.RecurrentModel:
    shapes = [nn.Linear(459, 48), nn.Embedding(len(WORDS), 48), nn.LSTM(48, 64), nn.Linear(64, len(WORDS))]
    look, embed, body, read = parts = nn.ModuleList(shapes)
    if WEIGHTS.exists():
        parts.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    around = {"vocabulary": WORDS, "tokens": "words", "stop": ".", "preprocess": PREPROCESS}
    return dv.RecurrentModel(recurrent=body, embedding=embed, head=read, image=nn.Sequential(TRUNK, look), **around)
