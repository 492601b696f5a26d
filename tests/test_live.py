"""Listening to a real sound server; it must start, these tests never skip."""

import json
import signal
import time

import numpy as np
import soundfile

import rtconv
from rtconv.audio import write_audio
from tests.conftest import ROOT
from tests.live_detectors import RAMP, ramps_in_noise, save_ramp_detector
from tests.virtual_card import JackCard, Lines, PulseCard

RATE = 48000


def events_of(stdout):
    """The events of a JSONL output."""
    return [json.loads(line) for line in stdout.splitlines() if "gap" not in json.loads(line)]


def replayed(detector, samples, folder):
    """What `replay` finds in the same samples."""
    write_audio(folder / "sound.wav", samples, RATE)
    return list(rtconv.replay(rtconv.load(detector), folder / "sound.wav"))


def until_it_listens(live):
    """Wait until samples come; the messages on stderr."""
    messages = Lines(live.stderr)
    messages.wait_for("receptive field")
    return messages


def test_a_played_sound_gives_the_events_of_replay(tmp_path):
    """In real time through the virtual microphone; all times are shifted by one constant."""
    detector = save_ramp_detector(tmp_path / "ramp.safetensors")
    samples = ramps_in_noise(3 * RATE)
    expected = replayed(detector, samples, tmp_path)
    assert len(expected) > 50
    with PulseCard(RATE) as card:
        live = card.rtconv("listen", str(detector), "--device", "vmic", "--duration", "6")
        messages = until_it_listens(live)
        card.play(samples)
        assert live.wait(30) == 0
        messages.wait_for("0 overflows, 0 gaps")
        events = events_of(live.stdout.read())
    assert len(events) == len(expected)
    shift = events[0]["sample"] - expected[0].sample
    for event, wanted in zip(events, expected, strict=True):
        assert event["sample"] - wanted.sample == event["decided"] - wanted.decided == shift
        assert event["time"] == event["sample"] / RATE
        assert (event["score"], event["channel"]) == (wanted.score, 1)


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
    sentences = {
        "--device=mic": "several input devices fit, choose one by its number: 0 vmic, ALSA; 2 wav",
        "--device=piano": "there is no input device 'piano'; there are 0 vmic, ALSA; ",
        "--device=99": "there is no input device 99; there are 0 vmic",
        "--channel=1000": "default, ALSA: has no input channel 1000, it has 32",
    }
    with PulseCard(RATE) as card:
        listed = card.rtconv("devices", "--json")
        table = card.rtconv("devices")
        found = card.rtconv("listen", detector, "--device", "wavmic, alsa", "--duration", "0.1")
        refused = {option: card.rtconv("listen", detector, option) for option in sentences}
        devices = {device["name"]: device for device in json.loads(listed.communicate()[0])}
        assert devices["vmic"]["inputs"] > 0
        assert devices["default"]["default_input"]
        assert "wavmic, ALSA" in table.communicate()[0]
        assert found.wait(30) == 0
        for option, process in refused.items():
            stdout, stderr = process.communicate(timeout=30)
            assert (process.returncode, stdout) == (1, "")
            assert sentences[option] in stderr
            assert stderr.count("\n") == 1


def test_ctrl_c_ends_with_the_statistics(tmp_path):
    detector = save_ramp_detector(tmp_path / "ramp.safetensors")
    with PulseCard(RATE) as card:
        live = card.rtconv("listen", str(detector), "--device", "vmic")
        messages = until_it_listens(live)
        time.sleep(0.5)
        live.send_signal(signal.SIGINT)
        assert live.wait(10) == 0
        assert live.stdout.read() == ""
        messages.wait_for("0 events, 0 dropped")
    assert not any("Traceback" in line for _, line in messages.lines)


def test_without_any_device():
    """No server, no hardware."""
    with PulseCard(RATE) as card:
        card.stop()
        process = card.rtconv("listen", str(ROOT / "models" / "ramp.safetensors"))
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.startswith("rtconv: ")
    assert stderr.count("\n") == 1


