"""Training with Keras: a config's data to a certified detector."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.config import Config, LayerSettings, Method, TrainingSettings, load_config
from rtconv.errors import RtconvError
from rtconv.evaluation.measures import solve_threshold
from rtconv.model.dense import layers_from_weights, weights_from_layers
from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer, hop, multiply_adds_per_sample
from rtconv.model.weights import save_weights
from rtconv.stream.certify import Oracle, certify
from rtconv.stream.detector import Detector
from rtconv.training.batches import Mixer
from rtconv.training.calibrate import (
    Expectation,
    picker_of,
    score_patterns,
    suspects,
    thresholds_of,
    trace_background,
)
from rtconv.training.checkpoint import load_checkpoint, save_checkpoint
from rtconv.training.closed_form import closed_form, l1_optimum
from rtconv.training.convert import REFERENCE, base_path, record_of, reference_oracle, versions
from rtconv.training.data import Dataset, load_dataset
from rtconv.training.plots import plot_training
from rtconv.training.summary import describe

#: Steps of the optimiser in one compiled call.
STEPS_PER_CALL = 500
#: A call's batches stay below this, at most 64 MB.
MAX_FRAMES_PER_CALL = 1 << 24
#: Coefficients of a linear program that is solved in about a second.
MAX_LINEAR_PROGRAM = 1_000_000
#: Seconds of each excerpt of background that a closed form is made from.
EXCERPT_SECONDS = 10.0
#: Multiply-adds that go into calibrating a closed form.
MAX_MULTIPLY_ADDS = 1e12
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
    resume: bool = False,
    plot: bool = False,
) -> Detector:
    """Train a detector, or compute it where the config names a closed form.

    Ctrl-C ends the training from recordings with the best network so far, which is
    calibrated and written as at the end; ``BASE.checkpoint.npz`` is kept as well.

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
    resume : bool
        Go on from ``BASE.checkpoint.npz``; ends with the weights of a training that was
        never interrupted.
    plot : bool
        Write ``BASE.png``: loss, weights, scores of an example, misses against false
        alarms.

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
    settings = config.training
    if settings is None:
        raise RtconvError(f"{config_path}: has no training section")
    if not config.closed_form:
        _check_loss(config, settings)
    notes = Notes(note)
    # TensorFlow takes seconds to load: what is wrong with the data shows before.
    dataset = None if settings.signal else load_dataset(config)
    base = base_path(config, output)
    if dataset is not None:
        for sentence in [*dataset.notes, *describe(dataset, config)]:
            notes(sentence)
    if config.closed_form:
        assert dataset is not None
        result = compute(config, dataset, notes)
    else:
        result = _train_network(config, dataset, base, progress or (lambda _: None), notes, resume)
    record = {
        "config": record_of(config),
        "seed": settings.seed,
        "versions": result.versions,
        **result.record,
        "notes": notes.sentences,
    }
    pattern = None if dataset is None else dataset.pattern_seconds
    outputs = [
        Output(name=name, **config.detection_of(name).picker(threshold, pattern).model_dump())
        for name, threshold in zip(config.output_names, result.thresholds, strict=True)
    ]
    model = Model(config.name, config.samplerate, result.layers, outputs, training=record)
    detector = Detector(certify(model, result.oracle, result.oracle_name))
    save_weights(f"{base}.pickle", result.weights)
    detector.save(f"{base}.safetensors")
    if plot:
        plot_training(detector, config, dataset, Path(f"{base}.png"))
    return detector


class Notes:
    """Sentences for the user, passed on and kept for the training record."""

    def __init__(self, note: Callable[[str], None] | None) -> None:
        self.sentences: list[str] = []
        self._note = note

    def __call__(self, sentence: str) -> None:
        """Tell the user a sentence."""
        self.sentences.append(sentence)
        if self._note is not None:
            self._note(sentence)


@dataclass(frozen=True)
class Result:
    """What a training, or a closed form, leads to.

    Attributes
    ----------
    layers : list of Layer
    weights : list of ndarray
        As ``get_weights()``.
    thresholds : list of float
    record : dict
        For the training record.
    oracle, oracle_name : callable, str
        What the streaming network is certified against.
    versions : dict
    """

    layers: list[Layer]
    weights: list[np.ndarray]
    thresholds: list[float]
    record: dict[str, Any]
    oracle: Oracle
    oracle_name: str
    versions: dict[str, str]


