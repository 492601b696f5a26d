"""The whole loop, measured: a pattern on the output, its detection at the input, the trigger.

The pattern is played by the same callback that listens, so both ends are
counted by one clock: the delay is the position of the trigger's pulse minus the
position of the pattern's last sample, both on the output. It contains the
devices, the air between them, the network and the decision.
"""

import time
from dataclasses import dataclass

import numpy as np

from rtconv.errors import RtconvError
from rtconv.live.source import Source

#: Seconds from one pattern to the next, beyond its own length.
PAUSE = 0.5


@dataclass(frozen=True)
class LoopDelay:
    """Delays from pattern to trigger.

    Attributes
    ----------
    samplerate : int
        Hz.
    played : int
        Patterns.
    delays : ndarray, (found,), int64
        Samples.
    """

    samplerate: int
    played: int
    delays: np.ndarray

    def __str__(self) -> str:
        milliseconds = 1000 * self.delays / self.samplerate
        return (
            f"{len(self.delays)} of {self.played} patterns triggered, after "
            f"{milliseconds.mean():.2f} ms (from {self.delays.min()} to {self.delays.max()} samples, "
            f"standard deviation {self.delays.std():.2f} samples)"
        )


def measure_loop(source: Source, pattern: np.ndarray, repetitions: int = 20) -> LoopDelay:
    """Play a pattern again and again, and wait for the trigger each time.

    Parameters
    ----------
    source : Source
        Listening, with a trigger whose device is heard at the input.
    pattern : ndarray, (frames,)
        What the detector recognises, at the source's samplerate.
    repetitions : int

    Raises
    ------
    RtconvError
        If the pattern was never recognised, or the device is lost.
    """
    rate = source.model.samplerate
    period = len(pattern) + round(PAUSE * rate)
    begin = source.position
    source.play_pattern(pattern, period)
    first = begin // period + 1
    triggers: list[np.ndarray] = []
    while source.position < (first + repetitions + 1) * period:
        time.sleep(0.01)
        while (chunk := source.read()) is not None:
            found = chunk.blocks["trigger"]
            triggers.append(found[found >= 0])
        if not source.alive():
            raise RtconvError(f"{source.device}: was lost during the measurement")
    positions = np.concatenate(triggers) - (len(pattern) - 1)
    rounds, first_in_round = np.unique(positions // period, return_index=True)
    wanted = (rounds >= first) & (rounds < first + repetitions)
    delays = positions[first_in_round[wanted]] % period
    if not len(delays):
        raise RtconvError(
            f"the pattern was not recognised at {source.device}: check that it hears "
            f"{source.output}, and that the detector knows the pattern (rtconv replay)"
        )
    return LoopDelay(rate, repetitions, delays)
