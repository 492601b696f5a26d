"""The ramp without zero-padding.

The notes, ``padding='valid'``: no zeros are put before the signal, so the first
``kernel_size - 1`` outputs are missing. With a target that is shortened by as many
samples the network learns the same.
"""

import numpy as np

from rtconv.lecture import ramp
from rtconv.lecture.sheet import Sheet


def run(sheet: Sheet) -> dict[str, float]:
    """Train both ways, and give the weights of one to the other."""
    gap = ramp.KERNEL_SIZE - 1
    causal, valid = ramp.train("causal"), ramp.train("valid")
    output, expected = ramp.predict(valid), ramp.predict(causal)[gap:]
    trained_apart = float(np.abs(output - expected).max())

    valid.set_weights(causal.get_weights())
    same_weights = float(np.abs(ramp.predict(valid) - expected).max())

    print(f"Input: {len(ramp.X)} samples, output: {len(output)}, {gap} fewer")
    print(f"Peak at output {output.argmax()}, which is sample {output.argmax() + gap}")
    print("Largest difference from the causal output, from there on:")
    print(f"  with the weights of the causal network: {same_weights:.1e}")
    print(f"  trained with the shortened target:      {trained_apart:.1e}")
    with sheet.figure("valid") as axes:
        causal_output = ramp.predict(causal)
        axes.plot(causal_output, "k.-", label="padding='causal'")
        axes.plot(
            np.arange(gap, len(ramp.X)),
            output,
            "s",
            color="0.5",
            fillstyle="none",
            label="padding='valid', drawn seven samples later",
        )
        axes.set(title="The two outputs", xlabel="sample", ylabel="score")
        axes.legend()
    return {
        "outputs": len(output),
        "peak": int(output.argmax()),
        "same_weights": same_weights,
        "trained_apart": trained_apart,
    }
