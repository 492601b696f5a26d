"""Recordings for training: patterns, backgrounds, and who may see what.

Everything goes through one reading and resampling path, `rtconv.audio`. What is
set aside for validation and calibration is set aside by recording, or by the
group that the config's `group` finds in a file's path, never by excerpt.
"""

import hashlib
import os
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rtconv.audio import audio_info, read_audio
from rtconv.config import Config, TrainingSettings
from rtconv.errors import RtconvError
from rtconv.evaluation.mixing import (
    active_part,
    agreeing_onsets,
    can_change_tempo,
    decibels,
    onset,
    rms,
)
from rtconv.labels import label_path, read_labels
from rtconv.training.backgrounds import Backgrounds, coloured_noise, cut_in_two, read_backgrounds

#: Seconds of the recording that are kept around a pattern, where there are as many.
MARGIN_BEFORE, MARGIN_AFTER = 0.12, 0.3
#: Seconds over which the margins fade.
FADE = 0.01
#: Share of the receptive field that a struck sound may fill, and that of its energy which
#: must lie there.
SEEN_SHARE, STRUCK_SHARE = 0.8, 0.6

T = TypeVar("T")


@dataclass(frozen=True)
class Recording:
    """What is known of a sound file.

    Attributes
    ----------
    samplerate : int
        Hz, its own.
    digest : str
        SHA-256 of its samples as they are used.
    labelled : bool
        Whether a label track says where the patterns are.
    clipped : int
        Samples in stretches of three or more at the largest value.
    bandwidth : float
        Hz, above which the spectrum lies 60 dB below its maximum.
    noise_db : float
        Level outside of the patterns, dB of full scale; -inf where nothing is left.
    """

    samplerate: int
    digest: str
    labelled: bool
    clipped: int
    bandwidth: float
    noise_db: float


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
    recording : Recording
    at : float
        Seconds from the recording's beginning to the pattern's start.
    aligned : bool
        Whether it is a take that ends by definition so long after its onset, at any speed.
    """

    samples: np.ndarray
    start: int
    end: int
    output: int | None
    path: Path
    group: str
    recording: Recording
    at: float
    aligned: bool = False

    @property
    def active(self) -> np.ndarray:
        """The pattern alone."""
        return self.samples[self.start : self.end]


def read_patterns(
    paths: Sequence[Path],
    output: int | None,
    name: str,
    config: Config,
    note: Callable[[str], None],
) -> list[Pattern]:
    """The patterns of sound files, mixed to one channel.

    A file with a label track beside it holds a pattern where a label bears the
    output's name, or any name if none does; a file without holds one, found by its
    energy. For an impulse, several such takes end equally long after their onset. Files
    that cannot be read are left out, and `note` is told.

    Parameters
    ----------
    paths : sequence of Path
    output : int or None
    name : str
        The output's name.
    config : Config
    note : callable

    Raises
    ------
    RtconvError
        If no file can be read, one is silent, or its labels do not fit.
    """
    patterns: list[Pattern] = []
    errors: list[RtconvError] = []
    for path in paths:
        try:
            samples = read_audio(path, config.samplerate).mean(axis=1)
        except RtconvError as error:
            errors.append(error)
        else:
            patterns += _patterns_of(path, samples, output, name, config)
    if paths and len(errors) == len(paths):
        raise errors[0]
    for left_out in errors:
        note(f"{left_out}; it is left out")
    if paths and not patterns:
        raise RtconvError(f"{paths[0]}: its label track, and that of all others, is empty")
    return patterns if output is None else _aligned(patterns, config)


def _aligned(patterns: list[Pattern], config: Config) -> list[Pattern]:
    """Takes without labels, all of which end the same time after their onset.

    Where a sound that fades away ends by its energy depends on the take, by tens of
    milliseconds; an impulse is to stand at the same place of each. Of struck sounds that
    are longer than the network sees, it sees the stroke and not the end. A word's plateau
    is left where it is: speakers differ.
    """
    assert config.training is not None
    found = [pattern for pattern in patterns if not pattern.recording.labelled]
    if len(found) < 2 or config.training.target.shape != "impulse":
        return patterns
    usual = length = round(np.median([len(pattern.active) for pattern in found]))
    seen = SEEN_SHARE * config.receptive_field
    if usual > seen and np.median([_share(p, round(seen)) for p in found]) > STRUCK_SHARE:
        length = round(seen)
    # One of quite another length is not a take of the same sound.
    takes = [p for p in found if usual / 2 < len(p.active) < usual * 2]
    rate = config.samplerate
    onsets = agreeing_onsets(
        [take.samples for take in takes],
        [onset(take.samples, rate, take.start, take.end) for take in takes],
        rate,
    )
    moved = {id(t): _moved(t, start, length, rate) for t, start in zip(takes, onsets, strict=True)}
    return [moved.get(id(pattern), pattern) for pattern in patterns]


def _moved(pattern: Pattern, start: int, length: int, rate: int) -> Pattern:
    """The pattern with its active part elsewhere, padded where there is nothing."""
    before = max(0, -start)
    after = max(0, start + length - len(pattern.samples))
    return replace(
        pattern,
        samples=np.pad(pattern.samples, (before, after)),
        start=start + before,
        end=start + before + length,
        at=pattern.at + (start - pattern.start) / rate,
        aligned=True,
    )


def _share(pattern: Pattern, frames: int) -> float:
    """The part of a pattern's energy that lies in its first samples."""
    energy = np.square(pattern.active, dtype=np.float64)
    return float(energy[:frames].sum() / energy.sum())


