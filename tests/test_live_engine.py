"""The reader of a listening detector, with a source that the test feeds."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rtconv.errors import RtconvError
from rtconv.live import engine
from rtconv.live.devices import Device, DeviceMissingError
from rtconv.live.engine import LiveDetector, listen
from rtconv.live.layout import BLOCK
from rtconv.live.ring import Chunk
from rtconv.stream.compiled import CompiledNetwork
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event, Gap
from tests.live_detectors import RAMP, ramp_model

FRAMES = 480


class FakeSource:
    """Blocks of ramps, one in each, as if from a device at 48 kHz; then silence."""

    def __init__(self, blocks):
        self.model = ramp_model(48000)
        self.device = Device(0, "fake", "none", 1, 0, 48000, True, False)
        self.channels, self.locked = [1], True
        self.latency = self.output_latency = 0.0
        self.triggers = self.resets_wanted = 0
        self.closed = self.dead = False
        self.left, self.count = blocks, 0
        self._network = CompiledNetwork(self.model.layers)

    def describe(self):
        return "fake"

    def read(self):
        if not self.left:
            return None
        self.left -= 1
        block = np.zeros(1, BLOCK)
        block["frames"] = FRAMES
        block["arrived"] = int(1e12 + 1e9 * self.count * FRAMES / 48000)
        block["reset"] = self.resets_wanted > 0
        if self.resets_wanted:
            self._network.reset()
            self.resets_wanted = 0
        self.count += 1
        x = np.zeros((FRAMES, 1), np.float32)
        x[100 : 100 + len(RAMP), 0] = RAMP
        return Chunk(block, [x], [self._network.step(x)])

    def want_reset(self):
        self.resets_wanted += 1

    def alive(self):
        return not self.dead

    def reopen(self):
        return False

    def close(self):
        self.closed = True


def live_with(source, duration=None, wait=False, record=None, show=lambda scores: None):
    messages = []
    open_source = source if callable(source) else lambda: source
    return LiveDetector(open_source, duration, wait, record, messages.append, show), messages


def test_the_duration_is_exact():
    """It ends inside a block, and with it the scores and the event of the block."""
    seen = []
    source = FakeSource(blocks=50)
    duration = (3 * FRAMES + 101 + len(RAMP)) / 48000
    live, _ = live_with(source, duration, show=seen.append)
    with live:
        events = list(live)
    assert [event.sample for event in events] == [n * FRAMES + 107 for n in range(4)]
    assert len(np.concatenate(seen)) == round(duration * 48000)
    assert source.closed


def test_no_duration_at_all():
    live, _ = live_with(FakeSource(blocks=5), duration=0)
    with live:
        assert list(live) == []


def test_a_second_ctrl_c_ends_at_once():
    """Even when the first has no effect, because something hangs."""
    program = """
import os, signal
from unittest.mock import Mock
from rtconv.live.console import _handle_signals
_handle_signals(Mock(), print)
os.kill(os.getpid(), signal.SIGINT)
print("goes on", flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("never reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, "goes on\n")


def test_what_nobody_fetches_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(engine, "QUEUE_SIZE", 5)
    source = FakeSource(blocks=20)
    live, messages = live_with(source, duration=20 * FRAMES / 48000)
    with live:
        while live.statistics.dropped < 15:
            time.sleep(0.01)
        assert len(live.poll()) == 5
        assert live.poll() == []
    assert (live.statistics.events, live.statistics.dropped) == (20, 15)
    assert sum("events are dropped" in message for message in messages) == 1


def test_a_sleep_of_the_machine_is_a_gap(monkeypatch):
    asleep = [0.0]
    monkeypatch.setattr(engine, "_time_asleep", lambda: asleep[0])
    source = FakeSource(blocks=10)
    live, messages = live_with(source)
    with live:
        while live.statistics.blocks < 10:
            time.sleep(0.01)
        asleep[0] = 60.0
        while not messages:
            time.sleep(0.01)
        source.left = 10
        while live.statistics.blocks < 20:
            time.sleep(0.01)
    (gap,) = [record for record in live.records() if isinstance(record, Gap)]
    assert messages == ["the machine slept for 60 s"]
    assert gap == Gap(10 * FRAMES, 60 * 48000, "the machine slept")


def test_a_lost_device_that_never_returns():
    source = FakeSource(blocks=5)
    live, messages = live_with(source)
    with live:
        while live.statistics.blocks < 5:
            time.sleep(0.01)
        source.dead = True
        while not messages:
            time.sleep(0.01)
    records = list(live.records())
    assert sum(isinstance(record, Event) for record in records) == 5
    assert records[-1] == Gap(5 * FRAMES, None, "device lost")


def test_an_error_of_the_reader_reaches_the_user():
    def fail(scores):
        raise ValueError("the user's function")

    source = FakeSource(blocks=5)
    live, _ = live_with(source, show=fail)
    with live, pytest.raises(ValueError, match="the user's function"):
        list(live)
    assert source.closed


def test_a_recording_that_fails_ends_and_listening_goes_on(tmp_path, monkeypatch):
    source = FakeSource(blocks=0)
    live, messages = live_with(source, record=tmp_path / "session.wav")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with live:
        monkeypatch.setattr(live._session._wav, "write", full)
        source.left = 10
        while live.statistics.events < 10:
            time.sleep(0.01)
    assert len(messages) == 1
    assert "No space left on device); the recording ends here" in messages[0]


def test_a_recording_that_cannot_begin_closes_the_device(tmp_path):
    source = FakeSource(blocks=0)
    live, _ = live_with(source, record=tmp_path / "missing" / "session.wav")
    with pytest.raises(RtconvError, match="cannot be written"):
        live.__enter__()
    assert source.closed


def test_waiting_ends_when_it_is_stopped(monkeypatch):
    monkeypatch.setattr(engine.portaudio, "restart", lambda: None)

    def missing():
        raise DeviceMissingError("there is no device")

    live, messages = live_with(missing, wait=True)
    threading.Timer(0.3, live.stop).start()
    with pytest.raises(RtconvError, match="stopped before there was a device"):
        live.__enter__()
    assert messages == ["there is no device; waiting for it"]


def test_impossible_blocks():
    with pytest.raises(RtconvError, match="blocksize is 0"):
        listen(Detector(ramp_model()), blocksize=0)
