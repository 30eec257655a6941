"""Check of aliasing: does a strided layer's response change when its input moves by one pixel?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from deconvviz.choices import Severity
from deconvviz.data.pictures import grey_picture, tile
from deconvviz.graph.ops import op_of, reads_pixels
from deconvviz.models.zfnet import PAPER_KERNEL, PAPER_STRIDE
from deconvviz.studies.diagnosis.finding import TILE_SIDE, CheckRun, Evidence, Finding, Measured, graded, verb
from deconvviz.studies.diagnosis.measures.build import either, window_of
from deconvviz.studies.diagnosis.measures.shifts import (
    ShiftChange,
    Strided,
    blurred,
    dense_response,
    shift_changes,
    strided_ops,
)
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject, remembered
from deconvviz.types import Pixels

# Times the change of the anti-aliased layer. Measured: the pixels of 500 photos themselves, subsampled by 3 and by 4
# without a blur, reach 2.1 and 2.6. Derived: a response whose neighbouring positions are unrelated reaches the root of
# 64 / 3 at a stride of 2, by the autocorrelation of the kernel [1, 2, 1] / 4.
ALIASING = (2.1, 2.6, (64 / 3) ** 0.5)
LEAST_CHANGE = 0.1  # of the response's spread; a smaller change does not matter, whatever part of it is aliasing
IMAGES = 32  # images that are moved
SHOWN, CHANNELS = 8, 3  # images to choose from for the figure, and channels in it


@check("aliasing", "Aliasing at strides")
def aliasing(subject: Subject) -> CheckRun:
    """How much more a strided layer's response changes under a shift by one pixel than without aliasing.

    The reference is the same layer without aliasing: it is evaluated at every position, rectified, and blurred with a
    triangle of the stride's width before it is subsampled (Zhang 2019). Both changes are divided by the spread of the
    layer's response and averaged over all phases of the stride. The value is their ratio, 1 where nothing aliases.

    Severity: a note from 2.1 and a warning from 2.6, which the pixels of photos themselves reach when 2 of 3 and 3 of 4
    are left out in each direction. Serious from 4.6, which a response reaches at a stride of 2 whose neighbouring
    positions have nothing to do with each other. There is no finding where the response changes by less than a tenth
    of its spread. The channels that are named pass the limit for a note by themselves.

    Source: Zeiler and Fergus 2013, section 4.1 and figure 6 (aliasing of the second layer); Zhang 2019, arXiv
    1904.11486, section 3. The limits are measured and derived.
    """
    if not strided_ops(subject.network):
        return CheckRun.not_made("no convolution or pooling has a stride")
    findings, changes = [], measured_shifts(subject)
    for change in changes:
        severity = graded(change.ratio, ALIASING)
        if severity is not None and change.strided >= LEAST_CHANGE:
            findings.append(_aliased(subject, change, severity))
    unit = "times the change of the anti-aliased layer, the worst layer"
    ratios = [change.ratio for change in changes if not np.isnan(change.ratio)]  # a layer that is dead has none
    measured = Measured(value=max(ratios, default=None), unit=unit)
    return CheckRun(findings=tuple(findings), measured=measured)


@remembered
def measured_shifts(subject: Subject) -> tuple[ShiftChange, ...]:
    """Return what `shift_changes` measures on some of the subject's images."""
    return shift_changes(subject.network, (x for _, x in subject.watched("shifts by a pixel", subject.some(IMAGES))))


def _aliased(subject: Subject, change: ShiftChange, severity: Severity) -> Finding:
    order = np.argsort(-np.nan_to_num(change.channels, nan=0.0), kind="stable")
    worst = [int(channel) for channel in order if change.channels[channel] >= ALIASING[0]]
    count, step = len(worst), max(change.stride)
    what = (
        f"When its input moves by one pixel, the response of layer {change.layer} (stride {step}) changes by "
        f"{change.strided:.0%} of its spread. Blurred before the stride, it would change by {change.reference:.0%}: it "
        f"changes {change.ratio:.2f} times as much. {count} of {len(order)} channels {verb(count, 'passes', 'pass')} "
        f"the limit by {verb(count, 'itself', 'themselves')}."
    )
    return Finding(
        check="aliasing",
        severity=severity,
        layer=change.layer,
        channels=tuple(worst),
        what=what,
        value=change.ratio,
        threshold=ALIASING[0],
        unit="times the change of the anti-aliased layer",
        source="measured: what the pixels of photos reach when every third one is kept; the anti-aliased layer is "
        "Zhang 2019, arXiv 1904.11486, section 3",
        remedy=_smoothed(next(op for op in strided_ops(subject.network) if op.layer == change.layer)),
        evidence=_phases(subject, change, order[:CHANNELS].tolist()),
    )


