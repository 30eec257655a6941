"""The LSTM that was set by hand is found by every view; each view against a replica or a case by hand."""

from __future__ import annotations

import pathlib
from functools import cache

import numpy as np
import pytest
import torch
from bracket_lstm import COUNTER, QUOTES, STEP, bracket_lstm, bracket_text
from torch import nn

import deconvviz as dv
from deconvviz.errors import DataError, MismatchError
from deconvviz.results.features import Features
from deconvviz.studies.recurrent.figure import drawn_rows
from deconvviz.studies.recurrent.measure import passages_of, top_passages
from deconvviz.studies.recurrent.properties import bracket_depth, properties_of
from deconvviz.studies.recurrent.responses import changes, co_clusters, expected_responses, gate_shares
from deconvviz.studies.recurrent.result import LayerViews, RecurrentViews
from deconvviz.studies.recurrent.sequences import Sequences
from deconvviz.studies.recurrent.together import on_units, run_edges, together
from deconvviz.studies.recurrent.tracking import tracked


@cache
def sequences() -> Sequences:
    return dv.text_sequences(bracket_text(), bracket_lstm().vocabulary)


@cache
def views() -> RecurrentViews:
    """Of the counter, with the second line's output inside of brackets explained."""
    options = {"groups": 3, "explained": [(1, 9)], "k": 6, "permutations": 99}
    return dv.recurrent(bracket_lstm(), sequences(), progress=False, **options)  # type: ignore[arg-type]


def layer() -> LayerViews:
    return views()["0"]


# --- each view finds it


def test_recorded_states_count_brackets(tmp_path: pathlib.Path) -> None:
    dv.recurrent(bracket_lstm(), sequences(), out=tmp_path / "v", permutations=1, progress=False)
    cells = Features(tmp_path / "v" / "data" / "states.h5").rows("0.cell", np.arange(len(sequences())))
    np.testing.assert_allclose(cells[:, COUNTER], STEP * bracket_depth(sequences()), atol=1e-5)


def test_responses_and_groups_find_the_counter() -> None:
    opening, closing = bracket_lstm().vocabulary.index("("), bracket_lstm().vocabulary.index(")")
    mean = layer().mean
    assert mean[opening, COUNTER] > 0.1 and mean[closing, COUNTER] < -0.1
    assert np.abs(np.delete(mean[:, COUNTER], [opening, closing])).max() < 1e-6
    groups = layer().token_groups
    assert groups[opening] == groups[closing] == layer().unit_groups[COUNTER]
    assert set(layer().strongest_tokens(COUNTER, 2).tolist()) == {opening, closing}


def test_gates_find_what_is_open() -> None:
    np.testing.assert_allclose(layer().gates["forget"][[COUNTER, QUOTES]], [[0, 1], [0, 1]])
    quotes = (sequences().ids == bracket_lstm().vocabulary.index('"')).mean()
    np.testing.assert_allclose(layer().gates["input"][QUOTES], [1 - quotes, quotes])


def test_properties_find_the_counter_and_the_quotes() -> None:
    found = layer().tracked
    assert set(found) == {"position", "quotes", "depth"}
    for name, unit in (("depth", COUNTER), ("quotes", QUOTES)):
        assert found[name].order[0] == unit and found[name].correlation[unit] > 0.99
        assert found[name].p[unit] == 0.01 and found[name].chance < 0.6


def test_units_together_find_quoted_ranges() -> None:
    """Of the unit that is on within quotes all other ranges are quoted too."""
    found = layer().together
    assert found is not None and found.units.tolist() == [QUOTES]
    quoted = properties_of(["quotes"], sequences())["quotes"]
    assert quoted[found.start : found.stop].all() and len(found.ranges) == 10
    assert all(quoted[start:stop].all() for start, stop in found.ranges)


def test_passages_find_the_deepest_brackets() -> None:
    depth = bracket_depth(sequences())
    steps = layer().top_steps[COUNTER]
    deepest = sorted({depth[start:stop].max() for start, stop in lines()}, reverse=True)[0]
    assert depth[steps[0]] == deepest and (np.diff(depth[steps]) <= 0).all()
    assert len({sequences().sequence_of[step] for step in steps}) == len(steps)


def lines() -> list[tuple[int, int]]:
    return list(zip(sequences().starts[:-1].tolist(), sequences().starts[1:].tolist(), strict=True))


