"""Every bad setting is answered in one sentence that names file, key and remedy."""

from pathlib import Path

import pytest
import yaml

from rtconv.config import load_config, parse_config
from rtconv.errors import RtconvError

ROOT = Path(__file__).parent.parent
GOOD = {
    "name": "bell",
    "samplerate": 16000,
    "network": [{"filters": 1, "kernel_size": 8}],
}


def write(tmp_path, values):
    path = tmp_path / "bell.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_committed_config_is_valid(path):
    config = load_config(path)
    assert config.training is not None


def test_only_name_samplerate_and_network_are_needed():
    config = parse_config(GOOD)
    assert config.training is None
    assert config.output_names == ["bell"]
    assert config.detection_of("bell").refractory == 0.5


def layer(**more):
    return {"network": [{"filters": 1, "kernel_size": 8, **more}]}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"samplrate": 16000}, ["unknown key 'samplrate'", "'samplerate'"]),
        (layer(kernel_sise=3), ["network.0", "unknown key 'kernel_sise'", "'kernel_size'"]),
        (layer(kernel_size=0), ["network.0.kernel_size is 0", "greater than or equal to 1"]),
        (layer(kernel_size="eight"), ["network.0.kernel_size is 'eight'", "integer"]),
        (layer(activation="tahn"), ["network.0.activation is 'tahn'", "'tanh'"]),
        (layer(groups=3), ["network.0", "groups 3"]),
        (layer(residual=True, strides=2), ["network.0", "residual needs strides 1"]),
        ({"samplerate": -1}, ["samplerate is -1", "greater than or equal to 1"]),
        ({"samplerate": None}, ["samplerate is None", "integer"]),
        ({"network": []}, ["network", "at least 1"]),
        ({"network": {"preset": "chimes"}}, ["network", "chimes", "chime"]),
        ({"name": ""}, ["name"]),
        ({"outputs": ["a", "b"]}, ["outputs", "2 names for the 1 filters"]),
        ({"detection": {"thresold": 1}}, ["detection", "'thresold'", "'threshold'"]),
        ({"detection": {"threshold": 0.2, "release": 0.5}}, ["release 0.5 is above"]),
        ({"detection": {"threshold": float("nan")}}, ["detection.threshold", "finite"]),
        ({"detection": {"bell": {"threshold": 1}, "x": {}}}, ["unknown output 'x'", "bell"]),
        ({"training": {}}, ["training", "either signal or positives"]),
        ({"training": {"signal": {"input": [1, 2], "target": [1]}}}, ["training.signal", "2"]),
        (
            {"training": {"positives": ["no/*.wav"]}},
            ["training.positives", "'no/*.wav'", "no file"],
        ),
        (
            {"training": {"positives": ["a.wav"], "augment": {"room": 0.6, "reverb": 0.5}}},
            ["training.augment", "room 0.6 and reverb 0.5"],
        ),
        ({"training": 7}, ["training", "mapping"]),
    ],
)
def test_a_bad_setting_is_named(tmp_path, change, parts):
    path = write(tmp_path, GOOD | change)
    with pytest.raises(RtconvError) as error:
        load_config(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_setting_is_named(tmp_path, key):
    path = write(tmp_path, {k: v for k, v in GOOD.items() if k != key})
    with pytest.raises(RtconvError, match=f"{key} is missing"):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "name: [",
        "a: &a [1]\nb: *a",
        "!!python/object/apply:os.system ['touch pwned']",
        "name: \x00",
        "[" * 5000,
        "name: a\nname: b",
        "? [a]\n: 1",
        "2: 1",
    ],
    ids=range(10),
)
def test_text_that_is_no_config(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(RtconvError) as error:
        load_config(path)
    assert str(path) in str(error.value)
    assert not Path("pwned").exists()


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(RtconvError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RtconvError, match=r"binary\.yaml: is not a YAML text file"):
        load_config(tmp_path / "binary.yaml")


def test_detection_by_output():
    values = GOOD | {
        "network": [{"filters": 2, "kernel_size": 8}],
        "outputs": ["ding", "dong"],
        "detection": {"ding": {"threshold": 0.9}},
    }
    config = parse_config(values)
    assert config.detection_of("ding").picker().threshold == 0.9
    assert config.detection_of("ding").picker().release == 0.45
    assert config.detection_of("dong").picker(threshold=0.3).threshold == 0.3


def test_patterns_are_relative_to_the_config(tmp_path):
    (tmp_path / "sounds").mkdir()
    for name in ("b.wav", "a.wav"):
        (tmp_path / "sounds" / name).write_bytes(b"")
    path = write(tmp_path, GOOD | {"training": {"positives": ["sounds/*.wav", "sounds/a.wav"]}})
    found = load_config(path).find_files("positives", ["sounds/*.wav", "sounds/a.wav"])
    assert [p.name for p in found] == ["a.wav", "b.wav"]