def _smoothed(op: Strided) -> str:
    """Return what to try against aliasing at a stride."""
    size, stride = max(window_of(op.node)), max(op.stride)
    if not op_of(op.node).weighted:
        return "Pool with stride 1, and blur before subsampling (BlurPool, Zhang 2019)."
    if size == 1:
        return f"The layer reads one of {np.prod(op.stride)} positions and skips the others: average them before it."
    if size <= stride:
        return (
            "The windows of the layer do not overlap, as those of a patch embedding, so that it aliases by design: let "
            "them overlap, or subsample in several steps of smaller convolutions."
        )
    smaller = reads_pixels(op.node) and (size > PAPER_KERNEL or stride > PAPER_STRIDE)
    return either(
        [
            "evaluate the layer with stride 1 and blur before subsampling (BlurPool, Zhang 2019)",
            f"use a smaller stride and kernel: the paper changed 11x11 with stride 4 to {PAPER_KERNEL}x{PAPER_KERNEL} "
            f"with stride {PAPER_STRIDE}"
            if smaller
            else "",
        ]
    )


def _phases(subject: Subject, change: ShiftChange, channels: Sequence[int]) -> Evidence:
    """Show each channel in the image where it varies most: strided, its change by one pixel, and both anti-aliased."""
    op = next(op for op in strided_ops(subject.network) if op.layer == change.layer)
    places = subject.some(IMAGES)[:SHOWN]
    _, x = next(subject.batches(places))
    with torch.inference_mode():
        dense = dense_response(subject.network, op, x[:SHOWN])
    pictures, labels = [], []
    for channel in channels:
        image = int(dense[:, channel].var((1, 2)).argmax())
        maps = dense[image : image + 1, channel : channel + 1]
        pictures.append(tile(subject.picture(int(places[image])), TILE_SIDE))
        pictures += _sampled(maps, op)
        labels += [f"channel {channel}: image", "response", "its change by 1 px", "anti-aliased", "its change by 1 px"]
    shows = (
        "For the worst channels: the image, the strided response, its change when the input moves by one pixel, and "
    )
    shows += "the same two of the anti-aliased response. Bright means large, on one scale in each row."
    return Evidence(kind="tiles", arrays={"pictures": np.stack(pictures)}, labels=tuple(labels), x=shows)


def _sampled(maps: torch.Tensor, op: Strided) -> list[Pixels]:
    """Return four tiles of a dense response [1, 1, h, w]: strided, its change, anti-aliased, its change."""
    rows, columns = op.stride
    tiles: list[Pixels] = []
    floor = scale = 0.0
    for dense in (maps[..., rows - 1 : 1 - rows or None, columns - 1 : 1 - columns or None], blurred(maps, op.stride)):
        here = dense[0, 0, : -1 if rows > 1 else None, : -1 if columns > 1 else None][::rows, ::columns]
        moved = dense[0, 0, int(rows > 1) :, int(columns > 1) :][::rows, ::columns]
        if not tiles:  # the anti-aliased response is shown on the strided one's scale
            floor = float(here.min())
            scale = float(torch.quantile(here.flatten().float(), 0.98)) - floor or 1.0
        tiles += [_grey((here - floor) / scale), _grey((moved - here).abs() / scale)]
    return tiles


def _grey(values: torch.Tensor) -> Pixels:
    """Return values [h, w] in 0..1 as a grey tile."""
    return tile(grey_picture(values.float().cpu().numpy()), TILE_SIDE)