def test_relevance_finds_the_open_brackets() -> None:
    (each,) = views().relevance
    text = sequences().text(each.start, each.step + 1)
    assert each.name == "deep" and text.startswith("b()(((")
    marked = [place for place, value in enumerate(each.relevance) if value > 0.2]
    assert [text[place] for place in marked] == ["("] * 3 and each.score == pytest.approx(5 * np.tanh(0.6), rel=1e-5)
    assert each.kept == pytest.approx(each.score - each.relevance.sum(), rel=1e-9)


def test_the_coloured_text_has_its_depth() -> None:
    np.testing.assert_allclose(layer().activity[:, COUNTER], np.tanh(STEP * bracket_depth(sequences())), atol=1e-5)


# --- chance


def test_a_permuted_property_is_found_at_the_chance_level() -> None:
    """p of the best unit is uniform where the property has nothing to do with the units."""
    rng, lengths = np.random.default_rng(0), np.full(10, 20)
    activity, found = rng.normal(size=(200, 5)).cumsum(0), []
    for _ in range(60):
        found.append(tracked(activity, rng.permutation(200).astype(float), lengths, permutations=39).p.min())
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) <= 0.05) < 0.15


def test_a_slow_property_is_at_chance_too() -> None:
    """Slow states correlate with any slow property; rotations stay slow, so that p does not call that a finding."""
    rng, rotated = np.random.default_rng(1), list[float]()
    for _ in range(40):
        noise = rng.normal(size=(3, 700))
        slow = np.stack([np.convolve(each, 0.9 ** np.arange(60))[60:660] for each in noise])
        rotated.append(tracked(slow[:2].T, slow[2], np.full(3, 200), permutations=39).p.min())
    assert np.mean(np.array(rotated) <= 0.05) < 0.2


def test_correlation_against_numpy() -> None:
    rng = np.random.default_rng(2)
    activity, values = rng.normal(size=(50, 4)), rng.normal(size=50)
    activity[:, 2] = 3.0
    found = tracked(activity, values, np.array([20, 30]), permutations=20)
    for unit in (0, 1, 3):
        assert found.correlation[unit] == pytest.approx(np.corrcoef(activity[:, unit], values)[0, 1], abs=1e-12)
    assert found.correlation[2] == 0 and found.p[2] == 1
    with pytest.raises(DataError, match="same at every step"):
        tracked(activity, np.ones(50), np.array([50]))


# --- the parts by themselves


def test_expected_responses_against_loops() -> None:
    rng = np.random.default_rng(0)
    hidden, ids, first = rng.normal(size=(40, 3)), rng.integers(0, 4, 40), np.zeros(40, bool)
    first[[0, 17]] = True
    counts, mean, quantiles = expected_responses(changes(hidden, first), ids, 5)
    for token in range(4):
        own = [hidden[t] - (0 if first[t] else hidden[t - 1]) for t in range(40) if ids[t] == token]
        assert counts[token] == len(own)
        np.testing.assert_allclose(mean[token], np.mean(own, 0), rtol=1e-12)
        np.testing.assert_allclose(quantiles[:, token], np.quantile(own, [0.09, 0.25, 0.75, 0.91], axis=0))
    assert counts[4] == 0 and np.isnan(mean[4]).all()


def test_planted_groups_come_back() -> None:
    rng = np.random.default_rng(0)
    tokens, units = rng.integers(0, 3, 12), rng.integers(0, 3, 30)
    mean = np.where(tokens[:, None] == units, 0.8, 0.02) * rng.choice([-1, 1], (12, 30))
    counts = np.full(12, 9)
    counts[4] = 2
    of_tokens, of_units = co_clusters(mean, counts, 3)
    assert of_tokens[4] == -1
    for token in [n for n in range(12) if n != 4]:
        assert {units[unit] for unit in np.flatnonzero(of_units == of_tokens[token])} == {tokens[token]}
    assert (co_clusters(mean, counts, 0)[0] == -1).all()
    only = np.zeros((3, 4))
    only[0, 1] = -0.5
    assert co_clusters(only, np.full(3, 9), 2, part="positive")[0].max() == -1
    assert co_clusters(only, np.full(3, 9), 2, part="negative")[1].tolist() == [-1, 0, -1, -1]


