"""Events of a stream with gaps."""

import numpy as np
import pytest

from rtconv.model.detector import Model, Output
from rtconv.stream.compiled import CompiledNetwork
from rtconv.stream.events import Event, EventPicker, Gap
from rtconv.stream.tracker import Tracker
from tests.contract import table

LAYERS = table()["strides"]


def model(outputs=1):
    settings = {"release": 0.2, "refractory": 0.001, "max_hold": 0.01, "decision": "peak"}
    return Model(
        "d", 1000, LAYERS, [Output(name=f"o{i}", threshold=0.6, **settings) for i in range(outputs)]
    )


def score_blocks(rng, frames):
    return rng.uniform(0, 1, (frames, 1)).astype(np.float32)


def test_without_gaps_it_is_the_picker():
    rng = np.random.default_rng(0)
    scores = [score_blocks(rng, n) for n in (3, 100, 0, 57)]
    tracker = Tracker(model(), [4])
    events = [event for block in scores for event in tracker.push([block])] + tracker.finish()
    picker = EventPicker(model().outputs[0], 1000, 4)
    assert events == picker.push(np.concatenate(scores)[:, 0]) + picker.finish()
    assert events


@pytest.mark.parametrize("length", [500, 0, None])
def test_scores_after_a_gap_are_invalid_as_long_as_the_network_remembers(length):
    """No sample before the gap is felt in an event after it: the oracle is another past."""
    memory = model().memory
    rng = np.random.default_rng(1)
    after = rng.normal(0, 1, (4 * memory, 1)).astype(np.float32)
    told = []
    for past in (0.0, 1e6):
        network, tracker = CompiledNetwork(LAYERS), Tracker(model(), [1])
        tracker.push([network.step(np.full((70, 1), past, np.float32)) * 0])
        records = tracker.gap(length, "lost")
        assert records[-1] == Gap(70, length, "lost")
        assert tracker.waits_for_reset
        first, rest = np.split(after, [memory])
        assert tracker.push([network.step(first) * 0 + 1]) == []  # all above the threshold
        tracker.reset()  # as if the network were, without touching it
        told.append([tracker.push([network.step(rest) * 0.5 + 0.5]), tracker.finish()])
        start = 70 + (length or 0) + memory
        assert all(event.sample >= start + memory for event in told[-1][0])
    assert told[0] == told[1]
    assert told[0][0]


def test_an_open_candidate_is_decided_before_the_gap():
    tracker = Tracker(model(), [1, 2])
    high = np.full((5, 1), 0.9, np.float32)
    assert tracker.push([high, high]) == []
    first, second, gap = tracker.gap(10, "why")
    assert isinstance(first, Event)
    assert (first.channel, second.channel, first.decided) == (1, 2, 5)
    assert gap == Gap(5, 10, "why")
    assert tracker.position == 15


def test_events_of_all_channels_come_in_the_order_of_their_decision():
    rng = np.random.default_rng(2)
    a, b = score_blocks(rng, 400), score_blocks(rng, 400)

    def told(size):
        tracker = Tracker(model(), [1, 2])
        events = []
        for n in range(0, 400, size):
            events += tracker.push([a[n : n + size], b[n : n + size]])
        return events + tracker.finish()

    assert told(1) == told(7) == told(400)
    assert [e.decided for e in told(400)] == sorted(e.decided for e in told(400))