def _patterns_of(
    path: Path, samples: np.ndarray, output: int | None, name: str, config: Config
) -> list[Pattern]:
    rate = config.samplerate
    if not np.any(np.abs(samples) > 1e-5):
        raise RtconvError(f"{path}: is silent, remove it from the training data")
    labelled = label_path(path).is_file()
    spans = _labelled_spans(path, name, rate) if labelled else [active_part(samples, rate)]
    recording = _inspect(path, samples, spans, labelled, rate)
    group = group_of(path, config.training)
    patterns = []
    for i, (start, end) in enumerate(spans):
        if not np.any(samples[start:end]):
            raise RtconvError(
                f"{path}: is silent from {start / rate:.3f} to {end / rate:.3f} s, "
                "where a label says there is a sound"
            )
        after = spans[i + 1][0] if i + 1 < len(spans) else len(samples)
        cut = _cut(samples, start, end, after, rate)
        patterns.append(Pattern(*cut, output, path, group, recording, start / rate))
    return patterns


def _inspect(
    path: Path, samples: np.ndarray, spans: Sequence[tuple[int, int]], labelled: bool, rate: int
) -> Recording:
    outside = np.ones(len(samples), bool)
    for start, end in spans:
        outside[start:end] = False
    peak = np.abs(samples).max()
    at_peak = np.abs(samples) >= 0.9999 * peak
    runs = at_peak[2:] & at_peak[1:-1] & at_peak[:-2]
    frames = min(len(samples), 2048)
    power = np.square(np.abs(np.fft.rfft(np.resize(samples, (-(-len(samples) // frames), frames)))))
    spectrum = np.convolve(power.mean(axis=0), np.ones(9) / 9, "same")
    highest = np.flatnonzero(spectrum > 1e-6 * spectrum.max())[-1]
    return Recording(
        samplerate=audio_info(path).samplerate,
        digest=hashlib.sha256(samples.tobytes()).hexdigest(),
        labelled=labelled,
        clipped=int(runs.sum()) if peak > 0.3 else 0,
        bandwidth=float(highest * rate / frames),
        noise_db=decibels(rms(samples[outside])) if outside.sum() > rate // 20 else -np.inf,
    )


def _labelled_spans(path: Path, name: str, samplerate: int) -> list[tuple[int, int]]:
    track = label_path(path)
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
    samples: np.ndarray, start: int, end: int, after: int, rate: int
) -> tuple[np.ndarray, int, int]:
    """A pattern with its margins, faded in and out, up to the next one at `after`."""
    first = max(0, start - round(MARGIN_BEFORE * rate))
    last = min(len(samples), max(end, min(after, end + round(MARGIN_AFTER * rate))))
    cut = samples[first:last].astype(np.float32)
    for ramp in (cut[: start - first], cut[end - first :][::-1]):
        fade = min(len(ramp), round(FADE * rate))
        ramp[:fade] *= np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    return cut, start - first, end - first


def group_of(path: Path, settings: TrainingSettings | None) -> str:
    """The speaker or session of a file, as the config's `group` finds it, or the file itself."""
    if settings is not None and settings.group is not None:
        found = re.search(settings.group, str(path))
        if found and found.group(1):
            return found.group(1)
    return str(path)


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

    def record(self, folder: Path) -> dict[str, Any]:
        """Which recording went where, for the training record; paths relative to a folder."""

        def name(path: Path | str) -> str:
            return os.path.relpath(path, folder) if Path(path).is_absolute() else str(path)

        parts = {
            "positives": self.patterns,
            "validation": self.validation,
            "negatives": self.negatives,
        }
        return {
            **{
                key: [
                    {
                        "file": name(pattern.path),
                        "start": round(pattern.at, 4),
                        "end": round(pattern.at + len(pattern.active) / self.samplerate, 4),
                        "sha256": pattern.recording.digest,
                    }
                    for pattern in patterns
                ]
                for key, patterns in parts.items()
            },
            "backgrounds": [name(path) for path, _, _ in self.backgrounds.files],
            "calibration": [name(path) for path, _, _ in self.calibration.files],
            "backgrounds_sha256": self.backgrounds.digest(),
            "calibration_sha256": self.calibration.digest(),
        }

    @property
    def samplerate(self) -> int:
        """Hz, of all of it."""
        return self.backgrounds.samplerate


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
        taken = read_patterns(paths, output, name, config, notes.append)
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
    if settings.augment.stretches and not can_change_tempo():
        notes.append(
            "python-stretch is not installed: tempo and pitch of the recordings are not varied"
        )
    negatives = read_patterns(found["training.negatives"], None, "", config, notes.append)
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
            read_backgrounds(calibration, rate, notes.append)
            if calibration
            else coloured_noise(rate, 300, rng)
        )
    if not calibration:
        paths, calibration = split_by_group(
            paths,
            lambda path: group_of(path, settings),
            lambda path: audio_info(path).seconds,
            settings.calibration_share,
            rng,
        )
    training = read_backgrounds(paths, rate, notes.append)
    if calibration:
        return training, read_backgrounds(calibration, rate, notes.append)
    notes.append(
        f"{paths[0]}: is the only background; its last part is set aside for calibration, "
        "a second recording would say more"
    )
    return cut_in_two(training, settings.calibration_share)