def test_a_recorded_session_replays_to_the_byte(tmp_path):
    """The server is killed meanwhile; events, the gap and their order are those of the replay."""
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    session, statistics = tmp_path / "session.wav", tmp_path / "statistics.json"
    samples = ramps_in_noise(2 * RATE)
    with PulseCard(RATE) as card:
        live = card.rtconv(
            *("listen", detector, "--device", "vmic", "--format", "jsonl"),
            *("--record", str(session), "--stats", str(statistics)),
        )
        messages = until_it_listens(live)
        card.play(samples)
        killed = time.monotonic()
        card.stop(signal.SIGKILL)
        messages.wait_for("is lost")
        assert time.monotonic() - killed < 1
        card.start()
        started = time.monotonic()
        messages.wait_for("is back")
        assert time.monotonic() - started < 2
        time.sleep(0.5)
        card.play(samples)
        live.send_signal(signal.SIGUSR1)
        messages.wait_for("reopened 1 times")
        live.send_signal(signal.SIGTERM)
        assert live.wait(10) == 0
        told = live.stdout.read()
        replay = card.rtconv("replay", detector, str(session), "--format", "jsonl")
        assert replay.communicate(timeout=30) == (told, "")
    lines = [json.loads(line) for line in told.splitlines()]
    (gap,) = [line["gap"] for line in lines if "gap" in line]
    assert gap["reason"] == "device lost"
    assert 0 < gap["length"] < 10 * RATE
    assert len(lines) == 2 * len(replayed(detector, samples, tmp_path)) + 1
    assert [line for line in lines if "gap" not in line and line["sample"] > gap["sample"]]
    counts = json.loads(statistics.read_text())
    assert (counts["gaps"], counts["lost"], counts["reopened"]) == (1, gap["length"], 1)
    assert counts["events"] == len(lines) - 1
    assert counts["samples"] == soundfile.info(session).frames


def test_waiting_for_a_device_that_is_not_there_yet(tmp_path):
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    with PulseCard(RATE) as card:
        card.stop()
        live = card.rtconv("listen", detector, "--wait", "--duration", "1")
        messages = Lines(live.stderr)
        messages.wait_for("there is no default input device; there is no input device at all; wait")
        card.start()
        assert live.wait(20) == 0
        messages.wait_for("0 gaps")


def test_ctrl_c_ends_the_waiting(tmp_path):
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    with PulseCard(RATE) as card:
        live = card.rtconv("listen", detector, "--device", "piano", "--wait")
        Lines(live.stderr).wait_for("there is no input device 'piano'")
        live.send_signal(signal.SIGINT)
        assert live.wait(5) == 1


def test_a_rate_that_the_device_has_not(tmp_path):
    """JACK has one rate: a divisor of it is decimated in the network, others are refused."""
    with JackCard(RATE) as card:
        detector = str(save_ramp_detector(tmp_path / "r16.safetensors", 16000))
        session = tmp_path / "session.wav"
        live = card.rtconv(
            "listen", detector, "--device", "system", "--duration", "1", "--record", str(session)
        )
        _, stderr = live.communicate(timeout=30)
        assert live.returncode == 0, stderr
        assert "48000 Hz" in stderr
        assert soundfile.info(session).samplerate == RATE
        detector = str(save_ramp_detector(tmp_path / "r44.safetensors", 44100))
        live = card.rtconv("listen", detector, "--device", "system", "--duration", "1")
        _, stderr = live.communicate(timeout=30)
    assert live.returncode == 1
    assert stderr.count("\n") == 1
    assert "does not run at 44100 Hz or a multiple of it" in stderr
    assert stderr.endswith("48000\n")


def test_a_server_that_hangs_does_not_keep_the_program(tmp_path):
    """JACK's client may hang for ever when its server was killed: told, and left alone."""
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    with JackCard(RATE) as card:
        live = card.rtconv("listen", detector, "--device", "system")
        messages = Lines(live.stderr)
        messages.wait_for("receptive field")
        time.sleep(0.5)
        card.server.kill()
        messages.wait_for("is lost")
        time.sleep(1)
        live.send_signal(signal.SIGINT)
        assert live.wait(10) in (0, 1)


BUSY = """
import gc, os, re, sys, time
import rtconv
path, way, session = sys.argv[1:]
with rtconv.listen(rtconv.load(path), "wavmic", duration=4, record=session) as live:
    first = next(iter(live))
    end = time.monotonic() + 1.5
    objects = [[] for _ in range(500_000)] if way == "gc" else None
    while time.monotonic() < end:
        if way == "sum":
            sum(range(20_000_000))
        elif way == "regex":
            re.match(r"(a+)+b", "a" * 24)
        elif way == "gc":
            gc.collect()
    events = [first, *live]
for event in events:
    print(event.sample, event.score)
assert (live.statistics.gaps, live.statistics.overflows) == (0, 0), live.statistics
"""


def test_no_sample_is_lost_while_python_is_busy(tmp_path):
    """Four programs whose interpreters are held; each records the file's samples, to the bit."""
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    samples = ramps_in_noise(4 * RATE)
    expected = replayed(detector, samples, tmp_path)
    with PulseCard(RATE, samples=samples) as card:
        programs = {
            way: card.python(BUSY, detector, way, str(tmp_path / f"{way}.wav"))
            for way in ("loop", "sum", "regex", "gc")
        }
        for way, program in programs.items():
            stdout, stderr = program.communicate(timeout=60)
            assert program.returncode == 0, stderr
            heard, _ = soundfile.read(tmp_path / f"{way}.wav", dtype="float32")
            np.testing.assert_array_equal(heard, samples)
            assert stdout.splitlines() == [f"{event.sample} {event.score}" for event in expected]


