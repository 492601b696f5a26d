"""The ramp in PyTorch, with its own training loop.

The notes, "Implementation using Python Pytorch". They say that the weights appear
time-reversed compared to Keras, because PyTorch correlates. That was so with Keras on
Theano, which convolved. On TensorFlow, JAX and PyTorch Keras correlates as well, and
the weights come in the same order; `orders` shows it on one kernel.
"""

from typing import Any

import numpy as np
import torch
from scipy import signal

from rtconv.lecture import ramp
from rtconv.lecture.sheet import Sheet

#: A kernel that shows its direction, in the order of its indices.
KERNEL = np.array([1, 2, 3], np.float32)


def train() -> torch.nn.Conv1d:
    """The network of the notes in PyTorch, trained as `rtconv.lecture.ramp.train` does."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # for eight taps, more only wait for each other
    # Both ends are padded: the outputs after the signal's end are cut off.
    network = torch.nn.Conv1d(1, 1, ramp.KERNEL_SIZE, padding=ramp.KERNEL_SIZE - 1, bias=False)
    loss = torch.nn.L1Loss()
    optimizer = torch.optim.Adam(network.parameters())
    x, target = (torch.from_numpy(a)[None, None] for a in (ramp.X, ramp.TARGET))
    for _ in range(ramp.EPOCHS):
        optimizer.zero_grad()
        loss(network(x)[..., : len(ramp.X)], target).backward()
        optimizer.step()
    return network


def orders() -> dict[str, np.ndarray]:
    """What each framework makes of an impulse and `KERNEL`: correlation reverses it."""
    from rtconv.training.keras_model import keras

    impulse = np.array([0, 0, 1, 0, 0], np.float32)
    keras_layer = keras.layers.Conv1D(1, 3, use_bias=False)
    keras_layer.build((None, 5, 1))
    keras_layer.set_weights([KERNEL[:, None, None]])
    x = torch.from_numpy(impulse)[None, None]
    return {
        "correlation (SciPy)": signal.correlate(impulse, KERNEL, "valid"),
        "true convolution (SciPy)": signal.convolve(impulse, KERNEL, "valid"),
        "Keras Conv1D": keras_layer(impulse[None, :, None]).numpy().ravel(),
        "PyTorch Conv1d": torch.nn.functional.conv1d(x, torch.from_numpy(KERNEL)[None, None])
        .numpy()
        .ravel(),
    }


def run(sheet: Sheet) -> dict[str, Any]:
    """Train, import the ``state_dict``, compare the orders."""
    network = train()
    x = torch.from_numpy(ramp.X)[None, None]
    with torch.no_grad():
        output = network(x)[0, 0, : len(ramp.X)].numpy()
    error = float(np.abs(output - ramp.TARGET).mean())

    kernel = network.state_dict()["weight"].numpy()  # (out, in, kernel_size)
    detector = ramp.detector([kernel], order="pytorch")
    difference = float(np.abs(detector.process(ramp.X) - output).max())
    print(f"Mean absolute error: {error:.5f}, peak {output.max():.3f} at sample {output.argmax()}")
    print(f"Streaming network from the state_dict against PyTorch: {difference:.1e}\n")

    answers = orders()
    print(f"An impulse through the kernel {KERNEL.tolist()}:")
    for name, answer in answers.items():
        print(f"  {name:25} {answer.tolist()}")
    _draw(sheet, output, answers)
    return {
        "error": error,
        "peak_sample": int(output.argmax()),
        "difference": difference,
        "orders": {name: answer.tolist() for name, answer in answers.items()},
    }


def _draw(sheet: Sheet, output: np.ndarray, answers: dict[str, np.ndarray]) -> None:
    with sheet.figure("pytorch") as axes:
        axes.plot(output, "k.-")
        axes.set(title="The output of PyTorch", xlabel="sample", ylabel="score")
    with sheet.figure("orders", columns=4, sharey=True) as axes:
        for axis, (name, answer) in zip(axes, answers.items(), strict=True):
            axis.stem(answer, linefmt="k-", markerfmt="ko", basefmt="k-")
            axis.set(title=name, xlabel="output sample", xticks=range(3))
        axes[0].set_ylabel("answer to an impulse")
