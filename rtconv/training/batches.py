"""Batches of training examples: patterns mixed into backgrounds, with their targets.

Batch number i is a function of the seed and i alone, however many threads make
them. Every epoch has new variants of the patterns (speed, filter, room,
bandwidth), made once and placed many times.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from rtconv.config import AugmentSettings, Config, TargetSettings
from rtconv.evaluation.mixing import (
    amplitude,
    can_change_tempo,
    change_speed,
    change_tempo,
    convolve,
    decay_response,
    filter_response,
    gain_for_snr,
    limit_bandwidth,
    local_level,
    random_colour,
    room_response,
)
from rtconv.model.layers import Layer, hop
from rtconv.training.data import Dataset, Pattern

#: Variants of patterns that an epoch draws from, at most.
VARIANTS = 800
#: Seconds in which one tempo fades into another.
OVERLAP = 0.02
#: Share of the places in an example that hold a positive, and a negative if there are any.
POSITIVE_SHARE, NEGATIVE_SHARE = 0.4, 0.15
#: Share of the examples that start from a false alarm, once there are some.
HARD_SHARE = 0.3
#: Number of recordings of which half get another pitch: the fewer voices there are, the more
#: are made up.
FEW_RECORDINGS = 30
#: Share of the excerpts of background that are played at another speed: other voices and tones.
OTHER_VOICES = 0.5
#: Share of the summed weights of an example that one positive has.
POSITIVE_WEIGHT = 0.0375


@dataclass(frozen=True, eq=False)
class Variant:
    """A pattern as it is mixed in: ``samples[start:end]`` is active."""

    samples: np.ndarray
    start: int
    end: int
    output: int | None


def vary(
    pattern: Pattern,
    augment: AugmentSettings,
    samplerate: int,
    rng: np.random.Generator,
    pitch_share: float = 0.0,
) -> Variant:
    """A random variant of a pattern: speed, tempo, pitch, filter, room and bandwidth.

    `pitch_share` is the share of the variants whose pitch is another one.
    """
    speed = rng.uniform(*augment.speed)
    x = change_speed(pattern.samples, samplerate, speed)
    start, end = (round(place / speed) for place in (pattern.start, pattern.end))
    if pattern.aligned:
        end = start + len(pattern.active)
        x = np.pad(x, (0, max(0, end - len(x))))
    if augment.stretches and can_change_tempo():
        pitch = rng.uniform(*augment.pitch) if rng.random() < pitch_share else 1.0
        x, start, end = _stretch(x, start, end, augment.tempo, pitch, samplerate, rng)
    end = min(len(x), end)
    if rng.random() < augment.filter:
        x = convolve(x, filter_response(rng, samplerate))
    place = rng.random()
    if place < augment.room + augment.reverb:
        response = room_response if place < augment.room else decay_response
        tail = round(0.15 * samplerate)
        x = convolve(x, response(rng, samplerate))[: len(x) + tail]
        fade = min(len(x), tail // 2)
        x[len(x) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    if rng.random() < augment.bandwidth:
        x = limit_bandwidth(x, samplerate, random_bandwidth(samplerate, rng))
    return Variant(x, start, end, pattern.output)


def _stretch(
    x: np.ndarray,
    start: int,
    end: int,
    tempo: tuple[float, float],
    pitch: float,
    samplerate: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, int, int]:
    """Another pitch, and another tempo before and after a random place: syllables differ."""
    cut = start + round((end - start) * rng.uniform(0.25, 0.75))
    first, second = rng.uniform(*tempo, 2)
    overlap = min(round(OVERLAP * samplerate), cut, len(x) - cut)
    before = change_tempo(x[: cut + overlap], samplerate, first, pitch)[
        : round((cut + overlap) / first)
    ]
    after = change_tempo(x[cut:], samplerate, second, pitch)
    fade = np.linspace(0, 1, min(overlap, len(before), len(after)), dtype=np.float32)
    joint = len(before) - len(fade)
    mixed = before[joint:] * (1 - fade) + after[: len(fade)] * fade
    moved_end = joint + (end - cut) / second
    return (
        np.concatenate([before[:joint], mixed, after[len(fade) :]]),
        round(start / first),
        round(moved_end),
    )


def random_bandwidth(samplerate: int, rng: np.random.Generator) -> float:
    """Between 3.2 kHz, as on a telephone, and all there is."""
    highest = 0.49 * samplerate
    return log_uniform(rng, min(3200.0, highest), highest)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A random number, evenly on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def truncated(variant: Variant, rng: np.random.Generator) -> Variant:
    """The beginning or the rest of a variant, which must not fire."""
    length = variant.end - variant.start
    cut = variant.start + round(length * rng.uniform(0.35, 0.65))
    if rng.random() < 0.5:
        return Variant(variant.samples[:cut], variant.start, cut, None)
    return Variant(variant.samples[cut:], 0, variant.end - cut, None)


def target_of(
    ends: Sequence[tuple[int, int]],
    settings: TargetSettings,
    samplerate: int,
    step: int,
    shape: tuple[int, int],
    precise: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Targets and loss weights of one example.

    Parameters
    ----------
    ends : sequence of (end, output)
        Last samples of the patterns, and whose score shall rise.
    settings : TargetSettings
    samplerate : int
        Hz.
    step : int
        Hop of the network.
    shape : (scores, outputs)
    precise : bool
        Whether an impulse is to peak on the end itself, also between two scores.

    Returns
    -------
    targets, weights : ndarray, (scores, outputs), float32
    """
    targets, weights = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    rises = []
    for end, output in ends:
        late = np.arange(shape[0]) * step - end  # samples after the end
        width, delay = settings.width * samplerate, settings.delay * samplerate
        if settings.shape == "impulse":
            if not precise:
                # The peak is on a score: on the first one that knows the end.
                late = late - (-end) % step
            rise = np.maximum(0, 1 - np.abs(late) / max(width, 1))
        else:
            rise = ((late >= delay) & (late < delay + max(width, step))).astype(np.float32)
        ignore = settings.ignore * samplerate
        inside = np.flatnonzero(rise)
        if len(inside):
            near = slice(
                max(0, int(inside[0] - ignore // step)), int(inside[-1] + ignore // step) + 1
            )
            weights[near, output] = 0
            rises.append((rise, output))
    for rise, output in rises:
        targets[:, output] = np.maximum(targets[:, output], rise)
        weights[rise > 0, output] = max(1.5, POSITIVE_WEIGHT * shape[0] / np.count_nonzero(rise))
    return targets, weights


class Mixer:
    """Makes the batches of a training.

    Parameters
    ----------
    config : Config
    dataset : Dataset
    layers : sequence of Layer
        The network, for its hop and receptive field.
    """

    def __init__(self, config: Config, dataset: Dataset, layers: Sequence[Layer]) -> None:
        assert config.training is not None
        self.settings = config.training
        self.augment = config.training.augment
        self.samplerate, self.precise = config.samplerate, config.precise
        self.dataset = dataset
        self.pitch_share = FEW_RECORDINGS / (FEW_RECORDINGS + len(dataset.patterns))
        self.hop = hop(layers)
        self.outputs = layers[-1].filters
        frames = round(self.settings.excerpt * config.samplerate)
        self.frames = max(1, frames // self.hop) * self.hop
        slowest = self.augment.speed[0] * self.augment.tempo[0]
        longest = max(len(p.samples) / slowest for p in dataset.patterns)
        self.places = max(1, int(0.85 * self.frames // (1.3 * longest)))
        #: Samples of the training backgrounds at which the network fired wrongly.
        self.hard: list[int] = []

    def epoch(self, number: int, calls: int, steps: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Inputs, targets and weights for each compiled call of an epoch.

        Made in parallel, at most two calls ahead.

        Yields
        ------
        inputs : ndarray, (steps, batch, frames, 1), float32
        targets, weights : ndarray, (steps, batch, scores, outputs), float32
        """
        placed = calls * steps * self.settings.batch_size * self.places
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            seeds = [(number, i) for i in range(min(VARIANTS, max(20, placed // 2)))]
            variants = list(pool.map(self._variant, seeds))
            waiting: list[list[Future]] = []
            for call in range(calls):
                seeds = [(number, call * steps + i) for i in range(steps)]
                waiting.append([pool.submit(self._batch, variants, seed) for seed in seeds])
                if len(waiting) > 2:
                    yield _stacked(waiting.pop(0))
            for futures in waiting:
                yield _stacked(futures)

    def _variant(self, seed: tuple[int, int]) -> Variant:
        rng = np.random.default_rng([self.settings.seed, 2, *seed])
        pools = [self.dataset.patterns, self.dataset.negatives]
        negatives = pools[1] and rng.random() < NEGATIVE_SHARE / (NEGATIVE_SHARE + POSITIVE_SHARE)
        pool = pools[1 if negatives else 0]
        pattern = pool[rng.integers(len(pool))]
        variant = vary(pattern, self.augment, self.samplerate, rng, self.pitch_share)
        return truncated(variant, rng) if rng.random() < self.augment.truncate else variant

    def _batch(
        self, variants: list[Variant], seed: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.settings.seed, 3, *seed])
        examples = [self._example(variants, rng) for _ in range(self.settings.batch_size)]
        inputs, targets, weights = (np.stack(part) for part in zip(*examples, strict=True))
        return inputs[..., np.newaxis], targets, weights

    def _example(
        self, variants: list[Variant], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = self._background(rng)
        ends = []
        lead = 0.15 * self.frames
        room = (self.frames - lead) / self.places
        filled = POSITIVE_SHARE + (NEGATIVE_SHARE if self.dataset.negatives else 0)
        for place in range(self.places):
            if rng.random() > filled:
                continue
            variant = variants[rng.integers(len(variants))]
            slack = max(0.0, room - len(variant.samples))
            start = int(lead + place * room + rng.uniform(0, max(slack, 0.25 * room)))
            end = self._place(x, variant, start, rng)
            if variant.output is not None and end < self.frames:
                ends.append((end - 1, variant.output))
        x *= amplitude(rng.uniform(*self.augment.gain_db))
        if rng.random() < self.augment.bandwidth:
            x = self._narrow(x, random_bandwidth(self.samplerate, rng))
        shape = (self.frames // self.hop, self.outputs)
        targets, weights = target_of(
            ends, self.settings.target, self.samplerate, self.hop, shape, self.precise
        )
        return x / max(1, np.abs(x).max()), targets, weights

    def _place(self, x: np.ndarray, variant: Variant, start: int, rng: np.random.Generator) -> int:
        """Add a variant to `x`; its end."""
        active = variant.samples[variant.start : variant.end]
        first, last = start + variant.start, start + variant.end
        if first < len(x) and np.any(active):
            level = local_level(x, first, last, self.samplerate)
            gain = gain_for_snr(active, level, rng.uniform(*self.augment.snr_db))
            room = x[start : start + len(variant.samples)]
            room += gain * variant.samples[: len(room)]
        return last

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """An excerpt of background, or of two, at a random speed and level."""
        if self.hard and rng.random() < HARD_SHARE:
            place = self.hard[rng.integers(len(self.hard))]
            x = self._read(place - int(rng.uniform(0.4, 0.95) * self.frames))
            return x * np.float32(amplitude(rng.uniform(-6, 6)))
        x = self._varied(rng)
        x *= amplitude(rng.uniform(-10, 8))
        if rng.random() < 0.15:
            other = self._read(int(rng.integers(self.dataset.backgrounds.frames)))
            x += other * np.float32(amplitude(rng.uniform(-15, 3)))
        if rng.random() < 0.1:
            x *= amplitude(-30)
        return x

    def _varied(self, rng: np.random.Generator) -> np.ndarray:
        """An excerpt with its speed and filter varied, both in one spectrum."""
        other = rng.random() < OTHER_VOICES
        start = int(rng.integers(self.dataset.backgrounds.frames))
        frames = self.frames
        if other:
            speed = log_uniform(rng, *self.augment.background_speed)
            frames = next_fast_len(round(frames * speed), True)
        x = self._read(start, frames)
        if not other:
            return x
        spectrum = rfft(x)
        if rng.random() < self.augment.filter:
            rate = self.samplerate * self.frames / frames
            spectrum *= random_colour(rng, np.fft.rfftfreq(frames, 1 / rate)).astype(np.float32)
        # Another length in time changes the speed.
        return irfft(spectrum, self.frames) * np.float32(self.frames / frames)

    def _narrow(self, x: np.ndarray, bandwidth: float) -> np.ndarray:
        """An example as it is heard through a telephone or a codec."""
        spectrum = rfft(x)
        spectrum[round(bandwidth / self.samplerate * len(x)) :] = 0
        return irfft(spectrum, len(x))

    def _read(self, start: int, frames: int | None = None) -> np.ndarray:
        return self.dataset.backgrounds.read(start, frames or self.frames)


def _stacked(futures: list[Future]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(part) for part in zip(*(f.result() for f in futures), strict=True))
