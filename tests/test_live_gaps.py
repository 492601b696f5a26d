"""Losses found in the records of blocks: simulated streams whose losses are known."""

import numpy as np
import pytest

from rtconv.live.callback import INPUT_OVERFLOW
from rtconv.live.gaps import GapFinder, Loss
from rtconv.live.layout import BLOCK
from rtconv.live.ring import Chunk

RATE, FRAMES = 48000, 64


def records(seconds, seed=0, drift=0.0):
    """Blocks that arrive in bursts of four with jitter, as PulseAudio delivers them."""
    rng = np.random.default_rng(seed)
    blocks = np.zeros(round(seconds * RATE / FRAMES), BLOCK)
    blocks["frames"] = FRAMES
    end = (np.arange(len(blocks)) + 1) * FRAMES / RATE
    burst = end[np.minimum(np.arange(len(blocks)) // 4 * 4 + 3, len(blocks) - 1)]
    arrived = burst * (1 + drift)
    arrived += np.repeat(rng.exponential(0.001, -(-len(blocks) // 4)), 4)[: len(blocks)]
    blocks["arrived"] = (1000 + np.maximum.accumulate(arrived)) * 1e9
    blocks["adc_time"] = end
    return blocks


def lose(blocks, at, count):
    """Take out blocks: those after them come at their own time."""
    return np.concatenate([blocks[:at], blocks[at + count :]])


def delay(blocks, at, seconds):
    """Hold blocks back: they all come at the end of the delay."""
    late = blocks[at]["arrived"] + round(seconds * 1e9)
    blocks["arrived"][at:] = np.maximum(blocks["arrived"][at:], late)
    return blocks


def pieces(blocks, finder=None, batch=11):
    """What a finder says of blocks that are read in batches."""
    finder = finder or GapFinder(RATE)
    found = []
    for first in range(0, len(blocks), batch):
        part = blocks[first : first + batch]
        samples = np.repeat(part["arrived"], FRAMES)[:, np.newaxis]
        found += finder.push(Chunk(part, [samples], [samples]))
    found += finder.finish()
    runs = [piece.chunk.blocks for piece in found if not isinstance(piece, Loss)]
    np.testing.assert_array_equal(np.concatenate(runs), blocks)  # nothing vanishes
    return found


def losses(found):
    """Each loss, with the number of blocks before it."""
    result, count = [], 0
    for piece in found:
        if isinstance(piece, Loss):
            result.append((count, piece.length, piece.reason))
        else:
            count += len(piece.chunk.blocks)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_bursts_and_drift_are_no_loss(seed):
    finder = GapFinder(RATE)
    assert losses(pieces(records(20, seed, drift=200e-6), finder)) == []
    assert finder.drift == pytest.approx(200, abs=60)


@pytest.mark.parametrize("seconds", [0.04, 0.2, 3.0])
def test_a_delay_is_no_loss(seconds):
    assert losses(pieces(delay(records(10), 3000, seconds))) == []


@pytest.mark.parametrize("count", [50, 750, 5000])
def test_a_silent_loss_is_measured_and_put_at_the_pause(count):
    ((at, length, _),) = losses(pieces(lose(records(15), 3000, count)))
    assert at == 3000
    assert length == pytest.approx(count * FRAMES, abs=0.003 * RATE)


def test_a_loss_inside_a_delay():
    """Two seconds late, and what a buffer of one second could not hold is lost."""
    blocks = lose(delay(records(15), 3000, 2.0), 3750, 750)
    ((at, length, _),) = losses(pieces(blocks))
    assert at == 3000
    assert length == pytest.approx(750 * FRAMES, abs=0.003 * RATE)


def test_a_loss_without_a_pause_is_noticed_soon():
    """Twenty times three blocks: no pause is long enough, their sum is."""
    blocks = records(15)
    keep = np.ones(len(blocks), bool)
    for i in range(20):
        keep[3000 + 12 * i : 3003 + 12 * i] = False
    found = losses(pieces(blocks[keep]))
    assert sum(length for _, length, _ in found) == pytest.approx(60 * FRAMES, abs=0.005 * RATE)
    assert all(3000 < at < 3000 + 3 * RATE / FRAMES for at, _, _ in found)


def test_overflow_with_a_step_of_the_adc_clock_is_exact():
    blocks = lose(records(5), 1000, 7)
    blocks["flags"][1000] = INPUT_OVERFLOW
    blocks["reset"][1000] = 1
    found = pieces(blocks)
    assert losses(found) == [(1000, 7 * FRAMES, "input overflow")]
    resets = [piece.reset for piece in found if not isinstance(piece, Loss)]
    first = next(i for i, piece in enumerate(found) if isinstance(piece, Loss))
    assert resets.index(True) == first
    assert sum(resets) == 1


def test_overflow_without_an_adc_clock_is_measured_by_the_wall_clock():
    blocks = lose(records(10), 3000, 100)
    blocks["flags"][3000] = INPUT_OVERFLOW
    blocks["adc_time"] = 0
    ((at, length, reason),) = losses(pieces(blocks))
    assert (at, reason) == (3000, "input overflow")
    assert length == pytest.approx(100 * FRAMES, abs=0.003 * RATE)


def test_overflow_of_unknown_length():
    blocks = records(10)
    blocks["flags"][3000] = INPUT_OVERFLOW
    blocks["adc_time"] = 0
    assert losses(pieces(blocks)) == [(3000, None, "input overflow")]


def test_ring_overrun():
    blocks = records(6)
    blocks["lost"][2000] = 999
    assert losses(pieces(blocks)) == [(2000, 999, "ring overrun")]


def test_an_interruption_is_as_long_as_nothing_arrived():
    blocks = records(20)
    finder = GapFinder(RATE)
    assert losses(pieces(blocks[:6000], finder)) == []
    finder.interrupted("device lost")
    ((at, length, reason),) = losses(pieces(blocks[7500:], finder))
    assert (at, reason) == (0, "device lost")
    assert length == pytest.approx(1500 * FRAMES, abs=0.01 * RATE)
    finder.interrupted("asleep", asleep=3600)
    ((_, length, _),) = losses(pieces(records(2), finder))  # its clock stands still meanwhile
    assert length == pytest.approx((3600 - 20) * RATE, abs=0.01 * RATE)


def test_interruptions_without_a_block_between_are_one():
    blocks = records(20)
    finder = GapFinder(RATE)
    pieces(blocks[:6000], finder)
    finder.interrupted("the machine slept", asleep=100)
    finder.interrupted("device lost")
    ((at, length, reason),) = losses(pieces(blocks[7500:], finder))
    assert (at, reason) == (0, "the machine slept")
    assert length == pytest.approx(1500 * FRAMES + 100 * RATE, abs=0.01 * RATE)


def test_an_interruption_without_end():
    finder = GapFinder(RATE)
    pieces(records(1), finder)
    finder.interrupted("device lost")
    assert list(finder.finish()) == [Loss(None, "device lost")]
