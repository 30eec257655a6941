"""The ranges of an atlas are those of the range figure, are found once, and stand in the galleries and on the pages."""

from __future__ import annotations

import pathlib
from dataclasses import replace

import numpy as np
import pytest
from gallery_case import DEAD, IMAGES, PREPROCESS, SIDE, Case, K

import deconvviz as dv
from deconvviz.errors import MismatchError
from deconvviz.results.tiles import load_gallery
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas import ranges
from deconvviz.studies.atlas.aspects import FilterAspects
from deconvviz.studies.atlas.galleries import GalleryMaker
from deconvviz.studies.atlas.ranges import WEAKEST, filter_ranges
from deconvviz.studies.atlas.result import AtlasOptions
from deconvviz.studies.atlas.site.inputs import GalleryFile
from deconvviz.studies.atlas.site.ranges import range_of_filter, range_of_layer
from deconvviz.studies.mining.range_units import QUANTILES
from deconvviz.studies.mining.result import Mined

CHANNELS = {"relu1": range(6), "relu2": [0, DEAD, 8]}


def without_ranges(mined: Mined) -> Mined:
    """The result as an older version would have written it."""
    return replace(mined, layers={name: replace(layer, spread=None) for name, layer in mined.layers.items()})


def test_they_are_those_of_the_figure(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, out = case.inputs(), tmp_path / "r.h5"
    found = filter_ranges(inputs, case.mined, CHANNELS, out, k=K + 1, progress=False)
    for layer, channels in CHANNELS.items():
        expected = dv.layer_range(case.mined, case.store, case.network, layer, list(channels), progress=False)
        for row, each in enumerate(expected.filters):
            units = found[layer]
            assert [case.store.names[n] for n in units.images[row, :QUANTILES]] == list(each.images)
            np.testing.assert_array_equal(units.values[row, :QUANTILES], each.values)
            likeness = [units.likeness_of_upper[row], units.likeness_of_top[row]]
            np.testing.assert_array_equal(likeness, [each.likeness_of_upper, each.likeness_of_top])
            maps = case.maps[layer][:, each.channel]
            weakest = sorted(range(IMAGES), key=lambda n, maps=maps: maps[n].max())[:WEAKEST]  # type: ignore[misc]
            np.testing.assert_allclose(units.values[row, QUANTILES:], [maps[n].max() for n in weakest], rtol=1e-4)
            for image, (y, x) in zip(units.images[row], units.positions[row], strict=True):
                middle = maps.shape[1] // 2, maps.shape[2] // 2
                place = np.unravel_index(maps[image].argmax(), maps[image].shape)
                assert (y, x) == (place if np.ptp(maps[image]) else middle)
    monkeypatch.setattr(ranges, "range_units", None)  # not looked for again
    again = filter_ranges(inputs, case.mined, CHANNELS, out, k=K + 1, progress=False)
    np.testing.assert_array_equal(again["relu2"].positions, found["relu2"].positions)
    with pytest.raises(MismatchError, match="k"):
        filter_ranges(inputs, case.mined, CHANNELS, out, k=K, progress=False)


def maker(case: Case, folder: pathlib.Path, mined: Mined) -> GalleryMaker:
    """What makes galleries with the aspects that an atlas has by default."""
    options, inputs = AtlasOptions(layers=("relu1", "relu2"), k=K), case.inputs()
    aspects = FilterAspects(
        inputs=inputs, options=options, mined=mined, channels=CHANNELS, folder=folder, run=RunOptions(progress=False)
    )
    made = case.maker(mined=mined, channels={layer: list(channels) for layer, channels in CHANNELS.items()})
    return replace(made, aspects=aspects.of)


def test_galleries_and_pages_have_them(case: Case, tmp_path: pathlib.Path) -> None:
    maker(case, tmp_path, case.mined).make("relu2").save(tmp_path / "gallery.h5")
    arrays = load_gallery(tmp_path / "gallery.h5").arrays
    windows, counts = arrays["range/windows"], arrays["range/counts"]
    sides = {int(side) for side in (windows[..., 2] - windows[..., 0]).ravel()}
    assert sides == {min(int((arrays["windows"][0, 0, 2:] - arrays["windows"][0, 0, :2]).max()), SIDE)}
    assert windows.min() >= 0 and windows.max() <= SIDE and (counts.sum(1) == IMAGES).all()
    strongest = arrays["range/images"][0, QUANTILES - 1]
    assert strongest == arrays["images"][0, 0]  # of a filter whose images were all sampled
    centres = [(box[:2] + box[2:]) / 2 for box in (windows[0, QUANTILES - 1], arrays["boxes"][0, 0])]
    assert np.abs(centres[0] - centres[1]).max() <= SIDE / 2
    gallery = GalleryFile(tmp_path / "gallery.h5")
    assert set(arrays["range/images"].ravel()) <= set(gallery.used_images())
    page, layer = range_of_filter(gallery.arrays, 0), range_of_layer(gallery.arrays)
    assert sum(sum(bars) for *_, bars in page["bars"]) == IMAGES == layer["sampled"]
    assert [image for image, *_ in page["images"]] == arrays["range/images"][0].tolist()
    upper, top = arrays["range/likeness"].T
    assert layer["misleads"] == (upper < layer["limit"] * top).tolist()


def test_older_mined_files_have_none(case: Case, tmp_path: pathlib.Path) -> None:
    maker(case, tmp_path, without_ranges(case.mined)).make("relu2").save(tmp_path / "gallery.h5")
    assert not [name for name in load_gallery(tmp_path / "gallery.h5").arrays if name.startswith("range/")]
    assert not (tmp_path / "ranges.h5").exists()


def test_directions_have_ranges(case: Case, tmp_path: pathlib.Path) -> None:
    name, channels = "relu2[directions]", [8, 0]
    network = dv.with_directions(case.network, "relu2", np.eye(10)[channels])
    mined = dv.mine(network, case.store, [name], K, preprocess=PREPROCESS, progress=False)
    inputs = case.inputs(network=network)
    of_directions = filter_ranges(inputs, mined, {name: [0, 1]}, tmp_path / "d.h5", k=K, progress=False)[name]
    expected = filter_ranges(case.inputs(), case.mined, {"relu2": channels}, tmp_path / "c.h5", k=K, progress=False)
    np.testing.assert_array_equal(of_directions.images, expected["relu2"].images)
    np.testing.assert_array_equal(of_directions.positions, expected["relu2"].positions)
    np.testing.assert_allclose(of_directions.values, expected["relu2"].values, rtol=1e-5)
