"""Labelled test streams: sounds placed in backgrounds, hours of them.

The stream is cut into slots of equal length. Each slot is the next part of the
backgrounds, in which one sound is placed at a random time, at one of the asked
signal-to-noise ratios, speeds, rooms and bandwidths. Its label says which.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import Field, ValidationError, field_validator

from rtconv.audio import audio_info, read_audio, read_blocks
from rtconv.config import Finite, Name, Positive, Settings, find_files, read_yaml, sentence
from rtconv.errors import RtconvError
from rtconv.evaluation import mixing
from rtconv.files import atomic_path
from rtconv.labels import Label, label_path, label_text, read_labels, write_labels

#: Seconds of a recording that are kept before and after its sound, where there are as many.
MARGIN_BEFORE, MARGIN_AFTER = 0.1, 0.3
#: Seconds over which a placed recording is faded in and out.
FADE = 0.01
#: Seconds at either end of a slot in which no sound begins or ends.
SLOT_MARGIN = 0.2
#: Seconds over which the level of the stream moves from one slot to the next.
RAMP = 0.1
#: Largest sample of the stream; louder slots are turned down as a whole.
PEAK = 0.98

Room = Literal["none", "shoebox", "decay"]
Speed = Annotated[float, Field(ge=0.5, le=2)]
T = TypeVar("T")


class MixtureSettings(Settings):
    """What a test stream is made of.

    Attributes
    ----------
    samplerate : int
        Hz, of the stream.
    positives : lists of str, by name
        Sound files or patterns like ``sounds/*.wav``. Each holds the sound once,
        or has an Audacity label track beside it; the name is that of the labels.
    backgrounds : list of str
        In random order, each file once, mixed to one channel.
    hours : float
        Length of the stream; all of the backgrounds if it is not given.
    per_hour : float
        Sounds per hour.
    snr_db : list of float
        Level of the sound's active part against that of the background around it.
    speeds : list of float
        Factors; the pitch changes with the speed.
    rooms : list of 'none', 'shoebox' or 'decay'
        See `rtconv.evaluation.mixing.room_response` and `decay_response`.
    bandwidths : list of 'full' or float
        Hz, of the sound alone. For a narrow stream choose a low samplerate.
    aligned : bool
        The sounds of a name end equally long after their onset, and not where their
        energy says: for takes of a sound that fades away.
    group : str
        Regular expression whose first group in a file's path is its speaker or
        session; the labels tell it.
    seed : int
        The same seed makes the same stream.
    """

    samplerate: int = Field(ge=1000, le=384_000)
    positives: dict[Name, Annotated[list[str], Field(min_length=1)]] = Field(min_length=1)
    backgrounds: list[str] = Field(min_length=1)
    hours: Positive | None = None
    per_hour: Positive = 120.0
    snr_db: list[Finite] = Field([10.0], min_length=1)
    speeds: list[Speed] = Field([1.0], min_length=1)
    rooms: list[Room] = Field(["none"], min_length=1)
    bandwidths: list[Literal["full"] | Positive] = Field(["full"], min_length=1)
    aligned: bool = False
    group: str | None = None
    seed: int = Field(0, ge=0)
    _path: Path | None = None

    @field_validator("group")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        try:
            groups = 1 if value is None else re.compile(value).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError("needs one group in parentheses, such as '_([a-z]+)_'")
        return value


@dataclass(frozen=True)
class Occurrence:
    """A sound in a recording: its name, and where it starts and ends, in samples."""

    name: str
    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class _Conditions:
    """How one sound is placed."""

    snr_db: float
    speed: float
    room: Room
    bandwidth: float | Literal["full"]


def load_mixture(path: Path | str) -> MixtureSettings:
    """Read the settings of a test stream from YAML.

    Raises
    ------
    RtconvError
        If the file cannot be read, or a setting is unknown or impossible.
    """
    path = Path(path)
    try:
        settings = MixtureSettings.model_validate(read_yaml(path))
    except ValidationError as error:
        raise RtconvError(f"{path}: {sentence(error)}") from error
    settings._path = path.resolve()
    return settings


def write_mixture(
    settings: MixtureSettings,
    path: Path | str,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[Label]:
    """Write a test stream and, beside it, its labels.

    The stream is written slot by slot: memory does not grow with its length.

    Parameters
    ----------
    settings : MixtureSettings
    path : path of a sound file
        FLAC or another format that takes its suffix's name.
    on_progress : callable
        Is told the share that was done since the last call.

    Returns
    -------
    list of Label

    Raises
    ------
    RtconvError
        If a file cannot be read, the backgrounds are too short or a sound is too
        long for its slot.
    """
    import soundfile

    path, rate = Path(path), settings.samplerate
    rng = np.random.default_rng(settings.seed)
    background = _backgrounds(settings)
    slots = _slot_lengths(settings, background)
    occurrences = _cycle(rng, find_occurrences(settings))
    conditions = _conditions(rng, settings)
    samples = _concatenated(_shuffled(rng, background), rate, slots)
    labels: list[Label] = []
    gain, position = 1.0, 0
    slot_length = slots[0]
    try:
        with (
            atomic_path(path) as temporary,
            soundfile.SoundFile(
                temporary, "w", rate, 1, "FLOAT" if path.suffix.lower() == ".wav" else None
            ) as file,
        ):
            for slot in samples:
                if len(slot) == slot_length:
                    placed = _place(rng, slot, next(occurrences), next(conditions), settings)
                    labels.append(_moved(placed, position / rate))
                before, gain = gain, min(1.0, PEAK / max(float(np.abs(slot).max()), PEAK))
                ramp = min(len(slot), round(RAMP * rate))
                slot[:ramp] *= np.linspace(before, gain, ramp, dtype=np.float32)
                slot[ramp:] *= gain
                file.write(np.clip(slot, -1, 1))
                position += len(slot)
                on_progress(len(slot) / sum(slots))
    except (soundfile.SoundFileError, TypeError) as error:
        raise RtconvError(f"{path}: cannot be written as sound ({error})") from error
    write_labels(label_path(path), labels)
    return labels


def find_occurrences(settings: MixtureSettings) -> list[Occurrence]:
    """Every sound of the positives: where the labels say, or found by its energy.

    Raises
    ------
    RtconvError
        If a file cannot be read or is silent, or its labels do not fit.
    """
    found: list[Occurrence] = []
    rate = settings.samplerate
    for name, patterns in settings.positives.items():
        first = len(found)
        for path in find_files(settings._path, f"positives.{name}", patterns):
            samples = _read(path, rate)
            if label_path(path).is_file():
                labels = read_labels(label_path(path), audio_info(path).seconds)
                spans = [(round(label.start * rate), round(label.end * rate)) for label in labels]
            else:
                spans = [mixing.active_part(samples, rate)]
            for start, end in spans:
                if mixing.rms(samples[start:end]) < 1e-5:
                    raise RtconvError(
                        f"{path}: is silent from {start / rate:.3f} to {end / rate:.3f} s, where "
                        "its sound should be"
                    )
                if settings.aligned:
                    start = mixing.onset(samples, rate, start, end)
                found.append(Occurrence(name, path, start, end))
        if settings.aligned:
            length = round(np.median([sound.end - sound.start for sound in found[first:]]))
            found[first:] = [replace(s, end=s.start + length) for s in found[first:]]
    return found


def _place(
    rng: np.random.Generator,
    slot: np.ndarray,
    occurrence: Occurrence,
    conditions: _Conditions,
    settings: MixtureSettings,
) -> Label:
    """Add a sound to a slot, in place; its label counts from the slot's start."""
    rate = settings.samplerate
    sound, start, end = _cut(occurrence, rate)
    sound = mixing.change_speed(sound, rate, conditions.speed)
    start, end = round(start / conditions.speed), round(end / conditions.speed)
    if conditions.room == "shoebox":
        sound = mixing.convolve(sound, mixing.room_response(rng, rate))
    elif conditions.room == "decay":
        sound = mixing.convolve(sound, mixing.decay_response(rng, rate))
    if conditions.bandwidth != "full":
        sound = mixing.limit_bandwidth(sound, rate, conditions.bandwidth)
    margin = round(SLOT_MARGIN * rate)
    latest = len(slot) - margin - (end - start)
    if latest <= margin:
        raise RtconvError(
            f"{occurrence.path}: its sound of {(end - start) / rate:.2f} s does not fit into "
            f"{len(slot) / rate:.2f} s, choose a smaller per_hour"
        )
    onset = int(rng.integers(margin, latest))
    level = mixing.local_level(slot, onset, onset + end - start, rate)
    gain = mixing.gain_for_snr(sound[start:end], level, conditions.snr_db)
    first = max(0, start - onset)  # what would stand before the slot is left out
    place = onset - start + first
    placed = sound[first : first + len(slot) - place]
    slot[place : place + len(placed)] += gain * placed
    told = {"file": occurrence.path.stem, **vars(conditions)}
    if settings.group is not None and (found := re.search(settings.group, str(occurrence.path))):
        told["group"] = found.group(1)
    told = {k: f"{v:g}" if isinstance(v, float) else v for k, v in told.items()}
    return Label(onset / rate, (onset + end - start) / rate, label_text(occurrence.name, told))


def _cut(occurrence: Occurrence, rate: int) -> tuple[np.ndarray, int, int]:
    """The sound with its margins, faded in and out, and where it starts and ends."""
    samples = _read(occurrence.path, rate)
    first = max(0, occurrence.start - round(MARGIN_BEFORE * rate))
    last = min(len(samples), occurrence.end + round(MARGIN_AFTER * rate))
    cut = samples[first:last].copy()
    start, end = occurrence.start - first, occurrence.end - first
    for edge in (cut[:start], cut[end:][::-1]):
        fade = min(len(edge), round(FADE * rate))
        edge[:fade] *= np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    return cut, start, end


def _conditions(rng: np.random.Generator, settings: MixtureSettings) -> Iterator[_Conditions]:
    """Each value as often as the others of its list, independently of the other lists."""
    drawn = zip(
        _cycle(rng, settings.snr_db),
        _cycle(rng, settings.speeds),
        _cycle(rng, settings.rooms),
        _cycle(rng, settings.bandwidths),
        strict=False,
    )
    return (_Conditions(*values) for values in drawn)


def _backgrounds(settings: MixtureSettings) -> dict[Path, int]:
    """The background files and their lengths in samples of the stream."""
    rate = settings.samplerate
    files = find_files(settings._path, "backgrounds", settings.backgrounds)
    return {path: int(audio_info(path).seconds * rate) for path in files}


def _slot_lengths(settings: MixtureSettings, backgrounds: dict[Path, int]) -> list[int]:
    """Lengths of the slots, in samples; the last one may be shorter and has no sound then."""
    available = sum(backgrounds.values())
    wanted = available
    if settings.hours is not None:
        wanted = round(settings.hours * 3600 * settings.samplerate)
    if wanted > available:
        raise RtconvError(
            f"{settings._path}: hours is {settings.hours:g}, and the backgrounds are only "
            f"{available / settings.samplerate / 3600:.2f} h long"
        )
    length = round(3600 / settings.per_hour * settings.samplerate)
    if wanted < length:
        raise RtconvError(
            f"{settings._path}: the stream would be {wanted / settings.samplerate:.1f} s long, too "
            f"short for one sound at {settings.per_hour:g} per_hour"
        )
    return [length] * (wanted // length) + ([wanted % length] if wanted % length else [])


def _concatenated(files: Sequence[Path], rate: int, lengths: Sequence[int]) -> Iterator[np.ndarray]:
    """The files one after the other, in pieces of these lengths, which may be written to.

    The last piece may be a few samples shorter: resampling rounds each file's length.
    """
    blocks = (block.mean(axis=1) for path in files for block in read_blocks(path, rate))
    kept = np.zeros(0, np.float32)
    for length in lengths:
        parts, frames = [kept], len(kept)
        while frames < length and (block := next(blocks, None)) is not None:
            parts.append(block)
            frames += len(block)
        joined = np.concatenate(parts)
        yield joined[:length].copy()
        kept = joined[length:]


def _shuffled(rng: np.random.Generator, files: dict[Path, int]) -> list[Path]:
    paths = list(files)
    return [paths[i] for i in rng.permutation(len(paths))]


def _cycle(rng: np.random.Generator, values: Sequence[T]) -> Iterator[T]:
    """The values in random order, and again in another one, without end."""
    while True:
        for i in rng.permutation(len(values)):
            yield values[i]


def _read(path: Path, rate: int) -> np.ndarray:
    return read_audio(path, rate).mean(axis=1)


def _moved(label: Label, seconds: float) -> Label:
    return Label(label.start + seconds, label.end + seconds, label.text)
