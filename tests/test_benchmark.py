"""`rtconv bench` drives the network as a callback does, and tells it in numbers."""

import json

import numpy as np
import pytest

from rtconv.model.examples import example_networks
from rtconv.stream import benchmark as module
from rtconv.stream.benchmark import Speed, benchmark, drive, format_benchmark
from rtconv.stream.compiled import CompiledNetwork


def test_driving_leaves_the_state_that_steps_leave():
    layers = example_networks()["M2"]
    x = np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32)
    driven, stepped = CompiledNetwork(layers), CompiledNetwork(layers)
    assert drive(driven, x, 7) > 0
    for i in range(0, 300, 7):
        stepped.step(x[i : i + 7])
    np.testing.assert_array_equal(driven.state, stepped.state)


def test_every_block_size_is_measured_and_offline_is_last(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 2)
    peak, speeds = benchmark(example_networks()["M1"], blocksizes=(1, 64))
    assert [speed.blocksize for speed in speeds] == [1, 64, None]
    assert peak > 0
    assert all(speed.seconds > 0 and speed.peak_fraction > 0 for speed in speeds)


def test_speed_is_told_as_table_and_as_json():
    speeds = [Speed(64, 1e-7, 0.5), Speed(None, 5e-8, 1.0)]
    assert speeds[0].times_real_time(50_000) == pytest.approx(200)
    table = format_benchmark("M1", 50_000, 4e10, speeds)
    assert "40.0 G" in table
    assert table.splitlines()[-1].split() == ["offline", "50.00", "400", "100.0%"]
    found = json.loads(format_benchmark("M1", 50_000, 4e10, speeds, as_json=True))
    assert [row["blocksize"] for row in found["speeds"]] == [64, None]
    assert found["speeds"][0]["ns_per_sample"] == pytest.approx(100)
