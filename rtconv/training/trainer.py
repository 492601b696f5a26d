"""Training with Keras: a config's data to a certified detector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.config import Config, LayerSettings, load_config
from rtconv.errors import RtconvError
from rtconv.evaluation.measures import solve_threshold
from rtconv.model.dense import layers_from_weights
from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer, hop
from rtconv.model.weights import save_weights
from rtconv.stream.certify import certify
from rtconv.stream.detector import Detector
from rtconv.training.batches import Mixer
from rtconv.training.calibrate import picker_of, score_patterns, thresholds_of, trace_background
from rtconv.training.closed_form import l1_optimum
from rtconv.training.convert import base_path, record_of, versions
from rtconv.training.data import Dataset, load_dataset

#: Steps of the optimiser in one compiled call.
STEPS_PER_CALL = 500
#: A call's batches stay below this, at most 64 MB.
MAX_FRAMES_PER_CALL = 1 << 24
#: Coefficients of a linear program that is solved in about a second.
MAX_LINEAR_PROGRAM = 1_000_000
#: Of background that each epoch's misses are measured with.
VALIDATION_SECONDS = 600.0
#: Places that mining keeps from an hour of background, and the score they must reach.
HARD_PER_HOUR, HARD_SCORE = 70.0, 0.05


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    step, steps : int
        Steps of the optimiser, done and in all.
    loss : float
        Mean over the last call.
    figures : dict
        Validation figures by name, as they are known.
    """

    step: int
    steps: int
    loss: float
    figures: dict[str, float] = field(default_factory=dict)


