"""One projection: the image with what the unit sees, the projection, and where its energy lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deconvviz.figures.tiles import stretched


def draw_projection(
    picture: NDArray[np.uint8],
    projection: NDArray[np.floating[Any]],
    window: tuple[int, int, int, int],
    title: str,
    caption: str,
) -> Figure:
    """Draw image, projection and overlay side by side.

    Args:
        picture: uint8 [H, W, 3], what the network saw.
        projection: [H, W, C], signed.
        window: (top, left, bottom, right), the pixels that the unit sees.
        title, caption: text above and below.
    """
    figure = Figure(figsize=(10.2, 4.1), dpi=150)
    figure.suptitle(title, fontsize=11, weight="bold", y=0.98)
    figure.text(0.5, 0.015, caption, ha="center", va="bottom", fontsize=7, color="0.25")
    grid = figure.add_gridspec(
        1, 4, width_ratios=(1, 1, 1, 0.05), left=0.01, right=0.93, top=0.85, bottom=0.13, wspace=0.04
    )
    axes = [figure.add_subplot(grid[0, column]) for column in range(3)]
    energy = np.sqrt((projection**2).sum(2))
    peak = float(np.percentile(energy[energy > 0], 99)) if energy.any() else 1.0
    axes[0].imshow(picture)
    axes[1].imshow(np.broadcast_to(stretched(projection), (*projection.shape[:2], 3)))
    grey = picture.astype(float).mean(2) / 255
    axes[2].imshow(0.35 + 0.65 * grey, cmap="gray", vmin=0, vmax=1)
    strength = np.clip(energy / peak, 0, 1)
    shown = axes[2].imshow(strength, cmap="viridis", vmin=0, vmax=1, alpha=0.9 * np.sqrt(strength))
    for panel, name in zip(
        axes, ("image, and what the unit sees", "projection (contrast stretched)", "where its energy lies"), strict=True
    ):
        panel.set_title(name, fontsize=9)
        panel.set(xticks=[], yticks=[])
        top, left, bottom, right = window
        panel.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="white", linewidth=2.2)
        )
        panel.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="black", linewidth=0.9)
        )
    bar = figure.colorbar(shown, cax=figure.add_subplot(grid[0, 3]))
    bar.solids.set_alpha(1)  # type: ignore[union-attr]
    bar.set_label("magnitude over the channels, of its 99th percentile", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure
