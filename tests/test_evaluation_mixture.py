"""Test streams: what was asked for is what is in them, and where the labels say."""

import re

import numpy as np
import pytest
import soundfile
import yaml

from rtconv.audio import read_audio
from rtconv.errors import RtconvError
from rtconv.evaluation.mixture import MixtureSettings, load_mixture, write_mixture
from rtconv.labels import Label, read_labels, write_labels
from tests.conftest import ROOT

RATE = 8000


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        x = np.zeros(RATE)
        x[2000:4000] = 0.3 * rng.standard_normal(2000)
        soundfile.write(tmp_path / f"ann_{i}.wav", x, RATE)
    for i, level in enumerate([0.01, 0.1]):
        x = level * rng.standard_normal((40 * 16000, 2))
        soundfile.write(tmp_path / f"room{i}.flac", x, 16000)
    return tmp_path


def mixture(folder, name="mix.yaml", **settings):
    values = {
        "samplerate": RATE,
        "positives": {"knock": ["ann_*.wav"]},
        "backgrounds": ["room*.flac"],
        "per_hour": 600,
        **settings,
    }
    (folder / name).write_text(yaml.safe_dump(values))
    return load_mixture(folder / name)


def made(folder, name="a", **settings):
    labels = write_mixture(mixture(folder, **settings), folder / f"{name}.wav")
    return read_audio(folder / f"{name}.wav", RATE)[:, 0], labels


def test_the_same_seed_makes_the_same_stream(folder):
    every = {"snr_db": [0, 10], "rooms": ["none", "decay", "shoebox"], "speeds": [0.98, 1.02]}
    a, labels = made(folder, "a", seed=5, **every)
    b, again = made(folder, "b", seed=5, **every)
    c, _ = made(folder, "c", seed=6, **every)
    np.testing.assert_array_equal(a, b)
    assert labels == again
    assert not np.array_equal(a, c)