def _check_loss(config: Config, settings: TrainingSettings) -> None:
    last, loss = config.network[-1], settings.chosen_loss
    if loss.endswith("crossentropy") and (last.activation != "sigmoid" or last.residual):
        raise RtconvError(
            f"{config._path}: training.loss {loss} needs activation sigmoid in the last layer"
        )


def compute(config: Config, dataset: Dataset, note: Callable[[str], None]) -> Result:
    """A closed form of the recordings, calibrated like a network."""
    assert config.training is not None
    layers = computed_layers(config.training.method, dataset)
    layers, expectations = thresholds_of(layers, dataset, config, listening_time(layers, dataset))
    return Result(
        layers=layers,
        weights=weights_from_layers(layers),
        thresholds=[e.calibration.threshold for e in expectations],
        record=_recordings_record(config, dataset, expectations, note),
        oracle=reference_oracle(layers),
        oracle_name=REFERENCE,
        versions=versions(),
    )


def computed_layers(method: Method, dataset: Dataset) -> list[Layer]:
    """The layers of a closed form, from the patterns and ten minutes of background."""
    assert method != "network"
    rng = np.random.default_rng(0)
    backgrounds = dataset.backgrounds
    frames = round(EXCERPT_SECONDS * backgrounds.samplerate)
    excerpts = [backgrounds.read(int(rng.integers(backgrounds.frames)), frames) for _ in range(60)]
    if method == "l1":
        length = max(len(pattern.active) for pattern in dataset.patterns)
        excerpts = [excerpts[0][: max(0, MAX_LINEAR_PROGRAM // length - 2 * length)]]
    patterns = [pattern.active for pattern in dataset.patterns]
    return closed_form(method, patterns, [x for x in excerpts if x.any()])


def listening_time(layers: Sequence[Layer], dataset: Dataset) -> float:
    """Seconds of background that a closed form is calibrated with.

    A long filter at the full rate takes longer than a network: as much as can be heard
    in about a minute.
    """
    per_second = multiply_adds_per_sample(layers) * dataset.calibration.samplerate
    return min(dataset.calibration.seconds, MAX_MULTIPLY_ADDS / per_second)


def _recordings_record(
    config: Config,
    dataset: Dataset,
    expectations: Sequence[Expectation],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Split and calibration for the training record; the user is told what to expect."""
    for name, expectation in zip(config.output_names, expectations, strict=True):
        for sentence in expectation.sentences():
            note(f"{name}: {sentence}")
        for sentence in expectation.suspects:
            note(sentence)
    assert config._path is not None
    return {
        "data": dataset.record(config._path.parent),
        "calibration": {
            name: expectation.record()
            for name, expectation in zip(config.output_names, expectations, strict=True)
        },
    }


def _train_network(
    config: Config,
    dataset: Dataset | None,
    base: Path,
    progress: Callable[[Progress], None],
    note: Callable[[str], None],
    resume: bool,
) -> Result:
    from rtconv.training.keras_model import ORACLE, build, keras, predict, tensorflow

    assert config.training is not None
    keras.utils.set_random_seed(config.training.seed)
    tensorflow.config.experimental.enable_op_determinism()
    network = build(config)
    run = Run(config, network, base, progress, note)
    if dataset is None:
        thresholds, record = run.on_signal()
    else:
        thresholds, record = run.on_recordings(dataset, resume)
    return Result(
        layers=run.layers(),
        weights=network.get_weights(),
        thresholds=thresholds,
        record=record,
        oracle=lambda x: predict(network, x),
        oracle_name=ORACLE,
        versions=versions(keras, tensorflow),
    )


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


class Run:
    """One training, of a Keras model that it changes.

    Parameters
    ----------
    config : Config
    network : keras.Model
    base : Path
        Of the checkpoint.
    progress, note : callable
        See `train`.
    """

    def __init__(
        self,
        config: Config,
        network: Any,
        base: Path,
        progress: Callable[[Progress], None],
        note: Callable[[str], None],
    ) -> None:
        assert config.training is not None
        self.config, self.settings, self.network = config, config.training, network
        self.checkpoint = Path(f"{base}.checkpoint.npz")
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

    def on_recordings(self, dataset: Dataset, resume: bool) -> tuple[list[float], dict[str, Any]]:
        """Train on mixtures of recordings, and calibrate; as `on_signal`."""
        from rtconv.training.optimize import Optimization

        settings = self.settings
        steps = settings.epochs * settings.steps_per_epoch
        optimization = Optimization(self.network, settings, steps)
        state = _State(config=record_of(self.config))
        best = optimization.averaged_weights()
        if resume:
            state, best = self._restore(optimization)
        mixer = Mixer(self.config, dataset, self.layers())
        try:
            while state.epoch < settings.epochs and not self._is_out_of_patience(state):
                self._epoch(state, mixer, optimization, dataset)
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
        layers, expectations = thresholds_of(self.layers(), dataset, self.config)
        self._move_bias(layers[-1])
        record = {
            "curve": state.curve,
            **_recordings_record(self.config, dataset, expectations, self.note),
            "twin": self._twin(dataset, expectations),
        }
        if state.epoch == settings.epochs:
            self.checkpoint.unlink(missing_ok=True)
        return [expectation.calibration.threshold for expectation in expectations], record

    def _epoch(self, state: _State, mixer: Mixer, optimization: Any, dataset: Dataset) -> None:
        """One epoch with its validation; `state` changes only when it is complete."""
        settings = self.settings
        per_call = max(n for n in range(1, 11) if settings.steps_per_epoch % n == 0)
        steps = settings.epochs * settings.steps_per_epoch
        figures = {} if not state.curve else {"misses": state.curve[-1]["misses"]}
        mining = [
            settings.epochs * (i + 1) // (settings.mining + 1) for i in range(settings.mining)
        ]
        hard = state.hard
        if state.epoch in mining:
            hard = self._false_alarms(dataset, optimization.averaged_weights())
        mixer.hard = hard
        losses = []
        calls = settings.steps_per_epoch // per_call
        for batches in mixer.epoch(state.epoch, calls, per_call):
            losses.append(optimization.run(*batches))
            self.progress(Progress(optimization.step, steps, losses[-1], figures))
        figures = self._validate(dataset, optimization.averaged_weights())
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

    def _twin(self, dataset: Dataset, expectations: Sequence[Expectation]) -> dict[str, Any]:
        """The whitened matched filter of the same recordings, and which of both to use."""
        if len(self.config.output_names) > 1:
            return {}
        layers = computed_layers("whitened", dataset)
        seconds = listening_time(layers, dataset)
        _, (twin,) = thresholds_of(layers, dataset, self.config, seconds)
        better = twin.misses <= expectations[0].misses
        self.note(
            f"the whitened matched filter of the same recordings misses {twin.misses:.0%}: "
            + ("use it (training: {method: whitened})" if better else "the network is better")
        )
        return {"method": "whitened", **twin.record()}

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
        peaks = self._peaks(layers, dataset)
        traces = trace_background(layers, dataset.backgrounds, VALIDATION_SECONDS)
        misses = []
        for output, name in enumerate(self.config.output_names):
            wish = self.config.detection_of(name).false_alarms_per_hour
            solved = solve_threshold([traces[output]], picker_of(self.config, output), wish)
            misses.append(float((peaks[output] < solved.threshold).mean()))
        return {"misses": float(np.mean(misses))}

    def _false_alarms(self, dataset: Dataset, weights: Sequence[np.ndarray]) -> list[int]:
        """Where in the training backgrounds the network so far fires most."""
        layers, backgrounds = self._layers(weights), dataset.backgrounds
        count = max(20, round(HARD_PER_HOUR * backgrounds.seconds / 3600))
        peaks = self._peaks(layers, dataset)
        hard: list[int] = []
        for output, trace in enumerate(trace_background(layers, backgrounds)):
            picker = picker_of(self.config, output)
            events = trace.events(picker.at_threshold(HARD_SCORE))
            events.sort(key=lambda event: -event.score)
            hard += [event.sample for event in events[:count]]
            for sentence in suspects(trace, picker, peaks[output], backgrounds):
                self.note(sentence)
        return hard

    def _peaks(self, layers: Sequence[Layer], dataset: Dataset) -> list[np.ndarray]:
        patterns = dataset.validation or dataset.patterns
        seed = [self.settings.seed, 5]
        return score_patterns(layers, patterns, dataset.backgrounds, self.config, seed)


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
