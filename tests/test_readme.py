"""Every command of the README runs as it stands there."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import yaml

from rtconv.config import parse_config
from tests.conftest import ROOT
from tests.virtual_card import PulseCard

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line]
NEEDS_SOUND_CARD = ("rtconv listen", "rtconv devices", "rtconv latency")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place like a clone in which `make demo` has run."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "models", "rtconv"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def demo(folder):
    """What `rtconv demo` prints and writes."""
    return run("rtconv demo", folder)


def run(command, folder, environment=None):
    words = shlex.split(command)
    assert words[0] == "rtconv"
    return subprocess.run(
        [sys.executable, "-m", "rtconv", *words[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_demo_finds_every_sound(demo, folder):
    assert demo.returncode == 0, demo.stderr
    result = json.loads((folder / "demo" / "result.json").read_text())
    assert result["seconds"] >= 60
    assert result["found"] == result["placed"] > 5
    assert result["false_alarms"] <= 1
    assert (folder / "demo" / "detection.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_retrains_the_committed_detector(demo, folder):
    """The same config gives the same detector, up to the rounding of another machine."""
    import rtconv

    assert demo.returncode == 0
    samples, samplerate = soundfile.read(folder / "demo" / "held-back.flac", dtype="float32")
    old = rtconv.load(ROOT / "models" / "demo.safetensors")
    new = rtconv.load(folder / "demo" / "demo.safetensors")
    assert samplerate == old.samplerate == new.samplerate
    truth = json.loads((folder / "demo" / "result.json").read_text())["placed_at"]
    for detector in (old, new):
        events = list(rtconv.replay(detector, folder / "demo" / "held-back.flac"))
        distances = [min(abs(event.sample - end) for event in events) for end in truth]
        assert max(distances) < 0.05 * samplerate
    assert np.corrcoef(old.process(samples), new.process(samples))[0, 1] > 0.9


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if not c.startswith((*NEEDS_SOUND_CARD, "rtconv demo"))]
)
def test_command(command, demo, folder):
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(NEEDS_SOUND_CARD)])
def test_command_that_needs_a_sound_card(command, folder):
    with PulseCard(48000) as card:
        environment = card.environment
        done = run(command.replace("listen ", "listen --device vmic "), folder, environment)
    assert done.returncode == 0, done.stderr


def test_every_kind_of_command_is_shown():
    shown = {command.split()[1] for command in COMMANDS}
    assert {"train", "inspect", "devices", "listen", "replay", "convert"} <= shown


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, re.MULTILINE))
def test_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_a_config(text):
    assert parse_config(yaml.safe_load(text)).name


def test_python_prints_what_it_says(folder):
    (program,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["16", "True"]


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists()