def train(
    config_path: Path | str,
    output: Path | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Detector:
    """Train a detector.

    Parameters
    ----------
    config_path : path
    output : path, optional
        BASE of ``BASE.pickle``, which is Keras' ``get_weights()``, and
        ``BASE.safetensors``, the detector; ``models/<name>`` by default.
    progress : callable, optional
        Called with a `Progress` after every compiled call.
    note : callable, optional
        Called with each sentence that the user should read. All are in the training
        record as well.

    Returns
    -------
    Detector

    Raises
    ------
    RtconvError
        If the config is at fault or its data, or the streaming network differs
        from Keras.
    """
    config = load_config(config_path)
    if config.training is None:
        raise RtconvError(f"{config_path}: has no training section")
    last, loss = config.network[-1], config.training.chosen_loss
    if loss.endswith("crossentropy") and (last.activation != "sigmoid" or last.residual):
        raise RtconvError(
            f"{config_path}: training.loss {loss} needs activation sigmoid in the last layer"
        )
    # TensorFlow takes seconds to load: what is wrong with the data shows before.
    dataset = None if config.training.signal else load_dataset(config)

    from rtconv.training.keras_model import ORACLE, build, keras, predict, tensorflow

    keras.utils.set_random_seed(config.training.seed)
    tensorflow.config.experimental.enable_op_determinism()
    network = build(config)
    run = Run(config, network, progress or (lambda _: None), note or (lambda _: None))
    thresholds, result = run.on_signal() if dataset is None else run.on_recordings(dataset)
    record = {
        "config": record_of(config),
        "seed": config.training.seed,
        "versions": versions(keras, tensorflow),
        **result,
    }
    pattern = None if dataset is None else dataset.pattern_seconds
    outputs = [
        Output(name=name, **config.detection_of(name).picker(threshold, pattern).model_dump())
        for name, threshold in zip(config.output_names, thresholds, strict=True)
    ]
    model = Model(config.name, config.samplerate, run.layers(), outputs, training=record)
    detector = Detector(certify(model, lambda x: predict(network, x), ORACLE))
    base = base_path(config, output)
    save_weights(f"{base}.pickle", network.get_weights())
    detector.save(f"{base}.safetensors")
    return detector


class Run:
    """One training, of a Keras model that it changes.

    Parameters
    ----------
    config : Config
    network : keras.Model
    progress, note : callable
        See `train`.
    """

    def __init__(
        self,
        config: Config,
        network: Any,
        progress: Callable[[Progress], None],
        note: Callable[[str], None],
    ) -> None:
        assert config.training is not None
        self.config, self.settings, self.network = config, config.training, network
        self.progress, self.note = progress, note

    def layers(self) -> list[Layer]:
        """The network as it is now."""
        return self._layers(self.network.get_weights())

    def _layers(self, weights: Sequence[np.ndarray]) -> list[Layer]:
        return layers_from_weights(weights, self.config.network, self.config.channels)

    def on_signal(self) -> tuple[list[float], dict[str, Any]]:
        """Train on one signal over and over; thresholds, and what the record says of it."""
        from rtconv.training.keras_model import predict
        from rtconv.training.optimize import Optimization

        signal, config = self.settings.signal, self.config
        assert signal is not None
        if config.channels != 1 or len(config.output_names) != 1:
            raise RtconvError(f"{config.name}: training.signal needs one channel and one output")
        x = np.array(signal.input, np.float32)[:, np.newaxis]
        target = np.array(signal.target, np.float32)[:, np.newaxis]
        steps = self.settings.epochs
        optimization = Optimization(self.network, self.settings, steps)
        per_call = max(1, min(STEPS_PER_CALL, MAX_FRAMES_PER_CALL // len(x)))
        curve = []
        while optimization.step < steps:
            count = min(per_call, steps - optimization.step)
            targets = _repeated(target[:: hop(self.layers())], count)
            loss = optimization.run(_repeated(x, count), targets, np.ones_like(targets))
            curve.append([optimization.step, loss])
            self.progress(Progress(optimization.step, steps, loss))
        record: dict[str, Any] = {"curve": curve}
        if self.settings.chosen_loss == "mean_absolute_error":
            error = float(np.abs(predict(self.network, x) - target).mean())
            record |= {"error": error, **_distance_from_optimum(config, x, target, error)}
        return [0.5], record

    def on_recordings(self, dataset: Dataset) -> tuple[list[float], dict[str, Any]]:
        """Train on mixtures of recordings, and calibrate; as `on_signal`."""
        from rtconv.training.optimize import Optimization

        settings = self.settings
        for sentence in dataset.notes:
            self.note(sentence)
        mixer = Mixer(self.config, dataset, self.layers())
        steps = settings.epochs * settings.steps_per_epoch
        optimization = Optimization(self.network, settings, steps)
        per_call = max(n for n in range(1, 11) if settings.steps_per_epoch % n == 0)
        mining = {
            round(settings.epochs * (i + 1) / (settings.mining + 1)) for i in range(settings.mining)
        }
        curve: list[dict[str, float]] = []
        figures: dict[str, float] = {}
        for epoch in range(settings.epochs):
            if epoch in mining:
                mixer.hard = self._false_alarms(dataset, optimization.averaged_weights())
            losses = []
            for batches in mixer.epoch(epoch, settings.steps_per_epoch // per_call, per_call):
                losses.append(optimization.run(*batches))
                self.progress(Progress(optimization.step, steps, losses[-1], figures))
            figures = self._validate(dataset, optimization.averaged_weights())
            self.progress(Progress(optimization.step, steps, losses[-1], figures))
            curve.append({"step": optimization.step, "loss": float(np.mean(losses)), **figures})
        self.network.set_weights(optimization.averaged_weights())
        layers, expectations = thresholds_of(self.layers(), dataset, self.config)
        self._move_bias(layers[-1])
        for name, expectation in zip(self.config.output_names, expectations, strict=True):
            for sentence in expectation.sentences():
                self.note(f"{name}: {sentence}")
        assert self.config._path is not None
        return [expectation.calibration.threshold for expectation in expectations], {
            "curve": curve,
            "split": dataset.split(self.config._path.parent),
            "calibration": {
                name: expectation.record()
                for name, expectation in zip(self.config.output_names, expectations, strict=True)
            },
            "notes": dataset.notes,
        }

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

    def _validate(self, dataset: Dataset, weights: Sequence[np.ndarray]) -> dict[str, float]:
        """Misses at the wanted rate of false alarms, on backgrounds of the training."""
        layers = self._layers(weights)
        patterns = dataset.validation or dataset.patterns
        seed = [self.settings.seed, 5]
        peaks = score_patterns(layers, patterns, dataset.backgrounds, self.config, seed)
        traces = trace_background(layers, dataset.backgrounds, VALIDATION_SECONDS)
        misses = []
        for output, name in enumerate(self.config.output_names):
            wish = self.config.detection_of(name).false_alarms_per_hour
            solved = solve_threshold([traces[output]], picker_of(self.config, output), wish)
            misses.append(float((peaks[output] < solved.threshold).mean()))
        return {"misses": float(np.mean(misses))}

    def _false_alarms(self, dataset: Dataset, weights: Sequence[np.ndarray]) -> list[int]:
        """Where in the training backgrounds the network so far fires most."""
        count = max(20, round(HARD_PER_HOUR * dataset.backgrounds.seconds / 3600))
        hard: list[int] = []
        for output, trace in enumerate(
            trace_background(self._layers(weights), dataset.backgrounds)
        ):
            events = trace.events(picker_of(self.config, output).at_threshold(HARD_SCORE))
            events.sort(key=lambda event: -event.score)
            hard += [event.sample for event in events[:count]]
        return hard


def _repeated(x: np.ndarray, steps: int) -> np.ndarray:
    return np.broadcast_to(x, (steps, 1, *x.shape))


def _distance_from_optimum(
    config: Config, x: np.ndarray, target: np.ndarray, error: float
) -> dict[str, float]:
    """The exact optimum, where the network is one small FIR and it can be computed."""
    layer = config.network[0]
    plain = LayerSettings(
        filters=1,
        use_bias=False,
        **layer.model_dump(include={"kernel_size", "dilation_rate"}),
    )
    if config.network != [plain] or layer.kernel_size * len(x) > MAX_LINEAR_PROGRAM:
        return {}
    _, optimum = l1_optimum(x[:, 0], target[:, 0], layer.kernel_size, layer.dilation_rate)
    return {"optimum": optimum, "ratio": error / optimum} if optimum > 0 else {"optimum": 0.0}
