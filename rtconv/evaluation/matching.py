"""Which event belongs to which label: one to one, within a collar.

An event and a label can be a pair when the event's time lies within `collar`
seconds of the label's reference time, its end. As many pairs as possible are
made, and of all such choices the one with the smallest distances. An event that
is left over within the collar of a label is a duplicate, any other is a false
alarm; a label that is left over is a miss.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True, eq=False)
class Matching:
    """The outcome for one file.

    Attributes
    ----------
    pairs : ndarray, (hits, 2), int
        Index of the label, index of its event; labels in order.
    missed, duplicates, false_alarms : ndarray, int
        Indices of labels, of events and of events.
    """

    pairs: np.ndarray
    missed: np.ndarray
    duplicates: np.ndarray
    false_alarms: np.ndarray


def match_events(reference: np.ndarray, times: np.ndarray, collar: float) -> Matching:
    """Match events to labels.

    Parameters
    ----------
    reference : ndarray, (labels,)
        Reference times of the labels, seconds, in any order.
    times : ndarray, (events,)
        Times of the events, seconds, in any order.
    collar : float
        Seconds; a distance of just as much still counts.
    """
    reference, times = np.asarray(reference, float), np.asarray(times, float)
    pairs = np.array(list(_pairs(reference, times, collar)), int).reshape(-1, 2)
    pairs = pairs[np.argsort(pairs[:, 0])]
    rest = np.setdiff1d(np.arange(len(times)), pairs[:, 1])
    near = _distance_to_nearest(times[rest], reference) <= collar
    return Matching(
        pairs=pairs,
        missed=np.setdiff1d(np.arange(len(reference)), pairs[:, 0]),
        duplicates=rest[near],
        false_alarms=rest[~near],
    )


def _pairs(reference: np.ndarray, times: np.ndarray, collar: float) -> Iterator[tuple[int, int]]:
    label_order, event_order = np.argsort(reference), np.argsort(times)
    ends, sorted_times = reference[label_order], times[event_order]
    # Labels further apart than two collars cannot want the same event.
    for labels in np.split(np.arange(len(ends)), np.flatnonzero(np.diff(ends) > 2 * collar) + 1):
        if not len(labels):
            continue
        # A rounded difference decides below; here one event too many does no harm.
        first = np.searchsorted(sorted_times, ends[labels[0]] - 1.01 * collar)
        last = np.searchsorted(sorted_times, ends[labels[-1]] + 1.01 * collar, "right")
        distance = np.abs(ends[labels][:, np.newaxis] - sorted_times[first:last])
        # One impossible pair costs more than all possible ones together: the
        # cheapest assignment has as many possible pairs as there can be.
        possible = distance <= collar
        cost = np.where(possible, distance, 1 + collar * len(labels))
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if possible[row, column]:
                yield int(label_order[labels[row]]), int(event_order[first + column])


def _distance_to_nearest(times: np.ndarray, reference: np.ndarray) -> np.ndarray:
    ends = np.concatenate([[-np.inf], np.sort(reference), [np.inf]])
    after = np.searchsorted(ends, times)
    return np.minimum(np.abs(times - ends[after - 1]), np.abs(ends[after] - times))
