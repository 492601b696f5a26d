"""Training from recordings: a chirp in noise, found by a tiny network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import rtconv
from rtconv.audio import read_audio, write_audio
from rtconv.config import load_config, parse_config
from rtconv.model.dense import layers_from_weights
from rtconv.model.layers import multiply_adds_per_sample
from rtconv.model.weights import load_weights
from rtconv.training import batches, data
from rtconv.training.backgrounds import Backgrounds, at_speed
from rtconv.training.batches import Mixer, target_of, vary
from rtconv.training.calibrate import score_patterns
from rtconv.training.closed_form import matched_filter
from rtconv.training.data import (
    Pattern,
    Recording,
    group_of,
    load_dataset,
    split_by_group,
)
from rtconv.training.listening import trace_background
from rtconv.training.trainer import Progress

ROOT = Path(__file__).parent.parent
RATE = 4000


def chirp(seconds: float = 0.1) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * (300 * time + 4000 * time**2))).astype(np.float32)


def write_recordings(folder: Path) -> None:
    rng = np.random.default_rng(0)
    silence = np.zeros(RATE // 5, np.float32)
    for take in range(6):
        noise = rng.normal(0, 1e-4, len(chirp()) + 2 * len(silence)).astype(np.float32)
        take_of = np.concatenate([silence, chirp() * rng.uniform(0.5, 1), silence]) + noise
        write_audio(folder / "chirp" / f"anna_{take}.wav", take_of, RATE)
    for file in range(4):
        write_audio(
            folder / "noise" / f"{file}.wav",
            rng.normal(0, 0.05, 20 * RATE).astype(np.float32),
            RATE,
        )


SETTINGS = {
    "name": "chirp",
    "samplerate": RATE,
    "network": [
        {"filters": 4, "kernel_size": 32, "strides": 4, "activation": "relu"},
        {
            "filters": 4,
            "kernel_size": 8,
            "dilation_rate": 2,
            "batch_normalization": True,
            "activation": "relu",
            "dropout": 0.1,
        },
        {"filters": 1, "kernel_size": 8, "activation": "sigmoid", "bias_initializer": -3},
    ],
    "training": {
        "positives": ["chirp/*.wav"],
        "backgrounds": ["noise/*.wav"],
        "learning_rate": 0.01,
        "schedule": "cosine",
        "epochs": 3,
        "steps_per_epoch": 50,
        "batch_size": 8,
        "excerpt": 1.5,
        "mining": 1,
        "augment": {
            "snr_db": [10, 20],
            "speed": [0.99, 1.01],
            "tempo": [0.95, 1.05],
            "reverb": 0.2,
            "filter": 0.2,
        },
    },
    "detection": {"false_alarms_per_hour": 20, "refractory": 0.1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_recordings(folder)
    (folder / "chirp.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[rtconv.Detector, list[Progress], list[str]]:
    seen: list[Progress] = []
    notes: list[str] = []
    detector = rtconv.train(folder / "chirp.yaml", folder / "chirp", seen.append, notes.append)
    return detector, seen, notes


def test_finds_the_sound_at_its_end_and_nothing_else(trained) -> None:
    detector, _, _ = trained
    rng = np.random.default_rng(9)
    x = rng.normal(0, 0.05, 20 * RATE).astype(np.float32)
    ends = np.arange(1, 19, 2) * RATE
    for end in ends:
        x[end - len(chirp()) : end] += chirp()
    pickers = detector.pickers()
    events = pickers.push(detector.process(x)[:, np.newaxis]) + pickers.finish()
    assert len(events) == len(ends)
    # The end is where training found it, which is a little after the last sample of the sound.
    late = np.median([entry["end"] for entry in detector.model.training["data"]["positives"]]) - 0.3
    assert 0 <= late < 0.03
    found = [event.sample for event in events]
    np.testing.assert_allclose(found, ends + late * RATE, atol=0.005 * RATE)


def test_record_says_what_was_done(trained, folder: Path) -> None:
    detector, seen, notes = trained
    record = detector.model.training
    split = record["data"]
    positives, validation = (
        {entry["file"] for entry in split[key]} for key in ("positives", "validation")
    )
    assert len(positives) == 5
    assert len(validation) == 1
    assert not positives & validation
    assert len(split["backgrounds"]) == 3
    assert len(split["calibration"]) == 1
    assert not set(split["backgrounds"]) & set(split["calibration"])
    assert not any(Path(path).is_absolute() for path in positives | set(split["backgrounds"]))
    for entry in split["positives"]:
        assert (entry["start"], entry["end"]) == pytest.approx((0.2, 0.3), abs=0.03)
    calibration = record["calibration"]["chirp"]
    hours = [20 / 3600 / speed for speed in (0.99, 1, 1.01)]
    assert any(calibration["hours"] == pytest.approx(each, rel=1e-4) for each in hours)
    assert calibration["held_back"]
    assert (seen[-1].step, seen[-1].steps) == (150, 150)
    assert [entry["step"] for entry in record["curve"]] == [50, 100, 150]
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"]
    assert any("takes 0.15 h of background" in note for note in notes)
    assert detector.model.outputs[0].threshold == 0.5
    assert detector.model.outputs[0].pattern == pytest.approx(0.1, abs=0.03)


def test_batches_do_not_depend_on_threads_or_calls(folder: Path) -> None:
    config = load_config(folder / "chirp.yaml")
    from rtconv.training.keras_model import build, keras

    keras.utils.set_random_seed(0)
    layers = layers_from_weights(build(config).get_weights(), config.network)
    mixer = Mixer(config, load_dataset(config), layers)
    one = [np.concatenate(parts) for parts in zip(*mixer.epoch(1, 4, 1), strict=True)]
    two = [np.concatenate(parts) for parts in zip(*mixer.epoch(1, 2, 2), strict=True)]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    inputs, targets, weights = one
    assert inputs.shape == (4, 8, 6000, 1)
    assert targets.shape == weights.shape == (4, 8, 1500, 1)
    assert 0 < targets.max() <= 1
    assert (weights[targets > 0] > 0).all()
    # A stream that begins comes out of silence: that counts as well.
    assert (weights[:, :, 0] > 0).all()
    other = next(iter(mixer.epoch(2, 4, 1)))
    assert not np.array_equal(other[0], inputs[:1])


@pytest.mark.parametrize(("end", "first"), [(400, 100), (401, 101), (403, 101)])
def test_impulse_peaks_at_the_first_score_that_knows_the_end(end: int, first: int) -> None:
    settings = parse_config(SETTINGS).training
    assert settings is not None
    targets, weights = target_of([(end, 0)], settings.target, RATE, 4, (1500, 1))
    assert targets[:, 0].argmax() == first
    assert targets[first, 0] == 1
    assert weights[first, 0] > 1
    ignored = np.flatnonzero(weights[:, 0] == 0)
    assert ignored.min() < first < ignored.max()
    assert (weights[:, 0] == 1).sum() > 1400


def test_groups_are_never_split() -> None:
    items = [(speaker, take) for speaker in "abcdefgh" for take in range(5)]
    for seed in range(20):
        first, second = split_by_group(
            items, lambda i: i[0], lambda i: 1.0, 0.25, np.random.default_rng(seed)
        )
        assert sorted(first + second) == items
        assert not {i[0] for i in first} & {i[0] for i in second}
        assert len(second) == 10


def test_group_is_found_in_the_path() -> None:
    values = {**SETTINGS, "training": {**SETTINGS["training"], "group": r"/([a-z]+)_\d"}}
    settings = parse_config(values).training
    assert group_of(Path("/chirp/anna_3.wav"), settings) == "anna"
    assert group_of(Path("/chirp/3.wav"), settings) == "/chirp/3.wav"


def test_backgrounds_give_back_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.uniform(-1, 1, n).astype(np.float32) for n in (1000, 300)]
    backgrounds = Backgrounds(RATE)
    for i, part in enumerate(parts):
        backgrounds.append(str(i), [part[:100], part[100:]])
    assert backgrounds.frames == 1300
    whole = np.concatenate(parts)
    np.testing.assert_allclose(backgrounds.read(0, 1300), whole, atol=2e-5)
    np.testing.assert_allclose(
        backgrounds.read(1200, 300), np.concatenate([whole[1200:], whole[:200]]), atol=2e-5
    )
    assert backgrounds.where(1100) == ("1", 100 / RATE)


def test_backgrounds_at_another_speed_keep_their_files_and_change_their_pitch() -> None:
    backgrounds = Backgrounds(RATE)
    tone = np.sin(2 * np.pi * 500 * np.arange(3 * RATE) / RATE).astype(np.float32)
    backgrounds.append("a", [0.5 * tone[:RATE]])
    backgrounds.append("b", [0.5 * tone])
    faster = at_speed(backgrounds, 1.25)
    assert [name for name, _, _ in faster.files] == ["a", "b"]
    assert faster.frames == pytest.approx(4 * RATE / 1.25, abs=200)
    x = faster.read(faster.files[1][1], 2 * RATE)
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    assert spectrum.argmax() * RATE / len(x) == pytest.approx(625, abs=2)
    assert np.abs(x[500:-500]).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("preset", ["keyword", "chime", "click"])
@pytest.mark.parametrize("samplerate", [8000, 16000, 48000])
def test_presets_are_plain_layers(preset: str, samplerate: int) -> None:
    values = {"name": "a", "samplerate": samplerate, "network": {"preset": preset}}
    config = parse_config(values)
    assert parse_config(config.model_dump(exclude_defaults=True)) == config
    from rtconv.training.keras_model import build

    values["training"] = {"signal": {"input": [0], "target": [0]}, "epochs": 3}
    config = parse_config(values)
    assert config.training is not None
    assert (config.training.optimizer, config.training.epochs) == ("adamw", 3)
    layers = layers_from_weights(build(config).get_weights(), config.network)
    per_second = multiply_adds_per_sample(layers) * samplerate
    most = {"keyword": 15e6, "chime": 45e6, "click": 80e6}[preset]
    assert per_second < most * max(1, samplerate / 16000)


def test_unknown_preset_is_refused_with_the_nearest() -> None:
    values = {"name": "a", "samplerate": 16000, "network": {"preset": "keywrd"}}
    with pytest.raises(rtconv.RtconvError, match=r"unknown preset 'keywrd'.* 'keyword'"):
        parse_config(values)


def test_committed_demo_finds_the_sounds_that_were_held_back(tmp_path: Path) -> None:
    from rtconv.evaluation.mixture import load_mixture, write_mixture

    detector = rtconv.load(ROOT / "models" / "demo.safetensors")
    stream = tmp_path / "held-back.flac"
    labels = write_mixture(load_mixture(ROOT / "rtconv" / "data" / "held-back.yaml"), stream)
    times = [event.time for event in rtconv.replay(detector, stream)]
    assert len(labels) > 8
    assert all(min(abs(time - label.end) for time in times) < 0.05 for label in labels)
    assert len(times) <= len(labels) + 1


def test_committed_demo_is_quiet_when_it_starts_amid_a_sound() -> None:
    """A stream that begins in the middle of something comes out of silence like a stroke."""
    detector = rtconv.load(ROOT / "models" / "demo.safetensors")
    rng = np.random.default_rng(0)
    events = []
    for path in sorted((ROOT / "rtconv/data/sounds/background/test").glob("*.ogg")):
        x = read_audio(path, detector.samplerate).mean(axis=1)
        for start in rng.integers(len(x) - detector.samplerate, size=40):
            detector.reset()
            scores = detector.step(x[start:][: detector.samplerate // 4])
            events += detector.pickers().push(scores[:, np.newaxis])
    assert len(events) <= 2  # of 120 starts


def test_interrupted_training_is_written_and_resumes_to_the_same_weights(
    trained, folder: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 120:
            raise KeyboardInterrupt

    notes: list[str] = []
    base = folder / "interrupted"
    detector = rtconv.train(folder / "chirp.yaml", base, interrupt, notes.append)
    assert any("interrupted after 2 of 3 epochs" in note for note in notes)
    assert detector.model.certificate is not None
    assert rtconv.load(folder / "interrupted.safetensors").name == "chirp"
    assert (folder / "interrupted.pickle").read_bytes() != (folder / "chirp.pickle").read_bytes()
    rtconv.train(folder / "chirp.yaml", base, resume=True)
    assert (folder / "interrupted.pickle").read_bytes() == (folder / "chirp.pickle").read_bytes()
    assert not list(folder.glob("*.checkpoint.npz"))


def test_interrupt_before_the_first_epoch_writes_nothing(folder: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rtconv.train(folder / "chirp.yaml", folder / "early", interrupt)
    assert not list(folder.glob("early*"))


def test_resume_refuses_what_it_cannot_use(folder: Path) -> None:
    with pytest.raises(rtconv.RtconvError, match="no interrupted training"):
        rtconv.train(folder / "chirp.yaml", folder / "none", resume=True)
    checkpoint = folder / "broken.checkpoint.npz"
    checkpoint.write_bytes(b"PK nonsense")
    with pytest.raises(rtconv.RtconvError, match="damaged"):
        rtconv.train(folder / "chirp.yaml", folder / "broken", resume=True)
    checkpoint.unlink()


def test_patience_ends_the_training_early(folder: Path) -> None:
    settings = {
        **SETTINGS,
        "training": {**SETTINGS["training"], "patience": 1, "epochs": 6, "steps_per_epoch": 1},
    }
    config = folder / "patient.yaml"
    config.write_text(yaml.safe_dump(settings))
    detector = rtconv.train(config, folder / "patient")
    assert len(detector.model.training["curve"]) < 6
    (folder / "patient.checkpoint.npz").unlink()


def test_precise_detectors_place_the_end_on_the_sample(trained, folder: Path) -> None:
    values = {**SETTINGS, "name": "precise", "precise": True}
    (folder / "precise.yaml").write_text(yaml.safe_dump(values))
    precise = rtconv.train(folder / "precise.yaml", folder / "precise", plot=True)
    assert (folder / "precise.png").stat().st_size > 10_000
    coarse, _, _ = trained
    assert (precise.model.hop, coarse.model.hop) == (1, 4)
    assert precise.model.receptive_field == coarse.model.receptive_field
    rng = np.random.default_rng(9)
    x = rng.normal(0, 0.02, 20 * RATE).astype(np.float32)
    ends = np.arange(1, 19) * RATE + rng.integers(0, 4, 18)
    for end in ends:
        x[end - len(chirp()) : end] += chirp()
    pickers = precise.pickers()
    events = pickers.push(precise.process(x)[:, np.newaxis]) + pickers.finish()
    assert len(events) == len(ends)
    late = np.array([event.sample for event in events]) - ends
    # So small a network has two peaks, a period apart; neither depends on a grid of four.
    near = np.abs(late - np.median(late)) < 4
    assert near.sum() >= 12
    assert np.ptp(late[near]) == 0
    # The share of the backgrounds that is looked at closely has the scores of the whole.
    dataset = load_dataset(load_config(folder / "precise.yaml"))
    strided = layers_from_weights(
        load_weights(folder / "precise.pickle"), parse_config(SETTINGS).network
    )
    (trace,) = trace_background(strided, dataset.calibration, deployed=precise.model.layers)
    (whole,) = trace_background(precise.model.layers, dataset.calibration)
    output = precise.model.outputs[0]
    for threshold in (0.5, 0.3):
        at = output.at_threshold(threshold)
        assert [e.sample for e in trace.events(at)] == [e.sample for e in whole.events(at)]


@pytest.mark.parametrize("method", ["whitened", "normalised"])
def test_closed_forms_are_calibrated_like_networks(method: str, folder: Path) -> None:
    settings = {
        "name": "chirp",
        "samplerate": RATE,
        "training": {
            "method": method,
            "positives": ["chirp/*.wav"],
            "backgrounds": ["noise/*.wav"],
            "augment": {"snr_db": [5, 15]},
        },
        "detection": {"false_alarms_per_hour": 60, "refractory": 0.1},
    }
    config = folder / f"{method}.yaml"
    config.write_text(yaml.safe_dump(settings))
    detector = rtconv.train(config, folder / method, plot=True)
    assert "keras" not in detector.model.certificate.oracle
    assert (folder / f"{method}.png").stat().st_size > 10_000
    rng = np.random.default_rng(9)
    x = rng.normal(0, 0.05, 10 * RATE).astype(np.float32)
    ends = np.arange(1, 9, 2) * RATE
    for end in ends:
        x[end - len(chirp()) : end] += 0.5 * chirp()
    pickers = detector.pickers()
    events = pickers.push(detector.process(x)[:, np.newaxis]) + pickers.finish()
    assert len(events) == len(ends)
    np.testing.assert_allclose([event.sample for event in events], ends, atol=0.02 * RATE)


def test_training_tells_what_the_recordings_are_like(tmp_path: Path) -> None:
    from rtconv.training.summary import describe

    write_recordings(tmp_path)
    rng = np.random.default_rng(1)
    quiet = rng.normal(0, 1e-6, RATE).astype(np.float32)
    quiet[1000:1400] += 1e-3 * chirp()
    long = np.concatenate([np.zeros(400), np.tile(chirp(), 12), np.zeros(400)])
    clipped = np.clip(4 * np.concatenate([np.zeros(400), chirp(), np.zeros(400)]), -0.9, 0.9)
    noisy = rng.normal(0, 0.2, RATE)
    noisy[1000:1400] += chirp()
    for name, x in {"quiet": quiet, "long": long, "clipped": clipped, "noisy": noisy}.items():
        write_audio(tmp_path / "chirp" / f"{name}.wav", x.astype(np.float32), RATE)
    write_audio(tmp_path / "chirp" / "copy.wav", clipped.astype(np.float32), RATE)
    write_audio(tmp_path / "chirp" / "fast.wav", np.repeat(noisy, 2).astype(np.float32), 2 * RATE)
    for name in ("noisy", "fast"):
        (tmp_path / "chirp" / f"{name}.txt").write_text("0.25\t0.35\tchirp\n")
    first, second, last = SETTINGS["network"]
    network = [first, {**second, "dilation_rate": 16}, last]  # sees 0.13 s
    (tmp_path / "chirp.yaml").write_text(yaml.safe_dump({**SETTINGS, "network": network}))
    config = load_config(tmp_path / "chirp.yaml")
    text = "\n".join(describe(load_dataset(config), config))
    assert "12 in 12 files" in text
    assert f"11 at {RATE} Hz, 1 at {2 * RATE} Hz" in text
    for line in (
        "clipped.wav, copy.wav: hold the same samples",
        "clipped.wav, copy.wav: clipped",
        "quiet.wav: nearly silent",
        "long.wav: longer than the",
        "fast.wav, noisy.wav: less than 10 dB",
    ):
        assert line in text
    assert "anna" not in text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0.1\t9.0\tchirp\n", "line 1: the label ends at 9.000 s, after the sound file's end"),
        ("0.3\t0.4\tchirp\n0.1\t0.2\tchirp\n", "line 2: .* before the one above"),
        ("0.1\t0.3\tchirp\n0.2\t0.4\tchirp\n", "line 2: .* within another"),
        ("0.2\t0.2\tchirp\n", "has no length"),
        ("0.0\t0.1\tchirp\n", "is silent from 0.000 to 0.100 s"),
        ("hello\n", "line 1: is no label"),
    ],
)
def test_impossible_labels_are_named(labels: str, message: str, tmp_path: Path) -> None:
    write_recordings(tmp_path)
    write_audio(tmp_path / "chirp" / "x.wav", np.pad(chirp(), (RATE // 5, RATE)), RATE)
    (tmp_path / "chirp" / "x.txt").write_text(labels)
    (tmp_path / "chirp.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.raises(rtconv.RtconvError, match=message):
        load_dataset(load_config(tmp_path / "chirp.yaml"))


def test_labels_say_where_the_patterns_are(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    x = np.random.default_rng(0).normal(0, 0.01, 3 * RATE)
    write_audio(tmp_path / "chirp" / "x.wav", x, RATE)
    (tmp_path / "chirp" / "x.txt").write_text("0.5\t0.75\tchirp\n1.5\t1.75\tchirp quiet=1\n")
    (tmp_path / "chirp.yaml").write_text(yaml.safe_dump(SETTINGS))
    dataset = load_dataset(load_config(tmp_path / "chirp.yaml"))
    labelled = [p for p in dataset.patterns + dataset.validation if p.path.name == "x.wav"]
    assert [round(p.at, 3) for p in labelled] == [0.5, 1.5]
    for pattern in labelled:
        start = round(pattern.at * RATE)
        np.testing.assert_allclose(pattern.active, x[start : start + RATE // 4], atol=1e-6)


def test_takes_that_fade_away_end_equally_long_after_their_onset(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i, decay in enumerate([0.06, 0.07, 0.08]):
        time = np.arange(RATE) / RATE
        stroke = 0.3 * rng.standard_normal(RATE) * np.exp(-time / decay)
        silence = np.zeros(400 + 100 * i)
        write_audio(tmp_path / f"{i}.wav", np.concatenate([silence, stroke]), RATE)
    values = {**SETTINGS, "training": {"positives": ["*.wav"], "validation_share": 0.01}}
    config = parse_config(values, tmp_path / "takes.yaml")
    patterns = load_dataset(config).patterns
    assert len({len(pattern.active) for pattern in patterns}) == 1
    for i, pattern in enumerate(patterns):
        assert pattern.at == pytest.approx((400 + 100 * i) / RATE, abs=0.0015)
    (tmp_path / "1.txt").write_text("0.2\t0.25\tchirp\n")
    labelled = load_dataset(config).patterns[1]
    assert labelled.at == 0.2
    assert len(labelled.active) == round(0.05 * RATE)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_a_take_ends_equally_long_after_its_onset_at_any_speed(folder: Path, speed: float) -> None:
    config = load_config(folder / "chirp.yaml")
    assert config.training is not None
    augment = config.training.augment.model_copy(
        update={"speed": (speed, speed), "tempo": (1, 1), "reverb": 0, "filter": 0}
    )
    whole = replace(load_dataset(config).patterns[0], aligned=False)
    take = replace(whole, samples=whole.samples[: whole.end], aligned=True)
    for pattern, seconds in ((whole, 0.1 / speed), (take, 0.1)):
        variant = vary(pattern, augment, RATE, np.random.default_rng(0))
        found = (variant.end - variant.start) / RATE
        assert found == pytest.approx(seconds * len(pattern.active) / (0.1 * RATE), abs=0.001)
        assert variant.end <= len(variant.samples)
        assert variant.start == round(pattern.start / speed)


def test_of_a_long_stroke_the_network_learns_what_it_sees(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for i, decay in enumerate([0.02, 0.025, 0.03]):
        tail = 0.02 * np.exp(-time / 0.1)  # long, with little energy
        stroke = (0.5 * np.exp(-time / decay) + tail) * rng.standard_normal(RATE)
        write_audio(tmp_path / f"{i}.wav", np.concatenate([np.zeros(400), stroke]), RATE)
    values = {**SETTINGS, "training": {"positives": ["*.wav"], "validation_share": 0.01}}
    config = parse_config(values, tmp_path / "takes.yaml")
    for pattern in load_dataset(config).patterns:
        assert pattern.at == pytest.approx(0.1, abs=0.0015)
        assert len(pattern.active) == round(0.8 * config.receptive_field)


def test_backgrounds_are_set_aside_in_time_if_there_is_one(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    settings = {**SETTINGS, "training": {**SETTINGS["training"], "backgrounds": ["noise/0.wav"]}}
    (tmp_path / "chirp.yaml").write_text(yaml.safe_dump(settings))
    dataset = load_dataset(load_config(tmp_path / "chirp.yaml"))
    assert dataset.backgrounds.seconds == pytest.approx(14)
    assert dataset.calibration.seconds == pytest.approx(6)
    assert any("is the only background" in note for note in dataset.notes)


def test_noise_stands_in_for_missing_backgrounds(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    training = {k: v for k, v in SETTINGS["training"].items() if k != "backgrounds"}
    (tmp_path / "chirp.yaml").write_text(yaml.safe_dump({**SETTINGS, "training": training}))
    dataset = load_dataset(load_config(tmp_path / "chirp.yaml"))
    assert [name for name, _, _ in dataset.backgrounds.files] == [
        "white noise", "pink noise", "brown noise"
    ]  # fmt: skip
    assert any("no backgrounds are given" in note for note in dataset.notes)


def test_without_the_package_the_tempo_stays_and_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(folder / "chirp.yaml")
    assert config.training is not None
    pattern = load_dataset(config).patterns[0]
    slow = config.training.augment.model_copy(update={"tempo": (0.5, 0.5), "speed": (1, 1)})
    stretched = vary(pattern, slow, RATE, np.random.default_rng(0))
    assert stretched.end - stretched.start == pytest.approx(2 * len(pattern.active), rel=0.1)
    for module in (batches, data):
        monkeypatch.setattr(module, "can_change_tempo", lambda: False)
    kept = vary(pattern, slow, RATE, np.random.default_rng(0))
    assert kept.end - kept.start == len(pattern.active)
    assert any("python-stretch is not installed" in note for note in load_dataset(config).notes)


def test_the_fewer_recordings_the_more_of_them_get_another_pitch(folder: Path) -> None:
    config = load_config(folder / "chirp.yaml")
    assert config.training is not None
    dataset = load_dataset(config)
    layers = matched_filter(chirp())
    augment = config.training.augment.model_copy(update={"pitch": (1.4, 1.5), "tempo": (1, 1)})
    plain = augment.model_copy(update={"speed": (1, 1), "reverb": 0, "filter": 0})
    shares = []
    for count in (1, 300):
        many = replace(dataset, patterns=dataset.patterns[:1] * count)
        shares.append(Mixer(config, many, layers).pitch_share)
    assert shares == pytest.approx([30 / 31, 30 / 330])

    variants = [
        vary(dataset.patterns[0], plain, RATE, np.random.default_rng(0), pitch_share).samples
        for pitch_share in (0, 1)
    ]
    np.testing.assert_allclose(variants[0], dataset.patterns[0].samples, atol=1e-6)
    assert not np.allclose(*variants, atol=0.1)


def test_half_of_the_backgrounds_play_at_a_speed_of_their_own(folder: Path, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(60 * RATE) / RATE)
    write_audio(tmp_path / "tone.wav", tone.astype(np.float32), RATE)
    augment = {"background_speed": [1.5, 1.5], "snr_db": [-60, -60]}
    training = {**SETTINGS["training"], "backgrounds": ["tone.wav"], "augment": augment}
    training["positives"] = [str(folder / "chirp/*.wav")]
    (tmp_path / "tone.yaml").write_text(yaml.safe_dump({**SETTINGS, "training": training}))
    config = load_config(tmp_path / "tone.yaml")
    mixer = Mixer(config, load_dataset(config), matched_filter(chirp()))
    inputs, _, _ = next(iter(mixer.epoch(0, 1, 4)))
    examples = inputs[..., 0].reshape(-1, inputs.shape[2])
    loudest = np.abs(np.fft.rfft(examples, axis=1)).argmax(axis=1) * RATE / examples.shape[1]
    slow, fast = np.isclose(loudest, 200, atol=2), np.isclose(loudest, 300, atol=2)
    assert (slow | fast).all()
    assert 8 <= fast.sum() <= 24  # of 32


def test_backgrounds_that_hold_the_sound_are_named(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    x = np.random.default_rng(5).normal(0, 0.05, 20 * RATE).astype(np.float32)
    x[8 * RATE : 8 * RATE + len(chirp())] += chirp()
    write_audio(tmp_path / "noise" / "with-chirp.wav", x, RATE)
    training = {
        "method": "whitened",
        "positives": ["chirp/*.wav"],
        "backgrounds": ["noise/[0-9].wav"],
        "calibration": ["noise/with-chirp.wav"],
    }
    settings = {**SETTINGS, "training": training}
    del settings["network"]
    (tmp_path / "chirp.yaml").write_text(yaml.safe_dump(settings))
    notes: list[str] = []
    rtconv.train(tmp_path / "chirp.yaml", tmp_path / "chirp", note=notes.append)
    (named,) = [note for note in notes if "score like the sound" in note]
    assert "with-chirp.wav at 8.1 s" in named


def test_peaks_of_a_pattern_without_margin_are_found() -> None:
    recording = Recording(RATE, "", True, 0, 2000.0, -np.inf)
    pattern = Pattern(chirp(), 0, len(chirp()), 0, Path("x.wav"), "x", recording, 0.0)
    backgrounds = Backgrounds(RATE)
    backgrounds.append("noise", [np.random.default_rng(0).normal(0, 0.01, 10 * RATE)])
    settings = {"positives": ["x.wav"], "method": "whitened", "augment": {"snr_db": [20, 20]}}
    config = parse_config({"name": "chirp", "samplerate": RATE, "training": settings})
    layers = matched_filter(chirp())
    (peaks,) = score_patterns(layers, [pattern], backgrounds, config, [0])
    assert len(peaks) == 200
    loudness = 0.1 / np.sqrt(np.mean(chirp() ** 2))  # 20 dB over noise of 0.01
    np.testing.assert_allclose(peaks, loudness, rtol=0.15)


def test_unreadable_positives_are_left_out_and_named(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    (tmp_path / "chirp" / "broken.wav").write_bytes(b"RIFF nonsense")
    write_audio(
        tmp_path / "chirp" / "other.wav", np.random.default_rng(0).normal(0, 0.1, RATE), RATE
    )
    (tmp_path / "chirp" / "other.txt").write_text("")  # holds nothing
    (tmp_path / "chirp.yaml").write_text(yaml.safe_dump(SETTINGS))
    dataset = load_dataset(load_config(tmp_path / "chirp.yaml"))
    names = {pattern.path.name for pattern in dataset.patterns + dataset.validation}
    assert names == {f"anna_{take}.wav" for take in range(6)}
    assert any("broken.wav" in note and "left out" in note for note in dataset.notes)
    for take in range(6):
        (tmp_path / "chirp" / f"anna_{take}.wav").unlink()
    (tmp_path / "chirp" / "other.wav").unlink()
    with pytest.raises(rtconv.RtconvError, match=r"broken\.wav: is not a sound file"):
        load_dataset(load_config(tmp_path / "chirp.yaml"))
