"""Training from recordings: a chirp in noise, found by a tiny network."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import rtconv
from rtconv.audio import write_audio
from rtconv.config import load_config, parse_config
from rtconv.model.layers import multiply_adds_per_sample
from rtconv.training.batches import Mixer, target_of
from rtconv.training.data import Backgrounds, group_of, load_dataset, split_by_group
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
        },
        {"filters": 1, "kernel_size": 8, "activation": "sigmoid", "bias_initializer": -3},
    ],
    "training": {
        "positives": ["chirp/*.wav"],
        "backgrounds": ["noise/*.wav"],
        "learning_rate": 0.01,
        "schedule": "cosine",
        "epochs": 4,
        "steps_per_epoch": 40,
        "batch_size": 8,
        "excerpt": 1.5,
        "mining": 1,
        "augment": {"snr_db": [10, 20], "speed": [0.99, 1.01], "reverb": 0.2, "filter": 0.2},
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
    np.testing.assert_allclose([event.sample for event in events], ends, atol=0.02 * RATE)


def test_record_says_what_was_done(trained, folder: Path) -> None:
    detector, seen, notes = trained
    record = detector.model.training
    split = record["split"]
    assert len(split["positives"]) == 5
    assert len(split["validation"]) == 1
    assert not set(split["positives"]) & set(split["validation"])
    assert len(split["backgrounds"]) == 3
    assert len(split["calibration"]) == 1
    assert not set(split["backgrounds"]) & set(split["calibration"])
    assert all(not Path(path).is_absolute() for paths in split.values() for path in paths)
    calibration = record["calibration"]["chirp"]
    assert calibration["hours"] == pytest.approx(20 / 3600)
    assert calibration["held_back"]
    assert (seen[-1].step, seen[-1].steps) == (160, 160)
    assert [entry["step"] for entry in record["curve"]] == [40, 80, 120, 160]
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"]
    assert any("too short" in note for note in notes)
    assert detector.model.outputs[0].threshold == 0.5
    assert detector.model.outputs[0].pattern == pytest.approx(0.1, abs=0.03)


def test_same_seed_same_detector(trained, folder: Path) -> None:
    rtconv.train(folder / "chirp.yaml", folder / "again")
    assert (folder / "again.pickle").read_bytes() == (folder / "chirp.pickle").read_bytes()


def test_batches_do_not_depend_on_threads_or_calls(folder: Path) -> None:
    config = load_config(folder / "chirp.yaml")
    from rtconv.training.keras_model import build, keras
    from rtconv.training.trainer import Run

    keras.utils.set_random_seed(0)
    run = Run(config, build(config), lambda _: None, lambda _: None)
    mixer = Mixer(config, load_dataset(config), run.layers())
    one = [np.concatenate(parts) for parts in zip(*mixer.epoch(1, 4, 1), strict=True)]
    two = [np.concatenate(parts) for parts in zip(*mixer.epoch(1, 2, 2), strict=True)]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    inputs, targets, weights = one
    assert inputs.shape == (4, 8, 6000, 1)
    assert targets.shape == weights.shape == (4, 8, 1500, 1)
    assert 0 < targets.max() <= 1
    assert (weights[targets > 0] > 0).all()
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


@pytest.mark.parametrize("preset", ["keyword", "chime"])
@pytest.mark.parametrize("samplerate", [8000, 16000, 48000])
def test_presets_are_plain_layers(preset: str, samplerate: int) -> None:
    values = {"name": "a", "samplerate": samplerate, "network": {"preset": preset}}
    config = parse_config(values)
    assert parse_config(config.model_dump(exclude_defaults=True)) == config
    from rtconv.training.keras_model import build
    from rtconv.training.trainer import Run

    values["training"] = {"signal": {"input": [0], "target": [0]}, "epochs": 3}
    config = parse_config(values)
    assert config.training is not None
    assert (config.training.optimizer, config.training.epochs) == ("adamw", 3)
    layers = Run(config, build(config), lambda _: None, lambda _: None).layers()
    per_second = multiply_adds_per_sample(layers) * samplerate
    assert per_second < 25e6 * max(1, samplerate / 16000)


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
