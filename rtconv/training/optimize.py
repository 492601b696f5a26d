"""Many steps of the optimiser in one compiled call."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rtconv.config import TrainingSettings
from rtconv.training.keras_model import keras, tensorflow

#: Share of the steps in which the cosine schedule warms up.
WARM_UP = 0.01
#: Steps from which on they are compiled with XLA.
WORTH_XLA = 1000
#: Of the moving average of the weights.
AVERAGING = 0.995


def learning_rates(settings: TrainingSettings, steps: int) -> np.ndarray:
    """Learning rate of every step."""
    if settings.schedule == "constant":
        return np.full(steps, settings.learning_rate, np.float32)
    step = np.arange(steps)
    warm = np.minimum(1, (step + 1) / max(1, WARM_UP * steps))
    cosine = 0.5 * (1 + np.cos(np.pi * step / steps)) + 0.005
    return (settings.learning_rate * warm * cosine).astype(np.float32)


class Optimization:
    """A Keras model with its optimiser and loss.

    Parameters
    ----------
    model : keras.Model
    settings : TrainingSettings
    steps : int
        Of the whole training.

    Attributes
    ----------
    step : int
        Steps done.
    """

    def __init__(self, model: Any, settings: TrainingSettings, steps: int) -> None:
        self.model = model
        self.step = 0
        self._rates = learning_rates(settings, steps)
        decay = {"weight_decay": settings.weight_decay} if settings.weight_decay else {}
        self._optimizer = keras.optimizers.get(
            {"class_name": settings.optimizer, "config": {"learning_rate": 0.001, **decay}}
        )
        self._optimizer.build(model.trainable_variables)
        self._scored, self._loss = _loss_of(model, settings)
        self._average = [keras.Variable(w, trainable=False) for w in model.weights]
        # XLA makes a step a third faster, and takes some ten seconds. The loop around it
        # stays outside: within one of its loops XLA convolves thirty times slower.
        self._step = tensorflow.function(self._one_step, jit_compile=steps >= WORTH_XLA)
        self._compiled: Callable[..., Any] = tensorflow.function(self._run)

    def run(self, inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """One step for each batch.

        Parameters
        ----------
        inputs : ndarray, (steps, batch, frames, channels), float32
        targets, weights : ndarray, (steps, batch, frames / hop, outputs), float32
            The weights scale the loss of each score; 0 ignores it.

        Returns
        -------
        float
            Mean loss.
        """
        rates = self._rates[self.step : self.step + len(inputs)]
        # Early weights are far from where the training goes: the average forgets them.
        averaging = np.float32(min(AVERAGING, self.step / (self.step + 10 * len(inputs))))
        loss = float(self._compiled(inputs, targets, weights, rates, averaging))
        self.step += len(inputs)
        return loss

    def averaged_weights(self) -> list[np.ndarray]:
        """Moving average of ``model.get_weights()`` over the last steps."""
        return [w.value.numpy() for w in self._average]

    def state(self) -> dict[str, list[np.ndarray]]:
        """All that the next step depends on."""
        return {
            name: [variable.value.numpy() for variable in variables]
            for name, variables in self._variables().items()
        }

    def restore(self, step: int, state: dict[str, list[np.ndarray]]) -> None:
        """Go on from a `state` after so many steps."""
        self.step = step
        for name, variables in self._variables().items():
            for variable, value in zip(variables, state[name], strict=True):
                variable.assign(value)

    def _variables(self) -> dict[str, list[Any]]:
        return {
            "weights": self.model.variables,  # with the seeds of the dropout
            "average": self._average,
            "optimizer": self._optimizer.variables,
        }

    def _run(self, inputs: Any, targets: Any, weights: Any, rates: Any, averaging: Any) -> Any:
        total = tensorflow.constant(0.0)
        for i in tensorflow.range(len(inputs)):
            total += self._step(inputs[i], targets[i], weights[i], rates[i], averaging)
        return total / len(inputs)

    def _one_step(self, x: Any, target: Any, weights: Any, rate: Any, averaging: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            scores = self._scored(x, training=True)
            loss = tensorflow.reduce_mean(self._loss(target, scores) * weights)
        variables = self.model.trainable_variables
        self._optimizer.learning_rate.assign(rate)
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        for average, current in zip(self._average, self.model.weights, strict=True):
            average.assign(averaging * average + (1 - averaging) * current)
        return loss


def _loss_of(model: Any, settings: TrainingSettings) -> tuple[Any, Callable[[Any, Any], Any]]:
    """What the loss is a function of, and the loss of every score.

    The cross-entropies are taken before the last sigmoid, where they do not saturate.
    """
    name = settings.chosen_loss
    if not name.endswith("crossentropy"):
        loss = keras.losses.get(name)
        # Losses average over the last axis; with one more, they are per score.
        return model, lambda target, score: loss(target[..., None], score[..., None])

    def crossentropy(target: Any, logit: Any) -> Any:
        entropy = tensorflow.nn.sigmoid_cross_entropy_with_logits(target, logit)
        if name == "binary_crossentropy":
            return entropy
        # As "quality focal loss" (X. Li et al., "Generalized Focal Loss", 2020), with a
        # constant factor: what is nearly right counts less.
        distance = tensorflow.abs(target - tensorflow.sigmoid(logit))
        return tensorflow.stop_gradient(tensorflow.sqrt(distance)) * entropy

    return keras.Model(model.inputs, model.layers[-1].input), crossentropy
