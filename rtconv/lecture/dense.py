"""The ramp with a Dense layer over cut-out blocks.

The notes, "Implementation using a Dense Net": instead of shifting the weights along
the signal, cut out the newest block of it and multiply it by them. The notes reverse
the weights, because Keras on Theano convolved; today's Keras correlates, and a block
in the order of time meets the weights as they are. Here the newest sample comes first,
as in real time, and the weights are brought to that order once: the Dense format.
"""

import numpy as np

from rtconv.lecture import ramp
from rtconv.lecture.sheet import Sheet
from rtconv.model.dense import dense_from_conv1d


def run(sheet: Sheet) -> dict[str, float]:
    """All ``siglen - filtlen + 1`` blocks through a Dense layer."""
    from rtconv.training.keras_model import keras

    weights = ramp.read_weights(sheet)
    dense = keras.Sequential(
        [keras.Input((ramp.KERNEL_SIZE,)), keras.layers.Dense(units=1, use_bias=False)]
    )
    dense.set_weights([dense_from_conv1d(weights[0])])
    blocks = np.lib.stride_tricks.sliding_window_view(ramp.X, ramp.KERNEL_SIZE)
    output = dense.predict(blocks[:, ::-1], verbose=0)[:, 0]

    valid = keras.Sequential(
        [keras.Input((None, 1)), keras.layers.Conv1D(1, ramp.KERNEL_SIZE, use_bias=False)]
    )
    valid.set_weights(weights)
    expected = ramp.predict(valid)
    difference = float(np.abs(output - expected).max())
    print(f"{len(output)} blocks of {ramp.KERNEL_SIZE} samples from {len(ramp.X)}")
    print(f"Dense against Conv1D with padding='valid', largest difference: {difference:.1e}")
    with sheet.figure("dense") as axes:
        axes.plot(expected, "k-", label="Conv1D, padding='valid'")
        axes.plot(output, "s", color="0.5", fillstyle="none", label="Dense over blocks")
        axes.set(title="The two outputs", xlabel="block", ylabel="score")
        axes.legend()
    return {"outputs": len(output), "difference": difference}
