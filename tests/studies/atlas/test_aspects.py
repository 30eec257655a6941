"""Invariance, occlusion and evolution as the atlas shows them, held against their studies and definitions."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from gallery_case import DEAD, PREPROCESS, Case

import deconvviz as dv
from deconvviz.data.images import ImageStore
from deconvviz.data.pictures import signed_picture
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import MismatchError
from deconvviz.models.load import DEMO_SNAPSHOTS
from deconvviz.results.snapshots import Snapshots
from deconvviz.run.verify import verify
from deconvviz.studies.atlas import aspects, occlusion
from deconvviz.studies.atlas.filter_arrays import LayerArrays
from deconvviz.studies.atlas.inputs import AtlasInputs
from deconvviz.studies.evolution.evolve import evolve
from deconvviz.studies.evolution.result import Evolution


@pytest.mark.slow
def test_invariance_is_that_of_the_study(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aspects, "TRANSFORMED", 3)
    inputs, out = case.inputs(), tmp_path / "i.h5"
    found = aspects.filter_invariance(inputs, ["relu1", "relu2"], out, progress=False)
    expected = dv.invariance(
        case.network, case.store, "relu2", preprocess=PREPROCESS, which=[0, 14, 29], units=["relu2"], progress=False
    )
    arrays = found["relu2"]
    assert sorted(arrays) == [f"invariance/{kind}" for kind in ("rotation", "scale", "translate-x", "translate-y")]
    for kind, scores in zip(expected.steps, expected.per_unit("relu2"), strict=True):
        np.testing.assert_allclose(arrays[f"invariance/{kind}"], scores, atol=1e-6)
    assert np.isnan(arrays["invariance/scale"][DEAD]) and len(found["relu1"]["invariance/scale"]) == 6
    monkeypatch.setattr(aspects, "invariance", None)  # not measured again
    again = aspects.filter_invariance(inputs, ["relu1", "relu2"], out, progress=False)
    assert np.array_equal(again["relu2"]["invariance/scale"], arrays["invariance/scale"], equal_nan=True)
    with pytest.raises(MismatchError, match="layers"):
        aspects.filter_invariance(inputs, ["relu2"], out)


def occluded(case: Case, out: pathlib.Path) -> LayerArrays:
    channels = {"relu1": range(6), "relu2": [0, DEAD, 8]}
    return occlusion.filter_occlusion(case.inputs(), case.mined, channels, out, progress=False)


def test_occlusion_is_the_sum_of_the_map_under_each_square(case: Case, tmp_path: pathlib.Path) -> None:
    found = occluded(case, tmp_path / "o.h5")
    places = occlusion.occluder_for(PREPROCESS).boxes
    assert places[0].tolist() == [0, 0, 7, 7] and places[-1].tolist() == [21, 21, 28, 28] and len(places) == 64
    for layer, chosen in (("relu1", range(6)), ("relu2", [0, 8])):
        arrays = found[layer]
        for c in chosen:
            image = int(case.maps[layer].max((2, 3))[:, c].argmax())
            assert arrays["occlusion/image"][c] == image
            assert arrays["occlusion/whole"][c] == pytest.approx(case.maps[layer][image, c].sum(), rel=1e-4)
            for w in (0, 9, 63):
                top, left, bottom, right = places[w]
                x = case.x[image : image + 1].clone()
                for channel, (mean, std) in enumerate(zip(PREPROCESS.mean, PREPROCESS.std, strict=True)):
                    x[:, channel, top:bottom, left:right] = (0.5 - mean) / std
                with torch.no_grad():
                    value = case.model.relu1(case.model.conv1(x))
                    value = value if layer == "relu1" else case.model.relu2(case.model.conv2(value))
                assert arrays["occlusion/values"][c, w] == pytest.approx(float(value[0, c].sum()), rel=1e-4)
    arrays = found["relu2"]
    assert arrays["occlusion/image"][DEAD] == -1 and np.isnan(arrays["occlusion/values"][DEAD]).all()
    assert arrays["occlusion/image"][1] == -1 and np.isnan(arrays["occlusion/whole"][1])  # not asked for


def test_an_interrupted_occlusion_goes_on(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occluded(case, tmp_path / "whole.h5")
    monkeypatch.setattr(occlusion, "COMMIT", 2)
    done, measure = list[int](), occlusion.OcclusionMeasurement.measure

    def failing(self: Any, image: int, arrays: Any) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(image)
        measure(self, image, arrays)

    monkeypatch.setattr(occlusion.OcclusionMeasurement, "measure", failing)
    with pytest.raises(KeyboardInterrupt):
        occluded(case, tmp_path / "o.h5")
    before = verify(tmp_path / "o.h5")
    again = list[int]()
    monkeypatch.setattr(
        occlusion.OcclusionMeasurement, "measure", lambda self, i, arrays: (again.append(i), measure(self, i, arrays))
    )
    occluded(case, tmp_path / "o.h5")
    assert before.endswith("; unfinished: 2 of 7 images") and "unfinished" not in verify(tmp_path / "o.h5")
    assert again[0] == done[2] and not {*done[:2]} & {*again}  # the two that were committed are not done again
    assert (tmp_path / "o.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.slow
def test_evolution_in_tiles(scenes: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, snapshots = dv.load_model("demo"), Snapshots(DEMO_SNAPSHOTS)
    preprocess = Preprocess.from_dict(loaded.settings)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    results = list[Evolution]()
    monkeypatch.setattr(aspects, "evolve", lambda *given, **more: results.append(evolve(*given, **more)) or results[0])
    with ImageStore.open(scenes) as store:
        inputs = AtlasInputs(
            network=dv.capture(loaded.model, preprocess.shape),
            model=loaded.model,
            store=store,
            preprocess=preprocess,
            snapshots=snapshots,
        )
        found = aspects.filter_evolution(inputs, ["relu3"], [5, 40], tmp_path, progress=False)["relu3"]
    layer = results[0].layers[0]
    assert found["evolution/epochs"].tolist() == list(snapshots.epochs)
    assert found["evolution/channels"].tolist() == [5, 40]
    assert np.array_equal(found["evolution/values"], layer.values)
    assert np.array_equal(found["evolution/patches"], layer.patches)  # a crop below the largest tile stays as it is
    assert np.array_equal(found["evolution/projections"][1, 2], signed_picture(layer.projections[1, 2]))
    assert found["evolution/projections"].shape == layer.patches.shape
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the model itself got other weights"
