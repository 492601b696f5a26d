"""Listening to a real sound server; it must start, these tests never skip."""

import json
import signal
import time

import rtconv
from rtconv.audio import write_audio
from tests.conftest import ROOT
from tests.live_detectors import ramps_in_noise, save_ramp_detector
from tests.virtual_card import PulseCard

RATE = 48000


def events_of(stdout):
    """The events of a JSONL output."""
    return [json.loads(line) for line in stdout.splitlines() if "gap" not in json.loads(line)]


def replayed(detector, samples, folder):
    """What `replay` finds in the same samples."""
    write_audio(folder / "sound.wav", samples, RATE)
    return list(rtconv.replay(rtconv.load(detector), folder / "sound.wav"))


def until_it_listens(card):
    """Wait until somebody records from the card."""
    deadline = time.monotonic() + 20
    while not card.control("list", "short", "source-outputs"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_played_sound_gives_the_events_of_replay(tmp_path):
    """In real time through the virtual microphone; all times are shifted by one constant."""
    detector = save_ramp_detector(tmp_path / "ramp.safetensors")
    samples = ramps_in_noise(3 * RATE)
    expected = replayed(detector, samples, tmp_path)
    assert len(expected) > 50
    with PulseCard(RATE) as card:
        live = card.rtconv("listen", str(detector), "--device", "vmic", "--duration", "6")
        until_it_listens(card)
        card.play(samples)
        stdout, stderr = live.communicate(timeout=30)
    assert live.returncode == 0, stderr
    events = events_of(stdout)
    assert len(events) == len(expected)
    shift = events[0]["sample"] - expected[0].sample
    assert shift > 0
    for event, wanted in zip(events, expected, strict=True):
        assert event["sample"] - wanted.sample == event["decided"] - wanted.decided == shift
        assert event["time"] == event["sample"] / RATE
        assert (event["score"], event["channel"]) == (wanted.score, 1)
    assert "0 overflows, 0 gaps" in stderr


PYTHON = """
import sys, rtconv
with rtconv.listen(rtconv.load(sys.argv[1]), "wavmic", blocksize=100, duration=3) as live:
    events = [next(iter(live))]  # waits for the first
    while live.statistics.samples < 48000:
        events += live.poll()  # never waits
    events += live
for event in events:
    print(event.sample, event.score)
print(live.statistics, file=sys.stderr)
"""


def test_from_python_sample_exact(tmp_path):
    """The file behind the microphone begins with the stream: not even a shift."""
    detector = save_ramp_detector(tmp_path / "ramp.safetensors")
    samples = ramps_in_noise(2 * RATE)
    expected = replayed(detector, samples, tmp_path)
    with PulseCard(RATE, samples=samples) as card:
        live = card.python(PYTHON, str(detector))
        stdout, stderr = live.communicate(timeout=30)
    assert live.returncode == 0, stderr
    assert stdout.splitlines() == [f"{event.sample} {event.score}" for event in expected]
    assert "blocks of 100 to 100 samples" in stderr


def test_devices_and_what_is_said_when_none_fits(tmp_path):
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    with PulseCard(RATE) as card:

        def run(*arguments):
            process = card.rtconv(*arguments)
            stdout, stderr = process.communicate(timeout=30)
            return process.returncode, stdout, stderr

        code, stdout, _ = run("devices", "--json")
        found = {device["name"]: device for device in json.loads(stdout)}
        assert code == 0
        assert found["vmic"]["inputs"] > 0
        assert found["default"]["default_input"]
        assert "wavmic, ALSA" in run("devices")[1]
        assert run("listen", detector, "--device", "wavmic, alsa", "--duration", "0.1")[0] == 0
        for wanted, sentence in {
            "mic": "several input devices fit, choose one by its number: 0 vmic, ALSA; 2 wavmic",
            "piano": "there is no input device 'piano'; there are 0 vmic, ALSA; ",
            "99": "there is no input device 99; there are 0 vmic",
        }.items():
            code, stdout, stderr = run("listen", detector, "--device", wanted)
            assert (code, stdout) == (1, "")
            assert sentence in stderr
            assert stderr.count("\n") == 1
        code, _, stderr = run("listen", detector, "--device", "vmic", "--channel", "1000")
        assert code == 1
        assert "vmic, ALSA: has no input channel 1000, it has 32" in stderr


def test_ctrl_c_ends_with_the_statistics(tmp_path):
    detector = save_ramp_detector(tmp_path / "ramp.safetensors")
    with PulseCard(RATE) as card:
        live = card.rtconv("listen", str(detector), "--device", "vmic")
        until_it_listens(card)
        time.sleep(0.5)
        live.send_signal(signal.SIGINT)
        stdout, stderr = live.communicate(timeout=10)
    assert (live.returncode, stdout) == (0, "")
    assert "0 overflows, 0 gaps" in stderr
    assert "Traceback" not in stderr


def test_without_any_device():
    """No server, no hardware."""
    with PulseCard(RATE) as card:
        card.stop()
        process = card.rtconv("listen", str(ROOT / "models" / "ramp.safetensors"))
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.startswith("rtconv: ")
    assert stderr.count("\n") == 1