def test_sounds_have_the_asked_snr_and_stand_where_the_labels_say(folder):
    quiet, _ = made(folder, "quiet", snr_db=[-200])
    x, labels = made(folder, "x", snr_db=[-5, 6])
    assert len(x) == 80 * RATE
    assert len(labels) == 13
    assert {label.conditions["snr_db"] for label in labels} == {"-5", "6"}
    sound = x - quiet
    outside = np.ones(len(x), bool)
    for label in labels:
        start, end = round(label.start * RATE), round(label.end * RATE)
        slot = start // (6 * RATE) * 6 * RATE
        around = quiet[max(slot, start - RATE // 2) : min(slot + 6 * RATE, end + RATE // 2)]
        snr = 10 * np.log10(np.mean(sound[start:end] ** 2) / np.mean(around**2))
        assert snr == pytest.approx(float(label.conditions["snr_db"]), abs=0.1)
        assert label.end - label.start == pytest.approx(0.25, abs=0.04)
        outside[start - round(0.11 * RATE) : end + round(0.31 * RATE)] = False
    assert np.abs(sound[outside]).max() < 1e-6


def test_labels_are_written_beside_it_and_are_valid(folder):
    _, labels = made(folder, group=r"([a-z]+)_\d", speeds=[0.5, 2.0])
    read = read_labels(folder / "a.txt", seconds=80)
    assert [label.text for label in read] == [label.text for label in labels]
    assert {label.name for label in read} == {"knock"}
    assert {label.conditions["group"] for label in read} == {"ann"}
    assert {label.conditions["file"] for label in read} == {"ann_0", "ann_1", "ann_2"}
    for label in read:
        length = 0.25 / float(label.conditions["speed"])
        assert label.end - label.start == pytest.approx(length, abs=0.1)


def test_the_label_track_of_a_positive_says_where_its_sound_is(folder):
    write_labels(folder / "ann_1.txt", [Label(0.3, 0.4, "x")])
    _, labels = made(folder, positives={"knock": ["ann_1.wav"]})
    assert all(label.end - label.start == pytest.approx(0.1) for label in labels)


def test_a_loud_slot_is_turned_down_and_nothing_is_clipped(folder):
    x, _ = made(folder, snr_db=[40])
    assert 0.9 < np.abs(x).max() <= 0.981


def test_all_of_the_backgrounds_or_the_hours_that_are_asked_for(folder):
    x, _ = made(folder, hours=0.01)
    assert len(x) == 36 * RATE
    with pytest.raises(RtconvError, match=r"hours is 5, and the backgrounds are only 0.02 h"):
        made(folder, hours=5)


def test_it_is_flac_where_the_name_says_so(folder):
    write_mixture(mixture(folder), folder / "a.flac")
    assert soundfile.info(folder / "a.flac").format == "FLAC"
    assert soundfile.info(folder / "a.flac").frames == 80 * RATE


def test_nothing_half_written_is_left(folder):
    data = (folder / "room1.flac").read_bytes()
    (folder / "room1.flac").write_bytes(data[: len(data) // 2])
    before = sorted(folder.iterdir())
    with pytest.raises(RtconvError, match=r"room1\.flac: (is truncated|cannot be read beyond)"):
        write_mixture(mixture(folder), folder / "a.flac")
    assert sorted(folder.iterdir()) == sorted([*before, folder / "mix.yaml"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"snrs": [1]}, r"mix\.yaml: unknown key 'snrs', the nearest known is 'snr_db'"),
        ({"rooms": ["hall"]}, r"mix\.yaml: rooms\.0 is 'hall'"),
        ({"positives": {"a": ["none*.wav"]}}, r"positives\.a: 'none\*\.wav' matches no file"),
        ({"per_hour": 6000}, "does not fit into 0.60 s, choose a smaller per_hour"),
        ({"per_hour": 1}, "too short for one sound at 1 per_hour"),
        ({"group": "x"}, "group: needs one group in parentheses"),
        ({"group": "("}, "group: is no regular expression"),
    ],
)
def test_faults_are_named(folder, settings, message):
    with pytest.raises(RtconvError, match=message):
        write_mixture(mixture(folder, **settings), folder / "a.wav")


def test_a_silent_recording_is_named(folder):
    soundfile.write(folder / "ann_1.wav", np.zeros(8000), RATE)
    with pytest.raises(RtconvError, match=r"ann_1\.wav: is silent from 0\.000 to 1\.000 s"):
        write_mixture(mixture(folder), folder / "a.wav")


def test_a_name_that_is_no_sound_format_is_named(folder):
    with pytest.raises(RtconvError, match=r"a\.xyz: cannot be written as sound"):
        write_mixture(mixture(folder), folder / "a.xyz")


def test_the_documented_settings_are_valid():
    text = (ROOT / "docs" / "quality.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    settings = MixtureSettings.model_validate(yaml.safe_load(example))
    assert settings.rooms == ["none", "shoebox", "decay"]


def test_aligned_takes_end_equally_long_after_their_onset(folder):
    rng = np.random.default_rng(1)
    for i, decay in enumerate([0.03, 0.05, 0.2]):
        time = np.arange(RATE) / RATE
        stroke = 0.5 * rng.standard_normal(RATE) * np.exp(-time / decay)
        soundfile.write(folder / f"drum_{i}.wav", np.concatenate([np.zeros(800), stroke]), RATE)
    quiet, _ = made(folder, "quiet", snr_db=[-200], positives={"drum": ["drum_*.wav"]})
    x, labels = made(folder, "x", snr_db=[10], positives={"drum": ["drum_*.wav"]}, aligned=True)
    assert len({round(label.end - label.start, 4) for label in labels}) == 1
    for label in labels:
        start = round(label.start * RATE)
        sound = np.abs((x - quiet)[start - RATE // 20 : start + RATE // 20])
        assert np.argmax(sound > 0.1 * sound.max()) == pytest.approx(RATE // 20, abs=12)
