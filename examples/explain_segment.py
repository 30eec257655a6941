"""Explain the pixels of one class, and what makes two photos alike: explain_segment.py PHOTO OTHER OUT [none]"""

import sys

import numpy as np
import torch
from PIL import Image

import deconvviz as dv

photo, other, out, *weights = sys.argv[1:]
name = "torchvision:deeplabv3_mobilenet_v3_large"
loaded = dv.load_model(name, weights[0] if weights else "DEFAULT")
preprocess = dv.Preprocess(**{**loaded.settings, "resize": 128, "crop": 128})
x, y = (preprocess(np.array(Image.open(path).convert("RGB")))[None] for path in (photo, other))
net = dv.capture(loaded.model, preprocess.shape)
top = int(net(x)["out"].argmax(1).flatten().mode().values)
segment = dv.cam("layercam", net, "backbone.16")(x, dv.SegmentTarget(top, names=loaded.classes))
dv.draw_maps(segment).savefig(f"{out}-segment.png")

features = dv.ending_at(net, "backbone.16")  # a network that returns this layer, whose mean stands for an image
with torch.no_grad():
    alike = dv.SimilarityTarget(features(y), other)
explain = dv.cam("layercam", features, "backbone.15")
dv.draw_maps(explain(x, alike)).savefig(f"{out}-alike.png")
print(f"{', '.join(segment.targets)}; cosine {explain.scores.item():.3f}")