def test_units_together_by_hand() -> None:
    on = np.array(
        [[1, 1, 1, 1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]], bool
    ).T
    starts = np.array([0, 5, 10])
    found = together(on, 1, 3, starts)
    assert found.units.tolist() == [0, 1]
    assert found.ranges.tolist() == [[8, 10], [6, 7]]  # both have both; in the second a further unit is on
    assert found.counts.tolist() == [2, 2] and found.others.tolist() == [0, 1]
    assert on_units(on, 1, 3, starts, edges=True).tolist() == [1]  # unit 0 is on before, too
    begins, ends = run_edges(on, starts)
    assert (begins[9, 0], ends[5, 0], begins[3, 0], ends[4, 0]) == (8, 7, 0, 5)


def test_no_range_goes_into_the_next_sequence() -> None:
    on = np.ones((6, 1), bool)
    on[0] = False
    assert together(on, 1, 3, np.array([0, 3, 6])).ranges.tolist() == [[3, 6]]


def test_shares_of_gates_by_hand() -> None:
    assert gate_shares(np.array([[0.0, 0.1], [0.95, 0.9], [0.99, 0.5], [0.05, 0.2]])).tolist() == [[0.5, 0.5], [0, 0]]


def test_top_passages_against_sorting() -> None:
    rng = np.random.default_rng(0)
    activity, lengths = rng.normal(size=(300, 3)).astype(np.float32), np.array([120, 40, 140])
    passages = passages_of(lengths, 50)
    assert np.bincount(passages).tolist() == [50, 50, 20, 40, 50, 50, 40]
    values, steps = top_passages(activity, passages, 9)
    for unit in range(3):
        best = sorted((float(activity[passages == p, unit].max()) for p in range(7)), reverse=True)
        np.testing.assert_array_equal(values[unit, :7], np.array(best, np.float32))
        np.testing.assert_array_equal(activity[steps[unit, :7], unit], values[unit, :7])
        assert (steps[unit, 7:] == -1).all() and (values[unit, 7:] == -np.inf).all()


# --- files, settings, refusals


def test_everything_comes_back_from_the_file(tmp_path: pathlib.Path) -> None:
    views().save(tmp_path / "v.h5")
    again = RecurrentViews.load(tmp_path / "v.h5")
    assert repr(again) == repr(views()) and again.config["explained"] == [[1, 9]]
    for name in ("mean", "quantiles", "unit_groups", "top_steps", "activity"):
        np.testing.assert_array_equal(getattr(again["0"], name), getattr(layer(), name))
    np.testing.assert_array_equal(again.relevance[0].relevance, views().relevance[0].relevance)
    assert list(again["0"].gates) == list(layer().gates) == ["input", "forget", "output"]
    one, other = layer().together, again["0"].together
    assert one is not None and other is not None and one.ranges.tolist() == other.ranges.tolist()
    views().save_csv(tmp_path / "t.csv")
    assert len(views().to_frame()) == 18 and (tmp_path / "t.csv").read_text().startswith("layer,property,unit")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_any_batch_size_and_both_directions(kind: type[nn.LSTM]) -> None:
    torch.manual_seed(0)
    model = dv.RecurrentModel(recurrent=kind(5, 4, 2, bidirectional=True), head=nn.Linear(8, 5))
    one, other = (dv.recurrent(model, sequences(), batch_size=size, permutations=5, progress=False) for size in (1, 64))
    assert [each.name for each in one.layers] == ["0", "0.backwards", "1", "1.backwards"]
    for first, second in zip(one.layers, other.layers, strict=True):
        np.testing.assert_allclose(first.mean, second.mean, atol=1e-6)
    for first_r, second_r in zip(one.relevance, other.relevance, strict=True):
        np.testing.assert_allclose(first_r.relevance, second_r.relevance, atol=1e-9)


def test_responses_of_the_backward_direction() -> None:
    """A network that reads the text backwards answers as one that reads the reversed text."""
    torch.manual_seed(0)
    both, one = nn.GRU(5, 3, bidirectional=True), nn.GRU(5, 3)
    for name, weight in one.named_parameters():
        weight.data = getattr(both, f"{name}_reverse").data
    text = bracket_text(6)
    reversed_text = "\n".join(line[::-1] for line in text.split("\n"))
    vocabulary = bracket_lstm().vocabulary
    backwards = dv.recurrent(
        dv.RecurrentModel(recurrent=both), dv.text_sequences(text, vocabulary), permutations=1, progress=False
    )["0.backwards"]
    forwards = dv.recurrent(
        dv.RecurrentModel(recurrent=one), dv.text_sequences(reversed_text, vocabulary), permutations=1, progress=False
    )["0"]
    np.testing.assert_allclose(backwards.mean, forwards.mean, atol=1e-6)


