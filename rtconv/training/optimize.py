"""Many steps of the optimiser in one compiled call."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rtconv.config import TrainingSettings
from rtconv.training.keras_model import keras, tensorflow


class Optimization:
    """A Keras model with its optimiser and loss.

    Parameters
    ----------
    model : keras.Model
    settings : TrainingSettings
        Loss, optimizer and learning_rate are taken from it.

    Attributes
    ----------
    step : int
        Steps done.
    """

    def __init__(self, model: Any, settings: TrainingSettings) -> None:
        self.model = model
        self.step = 0
        self._optimizer = keras.optimizers.get(settings.optimizer)
        self._optimizer.learning_rate = settings.learning_rate
        self._optimizer.build(model.trainable_variables)
        self._loss = keras.losses.get(settings.loss)
        self._compiled: Callable[..., Any] = tensorflow.function(self._steps, jit_compile=True)

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
        loss = float(self._compiled(inputs, targets, weights))
        self.step += len(inputs)
        return loss

    def _steps(self, inputs: Any, targets: Any, weights: Any) -> Any:
        total = tensorflow.constant(0.0)
        for i in tensorflow.range(len(inputs)):
            with tensorflow.GradientTape() as tape:
                scores = self.model(inputs[i], training=True)
                # Losses average over the last axis; with one more, they are per score.
                losses = self._loss(targets[i][..., None], scores[..., None])
                loss = tensorflow.reduce_mean(losses * weights[i])
            variables = self.model.trainable_variables
            self._optimizer.apply(tape.gradient(loss, variables), variables)
            total += loss
        return total / len(inputs)
