"""Placing a sound in a background: its active part, its level, and what rooms and rates do to it.

All randomness comes from the generator that is handed in, so the same seed
gives the same mixture. Nothing here shifts a sound in time: the direct sound of
a room is its first tap, and resampling makes up for its delay. All signals are
float32 of one channel, (frames,), with full scale 1.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
from scipy.signal import fftconvolve, istft, stft

#: Speed of sound that the simulated rooms assume, m/s.
SPEED_OF_SOUND = 343.0
#: A background below this level, dB of full scale, counts as being at it.
LEVEL_FLOOR_DB = -60.0
#: Pauses in a sound that do not end it, seconds.
LONGEST_PAUSE = 0.25

_STRETCH = (0.06, 0.015)  # blocks of a change of tempo and their interval, seconds
_HARMONIC = 3000.0  # Hz, up to which a change of pitch is a factor; above, frequencies are shifted
_AGREEMENT = (0.002, 0.02)  # reach and length of the comparison of strokes, seconds
_FRAME = 0.02  # seconds over which active_part measures a spectrum
_REFLECTIONS = 17  # order of the image sources; 10 ms of computing a room


def rms(x: np.ndarray) -> float:
    """Root mean square of a signal; 0 of an empty one."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if len(x) else 0.0


def decibels(ratio: float) -> float:
    """A ratio of amplitudes in dB."""
    return float(20 * np.log10(max(ratio, 1e-12)))


def amplitude(db: float) -> float:
    """The ratio of amplitudes that a number of dB means."""
    return float(10 ** (db / 20))


def active_part(
    x: np.ndarray, samplerate: int, range_db: float = 25.0, over_db: float = 12.0
) -> tuple[int, int]:
    """Where a recording of one sound holds it.

    The spectrum of every 20 ms is divided by the recording's own background (of
    each frequency the 20th percentile over time, padding with silence left
    out), so that a hum does not hide a word. Active is what reaches `range_db`
    below the loudest place, and `over_db` above the background or half of the
    way to the loudest. Of the active stretches, joined over pauses up to
    `LONGEST_PAUSE`, the one with most energy is the sound: a click beside it is
    left out.

    Parameters
    ----------
    x : ndarray, (frames,)
    samplerate : int
        Hz.
    range_db, over_db : float

    Returns
    -------
    start, end : int
        Samples, the end excluded, in steps of 10 ms; the whole recording if it
        is silent or shorter than 40 ms.
    """
    hop = max(1, round(_FRAME / 2 * samplerate))
    if len(x) < 4 * hop or not np.any(x):
        return 0, len(x)
    frames = np.lib.stride_tricks.sliding_window_view(x, 2 * hop)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(2 * hop), axis=1)))
    total = power.sum(axis=1)
    sounding = total > 1e-7 * total.max()
    background = np.percentile(power[sounding], 20, axis=0) + 1e-6 * power.max()
    ratio = (power / background).mean(axis=1)
    level = 10 * np.log10(ratio + 1e-12)
    contrast = level.max() - np.percentile(level[sounding], 20)
    # With less contrast there is no background beside the sound, only padding.
    over = min(over_db, contrast / 2) - contrast if contrast > 10 else -range_db
    threshold = level.max() + max(-range_db, over)
    active = np.flatnonzero(level >= threshold)
    breaks = np.flatnonzero(np.diff(active) * hop > LONGEST_PAUSE * samplerate) + 1
    best = max(np.split(active, breaks), key=lambda stretch: float(ratio[stretch].sum()))
    return int(best[0]) * hop, min((int(best[-1]) + 2) * hop, len(x))


def onset(x: np.ndarray, samplerate: int, start: int, end: int) -> int:
    """The sample at which a sound sets in, to about a millisecond.

    The first at which the level of a millisecond reaches a fifth of the loudest one.

    Parameters
    ----------
    x : ndarray, (frames,)
    samplerate : int
        Hz.
    start, end : int
        Where to look for it.
    """
    width = max(1, round(0.001 * samplerate))
    power = np.convolve(np.square(x[start:end], dtype=np.float64), np.ones(width))[: end - start]
    return start + max(0, int(np.argmax(power >= power.max() / 25)) - width + 1)


