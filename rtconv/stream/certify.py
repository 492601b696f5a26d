"""The certificate: the streaming network held against another implementation."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rtconv.errors import RtconvError
from rtconv.model.detector import Certificate, Model, digest
from rtconv.stream.network import open_network

#: Largest difference, relative to full scale, at which a conversion is accepted.
TOLERANCE = 1e-5

Oracle = Callable[[np.ndarray], np.ndarray]

_BLOCKS = {"whole": 1 << 62, "blocks of 1": 1, "blocks of 63": 63, "blocks of 441": 441}


def certify(model: Model, oracle: Oracle, oracle_name: str) -> Model:
    """Compare the streaming network with an oracle, and note the result.

    Parameters
    ----------
    model : Model
    oracle : callable
        Scores (frames, outputs) of a whole signal (frames, channels).
    oracle_name : str
        Name and version, for the certificate.

    Returns
    -------
    Model
        The same with a certificate.

    Raises
    ------
    RtconvError
        If the scores differ by more than `TOLERANCE` of full scale, or depend
        on the partition of the signal.
    """
    network = open_network(model.layers)
    largest = 0.0
    tested = []
    for name, signal in _signals(model).items():
        expected = oracle(signal)
        scale = max(1.0, float(np.abs(expected).max()))
        whole = None
        for partition, size in _BLOCKS.items():
            network.reset()
            blocks = [signal[n : n + size] for n in range(0, len(signal), size)]
            scores = np.concatenate([network.step(block) for block in blocks])
            largest = max(largest, float(np.abs(scores - expected).max()) / scale)
            tested.append(f"{name}, {len(signal)} samples, {partition}")
            whole = scores if whole is None else whole
            if not np.array_equal(scores, whole):
                raise RtconvError(f"{model.name}: {name} in {partition} gives other scores")
    if not largest <= TOLERANCE:  # also refuses NaN
        raise RtconvError(
            f"{model.name}: the streaming network is {largest:.2g} of full scale off {oracle_name}, "
            f"{TOLERANCE:g} is allowed; check the order of the taps"
        )
    certificate = Certificate(
        oracle=oracle_name,
        largest_difference=largest,
        tested=tested,
        digest=digest(model.layers),
    )
    return replace(model, certificate=certificate)


def _signals(model: Model) -> dict[str, np.ndarray]:
    """Noise, impulses and silence, long enough to fill the receptive field."""
    length = model.memory + 3 * model.hop + 500
    shape = (length, model.channels)
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, shape).astype(np.float32)
    impulses = np.zeros(shape, np.float32)
    impulses[:: max(1, length // 5)] = 1
    return {"noise": noise, "impulses": impulses, "silence": np.zeros(shape, np.float32)}
