"""What mixing does to a sound: nothing in time, exactly what was asked in level."""

import numpy as np
import pytest
from scipy import signal

from rtconv.evaluation import mixing

RATE = 16000


def burst(seconds=0.4, at=1.0, total=2.5, level=0.3, noise=1e-3, seed=0):
    rng = np.random.default_rng(seed)
    x = noise * rng.standard_normal(round(total * RATE))
    start, end = round(at * RATE), round((at + seconds) * RATE)
    x[start:end] += level * rng.standard_normal(end - start)
    return x.astype(np.float32), start, end


@pytest.mark.parametrize("noise", [0.0, 1e-3, 3e-2])
def test_active_part_is_the_burst(noise):
    x, start, end = burst(noise=noise)
    found = mixing.active_part(x, RATE)
    assert np.abs(np.subtract(found, (start, end))).max() <= 0.02 * RATE


def test_active_part_sees_a_word_in_a_stronger_hum_beside_padding_and_a_click():
    x, start, end = burst(level=0.05)
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(len(x)) / RATE)
    x = np.pad(x + hum, 8000).astype(np.float32)
    x[12000:12020] += 0.5
    found = mixing.active_part(x, RATE)
    assert np.abs(np.subtract(found, (start + 8000, end + 8000))).max() <= 0.02 * RATE


def test_a_pause_within_a_sound_does_not_end_it():
    x, start, _ = burst(seconds=0.2)
    x += burst(seconds=0.2, at=1.4, seed=1)[0]
    found = mixing.active_part(x, RATE)
    assert np.abs(np.subtract(found, (start, 1.6 * RATE))).max() <= 0.02 * RATE


def test_silence_is_active_as_a_whole():
    assert mixing.active_part(np.zeros(1000, np.float32), RATE) == (0, 1000)


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.02])
def test_speed_moves_sample_n_to_n_over_speed(speed):
    n = np.arange(4000)
    tone = np.sin(2 * np.pi * 500 * n / RATE).astype(np.float32)
    faster = mixing.change_speed(tone, RATE, speed)
    assert len(faster) == pytest.approx(4000 / speed, abs=1)
    expected = np.sin(2 * np.pi * 500 * speed * np.arange(len(faster)) / RATE)
    np.testing.assert_allclose(faster[500:-500], expected[500:-500], atol=1e-3)


def test_bandwidth_keeps_low_tones_in_place_and_removes_high_ones():
    n = np.arange(8000)
    low = np.sin(2 * np.pi * 1000 * n / RATE).astype(np.float32)
    high = np.sin(2 * np.pi * 5000 * n / RATE).astype(np.float32)
    limited = mixing.limit_bandwidth(low + high, RATE, 4000)
    assert limited.shape == low.shape
    np.testing.assert_allclose(limited[500:-500], low[500:-500], atol=2e-3)


@pytest.mark.parametrize("decay", [0.02, 0.1])
@pytest.mark.parametrize("samplerate", [8000, 44100])
def test_onset_of_a_stroke(samplerate, decay):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1e-3, samplerate)
    at = round(0.3 * samplerate)
    time = np.arange(samplerate - at) / samplerate
    x[at:] += 0.5 * rng.standard_normal(len(time)) * np.exp(-time / decay)
    start, end = mixing.active_part(x, samplerate)
    assert mixing.onset(x, samplerate, start, end) == pytest.approx(at, abs=0.0012 * samplerate)


@pytest.mark.parametrize("tempo", [0.8, 1.0, 1.25])
def test_tempo_moves_tone_bursts_and_keeps_their_pitch(tempo):
    n = np.arange(RATE)
    tone = np.sin(2 * np.pi * 1000 * n / RATE)
    places = np.array([4000, 8000, 12000])
    x = tone * np.exp(-(((n[:, None] - places) / 300) ** 2)).sum(axis=1)
    y = mixing.change_tempo(x.astype(np.float32), RATE, tempo)
    assert len(y) == pytest.approx(RATE / tempo, abs=1)
    power = np.square(y, dtype=np.float64)
    for place in places / tempo:
        around = slice(round(place) - 1000, round(place) + 1000)
        centre = np.average(np.arange(len(y))[around], weights=power[around])
        assert centre == pytest.approx(place, abs=20)
    spectrum = np.abs(np.fft.rfft(y))
    assert spectrum.argmax() * RATE / len(y) == pytest.approx(1000, abs=10)


