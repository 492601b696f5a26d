"""Evaluation of whole recordings: what is counted, told and refused."""

import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from rich.console import Console

import rtconv
from rtconv.audio import read_audio
from rtconv.errors import RtconvError
from rtconv.evaluation.quality import evaluate
from rtconv.evaluation.replay import replay, with_threshold
from rtconv.evaluation.report import format_json, format_table, write_report
from rtconv.evaluation.shift import shift_invariance
from rtconv.labels import Label, write_labels
from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer
from rtconv.stream.detector import Detector
from tests.conftest import ROOT

RATE = 8000


def output(name="chirp", threshold=0.5):
    return Output(
        name=name,
        threshold=threshold,
        release=threshold / 2,
        refractory=0.2,
        max_hold=0.1,
        decision="peak",
    )


def chirp(direction=1):
    t = np.arange(400) / RATE
    return np.sin(2 * np.pi * (2000 + direction * 20_000 * (t - 0.025)) * t).astype(np.float32)


def matched(*patterns):
    columns = [pattern[::-1] / np.sum(pattern**2) for pattern in patterns]
    return Layer(dense=np.stack(columns, axis=1).astype(np.float32), kernel_size=400)


@pytest.fixture(scope="module")
def detector():
    return Detector(Model("chirp", RATE, [matched(chirp())], [output()]))


def recording(folder, name, sounds, labels, seconds=30, seed=0, noise=0.02):
    """A file with sounds (end in samples, gain, samples) in noise."""
    x = np.random.default_rng(seed).normal(0, noise, seconds * RATE).astype(np.float32)
    for end, gain, sound in sounds:
        x[end - len(sound) : end] += gain * sound
    soundfile.write(folder / f"{name}.wav", x, RATE, subtype="FLOAT")
    write_labels(folder / f"{name}.txt", labels)
    return folder / f"{name}.wav"


def label(end, text="chirp"):
    return Label((end - 400) / RATE, end / RATE, text)


@pytest.fixture
def two_files(tmp_path):
    ends = [8000, 24_000, 40_000, 56_000, 80_000]
    gains = [1.0, 0.9, 0.1, 1.1, 0.8]  # the third is missed
    sounds = [(end, gain, chirp()) for end, gain in zip(ends, gains, strict=True)]
    labels = [label(end, f"chirp snr_db={10 * (i % 2)}") for i, end in enumerate(ends)]
    duplicate = (82_000, 0.7, chirp())  # 0.25 s after the last label
    false = (160_000, 0.6, chirp())
    a = recording(tmp_path, "a", [*sounds, duplicate, false], labels)
    b = recording(tmp_path, "b", [], [], seed=1)
    return [a, b]


def test_what_is_counted(detector, two_files):
    evaluation = evaluate(detector, two_files, collar=0.3)
    result = evaluation.outputs[0]
    counts = result.counts
    assert (counts.labels, counts.hits, counts.duplicates, counts.false_alarms) == (5, 4, 1, 1)
    assert evaluation.hours == counts.hours == pytest.approx(60 / 3600)
    assert [miss.label.end for miss in result.misses] == [5.0]
    assert [(e.path.name, round(e.time, 2)) for e in result.false_alarms] == [("a.wav", 20.0)]
    assert [round(e.time, 2) for e in result.duplicates] == [10.25]
    # The matched filter peaks at the pattern's last sample, one before the label's end.
    np.testing.assert_allclose([hit.error for hit in result.hits], -1 / RATE, atol=1e-6)
    assert all(0 <= hit.delay < 0.1 for hit in result.hits)
    assert result.error.p95 == pytest.approx(1 / RATE, abs=1e-6)


def test_a_smaller_collar_makes_the_duplicate_a_false_alarm(detector, two_files):
    counts = evaluate(detector, two_files, collar=0.2).outputs[0].counts
    assert (counts.hits, counts.duplicates, counts.false_alarms) == (4, 0, 2)


