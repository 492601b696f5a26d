"""The lecture's chirp, heard through a real sound server; it must start, these tests never skip."""

import re
import time

import numpy as np
import soundfile

from rtconv.lecture import live
from rtconv.lecture.sheet import Sheet
from tests.virtual_card import PulseCard


def events_of(stdout):
    """Times of the events, which are the lines that draw nothing."""
    return [float(t) for t in re.findall(r"^ +([\d.]+) s  chirp", stdout, re.MULTILINE)]


def test_chirps_that_are_played_are_found(tmp_path):
    """Played by the experiment itself; the speaker's sound arrives at the microphone."""
    with PulseCard(live.SAMPLERATE) as card:
        listening = card.rtconv(
            *("lecture", "live", "--device", "vmic", "--play", "speaker", "--duration", "4.5")
        )
        stdout, stderr = listening.communicate(timeout=60)
    assert listening.returncode == 0, stderr
    times = events_of(stdout)
    assert len(times) in (3, 4)  # the output starts when it likes
    np.testing.assert_allclose(np.diff(times), live.INTERVAL, atol=2e-4)
    drawn = re.findall(r"^ +[\d.]+ s \[(.*)\] +([\d.]+)$", stdout, re.MULTILINE)
    assert len(drawn) == 90
    above = [float(score) >= 0.2 for _, score in drawn]
    assert [bars.split("|")[0].count("#") == 25 for bars, _ in drawn] == above
    assert len(times) <= sum(above) <= 2 * len(times)  # a peak may lie on two lines
    assert "0 gaps" in stdout


def test_the_written_chirps_are_found_at_their_last_sample(rtconv_command, tmp_path):
    done = rtconv_command("lecture", "live", "--play", tmp_path / "chirps.wav")
    assert done.returncode == 0, done.stderr
    assert "5 chirps" in done.stdout
    x, samplerate = soundfile.read(tmp_path / "chirps.wav", dtype="float32")
    assert samplerate == live.SAMPLERATE
    noise = 0.01 * np.random.default_rng(0).normal(size=len(x))
    for gain in (0.1, 1):
        detector = live.DETECTORS["chirp"](Sheet())
        events = detector.pickers().push(detector.process(gain * x + noise)[:, np.newaxis])
        assert [event.sample for event in events] == live.ends()
        assert [event.start for event in events] == [end + 1 - 4800 for end in live.ends()]
    # The chirp is the ramp of the frequency: it crosses zero as often as its mean says.
    chirp = live.chirp()
    crossings = np.count_nonzero(np.diff(np.signbit(chirp)))
    assert abs(crossings - 2 * live.LENGTH * (live.LOW + live.HIGH) / 2) <= 2


def test_every_detector_of_the_lecture_can_listen(tmp_path):
    x = np.random.default_rng(0).normal(size=(1000, 1)).astype(np.float32)
    for name, make in live.DETECTORS.items():
        detector = make(Sheet(folder=tmp_path))
        scores = detector.process(np.repeat(x, detector.model.channels, axis=1))
        assert np.isfinite(scores).all(), name


def test_ctrl_c_ends_it_with_statistics(tmp_path):
    with PulseCard(live.SAMPLERATE) as card:
        listening = card.rtconv("lecture", "live", "--device", "vmic", "--detector", "matched")
        deadline = time.monotonic() + 30
        while not card.control("list", "short", "source-outputs"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        card.play(0.5 * live.chirps()[: round(2.8 * live.SAMPLERATE)])
        listening.send_signal(2)
        stdout, stderr = listening.communicate(timeout=30)
    assert listening.returncode == 0, stderr
    assert len(events_of(stdout)) == 2
    assert "0 overflows" in stdout


def test_what_is_wrong_is_named(rtconv_command):
    done = rtconv_command("lecture", "ramp", "--play", "chirps.wav")
    assert done.returncode == 2
    assert "--play belongs to the experiment live" in " ".join(done.stderr.split())
    done = rtconv_command("lecture", "live", "--detector", "nothing")
    assert done.returncode == 1
    assert done.stderr == "rtconv: nothing: there is no such file\n"
    with PulseCard(live.SAMPLERATE) as card:
        listening = card.rtconv("lecture", "live", "--device", "vmic", "--play", "megaphone")
        _, stderr = listening.communicate(timeout=60)
    assert listening.returncode == 1
    assert stderr.startswith("rtconv: --play megaphone: is neither a sound file's name nor an outp")
