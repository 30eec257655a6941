"""Uncovered frequencies and filters that are noise are found in a first layer, and not where they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diagnosed import Planted, about, found, grating, net, skipped, weights
from torch import nn

from deconvviz.studies.diagnosis.measures.spectra import band_shares

# --- frequency -------------------------------------------------------------------------------------------------------


def bank(kernel: int, cycles: tuple[float, ...]) -> Callable[[nn.Sequential], None]:
    """Fill a first layer with gratings of these frequencies, in all directions."""

    def fill(model: nn.Sequential) -> None:
        rng = np.random.default_rng(0)
        for place in range(len(weights(model))):
            pattern = grating(kernel, cycles[place % len(cycles)], place * 0.7, rng.random() * 6)
            weights(model)[place] = torch.from_numpy(pattern)

    return fill


@pytest.mark.parametrize(
    ("cycles", "severity"), [((0.0, 0.45), "serious"), ((0.0, 0.2, 0.2, 0.2, 0.45), None), ((0.2,), None)]
)
def test_a_missing_middle_is_found(cycles: tuple[float, ...], severity: str | None) -> None:
    got = found("frequency", about(net(kernel=7, stride=2, edit=bank(7, cycles))))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].layer == "1" and got[0].value < 0.1 and got[0].evidence.mark == 0.25
        x, y = got[0].evidence.arrays["x"], got[0].evidence.arrays["y"]
        assert np.allclose(y.sum(1), 1) and y.shape == (2, len(x))
        wanted = band_shares(filters := about(net(kernel=7, stride=2, edit=bank(7, cycles))).filters("1"))  # type: ignore[arg-type]
        assert filters is not None and np.isclose(got[0].value, wanted.mean(0)[1])


def test_the_same_waves_are_carried_by_a_small_stride_and_folded_by_a_large_one() -> None:
    assert not found("frequency", about(net(kernel=7, stride=2, edit=bank(7, (0.2,)))))
    (finding,) = found("frequency", about(net(kernel=11, stride=4, edit=bank(11, (0.2,)))))
    assert finding.severity in ("warning", "serious") and "too fast for stride 4" in finding.what
    assert "smaller kernel and stride" in finding.remedy
    assert not found("frequency", about(net(kernel=11, stride=4, edit=bank(11, (0.11,)))))


def test_dead_and_noisy_filters_do_not_count_as_coverage() -> None:
    def spoil(model: nn.Sequential) -> None:
        bank(7, (0.0, 0.45))(model)
        weights(model)[:8] = 0.3 * torch.from_numpy(np.stack([grating(7, 0.2, n) for n in range(8)]))
        model[0].bias.data[:8] = -1000
        weights(model)[8:12] = torch.randn(4, 3, 7, 7)

    (finding,) = found("frequency", about(net(kernel=7, stride=2, edit=spoil)))
    assert finding.channels == tuple(range(12, 20)) and finding.severity == "serious"


def test_without_a_middle_band_or_a_first_layer_coverage_is_skipped() -> None:
    subject = about(net(kernel=4, stride=4))
    assert not found("frequency", subject) and "leave no band" in skipped("frequency", subject)
    subject = about(net(kernel=7, stride=2), layers=("3",))
    assert not found("frequency", subject) and not found("noise", subject)
    assert "no convolution of an image" in skipped("frequency", subject)
    assert "no first convolution" in skipped("noise", subject)
    subject = about(net(kernel=7, stride=2))  # torch's initial weights are noise
    assert not found("frequency", subject) and "neither dead nor noise" in skipped("frequency", subject)


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "severity"), [(0, None), (1, None), (2, "note"), (6, "warning"), (20, "serious")])
def test_filters_that_are_noise_are_found(count: int, severity: str | None) -> None:
    def spoil(model: nn.Sequential) -> None:
        bank(7, (0.1, 0.2, 0.3))(model)
        weights(model)[:count] = torch.randn(count, 3, 7, 7)

    got = found("noise", about(net(kernel=7, edit=spoil)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == tuple(range(count)) and got[0].value == count / 20


def strided(cycles: tuple[float, ...], random: int = 0) -> nn.Sequential:
    """A network whose first layer has gratings of these frequencies, but for some filters of random weights."""

    def fill(model: nn.Sequential) -> None:
        bank(7, cycles)(model)
        weights(model)[:random] = torch.randn(random, 3, 7, 7)

    return net(kernel=7, stride=2, edit=fill)


PLANTED = {
    "frequency": Planted(lambda _: about(strided((0.0, 0.45))), lambda _: about(strided((0.2,)))),
    "noise": Planted(lambda _: about(strided((0.2,), random=6)), lambda _: about(strided((0.2,)))),
}
