"""Backgrounds: hours of sound on disk, read where they are needed."""

import hashlib
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rtconv.audio import audio_info, read_blocks
from rtconv.errors import RtconvError

#: Seconds of a background from which on it is decoded piece by piece, and how many shorter
#: ones are decoded ahead.
LONG, AHEAD = 900, 8


class Backgrounds:
    """Background recordings one after the other, kept on disk and read where they are needed.

    They are decoded once, to a temporary file of 16 bit samples that goes away with
    the object; hours of them cost no memory.

    Attributes
    ----------
    samplerate : int
        Hz.
    files : list of (path, first, frames)
        Where each file lies.
    frames : int
        In all.
    """

    def __init__(self, samplerate: int) -> None:
        self.samplerate = samplerate
        self.files: list[tuple[str, int, int]] = []
        self.frames = 0
        self._sha = hashlib.sha256()
        self._file = tempfile.TemporaryFile(prefix="rtconv-")  # noqa: SIM115, lives with self
        weakref.finalize(self, self._file.close)

    @property
    def seconds(self) -> float:
        """Length of all of them."""
        return self.frames / self.samplerate

    def append(self, name: str, blocks: Iterable[np.ndarray]) -> None:
        """Add a recording: blocks of (frames,) samples, float with full scale 1, or int16."""
        first = self.frames
        for block in blocks:
            pcm = block if block.dtype == np.int16 else _pcm(block)
            samples = pcm.tobytes()
            self._file.write(samples)
            self._sha.update(samples)
            self.frames += len(pcm)
        self._file.flush()
        self.files.append((name, first, self.frames - first))

    def read(self, start: int, frames: int) -> np.ndarray:
        """Samples from `start` on, and from the beginning again after the end.

        Returns
        -------
        ndarray, (frames,), float32
        """
        pieces: list[bytes] = []
        while frames > 0:
            start %= self.frames
            count = min(frames, self.frames - start)
            pieces.append(os.pread(self._file.fileno(), 2 * count, 2 * start))
            start, frames = start + count, frames - count
        return np.frombuffer(b"".join(pieces), np.int16).astype(np.float32) / 32767

    def digest(self) -> str:
        """SHA-256 of all samples."""
        return self._sha.hexdigest()

    def where(self, sample: int) -> tuple[str, float]:
        """The file that holds a sample, and the time in it."""
        for name, first, frames in self.files:
            if first <= sample < first + frames:
                return name, (sample - first) / self.samplerate
        raise IndexError(sample)


def read_backgrounds(
    paths: Sequence[Path], samplerate: int, note: Callable[[str], None]
) -> Backgrounds:
    """Decode background recordings, each mixed to one channel, several at a time.

    Of one that is damaged, what could be read is used, and `note` is told.

    Raises
    ------
    RtconvError
        If one cannot be read at all.
    """
    backgrounds = Backgrounds(samplerate)
    errors: list[RtconvError] = []

    def blocks_of(path: Path) -> Iterator[np.ndarray]:
        frames = 0
        try:
            for block in read_blocks(path, samplerate):
                frames += len(block)
                yield _pcm(block.mean(axis=1))
        except RtconvError as error:
            if frames < samplerate:
                raise
            errors.append(error)

    def decoded(path: Path) -> list[np.ndarray]:
        return list(blocks_of(path))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[tuple[Path, Future | None]] = deque()
        for path in [*paths, *[None] * AHEAD]:
            if path is not None:
                # Long files are decoded where they are needed: memory holds only short ones.
                short = audio_info(path).seconds < LONG
                decode = pool.submit(decoded, path) if short else None
                waiting.append((path, decode))
            if waiting and (path is None or len(waiting) > AHEAD):
                first, future = waiting.popleft()
                backgrounds.append(str(first), future.result() if future else blocks_of(first))
    for error in errors:
        note(f"{error}; what could be read of it is used")
    return backgrounds


def _pcm(x: np.ndarray) -> np.ndarray:
    return np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)


def cut_in_two(backgrounds: Backgrounds, share: float) -> tuple[Backgrounds, Backgrounds]:
    """The beginning and the end of one recording, as if there were two."""
    parts = Backgrounds(backgrounds.samplerate), Backgrounds(backgrounds.samplerate)
    first = round((1 - share) * backgrounds.frames)
    spans = ((0, first), (first, backgrounds.frames))
    for part, name, (start, end) in zip(parts, ("beginning", "end"), spans, strict=True):
        part.append(
            f"{backgrounds.files[0][0]} ({name})",
            (backgrounds.read(n, min(1 << 20, end - n)) for n in range(start, end, 1 << 20)),
        )
    return parts


def at_speed(backgrounds: Backgrounds, speed: float) -> Backgrounds:
    """The same played faster (``speed > 1``) or slower: as if others spoke."""
    import soxr

    rate = backgrounds.samplerate
    resampler = soxr.ResampleStream(rate, rate / speed, 1, dtype="float32", quality="HQ")

    def blocks(first: int, frames: int) -> Iterator[np.ndarray]:
        for n in range(first, first + frames, 1 << 20):
            x = backgrounds.read(n, min(1 << 20, first + frames - n))
            yield resampler.resample_chunk(x, last=n + len(x) == backgrounds.frames)

    played = Backgrounds(rate)
    for name, first, frames in backgrounds.files:
        played.append(name, blocks(first, frames))
    return played


def coloured_noise(samplerate: int, seconds: float, rng: np.random.Generator) -> Backgrounds:
    """White, pink and brown noise at -30 dB of full scale, `seconds` of each."""
    noise = Backgrounds(samplerate)
    frames = round(10 * samplerate)
    for name, exponent in (("white", 0.0), ("pink", 0.5), ("brown", 1.0)):
        shape = np.fft.rfftfreq(frames, 1 / samplerate)
        shape = np.maximum(shape, 20.0) ** -exponent
        noise.append(
            f"{name} noise",
            (_shaped_noise(shape, frames, rng) for _ in range(max(1, round(seconds / 10)))),
        )
    return noise


def _shaped_noise(shape: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    x = np.fft.irfft(np.fft.rfft(rng.standard_normal(frames)) * shape, frames)
    return x * 10 ** (-30 / 20) / x.std()