def agreeing_onsets(
    takes: Sequence[np.ndarray], onsets: Sequence[int], samplerate: int
) -> list[int]:
    """Onsets of takes of one sound, moved to where the waveforms agree.

    The level tells where a soft stroke begins less exactly than its waveform does. Each
    take is moved by at most 2 ms to where it correlates most with the mean of the others,
    three times over; one that correlates by less than 0.7 has another waveform and stays.

    Parameters
    ----------
    takes : sequence of ndarray, (frames,)
    onsets : sequence of int
        See `onset`.
    samplerate : int
        Hz.

    Returns
    -------
    list of int
        May lie before the first sample of a take.
    """
    reach, length = round(_AGREEMENT[0] * samplerate), round(_AGREEMENT[1] * samplerate)
    strokes = []
    for x, start in zip(takes, onsets, strict=True):
        padded = np.pad(x, (2 * reach, length + 2 * reach))
        strokes.append(padded[start : start + length + 4 * reach].astype(np.float64))
    lags, agrees = np.zeros(len(strokes), int), np.zeros(len(strokes), bool)
    for _ in range(3):
        placed = [x[2 * reach + lag :][:length] for x, lag in zip(strokes, lags, strict=True)]
        placed = [x / (np.linalg.norm(x) + 1e-12) for x in placed]
        for i, x in enumerate(strokes):
            mean = sum(placed) - placed[i]
            windows = np.lib.stride_tricks.sliding_window_view(x[reach:-reach], length)
            likeness = windows @ mean / (np.linalg.norm(mean) + 1e-12)
            likeness /= np.linalg.norm(windows, axis=1) + 1e-12
            agrees[i] = likeness.max() > 0.7
            lags[i] = (int(np.argmax(likeness)) - reach) * agrees[i]
    if agrees.any():  # what most of them say is where the sound sets in
        lags[agrees] -= round(float(np.median(lags[agrees])))
    return [start + int(lag) for start, lag in zip(onsets, lags, strict=True)]


def change_speed(x: np.ndarray, samplerate: int, speed: float) -> np.ndarray:
    """Play faster (``speed > 1``) or slower; the pitch changes with it.

    Sample n of `x` becomes sample ``n / speed`` of the result.
    """
    import soxr

    if speed == 1:
        return x
    return soxr.resample(x, samplerate, samplerate / speed, quality="HQ").astype(np.float32)


@cache
def can_change_tempo() -> bool:
    """Whether the package for it is installed: there is none for Linux on ARM."""
    return find_spec("python_stretch") is not None


def change_tempo(x: np.ndarray, samplerate: int, tempo: float, pitch: float = 1.0) -> np.ndarray:
    """Play faster (``tempo > 1``) or slower, and higher (``pitch > 1``) or lower.

    Neither changes the other (Signalsmith Stretch), and formants stay where they are, as if
    the same mouth spoke. What lies at sample n of `x` lies near sample ``n / tempo`` of the
    result.
    """
    from python_stretch.Signalsmith import Stretch

    if tempo == pitch == 1:
        return x
    stretch = Stretch()
    stretch.configure(1, *(round(seconds * samplerate) for seconds in _STRETCH))
    stretch.timeFactor = tempo
    stretch.setTransposeFactor(pitch, _HARMONIC / samplerate)
    y = np.asarray(stretch.process(x[np.newaxis]), np.float32)[0]
    return y if pitch == 1 else _move_formants(y, samplerate, pitch)


def _move_formants(x: np.ndarray, samplerate: int, pitch: float) -> np.ndarray:
    """Move the spectral envelope back, after the pitch and it were moved up by a factor.

    The envelope is that of the first 2.5 ms of the cepstrum, short of the pitch of voices (A. V. Oppenheim and R. W.
    Schafer, "Discrete-Time Signal Processing", the chapter on homomorphic filtering).
    """
    window, overlap, quefrency = (round(s * samplerate) for s in (0.032, 0.024, 0.0025))
    _, _, spectra = stft(x, nperseg=window, noverlap=overlap)
    power = np.square(np.abs(spectra))
    cepstrum = np.fft.irfft(np.log(power + 1e-8 * power.max() + 1e-30), axis=0)
    cepstrum[quefrency : 1 - quefrency] = 0
    envelope = np.fft.rfft(cepstrum, axis=0).real / 2
    # Where it was moved to; beyond the highest frequency it goes on as it is there.
    frequencies = np.arange(len(envelope)) * samplerate / window
    moved = frequencies + (pitch - 1) * np.minimum(frequencies, _HARMONIC / np.sqrt(pitch))
    place = np.round(moved * window / samplerate).astype(int).clip(0, len(envelope) - 1)
    gain = np.exp(np.clip(envelope[place] - envelope, -2.3, 2.3))
    _, y = istft(spectra * gain, nperseg=window, noverlap=overlap)
    return np.pad(y, (0, max(0, len(x) - len(y))))[: len(x)].astype(np.float32)


def limit_bandwidth(x: np.ndarray, samplerate: int, bandwidth: float) -> np.ndarray:
    """What is left of a signal that went through a samplerate of ``2 * bandwidth`` Hz."""
    import soxr

    if bandwidth >= samplerate / 2:
        return x
    low = soxr.resample(x, samplerate, 2 * bandwidth, quality="HQ")
    back = soxr.resample(low, 2 * bandwidth, samplerate, quality="HQ")[: len(x)]
    return np.pad(back, (0, len(x) - len(back))).astype(np.float32)


