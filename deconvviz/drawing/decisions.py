"""Figures of studies of decisions and of whole networks, by the functions that the commands draw with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deconvviz.errors import DataError
from deconvviz.figures.page import Page
from deconvviz.studies.ablation import figure as ablation
from deconvviz.studies.diagnosis import figure as diagnosing
from deconvviz.studies.ensembles import figure as ensembling
from deconvviz.studies.ensembles import labels_figure as ensembling_labels
from deconvviz.studies.evaluation import figure as evaluating
from deconvviz.studies.evaluation import sanity_figure
from deconvviz.studies.lesions import figure as lesioning
from deconvviz.studies.occlusion import figure as occluding
from deconvviz.studies.pairs import figure as pairing
from deconvviz.studies.relevance import figure as relevant
from deconvviz.studies.relevance.deciding import DecidingChannels, deciding_channels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack

    from deconvviz.cam.pairs.maps import PairMaps
    from deconvviz.data.datasets import Images
    from deconvviz.figures.page import ColumnsKeywords, PageKeywords
    from deconvviz.studies.ablation.result import VariantTable
    from deconvviz.studies.diagnosis.finding import Finding
    from deconvviz.studies.diagnosis.result import Diagnosis
    from deconvviz.studies.ensembles.labels_result import LabelEnsemble
    from deconvviz.studies.ensembles.result import Ensemble, EnsembleMaps
    from deconvviz.studies.evaluation.mistakes_result import Mistakes
    from deconvviz.studies.evaluation.result import Evaluation
    from deconvviz.studies.evaluation.sanity_result import SanityCheck
    from deconvviz.studies.lesions.result import Lesions
    from deconvviz.studies.occlusion.result import Occlusion
    from deconvviz.studies.pairs.result import PairStudy
    from deconvviz.studies.relevance.result import Relevance


def draw_occlusion(
    occlusion: Occlusion | Sequence[Occlusion],
    names: Sequence[str] = (),
    title: str = "",
    caption: str = "",
    **page: Unpack[PageKeywords],
) -> Figure:
    """Draw a row for each image: the image with the square, and what the network makes of it at each place.

    Args:
        occlusion: one of those that `dv.occlude` returns, or all of them.
        names: of the network's outputs; empty where they are unknown.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Source: Zeiler and Fergus 2013, figure 7.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    >>> network, preprocess = dv.capture(model, (3, 16, 16)), dv.Preprocess(resize=16, crop=16)
    >>> pictures = preprocess.picture(dv.Scenes(1)[0][0])[None]
    >>> occlusions = dv.occlude(network, pictures, preprocess=preprocess, square=8, stride=4, progress=False)
    >>> figure = dv.draw_occlusion(occlusions, title="One image")
    """
    rows = list(occlusion) if isinstance(occlusion, Sequence) else [occlusion]
    return occluding.draw_occlusions(rows, [[]] * len(rows), names, title, caption, page=Page(**page))


def draw_pair(
    pairs: PairMaps | Sequence[PairMaps] | PairStudy,
    names: Sequence[tuple[str, str]] = (),
    title: str = "",
    caption: str = "",
    **page: Unpack[ColumnsKeywords],
) -> Figure:
    """Draw pairs of images: the first above the second, with the map of each method over them.

    Args:
        pairs: what `dv.pair(...)(a, b)` returns, or several of those, of the same images; or what `dv.explain_pairs`
            returns.
        names: of both images of each pair; by default those of a study, or "a" and "b".
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: there is nothing to draw, or the maps are of different pairs.

    >>> import torch
    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
    >>> a, b = torch.rand(2, 1, 3, 8, 8)
    >>> maps = dv.pair("averaged-transforms", dv.capture(model, (3, 8, 8)))(a, b)
    >>> len(dv.draw_pair(maps).axes)  # two images, two maps and a colour bar
    5
    """
    from deconvviz.cam.pairs.maps import PairMaps
    from deconvviz.studies.pairs.result import PairStudy

    layout = Page(**page)
    if isinstance(pairs, PairStudy):
        maps, similarity = pairs.maps, pairs.similarity
        return pairing.draw_pairs(pairs.pictures, maps, names or pairs.names, similarity, title, caption, layout)
    several = [pairs] if isinstance(pairs, PairMaps) else list(pairs)
    if not several or len({len(each) for each in several}) > 1:
        raise DataError(f"maps of {len(several)} methods given; expected one or more, all of the same pairs")
    first = several[0]
    pictures = np.stack([first.pictures_a, first.pictures_b], 1)
    count = len(pictures)
    by_method = {
        each.method: np.stack([each.a[:count].float().cpu().numpy(), each.b[:count].float().cpu().numpy()], 1)
        for each in several
    }
    similarity = first.similarity[:count].double().cpu().numpy()
    return pairing.draw_pairs(pictures, by_method, names or [("a", "b")] * count, similarity, title, caption, layout)


def draw_relevance(
    relevance: Relevance | DecidingChannels,
    images: Images | None = None,
    title: str = "",
    caption: str = "",
    **page: Unpack[PageKeywords],
) -> Figure:
    """Draw the channels that decide for a class: each with its share, and the patches in which it weighed most.

    Args:
        relevance: what `dv.deciding_channels` returns; or the result of `dv.relevance`, of whose last layer the class
            with most decisions is shown.
        images: those that were explained, where the result does not know where they are.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 5)).eval()
    >>> network, preprocess = dv.capture(model, (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> found = dv.relevance(network, dv.Scenes(20), ["1"], k=3, preprocess=preprocess, progress=False)
    >>> dv.draw_relevance(found, dv.Scenes(20)).axes[0].get_xlabel()[:12]
    'share of the'
    """
    deciding = relevance if isinstance(relevance, DecidingChannels) else deciding_channels(relevance, images)
    return relevant.draw_relevance(deciding, title, caption, page=Page(**page))


def draw_evaluation(
    evaluation: Evaluation, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]
) -> Figure:
    """Draw maps of the first images side by side, the deletion and insertion curves, and a chart for each metric.

    Args:
        evaluation: what `dv.evaluate` returns, or `dv.Evaluation.load`.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> evaluation = dv.Evaluation(
    ...     config={}, sources={}, values={"grad-cam": np.array([[0.2, 0.1], [0.4, 0.1]])}, columns=("adcc", "seconds"),
    ...     explained=np.array([3, 5]), labels=np.array([3, 3]), probability=np.array([0.9, 0.5]),
    ...     names=("a.png", "b.png"), classes=(),
    ... )
    >>> len(dv.draw_evaluation(evaluation).axes)
    2
    """
    from deconvviz.studies.evaluation.metric_groups import directions

    return evaluating.draw_evaluation(evaluation, directions(evaluation.columns), title, caption, page=Page(**page))


def draw_mistakes(mistakes: Mistakes, title: str = "", caption: str = "", **page: Unpack[ColumnsKeywords]) -> Figure:
    """Draw the first images that are classified incorrectly, with the maps for the true and for the predicted class.

    Args:
        mistakes: what `find_mistakes` returns.
        title: text above.
        caption: text below.
        page: `width` in inches, `dpi` and `columns` of `Page`, which say how the figure is laid out.

    Raises:
        DataError: no image is classified incorrectly.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> from deconvviz.studies.evaluation.mistakes_result import Mistake, Mistakes
    >>> record = Mistake(image=0, name="a.png", true=1, predicted=0, p_true=0.1, p_predicted=0.8, overlap=0.9)
    >>> maps, pictures = np.random.rand(1, 2, 4, 4), np.zeros((1, 4, 4, 3), np.uint8)
    >>> mistakes = Mistakes(records=(record,), labelled=2, output_names=("cat", "owl"), maps=maps, pictures=pictures)
    >>> len(dv.draw_mistakes(mistakes).axes)  # the image, two maps and a colour bar
    4
    """
    if not len(mistakes.maps):
        raise DataError("no image is classified incorrectly; there is nothing to draw")
    return evaluating.draw_mistakes(mistakes, title, caption, page=Page(**page))


def draw_sanity(
    checks: SanityCheck | Mapping[str, SanityCheck], title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw how similar maps stay while the network's weights are randomised, layer after layer.

    Args:
        checks: the check of one method, or method -> its check, all with the same layers.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Source: Adebayo et al. 2018.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> from deconvviz.studies.evaluation.sanity_result import SanityCheck
    >>> values = {name: np.array([[0.8, 0.6], [0.1, 0.3]]) for name in ("spearman", "ssim", "hog")}
    >>> check = SanityCheck(randomisation="cascading", layers=("fc", "conv"), similarity=values)
    >>> len(dv.draw_sanity({"grad-cam": check}).axes)
    3
    """
    by_method = checks if isinstance(checks, Mapping) else {checks.randomisation: checks}
    return sanity_figure.draw_sanity(by_method, title, caption, page=Page(**page))


def draw_lesions(lesions: Lesions, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw what a network loses when a filter or a layer is silenced: the largest losses, and all of them by layer.

    Args:
        lesions: what `dv.lesion` returns, or `dv.Lesions.load`.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> config = {"layers": ["conv1"], "by": "filter", "how": "zero"}
    >>> lesions = dv.Lesions.empty(config, {}, [np.arange(3)], total=4)
    >>> len(dv.draw_lesions(lesions).axes)
    3
    """
    return lesioning.draw_lesions(lesions, title, caption, page=Page(**page))


def draw_ensemble(ensemble: Ensemble, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw how well networks classify alone and together: a row for each, and for the first 2, 3, ... of them.

    Args:
        ensemble: what `dv.ensemble` returns, or `dv.Ensemble.load`.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> config = {"networks": [{"name": "a"}, {"name": "b"}], "outputs": 10}
    >>> one = dv.Ensemble.empty(config, {}, 4).with_images(np.zeros((3, 4), int), np.full((3, 4), 0.5))
    >>> len(dv.draw_ensemble(one).axes)  # top-1, top-5, and the gain
    3
    """
    return ensembling.draw_ensemble(ensemble, title, caption, page=Page(**page))


def draw_label_ensemble(
    ensemble: LabelEnsemble, title: str = "", caption: str = "", **page: Unpack[PageKeywords]
) -> Figure:
    """Draw how well networks tell which labels images have, alone and together: a row for each, and for each label.

    Args:
        ensemble: what `dv.label_ensemble` returns, or `dv.LabelEnsemble.load`.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> config = {"networks": [{"name": "a", "outputs": "softmax"}], "labels": ["dog"]}
    >>> one = dv.LabelEnsemble.empty(config, {}, np.array([[True], [False]])).with_images(np.zeros((1, 2, 1)))
    >>> len(dv.draw_label_ensemble(one).axes)  # networks and labels
    2
    """
    return ensembling_labels.draw_label_ensemble(ensemble, title, caption, page=Page(**page))


def draw_ensemble_maps(maps: EnsembleMaps, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw a row for each image: the image, its map by each network of an ensemble, and the mean of the maps.

    Args:
        maps: what `dv.ensemble_maps` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> maps = dv.EnsembleMaps(
    ...     method="grad-cam", columns=("a", "mean"), pictures=(np.zeros((8, 8, 3), np.uint8),),
    ...     maps=(np.random.default_rng(0).random((2, 8, 8)),), labels=("cat 90%",), images=("1.jpg",),
    ... )
    >>> len(dv.draw_ensemble_maps(maps).axes)  # image, two maps, and the colour bar
    4
    """
    return ensembling.draw_ensemble_maps(maps, title, caption, page=Page(**page))


def draw_variants(table: VariantTable, title: str = "", caption: str = "", **page: Unpack[PageKeywords]) -> Figure:
    """Draw the errors of trained variants of a network, and how far they are from those of the full network.

    Args:
        table: what `dv.ablate` returns.
        title: text above.
        caption: text below.
        page: `width` in inches and `dpi` of `Page`, which say how the figure is laid out.

    Source: Zeiler and Fergus 2013, table 3.

    >>> import deconvviz as dv
    >>> from deconvviz.studies.ablation.result import Variant, VariantTable
    >>> full = Variant(
    ...     name="full", parameters=1000, epochs=1, training_error=0.1, training_top5_error=None, validation_error=0.2,
    ...     validation_top5_error=None, difference=None, low=None, high=None, seconds=1.0, paper=None,
    ... )
    >>> len(dv.draw_variants(VariantTable(config={}, rows=(full,), images=50)).axes)
    3
    """
    return ablation.draw_variants(table, title, caption, page=Page(**page))


def draw_diagnosis(diagnosis: Diagnosis, caption: str = "") -> Figure:
    """Draw the evidence of the most severe finding.

    Args:
        diagnosis: what `dv.diagnose` returns.
        caption: text below.

    Raises:
        DataError: there is no finding.

    >>> import deconvviz as dv
    >>> dv.draw_diagnosis(dv.Diagnosis(config={}))
    Traceback (most recent call last):
        ...
    deconvviz.errors.DataError: the diagnosis has no finding; there is no evidence to draw
    """
    if not diagnosis.findings:
        raise DataError("the diagnosis has no finding; there is no evidence to draw")
    return draw_finding(diagnosis.findings[0], caption=caption)


def draw_finding(finding: Finding, title: str | None = None, caption: str = "") -> Figure:
    """Draw the evidence of one finding of a diagnosis: bars, a histogram, lines, points or pictures.

    Args:
        finding: one of `diagnosis.findings`.
        title: text above; by default what was found.
        caption: text below.

    >>> import numpy as np
    >>> import deconvviz as dv
    >>> from deconvviz.studies.diagnosis.finding import Evidence, Finding
    >>> finding = Finding(
    ...     check="dead-filters", severity="warning", layer="conv1", channels=(2,), what="1 of 3 filters is dead.",
    ...     value=0.33, threshold=0.1, unit="share of filters", source="measured", remedy="lower the learning rate",
    ...     evidence=Evidence(kind="bars", arrays={"values": np.array([0.5, 0.4, 0.0])}, y="share of images"),
    ... )
    >>> dv.draw_finding(finding).axes[0].get_xlabel()
    'share of images'
    """
    return diagnosing.draw_evidence(finding.evidence, finding.what if title is None else title, caption)