def test_conditions_that_the_labels_tell(detector, two_files):
    conditions = evaluate(detector, two_files).outputs[0].conditions
    of_snr = {value: (c.labels, c.hits) for value, c in conditions["snr_db"].items()}
    assert of_snr == {"0": (3, 2), "10": (2, 2)}
    assert list(of_snr) == ["0", "10"]
    assert conditions["recording"]["a.wav"].labels == 5


def test_every_point_is_what_replay_gives_at_that_threshold(detector, two_files):
    result = evaluate(detector, two_files, collar=0.3).outputs[0]
    for point in [*result.curve[:8], *result.points.values()]:
        at = Detector(with_threshold(detector.model, point.threshold))
        events = [event for path in two_files for event in replay(at, path)]
        counts = point.counts
        assert len(events) == counts.hits + counts.duplicates + counts.false_alarms
    # At once more false alarms than none in a minute are above 1 an hour.
    assert result.points[1.0].counts.false_alarms == 0
    assert result.points[1.0].counts.hits == 4


def test_several_outputs_have_their_own_labels(tmp_path):
    detector = Detector(
        Model("both", RATE, [matched(chirp(), chirp(-1))], [output("up"), output("down")])
    )
    path = recording(
        tmp_path,
        "a",
        [(8000, 1, chirp()), (24_000, 1, chirp(-1)), (40_000, 1, chirp(-1))],
        [label(8000, "up"), label(24_000, "down"), label(40_000, "down x=1"), label(50_000, "dog")],
    )
    evaluation = evaluate(detector, [path])
    assert [o.counts.labels for o in evaluation.outputs] == [1, 2]
    assert [o.counts.hits for o in evaluation.outputs] == [1, 2]
    assert evaluation.other_labels == 1


def test_one_output_takes_all_labels_where_none_bears_its_name(detector, tmp_path):
    path = recording(tmp_path, "a", [(8000, 1, chirp())], [label(8000, "x"), label(9000, "y")])
    assert evaluate(detector, [path]).outputs[0].counts.labels == 2
    path = recording(tmp_path, "b", [(8000, 1, chirp())], [label(8000, "chirp"), label(9000, "y")])
    assert evaluate(detector, [path]).outputs[0].counts.labels == 1


def test_it_is_public(detector, two_files):
    assert rtconv.evaluate is evaluate


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (None, r"a\.wav: has no label track a\.txt beside it, write one with Audacity; an empty"),
        ("29\t31\tx\n", r"a\.txt: line 1: the label ends at 31\.000 s, after the sound file's end"),
    ],
)
def test_faults_are_named(detector, tmp_path, track, message):
    path = recording(tmp_path, "a", [], [])
    (tmp_path / "a.txt").unlink()
    if track is not None:
        (tmp_path / "a.txt").write_text(track)
    with pytest.raises(RtconvError, match=message):
        evaluate(detector, [path])


def test_a_wrong_collar_or_channel_is_named(detector, two_files):
    with pytest.raises(RtconvError, match="collar is -1 s"):
        evaluate(detector, two_files, collar=-1)
    with pytest.raises(RtconvError, match="one channel or the mean"):
        evaluate(detector, two_files, channel="all")


def test_the_table_says_it_in_words(detector, two_files):
    console = Console(width=160, file=io.StringIO())
    console.print(format_table([evaluate(detector, two_files, collar=0.3)]))
    text = console.file.getvalue()
    assert "2 recordings, 0.0167 h, collar 0.3 s" in text
    assert "1 of 5: 20.0 %, 0.5 to 71.6 %" in text
    assert "1 in 0.0167 h: 60/h" in text
    assert "snr_db 10" in text


def test_json_holds_everything_and_no_nan(detector, two_files):
    nothing = evaluate(detector, two_files[1:])
    values = json.loads(format_json([nothing]), parse_constant=pytest.fail)
    assert values["outputs"][0]["miss_rate"] is None
    values = json.loads(format_json([evaluate(detector, two_files, collar=0.3)]))
    result = values["outputs"][0]
    assert result["hits"] == 4
    assert result["miss_rate_interval"] == pytest.approx([0.00505, 0.7164], abs=1e-4)
    assert result["missed"][0]["end"] == 5.0
    assert result["at_false_alarms_per_hour"]["0.5"]["false_alarms"] == 0


