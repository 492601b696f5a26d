"""Recordings for training: patterns, backgrounds, and who may see what.

Everything goes through one reading and resampling path, `rtconv.audio`. What is
set aside for validation and calibration is set aside by recording, or by the
group that the config's `group` finds in a file's path, never by excerpt.
"""

import os
import re
import tempfile
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from rtconv.audio import audio_info, read_audio, read_blocks
from rtconv.config import Config, TrainingSettings
from rtconv.errors import RtconvError
from rtconv.evaluation.mixing import active_part
from rtconv.labels import label_path, read_labels

#: Seconds of the recording that are kept around a pattern, where there are as many.
MARGIN_BEFORE, MARGIN_AFTER = 0.12, 0.3
#: Seconds over which the margins fade.
FADE = 0.01

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Pattern:
    """One occurrence of a sound.

    Attributes
    ----------
    samples : ndarray, (frames,), float32
        With some of what stands before and after it.
    start, end : int
        The pattern in `samples`; the end is excluded.
    output : int or None
        Which score shall rise; None for a sound that must not fire.
    path : Path
    group : str
        Its speaker or session, or its file.
    """

    samples: np.ndarray
    start: int
    end: int
    output: int | None
    path: Path
    group: str

    @property
    def active(self) -> np.ndarray:
        """The pattern alone."""
        return self.samples[self.start : self.end]


def read_patterns(
    paths: Sequence[Path], output: int | None, name: str, config: Config
) -> list[Pattern]:
    """The patterns of sound files, mixed to one channel.

    A file with a label track beside it holds a pattern where a label bears the
    output's name, or any name if none does; a file without holds one, found by its
    energy.

    Parameters
    ----------
    paths : sequence of Path
    output : int or None
    name : str
        The output's name.
    config : Config

    Raises
    ------
    RtconvError
        If a file cannot be read or is silent, or its labels do not fit.
    """
    patterns = []
    for path in paths:
        samples = read_audio(path, config.samplerate).mean(axis=1)
        if not np.any(np.abs(samples) > 1e-5):
            raise RtconvError(f"{path}: is silent, remove it from the training data")
        spans = _labelled_spans(path, name, config.samplerate) or [
            active_part(samples, config.samplerate)
        ]
        for i, (start, end) in enumerate(spans):
            after = spans[i + 1][0] if i + 1 < len(spans) else len(samples)
            patterns.append(_cut(samples, start, end, after, output, path, config))
    return patterns


def _labelled_spans(path: Path, name: str, samplerate: int) -> list[tuple[int, int]]:
    track = label_path(path)
    if not track.is_file():
        return []
    labels = read_labels(track, audio_info(path).seconds)
    labels = [label for label in labels if label.name == name] or labels
    spans = [(round(label.start * samplerate), round(label.end * samplerate)) for label in labels]
    for start, end in spans:
        if end - start < 2:
            raise RtconvError(
                f"{track}: the label at {start / samplerate:.3f} s has no length, "
                "let it reach from the start to the end of the sound"
            )
    return spans


def _cut(
    samples: np.ndarray,
    start: int,
    end: int,
    after: int,
    output: int | None,
    path: Path,
    config: Config,
) -> Pattern:
    """A pattern with its margins, faded in and out, up to the next one at `after`."""
    first = max(0, start - round(MARGIN_BEFORE * config.samplerate))
    last = min(len(samples), max(end, min(after, end + round(MARGIN_AFTER * config.samplerate))))
    cut = samples[first:last].astype(np.float32)
    for ramp in (cut[: start - first], cut[end - first :][::-1]):
        fade = min(len(ramp), round(FADE * config.samplerate))
        ramp[:fade] *= np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    return Pattern(cut, start - first, end - first, output, path, group_of(path, config.training))


def group_of(path: Path, settings: TrainingSettings | None) -> str:
    """The speaker or session of a file, as the config's `group` finds it, or the file itself."""
    if settings is not None and settings.group is not None:
        found = re.search(settings.group, str(path))
        if found and found.group(1):
            return found.group(1)
    return str(path)


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
        self._file = tempfile.TemporaryFile(prefix="rtconv-")  # noqa: SIM115, lives with self
        weakref.finalize(self, self._file.close)

    @property
    def seconds(self) -> float:
        """Length of all of them."""
        return self.frames / self.samplerate

    def append(self, name: str, blocks: Iterable[np.ndarray]) -> None:
        """Add a recording: blocks of (frames,) samples, full scale 1."""
        first = self.frames
        for block in blocks:
            pcm = np.round(np.clip(block, -1, 1) * 32767).astype(np.int16)
            self._file.write(pcm.tobytes())
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

    def where(self, sample: int) -> tuple[str, float]:
        """The file that holds a sample, and the time in it."""
        for name, first, frames in self.files:
            if first <= sample < first + frames:
                return name, (sample - first) / self.samplerate
        raise IndexError(sample)


def read_backgrounds(paths: Sequence[Path], samplerate: int) -> Backgrounds:
    """Decode background recordings, each mixed to one channel."""
    backgrounds = Backgrounds(samplerate)
    for path in paths:
        backgrounds.append(
            str(path), (block.mean(axis=1) for block in read_blocks(path, samplerate))
        )
    return backgrounds


