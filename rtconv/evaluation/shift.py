"""Does the score depend on where a sound falls? It must move with it, and not change."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rtconv.stream.detector import Detector


@dataclass(frozen=True)
class ShiftInvariance:
    """What moving a clip did to its score.

    Attributes
    ----------
    peak_error : int
        Largest difference between the way of the peak and that of the clip, samples.
    score_change : float
        Largest difference of any score from that of the unmoved clip, moved along.
    """

    peak_error: int
    score_change: float


def shift_invariance(
    detector: Detector, clip: np.ndarray, shifts: Iterable[int] = range(1024), output: int = 0
) -> ShiftInvariance:
    """Move a clip in silence and compare its scores.

    With hop 1 both measures are 0. With a longer hop a score is held, so that
    the peak may be off by less than a hop, and a shift by a multiple of it still
    changes nothing.

    Parameters
    ----------
    detector : Detector
        Its stream is not touched.
    clip : ndarray, (frames,), floating point
    shifts : iterable of int
        Samples, not negative.
    output : int
        Which of the detector's scores.
    """
    before = np.zeros(detector.model.memory, np.float32)
    shifts = list(shifts)
    longest = max(shifts)

    def scores_at(shift: int) -> np.ndarray:
        after = np.zeros(len(before) + longest - shift, np.float32)
        x = np.concatenate([before, np.zeros(shift, np.float32), clip.astype(np.float32), after])
        scores = detector.process(x).reshape(len(x), -1)[:, output]
        return scores[len(before) + shift :][: len(clip) + len(before)]

    unmoved = scores_at(0)
    errors, changes = [0], [0.0]
    for shift in shifts:
        moved = scores_at(shift)
        errors.append(abs(int(moved.argmax()) - int(unmoved.argmax())))
        changes.append(float(np.abs(moved - unmoved).max()))
    return ShiftInvariance(max(errors), max(changes))