def vowel(excitation, formants=(700, 1800)):
    x = excitation
    for formant in formants:
        pole = np.exp((-np.pi * 100 + 2j * np.pi * formant) / RATE)
        x = signal.lfilter([1], np.poly([pole, pole.conj()]).real, x)
    return (0.1 * x / np.abs(x).max()).astype(np.float32)


@pytest.mark.parametrize("pitch", [0.75, 1.35])
@pytest.mark.parametrize("tempo", [1.0, 1.2])
def test_pitch_moves_and_formants_stay(pitch, tempo):
    pulses = np.zeros(RATE)
    pulses[:: round(RATE / 125)] = 1
    y = mixing.change_tempo(vowel(pulses), RATE, tempo, pitch)
    assert len(y) == pytest.approx(RATE / tempo, abs=1)
    middle = y[len(y) // 4 : -len(y) // 4].astype(np.float64)
    likeness = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    assert RATE / (60 + likeness[60:250].argmax()) == pytest.approx(125 * pitch, rel=0.03)

    noise = np.random.default_rng(0).standard_normal(4 * RATE)
    whispered = mixing.change_tempo(vowel(noise), RATE, tempo, pitch)
    frequencies, power = signal.welch(whispered, RATE, nperseg=256)
    for formant, band in ((700, (400, 1100)), (1800, (1300, 2400))):
        inside = (frequencies > band[0]) & (frequencies < band[1])
        centre = np.average(frequencies[inside], weights=power[inside])
        assert centre == pytest.approx(formant, rel=0.08)


def test_onsets_move_to_where_the_waveforms_agree():
    rng = np.random.default_rng(0)
    time = np.arange(RATE // 4) / RATE
    stroke = np.sin(2 * np.pi * 200 * time) * np.exp(-time / 0.03)
    takes, given = [], []
    for i, error in enumerate([-10, 0, 4, 0, 20]):
        level = 0.5 / 2**i
        takes.append(
            np.pad(level * stroke, (50 * i + 50, 0)) + 0.01 * level * rng.standard_normal()
        )
        given.append(50 * i + 50 + error)
    other = np.pad(rng.standard_normal(RATE // 4) * np.exp(-time / 0.03), (300, 0))
    found = mixing.agreeing_onsets([*takes, other], [*given, 300], RATE)
    np.testing.assert_allclose(np.subtract(found[:5], [50 * i + 50 for i in range(5)]), 0, atol=1)
    assert found[5] == 300
    assert mixing.agreeing_onsets(takes[:1], [3], RATE) == [3]


@pytest.mark.parametrize("samplerate", [8000, 16000, 44100])
@pytest.mark.parametrize(
    "response", [mixing.room_response, mixing.decay_response, mixing.filter_response]
)
def test_responses_start_with_the_direct_sound_and_are_repeatable(response, samplerate):
    for seed in range(5):
        taps = response(np.random.default_rng(seed), samplerate)
        assert taps.dtype == np.float32
        assert taps[0] == 1
        assert np.isfinite(taps).all()
        np.testing.assert_array_equal(taps, response(np.random.default_rng(seed), samplerate))


def test_rooms_decay():
    for seed in range(50):
        for response in (mixing.room_response, mixing.decay_response):
            taps = response(np.random.default_rng(seed), RATE)
            third = len(taps) // 3
            assert mixing.rms(taps[-third:]) < mixing.rms(taps[1:third])


def test_convolution_keeps_time_and_tail():
    x = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    taps = mixing.decay_response(np.random.default_rng(1), RATE)
    y = mixing.convolve(x, taps)
    np.testing.assert_allclose(y, signal.convolve(x, taps, method="direct"), atol=1e-4)


@pytest.mark.parametrize("snr_db", [-10, 0, 20])
def test_gain_gives_the_asked_snr(snr_db):
    rng = np.random.default_rng(0)
    background = (0.01 * rng.standard_normal(5 * RATE)).astype(np.float32)
    background[: 2 * RATE] *= 10  # a louder passage far away does not count
    sound = rng.standard_normal(RATE // 2).astype(np.float32)
    start = 3 * RATE
    level = mixing.local_level(background, start, start + len(sound), RATE)
    gain = mixing.gain_for_snr(sound, level, snr_db)
    around = background[start - RATE // 2 : start + RATE]
    measured = 10 * np.log10(np.mean((gain * sound) ** 2) / np.mean(around.astype(float) ** 2))
    assert measured == pytest.approx(snr_db, abs=1e-3)


def test_silence_has_a_floor_and_a_silent_sound_no_gain():
    assert mixing.local_level(np.zeros(RATE), 100, 200, RATE) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="silent"):
        mixing.gain_for_snr(np.zeros(10, np.float32), 0.1, 0)