def split_by_group(
    items: Sequence[T],
    group: Callable[[T], Hashable],
    size: Callable[[T], float],
    share: float,
    rng: np.random.Generator,
) -> tuple[list[T], list[T]]:
    """Split items into two, whole groups at a time.

    Parameters
    ----------
    items : sequence
    group, size : callable
        Of an item.
    share : float
        Of the total size that the second part shall have; it gets as much as comes
        closest. The first part always keeps one group.
    rng : Generator

    Returns
    -------
    first, second : list
        In the order of `items`.
    """
    sizes: dict[Hashable, float] = {}
    for item in items:
        sizes[group(item)] = sizes.get(group(item), 0.0) + size(item)
    wanted = share * sum(sizes.values())
    order = [list(sizes)[i] for i in rng.permutation(len(sizes))]
    chosen: set[Hashable] = set()
    taken = 0.0
    for key in order:
        if len(chosen) < len(sizes) - 1 and abs(taken + sizes[key] - wanted) < abs(taken - wanted):
            chosen.add(key)
            taken += sizes[key]
    first = [item for item in items if group(item) not in chosen]
    return first, [item for item in items if group(item) in chosen]


@dataclass(frozen=True)
class Dataset:
    """All that a training from recordings works with.

    Attributes
    ----------
    patterns, validation : list of Pattern
        Positives for training, and those it never sees.
    negatives : list of Pattern
    backgrounds, calibration : Backgrounds
        For training and mining, and those it never sees.
    notes : list of str
        What the user should know of it.
    """

    patterns: list[Pattern]
    validation: list[Pattern]
    negatives: list[Pattern]
    backgrounds: Backgrounds
    calibration: Backgrounds
    notes: list[str]

    @property
    def pattern_seconds(self) -> float:
        """Median length of the patterns."""
        lengths = [len(pattern.active) for pattern in self.patterns]
        return float(np.median(lengths)) / self.backgrounds.samplerate

    def split(self, folder: Path) -> dict[str, list[str]]:
        """Which file went where, for the training record, relative to a folder."""
        parts = {
            "positives": {str(pattern.path) for pattern in self.patterns},
            "validation": {str(pattern.path) for pattern in self.validation},
            "negatives": {str(pattern.path) for pattern in self.negatives},
            "backgrounds": {name for name, _, _ in self.backgrounds.files},
            "calibration": {name for name, _, _ in self.calibration.files},
        }
        return {
            key: sorted(os.path.relpath(path, folder) if Path(path).is_absolute() else path
                        for path in paths)
            for key, paths in parts.items()
        }  # fmt: skip


def load_dataset(config: Config) -> Dataset:
    """Read and split all recordings of a config.

    Raises
    ------
    RtconvError
        If a recording cannot be used, or the network cannot learn from these.
    """
    settings = config.training
    assert settings is not None
    if config.channels != 1:
        raise RtconvError(f"{config.name}: training from recordings needs channels 1")
    rng = np.random.default_rng([settings.seed, 1])
    notes: list[str] = []
    found = {key: config.find_files(key, globs) for key, globs in config.training_patterns()}
    patterns: list[Pattern] = []
    validation: list[Pattern] = []
    for output, name in enumerate(config.output_names):
        key = "training.positives"
        paths = found[key] if key in found else found[f"{key}.{name}"]
        taken = read_patterns(paths, output, name, config)
        kept, held = split_by_group(
            taken, lambda p: p.group, lambda p: 1.0, settings.validation_share, rng
        )
        patterns += kept
        validation += held
        if not held:
            notes.append(
                f"{name}: {len(taken)} recordings, too few to set one aside: "
                "misses are estimated with those it was trained on, and will be more"
            )
    negatives = read_patterns(found["training.negatives"], None, "", config)
    backgrounds, calibration = _read_both_backgrounds(config, found, rng, notes)
    return Dataset(patterns, validation, negatives, backgrounds, calibration, notes)


def _read_both_backgrounds(
    config: Config, found: dict[str, list[Path]], rng: np.random.Generator, notes: list[str]
) -> tuple[Backgrounds, Backgrounds]:
    """Backgrounds for training, and those that are set aside for calibration."""
    settings, rate = config.training, config.samplerate
    assert settings is not None
    paths, calibration = found["training.backgrounds"], found["training.calibration"]
    if not paths:
        notes.append(
            "no backgrounds are given: trained against noise of several colours, "
            "which says little about false alarms in a real place; record one"
        )
        return coloured_noise(rate, 120, rng), (
            read_backgrounds(calibration, rate) if calibration else coloured_noise(rate, 300, rng)
        )
    if not calibration:
        paths, calibration = split_by_group(
            paths,
            lambda path: group_of(path, settings),
            lambda path: audio_info(path).seconds,
            settings.calibration_share,
            rng,
        )
    if not calibration:
        notes.append(
            f"{paths[0]}: is the only background; its last part is set aside for calibration, "
            "a second recording would say more"
        )
        return _cut_in_two(read_backgrounds(paths, rate), settings.calibration_share)
    return read_backgrounds(paths, rate), read_backgrounds(calibration, rate)


def _cut_in_two(backgrounds: Backgrounds, share: float) -> tuple[Backgrounds, Backgrounds]:
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
