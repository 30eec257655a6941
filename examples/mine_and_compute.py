"""Mine a network over a packed store and compute on the result: which filters are dead, which fire everywhere?

python examples/mine_and_compute.py photos.h5 mined.h5
"""

import sys

import torchvision

import deconvviz as dv

store = dv.ImageStore.open(sys.argv[1])
model = torchvision.models.squeezenet1_0(weights=None)  # your own network here
net = dv.capture(model, (3, 64, 64))
mined = dv.mine(net, store, ["features.3", "features.7"], out=sys.argv[2], preprocess=dv.Preprocess(72, 64))
for name, layer in mined.items():
    activity = layer.activity
    print(f"{name}: {activity.dead.sum()} dead, {(activity.frequency == 1).sum()} fire on every image")
    best = layer.values[:, 0].argmax()
    print(f"  strongest: channel {best} at {layer.positions[best, 0]} of {store.names[layer.images[best, 0]]}")
