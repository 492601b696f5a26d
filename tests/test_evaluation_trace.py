"""A trace picks exactly what the picker picks over the whole score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtconv.evaluation.trace import ScoreTrace
from rtconv.model.detector import Output
from rtconv.stream.events import EventPicker


def output(threshold, release, refractory=0.03, max_hold=0.02, decision="peak"):
    return Output(
        name="a",
        threshold=threshold,
        release=release,
        refractory=refractory,
        max_hold=max_hold,
        decision=decision,
    )


def picked(scores, settings):
    picker = EventPicker(settings, 1000)
    return picker.push(scores) + picker.finish()


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    held=st.sampled_from([1, 3, 16]),
    smooth=st.sampled_from([1, 5, 20]),
    limit=st.sampled_from([50, 400, 10_000]),
    decision=st.sampled_from(["peak", "crossing"]),
    nan=st.booleans(),
)
def test_the_events_are_those_of_the_picker(seed, held, smooth, limit, decision, nan):
    rng = np.random.default_rng(seed)
    scores = np.convolve(rng.standard_normal(2000), np.ones(smooth) / smooth**0.5, "same")
    scores = np.repeat(scores, held)[:2000].astype(np.float32)
    if nan:
        scores[rng.integers(0, 2000, 20)] = np.nan
    trace = ScoreTrace(1000, limit)
    for block in np.split(scores, np.sort(rng.integers(0, 2000, 9))):
        trace.push(block)
    assert trace.frames == 2000
    for threshold in rng.uniform(0.5, 3, 5):
        for release in (threshold, threshold / 2):
            wanted = output(threshold, release, decision=decision)
            if np.float32(release) >= trace.floor:
                assert trace.events(wanted) == picked(scores, wanted)


def test_memory_is_bounded_and_what_is_gone_is_said():
    rng = np.random.default_rng(0)
    trace = ScoreTrace(1000, limit=1000)
    for _ in range(50):
        trace.push(rng.standard_normal(1000).astype(np.float32))
    assert len(trace._stretches()[0]) <= 1000
    assert trace.floor > 1.5
    with pytest.raises(ValueError, match="below the floor"):
        trace.events(output(2.0, 1.0))
    lowest = output(1, 1).at_threshold(2 * float(trace.floor))
    assert trace.events_from(lowest, 0.1) == trace.events(lowest)
    assert trace.events_from(lowest, 4.5) == trace.events(lowest.at_threshold(4.5))


def test_a_constant_score_is_dropped_rather_than_kept_for_ever():
    trace = ScoreTrace(1000, limit=100)
    trace.push(np.zeros(5000, np.float32))
    trace.push(np.ones(10, np.float32))
    assert [event.sample for event in trace.events(output(0.5, 0.25))] == [5000]


def test_an_open_candidate_is_decided_at_the_end():
    scores = np.concatenate([np.zeros(5), np.ones(5)]).astype(np.float32)
    trace = ScoreTrace(1000)
    trace.push(scores)
    assert trace.events(output(0.5, 0.25)) == picked(scores, output(0.5, 0.25))


def test_peaks_are_local_maxima_however_the_score_is_cut():
    trace = ScoreTrace(1000)
    for block in ([0, 2, 2], [2, 1], [1, 3, 0, np.nan], [0], [5, 5]):
        trace.push(np.array(block, np.float32))
    assert sorted(set(trace.peaks().tolist())) == [2, 3, 5]
