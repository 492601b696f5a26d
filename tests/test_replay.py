"""Replay: the same scores as the whole signal, whatever the file and the blocks."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import soundfile

import rtconv
from rtconv.errors import RtconvError
from rtconv.evaluation.replay import replay, with_threshold
from rtconv.evaluation.scores import score_writer
from rtconv.model.detector import Model, Output
from rtconv.stream.detector import Detector
from tests.conftest import ROOT
from tests.contract import table


@pytest.fixture(scope="module")
def ramp():
    return rtconv.load(ROOT / "models" / "ramp.safetensors")


def detector_of(name, samplerate=8000):
    layers = table()[name]
    names = [f"out{i}" for i in range(layers[-1].filters)]
    outputs = [
        Output(name=n, threshold=0.4, release=0.2, refractory=0.01, max_hold=1, decision="peak")
        for n in names
    ]
    return Detector(Model(name, samplerate, layers, outputs))


def scores_of(detector, path, **options):
    collected = []
    events = list(replay(detector, path, on_scores=collected.append, **options))
    return np.concatenate(collected), events


def noise_file(tmp_path, channels=1, frames=30_000, samplerate=8000):
    x = np.random.default_rng(0).uniform(-1, 1, (frames, channels)).astype(np.float32)
    path = tmp_path / "noise.wav"
    soundfile.write(path, x, samplerate, subtype="FLOAT")
    return path, x


def test_finds_the_ramps(ramp, ramp_wav):
    path, x, peaks = ramp_wav
    scores, events = scores_of(ramp, path)
    np.testing.assert_array_equal(scores[:, 0], ramp.process(x))
    assert [event.sample for event in events] == peaks
    assert events == list(rtconv.replay(ramp, path))


@pytest.mark.parametrize("name", ["dilated", "strides", "two outputs", "groups"])
def test_block_size_and_jobs_change_no_bit(tmp_path, monkeypatch, name):
    detector = detector_of(name)
    path, x = noise_file(tmp_path)
    whole = detector.process(x).reshape(len(x), -1)
    reference, events = scores_of(detector, path)
    np.testing.assert_array_equal(reference, whole)
    monkeypatch.setattr("rtconv.evaluation.replay.JOB_SAMPLES", 4001)
    for options in ({"blocksize": 1000}, {"blocksize": 7}, {"jobs": 3}):
        scores, same = scores_of(detector, path, **options)
        np.testing.assert_array_equal(scores, whole, str(options))
        assert same == events


def test_two_outputs_give_two_columns_and_events_under_both_names(tmp_path):
    path, x = noise_file(tmp_path)
    scores, events = scores_of(detector_of("two outputs"), path)
    assert scores.shape == (len(x), 2)
    assert {event.detector for event in events} == {"out0", "out1"}


def test_channels(tmp_path):
    path, x = noise_file(tmp_path, channels=3)
    detector = detector_of("ramp")
    for channel, samples in [(0, x.mean(axis=1)), (1, x[:, 0]), (3, x[:, 2])]:
        scores, events = scores_of(detector, path, channel=channel)
        np.testing.assert_array_equal(scores[:, 0], detector.process(samples))
        assert {event.channel for event in events} == {channel}
    scores, events = scores_of(detector, path, channel="all")
    np.testing.assert_array_equal(scores[:, 1], detector.process(x[:, 1]))
    assert {event.channel for event in events} == {1, 2, 3}
    with pytest.raises(RtconvError, match=r"noise\.wav: has no channel 4, it has 3"):
        list(replay(detector, path, channel=4))
    with pytest.raises(RtconvError, match="has 3 channels, the detector takes 2"):
        list(replay(detector_of("stereo"), path))


def test_a_network_of_two_channels(tmp_path):
    path, x = noise_file(tmp_path, channels=2)
    detector = detector_of("stereo")
    scores, _ = scores_of(detector, path)
    np.testing.assert_array_equal(scores[:, 0], detector.process(x))


def test_other_samplerates_keep_the_time(tmp_path):
    """A slow pulse, stored at three rates, is found at the same time."""
    times = []
    for samplerate in (8000, 44100, 48000):
        t = np.arange(2 * samplerate) / samplerate
        x = np.exp(-(((t - 1.25) / 0.002) ** 2)).astype(np.float32)
        soundfile.write(tmp_path / "p.wav", x, samplerate, subtype="FLOAT")
        layers = table()["one tap"]
        layers = [dataclasses.replace(layers[0], dense=np.ones((1, 1), np.float32), bias=None)]
        output = Output(
            name="p", threshold=0.5, release=0.1, refractory=0, max_hold=1, decision="peak"
        )
        (event,) = replay(Detector(Model("p", 8000, layers, [output])), tmp_path / "p.wav")
        times.append(event.time)
    assert times == pytest.approx([1.25] * 3, abs=1 / 8000)


def test_events_before_the_place_where_a_file_breaks_are_given(ramp, ramp_wav):
    path, _, peaks = ramp_wav
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    events = []
    with pytest.raises(RtconvError, match="is truncated"):
        for event in replay(ramp, path):
            events.append(event)
    assert [event.sample for event in events] == peaks[:2]


def test_with_threshold(ramp, ramp_wav):
    higher = Detector(with_threshold(ramp.model, 1e3))
    assert list(replay(higher, ramp_wav[0])) == []
    assert higher.model.outputs[0].release == 500


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("suffix", [".npy", ".wav"])
def test_score_files(tmp_path, suffix, columns):
    path = tmp_path / f"scores{suffix}"
    blocks = [np.random.default_rng(i).normal(size=(100, columns)).astype("f4") for i in range(30)]
    with score_writer(path, 8000, columns) as append:
        for block in blocks:
            append(block)
    read = np.load(path) if suffix == ".npy" else soundfile.read(path, dtype="float32")[0]
    whole = np.concatenate(blocks)
    np.testing.assert_array_equal(read, whole[:, 0] if columns == 1 else whole)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(RtconvError, match=r"\.txt: scores are written as \.npy or \.wav"):
        score_writer(tmp_path / "a.txt", 8000, 1).__enter__()


def test_memory_does_not_grow_with_the_length(tmp_path, ramp):
    peaks = []
    for seconds in (60, 600):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.zeros(8000 * seconds, np.float32), 8000)
        tracemalloc.start()
        list(replay(ramp, path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
