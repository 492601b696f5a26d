"""The command line as a user meets it: output, exit codes, one sentence for what is wrong."""

import csv
import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT

RAMP = ROOT / "models" / "ramp.safetensors"


def test_replay_formats(rtconv_command, ramp_wav):
    path, _, peaks = ramp_wav

    def run(*more):
        done = rtconv_command("replay", RAMP, path, *more)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    events = [json.loads(line) for line in run().splitlines()]
    assert [event["sample"] for event in events] == peaks
    assert {"detector", "channel", "sample", "time", "score", "decided"} <= set(events[0])
    assert run("--format", "jsonl") == run("--blocksize", "3", "--jobs", "2")
    assert [
        json.loads(line)["sample"] for line in run("--engine", "reference").splitlines()
    ] == peaks
    rows = list(csv.DictReader(io.StringIO(run("--format", "csv"))))
    assert [int(row["sample"]) for row in rows] == peaks
    labels = [line.split("\t") for line in run("--format", "labels").splitlines()]
    assert [float(end) for _, end, _ in labels] == [e["time"] for e in events]
    table = run("--format", "table").splitlines()
    assert len(table) == 4
    assert str(peaks[2]) in table[3]


def test_scores_equal_those_of_keras(rtconv_command, ramp_wav, tmp_path):
    """Train by command, replay by command; the oracle is Keras with the pickled weights."""
    import keras

    out = tmp_path / "ramp"
    done = rtconv_command("train", ROOT / "configs" / "ramp.yaml", "-o", out)
    assert done.returncode == 0, done.stderr
    path, x, _ = ramp_wav
    scores = tmp_path / "s.npy"
    done = rtconv_command("replay", f"{out}.safetensors", path, "--scores", scores)
    assert done.returncode == 0
    with open(f"{out}.pickle", "rb") as file:
        weights = pickle.load(file)
    model = keras.Sequential(
        [keras.Input((None, 1)), keras.layers.Conv1D(1, 8, padding="causal", use_bias=False)]
    )
    model.set_weights(weights)
    expected = np.asarray(model(x[np.newaxis, :, np.newaxis]))[0, :, 0]
    written = np.load(scores)
    assert written.shape == x.shape
    assert np.abs(written - expected).max() <= 1e-6 * max(1, np.abs(expected).max())


def test_convert(rtconv_command, tmp_path):
    out = tmp_path / "again"
    done = rtconv_command(
        "convert", ROOT / "models/ramp.pickle", "--config", ROOT / "configs/ramp.yaml", "-o", out
    )
    assert done.returncode == 0, done.stderr
    assert "of full scale off reference network" in done.stderr
    done = rtconv_command("inspect", f"{out}.safetensors", "--json")
    assert json.loads(done.stdout)["receptive_field"] == 8


def test_inspect(rtconv_command, tmp_path):
    done = rtconv_command("inspect", RAMP, "--plot", tmp_path / "ramp.png")
    assert done.returncode == 0, done.stderr
    for part in ("8000 Hz", "receptive field 8 samples", "hop 1", "certificate", "optimum"):
        assert part in done.stdout
    assert (tmp_path / "ramp.png").read_bytes().startswith(b"\x89PNG")


def test_several_files_and_one_is_broken(rtconv_command, ramp_wav, tmp_path):
    path, _, peaks = ramp_wav
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    done = rtconv_command("replay", RAMP, path, broken, tmp_path / "none.wav", path)
    assert done.returncode == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["sample"] for event in events] == peaks * 2
    assert {event["file"] for event in events} == {str(path)}
    first, second = done.stderr.splitlines()
    assert first.startswith(f"rtconv: {broken}: is not a sound file")
    assert second == f"rtconv: {tmp_path / 'none.wav'}: there is no such file"


def test_resampling_and_mixing_are_said(rtconv_command, tmp_path):
    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.zeros((44100, 2)), 44100)
    done = rtconv_command("replay", RAMP, path)
    assert done.stderr == f"{path}: resampled from 44100 Hz to 8000 Hz, mean of its 2 channels\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["replay", "none.safetensors", "x.wav"], 1, "none.safetensors: there is no such file"),
        (["replay", "{ramp}", "x.wav"], 1, "x.wav: there is no such file"),
        (["replay", "{ramp}"], 2, "Missing argument"),
        (["replay", "{ramp}", "x.wav", "--format", "xml"], 2, "xml"),
        (["replay", "{ramp}", "x.wav", "--channel", "left"], 2, "left"),
        (["replay", "{ramp}", "a.wav", "b.wav", "--scores", "s.npy"], 2, "--scores takes one"),
        (["replay", "{ramp}", "a.wav", "b.wav", "--format", "labels"], 2, "one FILE"),
        (["train", "none.yaml"], 1, "none.yaml: cannot be read"),
        (["convert", "{ramp}", "--config", "{config}"], 1, "not a pickled list of weights"),
        (["fly"], 2, "No such command"),
        (["inspect", "{config}"], 1, "is not a detector, or a damaged one"),
    ],
)
def test_wrong_use(rtconv_command, tmp_path, arguments, code, says):
    places = {"ramp": RAMP, "config": ROOT / "configs" / "ramp.yaml"}
    done = rtconv_command(*(a.format(**places) for a in arguments), cwd=tmp_path)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1
    assert not os.listdir(tmp_path)


def test_debug_shows_the_traceback(rtconv_command):
    done = rtconv_command("replay", "none.safetensors", "x.wav", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_reader_that_leaves_ends_it_quietly(ramp_wav):
    path = str(ramp_wav[0])
    done = subprocess.run(
        f"{sys.executable} -m rtconv replay {RAMP} {' '.join([path] * 50)} | head -n 1",
        shell=True, capture_output=True, text=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_the_lectures_own_streaming_program_finds_the_ramp_at_the_same_sample():
    """Reads the pickle plainly, reduces and flips it, shifts samples into a Keras Dense layer."""
    import keras

    with open(ROOT / "models" / "ramp.pickle", "rb") as file:
        weights = pickle.load(file)
    weights[0] = weights[0][:, 0, :]
    weights[0] = np.flip(weights[0], axis=0)
    model = keras.Sequential(
        [keras.Input((len(weights[0]),)), keras.layers.Dense(1, use_bias=False)]
    )
    model.set_weights(weights)
    ramp = np.hstack((np.zeros(9), np.arange(5), np.zeros(9)))
    signalblock = np.zeros((1, len(weights[0])))
    output = []
    for sample in ramp:
        signalblock[:, 1:] = signalblock[:, 0:-1]
        signalblock[0, 0] = sample
        output.append(float(np.asarray(model(signalblock))[0, 0]))

    import rtconv

    scores = rtconv.load(RAMP).process(ramp.astype(np.float32))
    assert int(np.argmax(output)) == int(scores.argmax()) == 16
    np.testing.assert_allclose(scores, output, atol=1e-6)


def test_bench(rtconv_command):
    done = rtconv_command("bench", RAMP, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["blocksize"] for row in result["speeds"]] == [1, 16, 64, 256, 1024, None]
    assert all(0 < row["peak_fraction"] < 1 for row in result["speeds"])
