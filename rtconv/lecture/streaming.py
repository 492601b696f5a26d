"""The ramp in real time: a shifting buffer, one output for each new sample.

The notes, "Real-Time Online-Implementation of Convolutional Neural Networks". The
samples slide along the filter: a new one enters the buffer at index 0 and pushes the
others up, and the buffer times the Dense weights is the output. This is the whole
principle of `rtconv.stream.reference`, and what its compiled twin must agree with.
"""

import numpy as np

from rtconv.lecture import ramp
from rtconv.lecture.sheet import Sheet
from rtconv.model.dense import dense_from_conv1d

#: Samples whose buffer is printed: from the last zero to the report of the ramp.
PRINTED = range(9, 17)


def stream(dense: np.ndarray, verbose: bool = False) -> np.ndarray:
    """Output for each sample of the ramp, one at a time.

    Parameters
    ----------
    dense : ndarray, (kernel_size, 1)
        Row 0 meets the newest sample.
    verbose : bool
        Print the buffer for `PRINTED`.

    Returns
    -------
    ndarray, (frames,)
    """
    buffer = np.zeros((1, len(dense)), np.float32)
    output = np.zeros(len(ramp.X), np.float32)
    for n, sample in enumerate(ramp.X):
        buffer[:, 1:] = buffer[:, :-1]
        buffer[0, 0] = sample
        output[n] = (buffer @ dense)[0, 0]
        if verbose and n in PRINTED:
            print(f"{n:6}  {' '.join(f'{x:2.0f}' for x in buffer[0])}  {output[n]:7.3f}")
    return output


def run(sheet: Sheet) -> dict[str, float]:
    """Stream the ramp with the right and with the wrong order of the taps."""
    weights = ramp.read_weights(sheet)
    print("\nsample  buffer, newest first     output")
    output = stream(dense_from_conv1d(weights[0]), verbose=True)
    wrong = stream(dense_from_conv1d(weights[0], order="convolution"))

    from rtconv.training.keras_model import keras

    network = keras.Sequential(
        [
            keras.Input((None, 1)),
            keras.layers.Conv1D(1, ramp.KERNEL_SIZE, padding="causal", use_bias=False),
        ]
    )
    network.set_weights(weights)
    expected = ramp.predict(network)
    detector = ramp.detector(weights)
    steps = np.concatenate([detector.step(ramp.X[n : n + 1]) for n in range(len(ramp.X))])
    difference = float(np.abs(output - expected).max())
    compiled_difference = float(np.abs(steps - expected).max())
    wrong_difference = float(np.abs(wrong - expected).max())
    print("\nLargest difference from Keras:")
    print(f"  shifting buffer:                    {difference:.1e}")
    print(f"  detector, one sample a step:        {compiled_difference:.1e}")
    print(f"  taps in the wrong order:            {wrong_difference:.2f}")
    with sheet.figure("streaming") as axes:
        axes.plot(expected, "k-", label="Keras, the whole signal at once")
        axes.plot(output, "s", color="0.4", fillstyle="none", label="one sample at a time")
        axes.plot(wrong, "x:", color="0.5", label="taps in the wrong order")
        axes.set(title="The outputs", xlabel="sample", ylabel="score")
        axes.legend()
    return {
        "difference": difference,
        "compiled_difference": compiled_difference,
        "wrong_difference": wrong_difference,
    }
