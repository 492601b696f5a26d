"""Handwritten digits, with three networks.

The notes name MNIST as the popular example. It is taken through Keras where it can be
downloaded; otherwise scikit-learn's 1797 digits of 8 x 8 pixels do. The networks are
the one from scratch of `rtconv.lecture.backprop`, a Dense one and a convolutional one.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtconv.lecture.backprop import Adam, Network
from rtconv.lecture.sheet import Sheet

#: Seconds without an answer after which the download of MNIST is given up.
DOWNLOAD_TIMEOUT = 3.0
BATCH, LEARNING_RATE = 64, 0.003


@dataclass(frozen=True)
class Digits:
    """Images and what they show, in a part for training and one for testing.

    Attributes
    ----------
    name : str
    images, test_images : ndarray, (examples, height, width, 1), float32
        0 to 1.
    labels, test_labels : ndarray, (examples,)
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_mnist() -> Digits:
    """MNIST through Keras: from its cache, or downloaded.

    Raises
    ------
    Exception
        If it cannot be downloaded.
    """
    from rtconv.training.keras_model import keras

    with _socket_timeout(DOWNLOAD_TIMEOUT):
        (images, labels), (test_images, test_labels) = keras.datasets.mnist.load_data()
    scaled = [(part / 255).astype(np.float32)[..., np.newaxis] for part in (images, test_images)]
    return Digits("MNIST", scaled[0], labels, scaled[1], test_labels)


def load_small() -> Digits:
    """scikit-learn's digits, a random quarter of each for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., np.newaxis]
    images, test_images, labels, test_labels = train_test_split(
        images, bunch.target, test_size=0.25, stratify=bunch.target, random_state=0
    )
    return Digits("scikit-learn's 1797 digits", images, labels, test_images, test_labels)


def load() -> Digits:
    """MNIST where it can be had, otherwise scikit-learn's digits."""
    try:
        return load_mnist()
    except Exception as error:  # Keras raises the plain one
        reason = " ".join(str(error).split())
        print(f"MNIST cannot be downloaded: {reason[:150]}")
        return load_small()


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def from_scratch(digits: Digits) -> float:
    """Accuracy of the network in NumPy, with Adam on small batches."""
    x, test_x = (images.reshape(len(images), -1) for images in (digits.images, digits.test_images))
    d = np.eye(10)[digits.labels]
    network, update = Network(x.shape[1], 64, 10), Adam(0.01)
    rng = np.random.default_rng(0)
    for _ in range(_epochs(digits, 60)):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            network.step(x[batch], d[batch], update)
    return float(np.mean(network.predict(test_x).argmax(axis=1) == digits.test_labels))


def dense_network(shape: tuple[int, ...]) -> Any:
    """Dense layers with relu, over all pixels at once."""
    from rtconv.training.keras_model import keras

    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def convolutional_network(shape: tuple[int, ...]) -> Any:
    """Two convolutional layers, each a bank of two-dimensional filters, then Dense."""
    from rtconv.training.keras_model import keras

    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def train(network: Any, digits: Digits, epochs: int) -> float:
    """Train a Keras network; its accuracy on the test part."""
    from rtconv.training.keras_model import keras

    adam = keras.optimizers.Adam(LEARNING_RATE)
    network.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(digits.images, digits.labels, batch_size=BATCH, epochs=epochs, verbose=0)
    return float(network.evaluate(digits.test_images, digits.test_labels, verbose=0)[1])


def run(sheet: Sheet) -> dict[str, Any]:
    """Train the three networks, and show what the last one took for something else."""
    from rtconv.training.keras_model import keras

    digits = load()
    keras.utils.set_random_seed(0)
    shape = digits.images.shape[1:]
    convolutional = convolutional_network(shape)
    accuracies = {
        "from scratch": from_scratch(digits),
        "Dense": train(dense_network(shape), digits, _epochs(digits, 30)),
        "convolutional": train(convolutional, digits, _epochs(digits, 30)),
    }
    print(
        f"{digits.name}: {len(digits.labels)} for training, {len(digits.test_labels)} for testing"
    )
    for name, accuracy in accuracies.items():
        print(f"  {name:15} {accuracy:.1%} right")
    answers = convolutional.predict(digits.test_images, verbose=0).argmax(axis=1)
    _draw(sheet, digits, answers)
    return {"data": digits.name, **accuracies}


def _epochs(digits: Digits, epochs: int) -> int:
    """As many steps for few images as 4 epochs of many."""
    return epochs if len(digits.labels) < 10_000 else 4


def _draw(sheet: Sheet, digits: Digits, answers: np.ndarray) -> None:
    """The first digits, and then those that were taken for something else."""
    wrong = np.flatnonzero(answers != digits.test_labels)[:8]
    with sheet.figure("digits", rows=2, columns=8, height=1.3) as axes:
        for row, shown in zip(axes, (np.arange(8), wrong), strict=True):
            for axis in row:
                axis.axis("off")
            for axis, i in zip(row, shown, strict=False):
                axis.imshow(digits.test_images[i, ..., 0], cmap="gray_r", vmin=0, vmax=1)
                axis.set_title(f"{digits.test_labels[i]}, answer {answers[i]}", fontsize=8)
