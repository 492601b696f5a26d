"""A causal Conv1D layer finds a ramp in a sequence.

The notes, "Python Keras Convolutional Neural Network Example". The input is the
ramp 0 1 2 3 4 between zeros, the target is 1 where it shall be reported and 0
everywhere else. One filter of eight taps, without a bias, is trained on the mean
absolute error with Adam. For this loss the optimum can be computed: it is a linear
program, and training should come close to it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rtconv.config import DetectionSettings, LayerSettings
from rtconv.lecture.sheet import Sheet
from rtconv.model.dense import Order, layers_from_weights
from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer
from rtconv.model.weights import load_weights, save_weights
from rtconv.stream.detector import Detector
from rtconv.training.closed_form import l1_optimum

#: Nine zeros, the ramp, nine zeros: 23 samples.
X = np.hstack([np.zeros(9), np.arange(5), np.zeros(9)]).astype(np.float32)
#: 1 at sample 16, where the ramp is reported.
TARGET = np.eye(len(X), dtype=np.float32)[16]
KERNEL_SIZE = 8
EPOCHS = 5000
WEIGHTS = "convnetweights.pickle"


def train(padding: Literal["causal", "valid"] = "causal") -> Any:
    """The Keras network of the notes, trained.

    Parameters
    ----------
    padding : {'causal', 'valid'}
        With 'valid' the target is shortened by ``KERNEL_SIZE - 1``.

    Returns
    -------
    keras.Sequential
    """
    from rtconv.training.keras_model import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None, 1)),
            keras.layers.Conv1D(
                filters=1, kernel_size=KERNEL_SIZE, padding=padding, use_bias=False
            ),
        ]
    )
    # One epoch over 5000 copies takes the same steps as 5000 epochs, in seconds.
    model.compile(loss="mean_absolute_error", optimizer="adam", steps_per_execution=500)
    target = TARGET if padding == "causal" else TARGET[KERNEL_SIZE - 1 :]
    inputs, targets = (np.tile(x[:, np.newaxis], (EPOCHS, 1, 1)) for x in (X, target))
    model.fit(inputs, targets, batch_size=1, shuffle=False, verbose=0)
    return model


def predict(model: Any, x: np.ndarray = X) -> np.ndarray:
    """Output of a Keras network for one signal, (frames,)."""
    return model.predict(x[np.newaxis, :, np.newaxis], verbose=0)[0, :, 0]


def detector_of(layers: Sequence[Layer]) -> Detector:
    """A detector of the ramp."""
    detection = DetectionSettings(threshold=0.5, refractory=0, max_hold=0.001)
    output = Output(name="ramp", **detection.picker().model_dump())
    return Detector(Model("ramp", 8000, layers, [output]))


def detector(weights: list[np.ndarray], order: Order = "correlation") -> Detector:
    """The detector of Conv1D weights, in Dense format."""
    layer = {"filters": 1, "kernel_size": KERNEL_SIZE, "use_bias": False}
    network = [LayerSettings.model_validate(layer)]
    return detector_of(layers_from_weights(weights, network, order=order))


def read_weights(sheet: Sheet) -> list[np.ndarray]:
    """The weights that `run` saved; without the file, it is run first."""
    path = sheet.folder / WEIGHTS
    if not path.exists():
        print(f"There is no {path} yet, the experiment ramp comes first.\n")
        run(sheet)
        print()
    print(f"Weights: {path}")
    return load_weights(path)


def run(sheet: Sheet) -> dict[str, float]:
    """Train, compare with the optimum, save the weights."""
    model = train()
    weights = model.get_weights()
    output = predict(model)
    error = float(np.abs(output - TARGET).mean())
    optimal_weights, optimum = l1_optimum(X, TARGET, KERNEL_SIZE)
    difference = float(np.abs(detector(weights).process(X) - output).max())

    path = sheet.folder / WEIGHTS
    save_weights(path, weights)
    print(f"Mean absolute error after {EPOCHS} epochs of Adam: {error:.5f}")
    print(f"Least possible, by linear programming:          {optimum:.5f}")
    print(f"Output at sample {TARGET.argmax()}, where the target is 1:      {output.max():.3f}")
    print(f"Streaming network against Keras, largest difference: {difference:.1e}")
    print(f"Weights saved: {path}")
    _draw(sheet, output, weights[0][:, 0, 0], optimal_weights)
    return {
        "error": error,
        "optimum": optimum,
        "peak": float(output.max()),
        "peak_sample": int(output.argmax()),
        "difference": difference,
    }


def _draw(sheet: Sheet, output: np.ndarray, weights: np.ndarray, optimal: np.ndarray) -> None:
    with sheet.figure("ramp", rows=3) as (top, middle, bottom):
        top.plot(output, "k.-", label="network")
        top.plot(TARGET, "o", color="0.5", fillstyle="none", label="target")
        top.set(title="The output", xlabel="sample", ylabel="score")
        middle.plot(weights, "k.-", label="trained with Adam")
        middle.plot(optimal[::-1], "s", color="0.5", fillstyle="none", label="L1 optimum")
        middle.set(title="The weights", xlabel="tap (the last meets the newest sample)")
        middle.set(ylabel="weight")
        bottom.plot(X, "k.-")
        bottom.set(title="The input", xlabel="sample", ylabel="amplitude")
        top.legend()
        middle.legend()
