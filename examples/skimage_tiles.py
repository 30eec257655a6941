"""Cut the photos that ship with scikit-image into tiles: a small image set that needs no download.

python examples/skimage_tiles.py tiles/
"""

import pathlib
import sys

from skimage import color, data, io

FIRST = "astronaut chelsea coffee rocket camera coins page text brick grass gravel clock moon horse colorwheel"
PHOTOS = [*FIRST.split(), "retina", "hubble_deep_field", "immunohistochemistry"]
SIDE = 170
out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tiles")
for name in PHOTOS:
    photo = getattr(data, name)()
    photo = photo if photo.ndim == 3 else color.gray2rgb(photo.astype("uint8") * (255 if photo.dtype == bool else 1))
    (out / name).mkdir(parents=True, exist_ok=True)
    for top in range(0, photo.shape[0] - SIDE + 1, SIDE):
        for left in range(0, photo.shape[1] - SIDE + 1, SIDE):
            tile = photo[top : top + SIDE, left : left + SIDE, :3]
            io.imsave(out / name / f"{top:04d}-{left:04d}.png", tile, check_contrast=False)
print(f"wrote {len(list(out.rglob('*.png')))} tiles to {out}")
