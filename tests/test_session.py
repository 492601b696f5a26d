"""Recorded sessions: written by the recorder, read back, and files that are broken."""

import json

import numpy as np
import pytest
import soundfile

from rtconv.errors import RtconvError
from rtconv.model.decimation import decimated
from rtconv.stream import session as session_module
from rtconv.stream.compiled import CompiledNetwork
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event, Gap
from rtconv.stream.session import (
    SessionInfo,
    SessionWriter,
    is_session,
    log_path,
    replay_session,
)
from rtconv.stream.tracker import Tracker
from tests.live_detectors import ramp_model, ramps_in_noise

RATE = 8000


def listened(model, path, channels=(1,)):
    """What a listening detector does with a stream that has gaps, and its records."""
    rng = np.random.default_rng(3)
    x = ramps_in_noise(50_000, seed=5)
    x = np.stack([np.roll(x, 1000 * i) for i in range(len(channels))], axis=1)
    networks = [CompiledNetwork(model.layers) for _ in channels]
    tracker = Tracker(model, channels)
    info = SessionInfo(
        detector="ramp", device="none", samplerate=model.samplerate, channels=channels, inputs=1
    )
    writer = SessionWriter(path, info)
    records, n = [], 0
    while n < len(x):
        if rng.random() < 0.05:
            length = None if rng.random() < 0.3 else int(rng.integers(0, 2000))
            writer.gap(length, "test")
            records += tracker.gap(length, "test")
        if tracker.waits_for_reset and rng.random() < 0.5:
            writer.reset()
            tracker.reset()
            for network in networks:
                network.reset()
        sizes = rng.integers(1, 300, rng.integers(1, 4)).tolist()
        block = x[n : n + sum(sizes)]
        sizes = [len(part) for part in np.split(block, np.cumsum(sizes)[:-1]) if len(part)]
        samples = [block[:, [i]] for i in range(len(channels))]
        writer.push(samples, sizes)
        records += tracker.push([net.step(s) for net, s in zip(networks, samples, strict=True)])
        n += len(block)
    return writer, records + tracker.finish()


@pytest.mark.parametrize(("factor", "channels"), [(1, (1,)), (3, (2, 5))])
def test_a_replay_gives_the_same_records(tmp_path, factor, channels):
    model = ramp_model(RATE, threshold=0.3, release=0.2)
    path = tmp_path / "session.wav"
    writer, records = listened(decimated(model, factor), path, channels)
    writer.close()
    assert is_session(path)
    assert list(replay_session(Detector(model), path)) == records
    assert sum(isinstance(record, Gap) for record in records) > 5
    assert {r.channel for r in records if isinstance(r, Event)} == set(channels)


def test_a_crash_loses_no_more_than_the_last_second(tmp_path):
    """The files as they are while the writer is still open."""
    path = tmp_path / "session.wav"
    writer, records = listened(ramp_model(RATE), path)
    with soundfile.SoundFile(path) as file:
        assert 50_000 - file.frames < RATE
        assert (file.samplerate, file.subtype) == (RATE, "FLOAT")
    kept = list(replay_session(Detector(ramp_model(RATE)), path))
    assert kept[:-1] == records[: len(kept) - 1]
    with log_path(path).open("a") as log:
        log.write('{"blocks": [[64')  # a line that the crash cut off
    assert list(replay_session(Detector(ramp_model(RATE)), path)) == kept
    writer.close()


def test_beyond_four_gigabytes(tmp_path, monkeypatch):
    """The limit is made small, so that the header changes in the middle; libsndfile reads it."""
    monkeypatch.setattr(session_module, "_LARGEST_RIFF", 50_000)
    path = tmp_path / "session.wav"
    writer, records = listened(ramp_model(RATE), path)
    writer.close()
    assert path.read_bytes()[:4] == b"RF64"
    x, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    np.testing.assert_array_equal(x, ramps_in_noise(50_000, seed=5))
    assert list(replay_session(Detector(ramp_model(RATE)), path)) == records


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[]", "is not the log of a session"),
        ('{"blocks": [[1000000, 10]]}', "is shorter than its log tells"),
        ('{"blocks": [[-5, 1]]}', "is not the log of a session"),
        ('{"blocks": [["x", 1]]}', "is not the log of a session"),
        ('{"gap": {"length": -1, "reason": "x"}}', "is not the log of a session"),
        ('{"gaps": {}}', "is not the log of a session"),
    ],
)
def test_broken_logs(tmp_path, line, sentence):
    path = tmp_path / "session.wav"
    writer, _ = listened(ramp_model(RATE), path)
    writer.close()
    with log_path(path).open("a") as log:
        log.write(line + "\n")
    with pytest.raises(RtconvError, match=sentence):
        list(replay_session(Detector(ramp_model(RATE)), path))


def test_what_does_not_fit(tmp_path):
    path = tmp_path / "session.wav"
    writer, _ = listened(ramp_model(RATE), path)
    writer.close()
    with pytest.raises(RtconvError, match="the detector takes 44100 Hz"):
        list(replay_session(Detector(ramp_model(44100)), path))
    header, *rest = log_path(path).read_text().splitlines()
    info = json.loads(header) | {"channels": [1, 2]}
    log_path(path).write_text("\n".join([json.dumps(info), *rest]) + "\n")
    with pytest.raises(RtconvError, match="has 1 channels, its log tells 2"):
        list(replay_session(Detector(ramp_model(RATE)), path))
    with pytest.raises(RtconvError, match=r"is recorded to a \.wav file"):
        SessionWriter(tmp_path / "x.flac", SessionInfo.model_validate_json(header))
    with pytest.raises(RtconvError, match="cannot be written"):
        SessionWriter(tmp_path / "none" / "x.wav", SessionInfo.model_validate_json(header))
