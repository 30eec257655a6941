"""Explain the most probable box of a detector: explain_detector.py PHOTO OUT.png [none]

torchvision's Faster R-CNN takes images in 0..1 of any size. It cannot be captured, so hooks make the maps.
"""

import sys

import numpy as np
import torch
from PIL import Image
from torchvision.models import detection

import deconvviz as dv

photo, out, *weights = sys.argv[1:]
picture = np.array(Image.open(photo).convert("RGB"))
x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
untrained = {"weights": None, "weights_backbone": None, "box_score_thresh": 0.0, "num_classes": 4}
build = detection.fasterrcnn_mobilenet_v3_large_320_fpn
model = build(**untrained).eval() if weights else build(weights="DEFAULT").eval()
found = model(x)[0]  # boxes in pixels of the image, labels and scores, the most probable one first
box = [round(side) for side in found["boxes"][0].tolist()]
target = dv.BoxTarget(int(found["labels"][0]), tuple(box))
maps = dv.cam("hirescam", model, "backbone.body.13")(x, target)
print(f"label {target.label} at {box}, p {found['scores'][0].item():.2f}")
dv.draw_maps(maps, [picture]).savefig(out)
