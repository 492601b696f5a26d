"""The event picker against a slow, obvious definition, and in any partition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtconv.model.detector import Output
from rtconv.stream.events import EventPicker, EventPickers

RATE = 100


def output(name="a", threshold=0.5, release=0.25, refractory=0.0, max_hold=1e6, **more):
    return Output(
        name=name,
        threshold=threshold,
        release=release,
        refractory=refractory,
        max_hold=max_hold,
        **({"decision": "peak"} | more),
    )


def slow_events(scores, settings):
    """(sample, decided) of every event, one sample at a time, in plain words."""
    events, candidate, waiting_for_release, last = [], None, False, None
    hold = round(settings.max_hold * RATE)

    def decide(decided):
        nonlocal last
        sample = max(candidate, key=lambda n: (scores[n], -n))
        if last is None or sample - last >= settings.refractory * RATE:
            events.append((sample, decided))
            last = sample

    for n, score in enumerate(scores):
        released = not score >= settings.release
        if candidate is not None and (released or n - candidate[0] >= hold):
            decide(n)
            candidate, waiting_for_release = None, True
        if waiting_for_release and released:
            waiting_for_release = False
        if candidate is not None:
            candidate.append(n)
        elif score >= settings.threshold and not waiting_for_release:
            candidate = [n]
            if settings.decision == "crossing":
                decide(n)
                candidate, waiting_for_release = None, True
    if candidate is not None:
        decide(len(scores))
    return events


def pick(scores, settings, sizes=(10**9,)):
    picker = EventPicker(settings, RATE)
    events, n, i = [], 0, 0
    while n < len(scores):
        events += picker.push(scores[n : n + sizes[i % len(sizes)]])
        n, i = n + sizes[i % len(sizes)], i + 1
    return events + picker.finish()


score_lists = st.lists(
    st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0, float("nan")]),
    max_size=120,
)


@given(
    scores=score_lists,
    refractory=st.sampled_from([0.0, 0.01, 0.05, 0.2]),
    max_hold=st.sampled_from([0.01, 0.03, 0.1, 100.0]),
    decision=st.sampled_from(["peak", "crossing"]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
@settings(max_examples=600, deadline=None)
def test_agrees_with_the_slow_definition_in_any_partition(
    scores, refractory, max_hold, decision, sizes
):
    scores = np.array(scores, np.float32)
    chosen = output(refractory=refractory, max_hold=max_hold, decision=decision)
    events = pick(scores, chosen, sizes)
    assert [(e.sample, e.decided) for e in events] == slow_events(scores, chosen)
    assert events == pick(scores, chosen)
    for event in events:
        assert event.score == scores[event.sample]
        assert event.time == event.sample / RATE


def test_peak_hysteresis_and_decided_sample():
    scores = np.array([0, 0.6, 0.4, 0.9, 0.3, 0.2, 0, 0.7, 0.1], np.float32)
    first, second = pick(scores, output())
    assert (first.sample, first.decided, first.score) == (3, 5, pytest.approx(0.9))
    assert (second.sample, second.decided) == (7, 8)


def test_refractory_counts_from_the_peak_and_belongs_to_one_detector():
    scores = np.zeros((100, 2), np.float32)
    scores[[10, 19, 20, 30], 0] = 0.9  # 19 is too early, 30 again is free
    scores[[15, 26], 1] = 0.9
    outputs = [output("a", refractory=0.1), output("b", refractory=0.1)]
    pickers = EventPickers(outputs, RATE)
    events = pickers.push(scores) + pickers.finish()
    samples = {name: [e.sample for e in events if e.detector == name] for name in "ab"}
    assert samples == {"a": [10, 30], "b": [15, 26]}
    assert [e.decided for e in events] == sorted(e.decided for e in events)


def test_max_hold_decides_and_then_waits_for_the_release():
    scores = np.full(50, 0.8, np.float32)
    scores[40] = 0
    first, second = pick(scores, output(max_hold=0.1))
    assert (first.sample, first.decided) == (0, 10)
    assert (second.sample, second.decided) == (41, 50)


def test_pattern_start():
    scores = np.zeros(50, np.float32)
    scores[[5, 30]] = 1
    early, late = pick(scores, output(pattern=0.1))
    assert (early.start, late.start) == (0, 21)


def test_a_gap_decides_what_is_open_and_moves_the_clock():
    picker = EventPicker(output(), RATE)
    assert picker.push(np.array([0, 0.6, 0.7], np.float32)) == []
    (event,) = picker.skip(100)
    assert (event.sample, event.decided) == (2, 3)
    (event,) = picker.push(np.array([0.8, 0], np.float32))
    assert (event.sample, event.decided) == (103, 104)
