"""Matching against mir_eval, and what becomes of the events that are left over."""

import mir_eval
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtconv.evaluation.matching import match_events

# Whole hundredths and a collar between two of them: rounding decides nothing.
TIMES = st.lists(st.integers(0, 1500), max_size=40, unique=True).map(
    lambda values: np.array(values, float) / 100
)
COLLAR = 0.505


@given(TIMES, TIMES)
def test_as_many_pairs_as_mir_eval(labels, events):
    matching = match_events(labels, events, COLLAR)
    expected = mir_eval.util.match_events(np.sort(labels), np.sort(events), COLLAR)
    assert len(matching.pairs) == len(expected)


@given(TIMES, TIMES)
def test_every_label_and_event_is_counted_once(labels, events):
    matching = match_events(labels, events, COLLAR)
    of_labels = np.concatenate([matching.pairs[:, 0], matching.missed])
    of_events = np.concatenate([matching.pairs[:, 1], matching.duplicates, matching.false_alarms])
    assert sorted(of_labels) == list(range(len(labels)))
    assert sorted(of_events) == list(range(len(events)))
    for i, j in matching.pairs:
        assert abs(labels[i] - events[j]) <= COLLAR
    for j in matching.duplicates:
        assert np.abs(labels - events[j]).min() <= COLLAR
    for j in matching.false_alarms:
        assert not len(labels) or np.abs(labels - events[j]).min() > COLLAR


@given(TIMES, TIMES)
def test_f_measure_is_that_of_mir_eval_onsets(labels, events):
    matching = match_events(labels, events, COLLAR)
    hits = len(matching.pairs)
    expected = 0.0
    if len(labels) and len(events):
        expected, _, _ = mir_eval.onset.f_measure(np.sort(labels), np.sort(events), COLLAR)
    assert 2 * hits / max(1, len(labels) + len(events)) == pytest.approx(expected)


def test_of_two_events_the_nearer_one_is_the_pair():
    matching = match_events(np.array([10.0]), np.array([9.6, 10.1]), 0.5)
    assert matching.pairs.tolist() == [[0, 1]]
    assert matching.duplicates.tolist() == [0]


def test_a_pair_that_would_cost_another_one_is_not_made():
    # The nearest event of the second label is the only one of the first.
    matching = match_events(np.array([1.0, 1.5]), np.array([1.4, 1.95]), 0.5)
    assert matching.pairs.tolist() == [[0, 0], [1, 1]]


def test_the_collar_itself_still_counts():
    assert len(match_events(np.array([1.0]), np.array([1.5]), 0.5).pairs) == 1
    assert len(match_events(np.array([1.0]), np.array([1.5001]), 0.5).pairs) == 0


def test_nothing_matches_nothing():
    matching = match_events(np.array([]), np.array([]), 0.5)
    assert matching.pairs.shape == (0, 2)
    assert len(matching.missed) == len(matching.duplicates) == len(matching.false_alarms) == 0
