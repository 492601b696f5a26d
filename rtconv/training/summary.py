"""What the recordings are like, told before a training."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from rtconv.config import Config
from rtconv.evaluation.mixing import decibels, rms
from rtconv.training.backgrounds import Backgrounds
from rtconv.training.data import Dataset, Pattern

#: dB of full scale below which a recording is called nearly silent.
QUIET_DB = -55.0
#: dB between a pattern and the rest of its recording below which the noise is learned too.
POOR_SNR_DB = 10.0


def describe(dataset: Dataset, config: Config) -> list[str]:
    """Counts, lengths, levels and bandwidths, and what is wrong with single recordings."""
    lines = []
    for output, name in enumerate(config.output_names):
        both = [*dataset.patterns, *dataset.validation]
        patterns = [pattern for pattern in both if pattern.output == output]
        held = sum(pattern.output == output for pattern in dataset.validation)
        lines.append(f"{name}: {_summary(patterns, config.samplerate)}; {held} are set aside")
        lines += _complaints(patterns, config)
    if dataset.negatives:
        lines.append(f"negatives: {_summary(dataset.negatives, config.samplerate)}")
    lines.append(
        f"backgrounds: {_length(dataset.backgrounds)} for training, "
        f"{_length(dataset.calibration)} for calibration"
    )
    return lines


def _summary(patterns: Sequence[Pattern], samplerate: int) -> str:
    files = len({pattern.path for pattern in patterns})
    seconds = [len(pattern.active) / samplerate for pattern in patterns]
    levels = [decibels(rms(pattern.active)) for pattern in patterns]
    rates = Counter(pattern.recording.samplerate for pattern in patterns)
    bandwidths = [pattern.recording.bandwidth / 1000 for pattern in patterns]
    unlabelled = len({pattern.path for pattern in patterns if not pattern.recording.labelled})
    text = (
        f"{len(patterns)} in {files} files, {_span(seconds, '.2f')} s long, level "
        f"{_span(levels, '.0f')} dB, bandwidth {_span(bandwidths, '.1f')} kHz"
    )
    snr = [_snr(pattern) for pattern in patterns if np.isfinite(pattern.recording.noise_db)]
    if snr:
        text += f", {_span(snr, '.0f')} dB over the rest of the recording"
    if len(rates) > 1:
        mixed = ", ".join(f"{count} at {rate} Hz" for rate, count in rates.most_common())
        text += f", of different samplerates ({mixed}), all brought to {samplerate} Hz"
    if unlabelled:
        text += (
            f"; in {unlabelled} files without labels the sound was found by its energy "
            "(start and end are in the training record, a label track beside a file corrects them)"
        )
    return text


def _complaints(patterns: Sequence[Pattern], config: Config) -> list[str]:
    by_digest: dict[str, list[str]] = defaultdict(list)
    for path, digest in {p.path: p.recording.digest for p in patterns}.items():
        by_digest[digest].append(path.name)
    complaints = [
        f"{', '.join(names)}: hold the same samples, keep one of them"
        for names in by_digest.values()
        if len(names) > 1
    ]
    field = config.receptive_field / config.samplerate
    tests = [
        ("clipped, record them with less gain", lambda p: p.recording.clipped > 0),
        ("nearly silent, record them closer", lambda p: decibels(rms(p.active)) < QUIET_DB),
        (
            f"less than {POOR_SNR_DB:.0f} dB over the rest of their recording, whose noise "
            "is learned with them",
            lambda p: _snr(p) < POOR_SNR_DB,
        ),
        (
            f"longer than the {field:.2f} s that the network sees, only their end is learned: "
            "label a shorter part, or use larger dilations",
            lambda p: len(p.active) / config.samplerate > field,
        ),
    ]
    for complaint, applies in tests:
        names = dict.fromkeys(p.path.name for p in patterns if applies(p))
        if names:
            complaints.append(f"{_names(names)}: {complaint}")
    if len({pattern.path for pattern in patterns}) == 1 and len(patterns) > 1:
        complaints.append(
            f"{patterns[0].path.name}: is the only recording, so nothing shows how other ones "
            "would do; record some at other times and places"
        )
    return complaints


def _snr(pattern: Pattern) -> float:
    return decibels(rms(pattern.active)) - pattern.recording.noise_db


def _names(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _span(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _length(backgrounds: Backgrounds) -> str:
    minutes = backgrounds.seconds / 60
    length = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min"
    return f"{length} in {len(backgrounds.files)} files"
