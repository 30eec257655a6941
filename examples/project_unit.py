"""Project one unit of a network back to the pixels of a photo, and save the projection.

python examples/project_unit.py projection.png
"""

import sys

import numpy as np
from PIL import Image
from skimage import data

import deconvviz as dv

loaded = dv.load_model("torchvision:squeezenet1_0", weights="none")  # "DEFAULT" downloads trained weights
preprocess = dv.Preprocess(**loaded.settings)
net = dv.capture(loaded.model, preprocess.shape)
x = preprocess(data.chelsea())[None]
projection = dv.project(net, x, "features.7", channel=150)
print(projection, "sees", projection.window)

pixels = projection.full().permute(1, 2, 0).numpy()
out = sys.argv[1] if len(sys.argv) > 1 else "projection.png"
Image.fromarray(np.uint8(127.5 + 127.5 * pixels / np.abs(pixels).max())).save(out)
