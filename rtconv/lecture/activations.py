"""The activation functions of the notes, and their derivatives.

The notes, "Artificial Neural Networks": the sigmoid behaves like a soft limiter and
has the derivative ``e^x / (1 + e^x)^2``. Often used as well: tanh, relu, and the relu
that leaks ``alpha x`` below zero. Back-propagation needs the derivatives; here they
are written out and compared with automatic differentiation.
"""

import numpy as np

from rtconv.lecture.sheet import Sheet
from rtconv.model.layers import ACTIVATIONS, LEAKY_RELU_SLOPE

#: Derivatives of four of `rtconv.model.layers.ACTIVATIONS`.
DERIVATIVES = {
    "sigmoid": lambda x: np.exp(x) / (1 + np.exp(x)) ** 2,
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "relu": lambda x: np.where(x > 0, 1.0, 0.0),
    "leaky_relu": lambda x: np.where(x < 0, LEAKY_RELU_SLOPE, 1.0),
}


def run(sheet: Sheet) -> dict[str, float]:
    """Compare values and derivatives with TensorFlow, and draw them."""
    from rtconv.training.keras_model import keras, tensorflow

    x = np.arange(-6, 6, 0.1)
    numbers = {}
    print("Largest difference from Keras, and of the derivative from automatic differentiation:")
    for name, derivative in DERIVATIVES.items():
        variable = tensorflow.Variable(x)
        options = {"negative_slope": LEAKY_RELU_SLOPE} if name == "leaky_relu" else {}
        with tensorflow.GradientTape() as tape:
            y = getattr(keras.ops, name)(variable, **options)
        gradient = tape.gradient(y, variable).numpy()
        value_difference = float(np.abs(ACTIVATIONS[name](x) - y.numpy()).max())
        derivative_difference = float(np.abs(derivative(x) - gradient).max())
        print(f"  {name:10} {value_difference:8.1e} {derivative_difference:10.1e}")
        numbers[f"{name} value"] = value_difference
        numbers[f"{name} derivative"] = derivative_difference
    with sheet.figure("activations", rows=2, columns=2, sharex=True) as axes:
        for axis, (name, derivative) in zip(axes.flat, DERIVATIVES.items(), strict=True):
            axis.plot(x, ACTIVATIONS[name](x), label="f(x)")
            axis.plot(x, derivative(x), label="f'(x)")
            axis.set(title=name)
            axis.legend()
        for axis in axes[1]:
            axis.set_xlabel("x (weighted sum, without unit)")
        for axis in axes[:, 0]:
            axis.set_ylabel("value")
    return numbers