def test_standing_still_is_no_loss_until_the_server_loses_samples(tmp_path):
    """A stopped process loses nothing for a second, as the server keeps it, and no event."""
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    samples = ramps_in_noise(4 * RATE)
    with PulseCard(RATE, samples=samples) as card:
        live = card.rtconv("listen", detector, "--device", "wavmic", "--duration", "4")
        messages = until_it_listens(live)
        time.sleep(1.5)
        live.send_signal(signal.SIGSTOP)
        time.sleep(1)
        live.send_signal(signal.SIGCONT)
        assert live.wait(30) == 0
        messages.wait_for("0 overflows, 0 gaps")
        stdout = live.stdout.read()
    expected = replayed(detector, samples, tmp_path)
    assert [event["sample"] for event in events_of(stdout)] == [e.sample for e in expected]


def test_the_trigger_comes_at_a_constant_delay(tmp_path):
    """From the output back to the input without a wire: not one sample of jitter."""
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors"))
    pattern = tmp_path / "pattern.wav"
    write_audio(pattern, RAMP, RATE)
    with PulseCard(RATE) as card:
        options = (
            "--pattern",
            str(pattern),
            "--device",
            "vmic",
            "--trigger",
            "speaker",
            "--latency",
            "0.1",
        )
        process = card.rtconv("latency", detector, *options, "--repetitions", "5")
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == 0, stderr
        assert "output speaker, ALSA" in stdout
        assert "5 of 5 patterns triggered" in stdout
        assert "standard deviation 0.00 samples" in stdout
        write_audio(pattern, np.zeros(100), RATE)
        process = card.rtconv("latency", detector, *options, "--repetitions", "1")
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "the pattern was not recognised at vmic, ALSA" in stderr


def test_pulses_are_heard_where_the_events_are(tmp_path):
    """Played ramps, pulses on the same card: each pulse begins the same time after its event.

    Their level is an option, their length is the detector's.
    """
    settings = {"decision": "crossing", "pulse": {"length": 0.001, "level": 1}}
    detector = str(save_ramp_detector(tmp_path / "ramp.safetensors", **settings))
    sounds = np.zeros(2 * RATE, np.float32)
    for place in range(10_000, 2 * RATE - 10_000, 10_000):
        sounds[place : place + len(RAMP)] = RAMP
    for _ in range(3):  # the card itself loses samples of a duplex stream on a busy machine
        heard, events = hear_pulses(detector, tmp_path / "session.wav", sounds)
        if not any("gap" in event for event in events):
            break
    begins = np.flatnonzero(np.diff((heard == -0.25).astype(int)) == 1) + 1
    told = [event["sample"] for event in events]
    assert len(told) == len(begins) == 8
    assert len(set(begins - told)) == 1
    assert all((heard[begin : begin + 48] == -0.25).all() for begin in begins)
    assert np.count_nonzero(heard == -0.25) == 8 * 48


def hear_pulses(detector, session, sounds):
    """What the input heard of the sounds and the pulses, and the events."""
    with PulseCard(RATE) as card:
        live = card.rtconv(
            *("listen", detector, "--device", "vmic", "--record", str(session)),
            *("--trigger", "speaker", "--pulse-level", "-0.25"),
            *("--latency", "0.2"),
        )
        until_it_listens(live)
        events = Lines(live.stdout)
        card.play(sounds)
        time.sleep(0.7)
        live.send_signal(signal.SIGINT)
        assert live.wait(10) == 0
        events.join()
    heard, _ = soundfile.read(session, dtype="float32")
    return heard, [json.loads(line) for _, line in events.lines]


def test_the_meter_shows_level_and_clipping():
    """A sine at half of full scale, then one that is cut off."""
    with PulseCard(RATE) as card:
        meter = card.rtconv("devices", "--meter", "--device", "vmic")
        lines = Lines(meter.stdout)
        lines.wait_for("peak   -inf dB")
        sine = np.sin(2 * np.pi * 440 / RATE * np.arange(2 * RATE))
        card.play(0.5 * sine)
        card.play((2 * sine).clip(-1, 1))
        lines.wait_for("CLIPPED")
        meter.send_signal(signal.SIGINT)
        assert meter.wait(10) == 0
    lines.join()
    assert any("peak   -6.0 dB  rms   -9.0 dB" in line for _, line in lines.lines)
    assert all("CLIPPED" not in line for _, line in lines.lines if "peak   -6.0" in line)
