"""Training on mixtures of recordings, epoch by epoch, with mining and calibration."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.config import Config, Method
from rtconv.errors import RtconvError
from rtconv.evaluation.measures import solve_threshold
from rtconv.model.dense import layers_from_weights
from rtconv.model.layers import Layer
from rtconv.training.backgrounds import at_speed
from rtconv.training.batches import Mixer
from rtconv.training.calibrate import (
    Expectation,
    picker_of,
    recordings_record,
    score_patterns,
    suspects,
    thresholds_of,
)
from rtconv.training.checkpoint import load_checkpoint, save_checkpoint
from rtconv.training.computed import computed_layers
from rtconv.training.convert import record_of
from rtconv.training.data import Dataset
from rtconv.training.listening import trace_background
from rtconv.training.progress import Progress

#: Of background that each epoch's misses are measured with.
VALIDATION_SECONDS = 600.0
#: Places that mining keeps from an hour of background, and the score they must reach.
HARD_PER_HOUR, HARD_SCORE = 70.0, 0.05
#: Closed forms that a network is compared with.
TWINS: tuple[Method, ...] = ("whitened", "whitened_normalised")
#: Most steps in one compiled call.
STEPS_PER_CALL = 10


@dataclass
class _State:
    """Where a training from recordings is, beside the weights."""

    epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    hard: list[int] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def best_epoch(self) -> int:
        """The epoch with the fewest misses, the last of them."""
        return min(range(len(self.curve)), key=lambda i: (self.curve[i]["misses"], -i))


class RecordingsTraining:
    """Training of a Keras model, which it changes, on mixtures of recordings.

    Parameters
    ----------
    config : Config
    network : keras.Model
    dataset : Dataset
    checkpoint : Path
        Written after every epoch, removed after the last.
    progress, note : callable
        See `rtconv.training.trainer.train`.
    """

    def __init__(
        self,
        config: Config,
        network: Any,
        dataset: Dataset,
        checkpoint: Path,
        progress: Callable[[Progress], None],
        note: Callable[[str], None],
    ) -> None:
        assert config.training is not None
        self.config, self.settings, self.network = config, config.training, network
        self.dataset, self.checkpoint = dataset, checkpoint
        self.progress, self.note = progress, note

    def layers(self) -> list[Layer]:
        """The network as it is now."""
        return self._layers(self.network.get_weights())

    def _layers(self, weights: Sequence[np.ndarray]) -> list[Layer]:
        return layers_from_weights(weights, self.config.network, self.config.channels)

    def _deployed(self) -> list[Layer] | None:
        """The network as it will run, if it will run at the full rate."""
        if not self.config.precise:
            return None
        weights, network = self.network.get_weights(), self.config.deployed().network
        return layers_from_weights(weights, network, self.config.channels)

    def run(self, resume: bool) -> tuple[list[float], dict[str, Any]]:
        """Train and calibrate; the thresholds, and what the training record says of it.

        Parameters
        ----------
        resume : bool
            Go on from the checkpoint.
        """
        from rtconv.training.optimize import Optimization

        settings = self.settings
        steps = settings.epochs * settings.steps_per_epoch
        optimization = Optimization(self.network, settings, steps)
        state = _State(config=record_of(self.config))
        best = optimization.averaged_weights()
        if resume:
            state, best = self._restore(optimization)
        mixer = Mixer(self.config, self.dataset, self.layers())
        try:
            while state.epoch < settings.epochs and not self._is_out_of_patience(state):
                self._epoch(state, mixer, optimization)
                if state.best_epoch() == len(state.curve) - 1:
                    best = optimization.averaged_weights()
                arrays = {**optimization.state(), "best": best}
                save_checkpoint(self.checkpoint, asdict(state), arrays)
        except KeyboardInterrupt:
            if not state.curve:
                raise
            self.note(
                f"interrupted after {state.epoch} of {settings.epochs} epochs: the best network so "
                f"far, of epoch {state.best_epoch() + 1}, is calibrated and written; "
                "--resume goes on from here"
            )
            self.network.set_weights(best)
        else:
            stopped = state.epoch < settings.epochs
            self.network.set_weights(best if stopped else optimization.averaged_weights())
        others = [
            at_speed(self.dataset.calibration, speed)
            for speed in settings.augment.speed
            if speed != 1
        ]
        layers, expectations = thresholds_of(
            self.layers(), self.dataset, self.config, self._deployed(), others
        )
        self._move_bias(layers[-1])
        record = {
            "curve": state.curve,
            **recordings_record(self.config, self.dataset, expectations, self.note),
            "twins": self._twins(expectations),
        }
        if state.epoch == settings.epochs:
            self.checkpoint.unlink(missing_ok=True)
        return [expectation.calibration.threshold for expectation in expectations], record

    def _epoch(self, state: _State, mixer: Mixer, optimization: Any) -> None:
        """One epoch with its validation; `state` changes only when it is complete."""
        settings = self.settings
        per_call = max(n for n in range(1, STEPS_PER_CALL + 1) if settings.steps_per_epoch % n == 0)
        steps = settings.epochs * settings.steps_per_epoch
        figures = {} if not state.curve else {"misses": state.curve[-1]["misses"]}
        mining = [
            settings.epochs * (i + 1) // (settings.mining + 1) for i in range(settings.mining)
        ]
        hard = state.hard
        if state.epoch in mining:
            layers = self._layers(optimization.averaged_weights())
            # Before the last time, what scores like the sound says more of the network.
            hard = self._false_alarms(layers, tell=state.epoch == mining[-1])
        mixer.hard = hard
        losses = []
        calls = settings.steps_per_epoch // per_call
        for batches in mixer.epoch(state.epoch, calls, per_call):
            losses.append(optimization.run(*batches))
            self.progress(Progress(optimization.step, steps, losses[-1], figures))
        figures = self._validate(optimization.averaged_weights())
        self.progress(Progress(optimization.step, steps, losses[-1], figures))
        loss = float(np.mean(losses))
        state.curve.append({"step": optimization.step, "loss": loss, **figures})
        state.epoch, state.hard = state.epoch + 1, hard

    def _is_out_of_patience(self, state: _State) -> bool:
        patience = self.settings.patience
        if patience is None or not state.curve:
            return False
        fewest = int(np.argmin([entry["misses"] for entry in state.curve]))
        return len(state.curve) - 1 - fewest >= patience

    def _restore(self, optimization: Any) -> tuple[_State, list[np.ndarray]]:
        """State, best weights; the optimisation goes on from the checkpoint."""
        arrays = {**optimization.state(), "best": optimization.averaged_weights()}
        shapes = {key: [array.shape for array in group] for key, group in arrays.items()}
        values, arrays = load_checkpoint(self.checkpoint, shapes)
        if values.get("config") != record_of(self.config):
            raise RtconvError(
                f"{self.checkpoint}: is of a training with other settings; delete it, or train "
                "without --resume"
            )
        state = _State(**values)
        best = arrays.pop("best")
        optimization.restore(state.epoch * self.settings.steps_per_epoch, arrays)
        return state, best

    def _twins(self, expectations: Sequence[Expectation]) -> dict[str, Any]:
        """The whitened matched filters of the same recordings, and what to use."""
        if len(self.config.output_names) > 1:
            return {}
        twins = {}
        for method in TWINS:
            layers = computed_layers(method, self.dataset)
            _, (twins[method],) = thresholds_of(layers, self.dataset, self.config)
        best = min(TWINS, key=lambda method: twins[method].misses)
        misses = " and ".join(f"{twins[method].misses:.0%} ({method})" for method in TWINS)
        better = twins[best].misses <= expectations[0].misses
        self.note(
            f"the whitened matched filters of the same recordings miss {misses}: "
            + (f"use one (training: {{method: {best}}})" if better else "the network is better")
        )
        return {method: twin.record() for method, twin in twins.items()}

    def _move_bias(self, calibrated: Layer) -> None:
        """Give the Keras model the bias that calibration chose."""
        moved = calibrated.bias
        before = self.layers()[-1].bias
        if moved is None or before is None or np.array_equal(moved, before):
            return
        weights = self.network.get_weights()
        # After batch normalisation the last bias is beta, before the moving statistics.
        place = -3 if self.config.network[-1].batch_normalization else -1
        weights[place] += moved - before
        self.network.set_weights(weights)

    def _validate(self, weights: Sequence[np.ndarray]) -> dict[str, float]:
        """Misses at the wanted rate of false alarms, on backgrounds of the training."""
        layers = self._layers(weights)
        peaks = self._peaks(layers)
        traces = trace_background(layers, self.dataset.backgrounds, VALIDATION_SECONDS)
        misses = []
        for output, name in enumerate(self.config.output_names):
            wish = self.config.detection_of(name).false_alarms_per_hour
            solved = solve_threshold([traces[output]], picker_of(self.config, output), wish)
            misses.append(float((peaks[output] < solved.threshold).mean()))
        return {"misses": float(np.mean(misses))}

    def _false_alarms(self, layers: Sequence[Layer], tell: bool) -> list[int]:
        """Where in the training backgrounds the network so far fires most."""
        backgrounds = self.dataset.backgrounds
        count = max(20, round(HARD_PER_HOUR * backgrounds.seconds / 3600))
        peaks = self._peaks(layers)
        hard: list[int] = []
        for output, trace in enumerate(trace_background(layers, backgrounds)):
            picker = picker_of(self.config, output)
            events = trace.events_from(picker, HARD_SCORE)
            events.sort(key=lambda event: -event.score)
            hard += [event.sample for event in events[:count]]
            if tell:
                for sentence in suspects(trace, picker, peaks[output], backgrounds):
                    self.note(sentence)
        return hard

    def _peaks(self, layers: Sequence[Layer]) -> list[np.ndarray]:
        patterns = self.dataset.validation or self.dataset.patterns
        seed = [self.settings.seed, 5]
        return score_patterns(layers, patterns, self.dataset.backgrounds, self.config, seed)