class Tags(HTMLParser):
    """Opened tags, and whether each was closed."""

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in ("meta", "use", "path", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_the_page_stands_alone_and_is_well_formed(tmp_path, detector, two_files):
    other = Detector(Model("<b>late</b>", RATE, [matched(chirp(-1))], [output()]))
    evaluations = [evaluate(d, two_files, collar=0.3) for d in (detector, other)]
    page = write_report(evaluations, tmp_path / "new" / "report")
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.seen.count("svg") == 4
    assert "b" not in tags.seen
    assert "http" not in text.replace("http://www.w3.org", "").replace(
        "https://matplotlib.org", ""
    ).replace("http://purl.org", "").replace("http://creativecommons.org", "")
    assert json.loads((page.parent / "evaluation.json").read_text())[0]["detector"] == "chirp"


def test_moving_a_clip_moves_the_score_exactly_at_hop_1(detector):
    clip = np.random.default_rng(0).normal(0, 0.1, 1500).astype(np.float32)
    clip[500:900] += chirp()
    found = shift_invariance(detector, clip)
    assert (found.peak_error, found.score_change) == (0, 0.0)


def test_moving_a_clip_moves_the_score_by_less_than_a_hop():
    layers = [
        Layer(dense=matched(chirp()).dense, kernel_size=400, activation="square"),
        Layer(dense=np.hanning(64).reshape(-1, 1).astype(np.float32), kernel_size=64, strides=16),
    ]
    detector = Detector(Model("a", RATE, layers, [output()]))
    clip = np.random.default_rng(0).normal(0, 0.1, 1500).astype(np.float32)
    clip[500:900] += chirp()
    assert shift_invariance(detector, clip, [16, 160, 1008]).score_change == 0
    found = shift_invariance(detector, clip)
    assert 0 < found.peak_error <= detector.model.hop
    assert found.score_change > 0


def test_the_command_measures_mixes_and_reports(rtconv_command, tmp_path):
    detector = ROOT / "models" / "ramp.safetensors"
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "room.wav", rng.normal(0, 1e-3, 60 * RATE), RATE)
    ramp = np.concatenate([np.zeros(400), 0.1 * np.arange(5), np.zeros(400)])
    soundfile.write(tmp_path / "ramp.wav", ramp, RATE, subtype="FLOAT")
    write_labels(tmp_path / "ramp.txt", [Label(400 / RATE, 405 / RATE, "ramp")])
    (tmp_path / "mix.yaml").write_text(
        "{samplerate: 8000, positives: {ramp: [ramp.wav]}, backgrounds: [room.wav], "
        "per_hour: 600, snr_db: [60]}"
    )
    mixed = rtconv_command("mix", "mix.yaml", "-o", "stream.flac", cwd=tmp_path)
    assert mixed.returncode == 0, mixed.stderr
    assert "stream.flac is written, with 10 labels in stream.txt" in mixed.stderr
    done = rtconv_command(
        "evaluate", detector, "stream.flac", "--against", detector, "--collar", "0.01",
        "--report", "report", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first == second
    assert first["outputs"][0]["labels"] == 10
    assert (tmp_path / "report" / "index.html").is_file()
    failed = rtconv_command("evaluate", detector, "room.wav", cwd=tmp_path)
    assert failed.returncode == 1
    assert "rtconv: room.wav: has no label track room.txt beside it" in failed.stderr


@pytest.mark.parametrize("take", ["take2", "take5"])
def test_moving_a_real_sound_moves_the_peak_of_a_preset_by_less_than_a_hop(take):
    detector = rtconv.load(ROOT / "models" / "demo.safetensors")
    path = ROOT / "rtconv" / "data" / "sounds" / "snare" / "test" / f"{take}.flac"
    clip = read_audio(path, detector.samplerate)[:, 0]
    hop = detector.model.hop
    assert shift_invariance(detector, clip, range(0, 1024, hop)).score_change == 0
    assert shift_invariance(detector, clip, range(0, 1024, 7)).peak_error < hop
