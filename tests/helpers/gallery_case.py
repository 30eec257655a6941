"""A small network, thirty pictures, and what mining found in them: what a gallery is made of."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import deconvviz as dv
from deconvviz.data.decode import encode
from deconvviz.data.images import ImageStore
from deconvviz.data.pack import pack
from deconvviz.data.pictures import resized
from deconvviz.data.preprocess import Preprocess
from deconvviz.results.features import FeatureArrays
from deconvviz.results.tiles import Gallery, load_gallery
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas.galleries import GalleryMaker, GalleryOptions
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import Mined

SIDE, IMAGES, K = 28, 30, 4
PREPROCESS = Preprocess(resize=None, crop=SIDE)
DEAD, RARE = 3, 5  # channels of relu2: one that never fires, one that fires in few images


class Small(nn.Module):
    """Two convolutions and a classifier; channel DEAD never fires, RARE seldom, and 7 repeats 6."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 5, stride=2), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 10, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(10, 7)
        with torch.no_grad():
            self.conv2.bias[DEAD] = -100.0  # type: ignore[index]
            self.conv2.weight[7] = 3 * self.conv2.weight[6]
            self.conv2.bias[7] = 3 * self.conv2.bias[6]  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc(maps.amax((2, 3)))  # type: ignore[no-any-return]


class Case:
    """The small network, thirty noisy pictures of four classes, and what mining found in them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        for i in range(IMAGES):
            coarse = rng.integers(0, 256, (7, 7, 3), np.uint8).repeat(4, 0).repeat(4, 1)
            noisy = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
            (folder / "images" / f"class{i % 4}").mkdir(parents=True, exist_ok=True)
            (folder / "images" / f"class{i % 4}" / f"{i:02d}.png").write_bytes(encode(noisy))
        pack(folder / "images", folder / "store.h5", progress=False)
        self.store = ImageStore.open(folder / "store.h5")
        self.model = Small().eval()
        self.pictures = np.stack([self.store[i][0] for i in range(IMAGES)])
        self.x = PREPROCESS.tensor(self.pictures)
        with torch.no_grad():
            values = self.model.conv2(self.model.relu1(self.model.conv1(self.x)))[:, RARE].amax((1, 2))
            strongest = values.sort(descending=True).values
            bias = self.model.conv2.bias
            assert bias is not None
            bias[RARE] -= (strongest[1] + strongest[2]) / 2  # fires in two images
            hidden = self.model.relu1(self.model.conv1(self.x))
            self.maps = {"relu1": hidden.numpy(), "relu2": self.model.relu2(self.model.conv2(hidden)).numpy()}
        self.network = dv.capture(self.model, (3, SIDE, SIDE))
        self.mined = mine(self.network, self.store, ["relu1", "relu2"], K + 1, preprocess=PREPROCESS, progress=False)

    def inputs(self, **changes: Any) -> AtlasInputs:
        """What an atlas of the network is made of; changes: other fields of it."""
        fields = {"network": self.network, "model": self.model, "store": self.store, "preprocess": PREPROCESS}
        return AtlasInputs(**{**fields, **changes})

    def maker(self, inputs: AtlasInputs | None = None, mined: Mined | None = None, **options: Any) -> GalleryMaker:
        """What makes the galleries of both layers; options: other fields of `GalleryOptions`."""
        maxima = FeatureArrays({name: maps.max((2, 3)) for name, maps in self.maps.items()}, self.store.labels)
        return GalleryMaker(
            inputs=inputs or self.inputs(),
            mined=mined or self.mined,
            maxima=maxima,
            options=GalleryOptions(**{"layers": ("relu1", "relu2"), "k": K, **options}),
            run=RunOptions(progress=False),
        )

    def gallery(self, layer: str, **changes: Any) -> Gallery:
        """Make the gallery of a layer, save it, and load it again."""
        path = self.folder / f"{layer}-{len(list(self.folder.iterdir()))}.h5"
        self.maker(**changes).make(layer).save(path)
        return load_gallery(path)


OUTPUTS = np.array([6, 2, 0, 4])  # of the four classes


def soft_tiles(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    """Tiles [F, k, h, w, 3] of soft blobs, as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (*shape[:2], 4, 4, 3), np.uint8)
    return np.array([[resized(one, (shape[2], shape[3])) for one in row] for row in coarse])
