"""Detectors and sounds for the tests of listening."""

import numpy as np

from rtconv.model.detector import Model, Output, save_model
from rtconv.model.layers import Layer
from rtconv.stream.certify import certify
from rtconv.stream.reference import ReferenceNetwork

#: The ramp that is listened for; its score is 1 at its end.
RAMP = np.arange(1, 9, dtype=np.float32) / 8


def ramp_model(samplerate=48000, **settings):
    """A matched filter for the ramp."""
    dense = (RAMP[::-1] / (RAMP @ RAMP))[:, np.newaxis].astype(np.float32)
    detection = {
        "threshold": 0.9,
        "release": 0.5,
        "refractory": 0.002,
        "max_hold": 0.01,
        "decision": "peak",
    }
    model = Model(
        "ramp",
        samplerate,
        [Layer(dense, kernel_size=len(RAMP))],
        [Output(name="ramp", **detection | settings)],
    )
    return certify(model, lambda x: ReferenceNetwork(model.layers).step(x), "reference")


def save_ramp_detector(path, samplerate=48000, **settings):
    """Write the ramp's detector, and give its path."""
    save_model(path, ramp_model(samplerate, **settings))
    return path


def ramps_in_noise(frames, count=None, seed=0):
    """Weak noise with ramps at random distances of at least 400 samples."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.01, 0.01, frames).astype(np.float32)
    places = rng.permutation(np.arange(400, frames - 400, 400))[: count or frames // 2400]
    for place in np.sort(places) + rng.integers(0, 300, len(places)):
        x[place : place + len(RAMP)] = RAMP
    return x