def test_carried_states_are_those_of_one_sequence(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    model = dv.RecurrentModel(recurrent=nn.LSTM(5, 4), vocabulary=bracket_lstm().vocabulary)
    lines = dv.text_sequences(bracket_text(8), model.vocabulary)
    whole = dv.text_sequences(bracket_text(8).replace("\n", ""), model.vocabulary)
    for name, each, carry in (("a", lines, True), ("b", whole, False), ("c", lines, False)):
        dv.recurrent(model, each, carry=carry, out=tmp_path / name, permutations=1, groups=0, progress=False)
    rows = [Features(tmp_path / name / "data" / "states.h5").rows("0.cell", np.arange(len(lines))) for name in "abc"]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.abs(rows[0] - rows[2]).max() > 1e-3
    with pytest.raises(MismatchError, match="carry"):
        dv.recurrent(model, lines, out=tmp_path / "a", progress=False)
    both = dv.RecurrentModel(recurrent=nn.LSTM(5, 4, bidirectional=True), vocabulary=model.vocabulary)
    with pytest.raises(DataError, match="bidirectional"):
        dv.recurrent(both, lines, carry=True, progress=False)


def test_settings_of_views_may_change_and_the_recording_stays(tmp_path: pathlib.Path) -> None:
    first = dv.recurrent(bracket_lstm(), sequences(), out=tmp_path / "v", permutations=3, progress=False)
    before = (tmp_path / "v" / "data" / "states.h5").stat().st_mtime_ns
    second = dv.recurrent(bracket_lstm(), sequences(), out=tmp_path / "v", permutations=3, k=2, progress=False)
    assert (tmp_path / "v" / "data" / "states.h5").stat().st_mtime_ns == before
    assert first["0"].top_steps.shape[1] == 5 and second["0"].top_steps.shape[1] == 2


def test_a_chosen_range_and_its_refusals() -> None:
    def chosen(*place: int, **more: object) -> RecurrentViews:
        options = {"chosen": place, "permutations": 1, "groups": 0, **more}
        return dv.recurrent(bracket_lstm(), sequences(), progress=False, **options)  # type: ignore[arg-type]

    found = chosen(1, 6, 9)["0"].together
    assert found is not None and COUNTER in found.units and found.start == sequences().starts[1] + 6
    depth = bracket_depth(sequences())
    only_counter = chosen(1, 6, 9, threshold=0.5)["0"].together
    assert only_counter is not None and only_counter.units.tolist() == [COUNTER]
    assert all(depth[start:stop].min() >= 3 for start, stop in only_counter.ranges)
    for place, words in (((40, 0, 1), "expected 0 to 39"), ((1, 5, 99), "has 0 to"), ((1, 5, 4), "has 0 to")):
        with pytest.raises(DataError, match=words):
            chosen(*place)
    with pytest.raises(DataError, match="groups -1 given"):
        dv.recurrent(bracket_lstm(), sequences(), groups=-1)
    with pytest.raises(DataError, match="step 99 is to be explained"):
        dv.recurrent(bracket_lstm(), sequences(), explained=[(0, 99)])


def test_long_sequences_are_explained_from_their_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a short way back, what earlier steps hold is told; the sum stays."""
    monkeypatch.setattr("deconvviz.studies.recurrent.measure.BACK", 4)
    short = dv.recurrent(
        bracket_lstm(), sequences(), explained=[(1, 9)], permutations=1, groups=0, progress=False
    ).relevance[0]
    whole = views().relevance[0]
    assert len(short.relevance) == 4 and short.score == pytest.approx(whole.score, rel=1e-5)
    np.testing.assert_allclose(short.relevance, whole.relevance[-4:], atol=1e-4)
    assert short.before == pytest.approx(whole.relevance[:-4].sum(), rel=0.02)


def test_figures_are_drawn_of_the_result_alone() -> None:
    tokens, units = drawn_rows(layer())
    assert sorted(tokens.tolist()) == [0, 1, 2, 3, 4] and sorted(units.tolist()) == list(range(6))
    titles = [axes.get_title() for axes in dv.draw_recurrent(views()).axes]
    assert titles[-4:] == ["gates", "position", "quotes", "depth"]
    assert dv.draw_token_relevance(views()).axes and views()._repr_html_()
    with pytest.raises(DataError, match="unit 9 given"):
        dv.draw_cell(views(), "0", 9)
    with pytest.raises(DataError, match="nearest"):
        dv.draw_recurrent(views(), "1")
