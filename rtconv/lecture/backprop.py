"""Back-propagation from scratch.

The notes, "Artificial Neural Networks": a network with one hidden layer, sigmoids, and
the squared error, trained by the local rule

    update = alpha * delta * derivative * input

which is the same for every node; only the delta differs. An output node takes it from
the desired output, a hidden node gets it propagated back. The numbers in brackets are
those of the notes' equations. The constant inputs x0 = h0 = 1 carry the biases.
"""

from collections.abc import Callable

import numpy as np

from rtconv.lecture.activations import DERIVATIVES
from rtconv.lecture.sheet import Sheet
from rtconv.model.layers import ACTIVATIONS

STEPS = 2000
#: alpha, of plain gradient descent and of Adam.
GRADIENT_RATE, ADAM_RATE = 5.0, 0.05

Update = Callable[[list[np.ndarray]], list[np.ndarray]]


class Network:
    """A network with one hidden layer.

    Parameters
    ----------
    inputs, hidden, outputs : int
        Numbers of nodes, without the constant ones.
    seed : int

    Attributes
    ----------
    weights : list of ndarray
        ``w_h``, (inputs + 1, hidden), and ``w_o``, (hidden + 1, outputs); row 0 meets
        the constant input.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weights = [
            rng.normal(size=(inputs + 1, hidden)) / np.sqrt(inputs + 1),
            rng.normal(size=(hidden + 1, outputs)) / np.sqrt(hidden + 1),
        ]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Outputs, (examples, outputs), for x of shape (examples, inputs)."""
        w_h, w_o = self.weights
        h = ACTIVATIONS["sigmoid"](_with_one(x) @ w_h)
        return ACTIVATIONS["sigmoid"](_with_one(h) @ w_o)

    def loss(self, x: np.ndarray, d: np.ndarray) -> float:
        """Half the squared error, summed over the outputs, averaged over the examples."""
        return float(0.5 * np.sum((self.predict(x) - d) ** 2) / len(x))

    def gradients(self, x: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
        """Derivative of `loss` by each weight.

        Parameters
        ----------
        x : ndarray, (examples, inputs)
        d : ndarray, (examples, outputs)
            Desired outputs.

        Returns
        -------
        list of ndarray, as `weights`
        """
        f, f_derivative = ACTIVATIONS["sigmoid"], DERIVATIVES["sigmoid"]
        w_h, w_o = self.weights
        x = _with_one(x)
        s_h = x @ w_h
        h = _with_one(f(s_h))
        s_o = h @ w_o
        # (4) in (3): output delta, times derivative, times the input h from the hidden nodes.
        delta = f(s_o) - d
        local = delta * f_derivative(s_o)
        gradient_o = h.T @ local / len(x)
        # (5), (6): the delta comes back through the weights; h0 = 1 has none before it.
        delta_h = local @ w_o[1:].T
        gradient_h = x.T @ (delta_h * f_derivative(s_h)) / len(x)
        return [gradient_h, gradient_o]

    def step(self, x: np.ndarray, d: np.ndarray, update: Update) -> None:
        """One step: (2) for gradient descent, or what else `update` makes of the gradients."""
        for w, change in zip(self.weights, update(self.gradients(x, d)), strict=True):
            w -= change


def gradient_descent(alpha: float) -> Update:
    """Plain gradient descent, (2): ``alpha`` times the gradient."""
    return lambda gradients: [alpha * g for g in gradients]


class Adam:
    """The mean gradient over its root mean square (Kingma and Ba, 2015, algorithm 1)."""

    def __init__(self, alpha: float, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.alpha, self.beta1, self.beta2 = alpha, beta1, beta2
        self.steps = 0
        self.means: list[np.ndarray] = []
        self.squares: list[np.ndarray] = []

    def __call__(self, gradients: list[np.ndarray]) -> list[np.ndarray]:
        """What to subtract from the weights."""
        if not self.steps:
            self.means = [np.zeros_like(g) for g in gradients]
            self.squares = [np.zeros_like(g) for g in gradients]
        self.steps += 1
        changes = []
        for g, m, v in zip(gradients, self.means, self.squares, strict=True):
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g**2 - v)
            mean = m / (1 - self.beta1**self.steps)
            square = v / (1 - self.beta2**self.steps)
            changes.append(self.alpha * mean / (np.sqrt(square) + 1e-7))
        return changes


def _with_one(x: np.ndarray) -> np.ndarray:
    """Put the constant input before the others."""
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def tensorflow_gradients(network: Network, x: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
    """The same as `Network.gradients`, by automatic differentiation."""
    from rtconv.training.keras_model import tensorflow

    w_h, w_o = variables = [tensorflow.Variable(w) for w in network.weights]
    with tensorflow.GradientTape() as tape:
        h = tensorflow.sigmoid(x @ w_h[1:] + w_h[0])
        o = tensorflow.sigmoid(h @ w_o[1:] + w_o[0])
        loss = 0.5 * tensorflow.reduce_sum((o - d) ** 2) / len(x)
    return [gradient.numpy() for gradient in tape.gradient(loss, variables)]


def run(sheet: Sheet) -> dict[str, float]:
    """Learn whether a point lies in a ring, with gradient descent and with Adam."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2))
    radius = np.hypot(x[:, 0], x[:, 1])
    d = ((radius > 0.4) & (radius < 0.8)).astype(float)[:, np.newaxis]
    fresh = Network(inputs=2, hidden=12, outputs=1)
    pairs = zip(fresh.gradients(x, d), tensorflow_gradients(fresh, x, d), strict=True)
    difference = max(
        float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in pairs
    )
    print(f"Gradients against TensorFlow's, relative to the largest: {difference:.1e}")
    numbers, curves = {"difference": difference}, {}
    updates: dict[str, Update] = {
        "gradient descent": gradient_descent(GRADIENT_RATE),
        "Adam": Adam(ADAM_RATE),
    }
    for name, update in updates.items():
        network = Network(inputs=2, hidden=12, outputs=1)
        losses = [network.loss(x, d)]
        for _ in range(STEPS):
            network.step(x, d, update)
            losses.append(network.loss(x, d))
        curves[name] = losses
        correct = float(np.mean((network.predict(x) > 0.5) == (d > 0.5)))
        print(
            f"{name}: loss {losses[0]:.4f} -> {losses[-1]:.4f} in {STEPS} steps, "
            f"{correct:.1%} of the points right"
        )
        numbers |= {f"{name} loss": losses[-1], f"{name} correct": correct}
    with sheet.figure("backprop") as axes:
        for name, losses in curves.items():
            axes.semilogy(losses, label=name)
        axes.set(
            title="Is the point in the ring?", xlabel="step", ylabel="loss (half squared error)"
        )
        axes.legend()
    return numbers
