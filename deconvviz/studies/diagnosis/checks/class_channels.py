"""Check of the channels that each class leans on: how few they are, who shares them, and decisions by foreign ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deconvviz.choices import Severity
from deconvviz.data.pictures import tile
from deconvviz.errors import LayerNotFound
from deconvviz.studies.diagnosis.checks.classes import CONFUSED, TWICE, measured_neighbours
from deconvviz.studies.diagnosis.finding import (
    TILE_SIDE,
    CheckRun,
    Evidence,
    Finding,
    Measured,
    Need,
    Neighbour,
    Skipped,
    graded,
    verb,
)
from deconvviz.studies.diagnosis.leanings import Leaning
from deconvviz.studies.diagnosis.measures.class_channels import ENOUGH, ClassChannels, class_channels
from deconvviz.studies.diagnosis.measures.neighbours import name_of_output
from deconvviz.studies.diagnosis.registry import check
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Ints

ALONE = (50.0, 75.0, 95.0)  # percent of what drives a class's score that comes from one channel
SHARED = (60.0, 75.0, 90.0)  # percent of the channels of two confused classes that both lean on
FOREIGN = 25.0  # percent of the wrong decisions with more foreign evidence than is usual; chance is 5
FEW = 3  # such decisions: fewer may be odd pictures
MOST, BARS = 5, 24  # findings of a kind, and channels in a figure of bars
SHOWN, FILTERS, OTHERS = 4, 4, 8  # images, filters, and further classes in a figure
NAMED = 6  # channels that a sentence names
NEEDS: tuple[Need, ...] = ("labels", "outputs")
ALONE_SOURCE = (
    "measured: the strongest channel of a class makes at most 17 % in the demo network (10 classes), 30 % in "
    "SqueezeNet (500 classes, a photo each) and 3 % in EfficientNet-Lite0 (40 classes, a photo each)"
)
SHARED_SOURCE = (
    "measured: a class and its nearest one share at most 50 % in the demo network, and in SqueezeNet 39 % or less of "
    "95 in 100 (the most: 70 %)"
)
FOREIGN_SOURCE = (
    "this package's; 5 % is chance, and in the demo network it was all 6 of 6 wrong decisions about 1000 scenes"
)


@check("class-channels", "Which channels each class leans on", needs=("labels", "outputs"))
def class_channels_check(subject: Subject) -> CheckRun:
    """The channels of the last maps that drive each class's score, and what their number and their sharing tell.

    A channel drives a class by what is positive in the gradient of the class's score, summed over the places where the
    channel is active: a mean over the 50 images of the class that are classified correctly with the greatest
    certainty. Scaled to 0..1 over the channels, the class leans on those above 0.2. All classes are in the table and in
    class-channels.csv, whatever is found. The value is the share of channels that two classes have in common, a mean
    over all pairs.

    Severity: one channel that makes half of what drives a class's score is a note, three quarters a warning, 95 %
    serious. Two classes of which one is taken for the other (as in the check "confused") and which share 60 % of their
    channels are a note, three quarters a warning, 90 % serious. A wrong decision counts as made by foreign channels
    where more of the evidence for it comes from channels that the image's class does not lean on than in 95 % of the
    correct decisions. Three or more such decisions that are a quarter of the wrong ones are a note, and never more:
    networks that are known to work err that way.

    Source: Feng et al. 2022, arXiv 2112.04934 (Model Doctor): gradient, threshold and number of images. The limits are
    this package's, above what was measured on networks that are known to work.
    """
    try:
        measured = class_channels(subject)
    except LayerNotFound:
        return CheckRun.not_made("the network has no layer with rows and columns before its classifier")
    pairs = measured.overlaps[np.triu_indices(len(measured.classes), 1)]
    pairs = pairs[~np.isnan(pairs)]
    value = Measured(
        value=float(100 * pairs.mean()) if len(pairs) else None,
        unit="% of their channels that two classes share, mean over all pairs",
    )
    findings = [*_alone(subject, measured), *_shared(subject, measured), *_foreign(subject, measured)]
    return CheckRun(findings=tuple(findings), measured=value, skipped=_skipped(measured))


def leanings(subject: Subject) -> tuple[Leaning, ...]:
    """Return the table of all classes; empty where the check could not be made."""
    if any(subject.lacks(need) for need in NEEDS):
        return ()
    try:
        measured = class_channels(subject)
    except LayerNotFound:
        return ()
    neighbours = {neighbour.place: neighbour for neighbour in measured_neighbours(subject)}
    return tuple(
        _leaning(measured, row, neighbours[int(number)])
        for row, number in enumerate(measured.classes)
        if int(number) in neighbours
    )


def _leaning(measured: ClassChannels, row: int, neighbour: Neighbour) -> Leaning:
    channels = _channels(measured, row)
    nearest = measured.row_of(neighbour.output)
    mistakes = measured.wrong.foreign[measured.wrong.rows == row]
    overlap = None if nearest is None else float(measured.overlaps[row, nearest])
    return Leaning(
        name=neighbour.name,
        images=int(measured.images[row]),
        right=int(measured.right[row]),
        layer=measured.layer,
        filters=measured.masks.shape[1],
        channels=tuple(channels),
        shares=tuple(measured.shares[row, channels].tolist()),
        nearest=neighbour.neighbour,
        taken=neighbour.taken,
        shared=() if nearest is None else tuple(k for k in channels if measured.masks[nearest, k]),
        overlap=None if overlap is None or np.isnan(overlap) else overlap,
        wrong=len(mistakes),
        foreign=float(mistakes.mean()) if len(mistakes) else None,
    )


def _channels(measured: ClassChannels, row: int) -> list[int]:
    """Return the channels that a class leans on, the strongest first."""
    order = np.argsort(-measured.strengths[row], kind="stable")
    return [int(channel) for channel in order if measured.masks[row, channel]]


def _skipped(measured: ClassChannels) -> Skipped | None:
    """Say where there are too few images to compare wrong decisions with correct ones."""
    most = int(measured.right.max())
    if most >= ENOUGH:
        return None
    reason = f"at most {most} {verb(most, 'image', 'images')} of a class {verb(most)} classified correctly; wrong "
    return Skipped(reason=f"{reason}decisions are compared with {ENOUGH} or more", part=True)


# --- one channel alone ---


def _alone(subject: Subject, measured: ClassChannels) -> Iterator[Finding]:
    """Yield the classes that hang on a single channel, the worst first."""
    shares = 100 * measured.shares
    strongest = shares.max(1)
    for row in np.argsort(-strongest, kind="stable")[:MOST].tolist():
        severity = graded(float(strongest[row]), ALONE)
        if severity is not None and shares.shape[1] > 1:
            yield _single(subject, measured, row, severity)


def _single(subject: Subject, measured: ClassChannels, row: int, severity: Severity) -> Finding:
    order = np.argsort(-measured.strengths[row], kind="stable")[:BARS]
    channel, share = int(order[0]), float(100 * measured.shares[row].max())
    name, channels = name_of_output(subject, int(measured.outputs[row])), measured.masks.shape[1]
    users = [
        name_of_output(subject, int(measured.outputs[n]))
        for n in np.flatnonzero(measured.masks[:, channel])
        if n != row
    ]
    others = f"So {verb(len(users), 'does', 'do')} {_listed(users)}." if users else "No other class leans on it."
    return Finding(
        check="class-channels",
        kind="alone",
        title=f"{name} hangs on a single channel",
        severity=severity,
        layer=measured.layer,
        channels=(channel,),
        what=f"Channel {channel} of layer {measured.layer} makes {share:.0f} % of what drives the score of "
        f"'{name}', over {_images(measured, row)}; the layer has {channels} channels. {others}",
        value=share,
        threshold=ALONE[0],
        unit="% of what drives the class's score",
        source=ALONE_SOURCE,
        remedy="Look at what the channel responds to (deconvviz grid), and silence it (deconvviz lesion): the class "
        "stands or falls with it. Dropout of whole channels, or more varied images of the class, spread the evidence.",
        evidence=Evidence(
            kind="bars",
            arrays={"values": measured.shares[row][order]},
            labels=tuple(f"channel {n}" for n in order.tolist()),
            x=f"the strongest channels of {measured.layer}",
            y="share of what drives the class's score",
            mark=ALONE[0] / 100,
            named=(0,),
        ),
    )


# --- channels that confused classes share ---


def _shared(subject: Subject, measured: ClassChannels) -> Iterator[Finding]:
    """Yield the classes of which one is taken for the other and that share their channels, the worst first."""
    found = []
    rows = {int(number): row for row, number in enumerate(measured.classes)}
    for neighbour in measured_neighbours(subject):
        row, other = rows.get(neighbour.place), measured.row_of(neighbour.output)
        often = neighbour.taken >= TWICE and neighbour.images >= ENOUGH and 100 * neighbour.share >= CONFUSED[0]
        if row is not None and other is not None and often:
            found.append((float(100 * np.nan_to_num(measured.overlaps[row, other])), row, other, neighbour))
    for overlap, row, other, neighbour in sorted(found, key=lambda each: -each[0])[:MOST]:
        severity = graded(overlap, SHARED)
        if severity is not None:
            yield _pair(subject, measured, (row, other), neighbour, overlap, severity)


def _pair(
    subject: Subject,
    measured: ClassChannels,
    pair: tuple[int, int],
    neighbour: Neighbour,
    overlap: float,
    severity: Severity,
) -> Finding:
    first, second = (measured.masks[row] for row in pair)
    channels = [channel for channel in _channels(measured, pair[0]) if second[channel]]
    usual = float(100 * np.nanmedian(measured.overlaps[np.triu_indices(len(measured.classes), 1)]))
    return Finding(
        check="class-channels",
        kind="shared",
        title=f"{neighbour.name} and {neighbour.neighbour} lean on the same channels",
        severity=severity,
        layer=measured.layer,
        channels=tuple(channels),
        what=f"{neighbour.taken} of {neighbour.images} images of '{neighbour.name}' are taken for "
        f"'{neighbour.neighbour}'. The first class leans on {first.sum()} channels of layer {measured.layer}, the "
        f"second on {second.sum()}, and {len(channels)} are the same: {overlap:.0f} % of all that either leans on. "
        f"Of two classes of these images it is {usual:.0f} % (median).",
        value=overlap,
        threshold=SHARED[0],
        unit="% of the channels that either class leans on",
        source=SHARED_SOURCE,
        remedy="Look at the shared channels (deconvviz grid): what they respond to does not tell the two apart. "
        "Give images that differ in nothing else, or keep classes from each other's channels (deconvviz train --with "
        "model-doctor).",
        evidence=_pair_evidence(subject, measured, pair),
    )


def _pair_evidence(subject: Subject, measured: ClassChannels, pair: tuple[int, int]) -> Evidence:
    """Show the channels of both classes, and how much other classes lean on them: those that lean on most of them."""
    either = np.asarray(measured.masks[list(pair)].any(0))
    counts = (measured.masks & either).sum(1)
    others = [row for row in np.argsort(-counts, kind="stable").tolist() if row not in pair][:OTHERS]
    rows = [*pair, *others]
    values = np.where(measured.masks[rows] & either, 100 * measured.shares[rows], np.nan)
    both = np.asarray(measured.masks[list(pair)].all(0))
    order = np.lexsort((-np.nan_to_num(values[:2]).max(0), ~measured.masks[pair[0]], ~both))
    columns = order[either[order]]
    return Evidence(
        kind="matrix",
        arrays={"values": values[:, columns], "columns": columns},
        labels=tuple(name_of_output(subject, int(measured.outputs[row])) for row in rows),
        x=f"channels of {measured.layer}: of both classes, of the first alone, of the second alone",
        y="share of the channel in what drives the class's score (%)",
    )


# --- decisions by foreign channels ---


def _foreign(subject: Subject, measured: ClassChannels) -> Iterator[Finding]:
    """Yield the finding about wrong decisions that were made by channels that the image's class does not lean on."""
    wrong = measured.wrong
    beyond = np.flatnonzero(wrong.foreign > wrong.usual)
    if len(beyond) < FEW:
        return
    share = 100 * len(beyond) / len(wrong.foreign)
    if share < FOREIGN:
        return
    beyond = beyond[np.argsort(-wrong.foreign[beyond], kind="stable")]
    outside = np.where(measured.masks[wrong.rows[beyond]], 0, wrong.evidence[beyond])
    carried = outside.mean(0)
    channels = [k for k in np.argsort(-carried, kind="stable")[: 2 * FILTERS].tolist() if carried[k] > 0]
    yield Finding(
        check="class-channels",
        kind="foreign",
        title="Wrong decisions by channels that the image's class does not lean on",
        severity="note",
        layer=measured.layer,
        channels=tuple(channels),
        what=f"Of {len(wrong.foreign)} wrong decisions {len(beyond)} ({share:.0f} %) were made by foreign channels: "
        f"more than {100 * wrong.usual:.0f} % of the evidence for them comes from channels of layer {measured.layer} "
        f"that the image's own class does not lean on; only 5 % of the correct decisions have so much. In the median "
        f"wrong decision it is {100 * np.median(wrong.foreign):.0f} %.",
        value=share,
        threshold=FOREIGN,
        unit="% of the wrong decisions",
        source=FOREIGN_SOURCE,
        remedy="Look at where these images drive the foreign channels (deconvviz cam): at a second object, at the "
        "background, or at a view of the object that the training images lack.",
        evidence=_decisions(subject, measured, beyond[:SHOWN], channels[:FILTERS]),
    )