def random_colour(rng: np.random.Generator, frequencies: np.ndarray) -> np.ndarray:
    """Gains as of another voice, microphone or housing, at frequencies in Hz.

    They wander by some 5 dB over the octaves from 80 Hz up.
    """
    octaves = np.log2(np.maximum(frequencies, 80.0) / 80.0)
    points = np.arange(np.ceil(octaves.max()) + 1)
    gain_db = np.interp(octaves, points, rng.normal(0, 5.0, len(points)))
    return 10 ** (gain_db / 20)


def filter_response(rng: np.random.Generator, samplerate: int) -> np.ndarray:
    """A filter with gains of `random_colour`.

    It has minimum phase (A. V. Oppenheim and R. W. Schafer, "Discrete-Time Signal
    Processing", the section on the complex cepstrum), so that the sound is not shifted in
    time.

    Returns
    -------
    ndarray, (taps,), float32
        8 ms; the first tap is 1, and most of the energy lies in the first ones.
    """
    size = 1 << round(np.log2(0.032 * samplerate))
    gains = random_colour(rng, np.fft.rfftfreq(size, 1 / samplerate))
    cepstrum = np.fft.irfft(np.log(gains), size)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), size)[: size // 4]
    return (response / response[0]).astype(np.float32)


def room_response(rng: np.random.Generator, samplerate: int) -> np.ndarray:
    """Impulse response of a random rectangular room, by image sources (pyroomacoustics).

    3 to 8 m long, 2.5 to 6 m wide, 2.3 to 3.5 m high, its walls absorb 10 to
    60 % of the energy, source and microphone are 0.3 to 2.5 m apart.

    Returns
    -------
    ndarray, (taps,), float32
        The first tap is the direct sound, 1.
    """
    import pyroomacoustics

    size = rng.uniform((3.0, 2.5, 2.3), (8.0, 6.0, 3.5))
    room = pyroomacoustics.ShoeBox(
        size,
        fs=samplerate,
        materials=pyroomacoustics.Material(rng.uniform(0.1, 0.6)),
        max_order=_REFLECTIONS,
    )
    source, target = rng.uniform(0.4, size - 0.4, (2, 3))
    direction = (target - source) / np.linalg.norm(target - source)
    farthest = np.clip(np.linalg.norm(target - source), 0.3, 2.5)
    # A whole number of samples from source to microphone, so that the direct
    # sound is one tap and is not shifted by a fraction of a sample.
    distance = round(rng.uniform(0.3, farthest) / SPEED_OF_SOUND * samplerate)
    offset = direction * distance * SPEED_OF_SOUND / samplerate
    room.add_source(source)
    room.add_microphone(source + offset)
    room.compute_rir()
    direct = distance + pyroomacoustics.constants.get("frac_delay_length") // 2
    response = room.rir[0][0][direct:]
    return (response / response[0]).astype(np.float32)


def decay_response(rng: np.random.Generator, samplerate: int) -> np.ndarray:
    """Impulse response of a room as exponentially decaying noise, much cheaper than an image room.

    The noise falls by 60 dB in 0.1 to 0.6 s, sets in 1 to 6 ms after the direct
    sound, and holds between 0.1 and 1.6 times its energy.

    Returns
    -------
    ndarray, (taps,), float32
        The first tap is the direct sound, 1.
    """
    reverberation = rng.uniform(0.1, 0.6)
    time = np.arange(round(0.7 * reverberation * samplerate)) / samplerate
    response = rng.standard_normal(len(time)) * np.exp(-np.log(1000) * time / reverberation)
    response[: max(1, round(rng.uniform(0.001, 0.006) * samplerate))] = 0
    response *= amplitude(rng.uniform(-10, 2)) / np.linalg.norm(response)
    response[0] = 1
    return response.astype(np.float32)


def convolve(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """A sound through a filter or a room: ``(frames + taps - 1,)``, the tail is kept."""
    return fftconvolve(x, response).astype(np.float32)


def local_level(
    background: np.ndarray, start: int, end: int, samplerate: int, margin: float = 0.5
) -> float:
    """Level of the background around a place, at least `LEVEL_FLOOR_DB`.

    Parameters
    ----------
    background : ndarray, (frames,)
    start, end : int
        Samples of the place.
    samplerate : int
        Hz.
    margin : float
        Seconds before and after it that count as well: a pause between two
        words of the background is not silence.

    Returns
    -------
    float
        RMS.
    """
    reach = round(margin * samplerate)
    around = background[max(0, start - reach) : end + reach]
    return max(rms(around), amplitude(LEVEL_FLOOR_DB))


def gain_for_snr(active: np.ndarray, level: float, snr_db: float) -> float:
    """Gain that brings the active part of a sound to `snr_db` over a background's level.

    Raises
    ------
    ValueError
        If the active part is silent.
    """
    own = rms(active)
    if own == 0:
        raise ValueError("the sound is silent")
    return level / own * amplitude(snr_db)