def _decisions(subject: Subject, measured: ClassChannels, chosen: Ints, channels: list[int]) -> Evidence:
    """Show wrong decisions with the most foreign evidence, and what the foreign channels that carry it respond to."""
    wrong = measured.wrong
    pictures = [tile(subject.picture(int(wrong.places[n])), TILE_SIDE) for n in chosen]
    pictures += [tile(patch, TILE_SIDE) for patch in subject.patches(measured.layer, channels)]
    names = [
        (name_of_output(subject, int(measured.outputs[wrong.rows[n]])), name_of_output(subject, int(wrong.outputs[n])))
        for n in chosen
    ]
    labels = [
        f"{own}, taken for {other}: {100 * wrong.foreign[n]:.0f}\N{NO-BREAK SPACE}%"
        for (own, other), n in zip(names, chosen, strict=True)
    ]
    return Evidence(
        kind="tiles",
        arrays={"pictures": np.stack(pictures)},
        labels=(*labels, *(f"channel {channel}" for channel in channels)),
        x="Wrong decisions with the most evidence from foreign channels, and its share; then what the foreign channels "
        f"of {measured.layer} that carry most of it respond to.",
    )


# --- words ---


def _images(measured: ClassChannels, row: int) -> str:
    """Say which images of a class were looked at."""
    count = int(measured.images[row])
    kind = "correctly classified" if measured.right[row] else "incorrectly classified"
    return f"{count} {kind} {verb(count, 'image', 'images')}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
