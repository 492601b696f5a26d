"""`rtconv.train`: a config's data to a certified detector."""

from collections.abc import Callable
from pathlib import Path

from rtconv.config import Config, TrainingSettings, load_config
from rtconv.errors import RtconvError
from rtconv.model.dense import layers_from_weights
from rtconv.model.detector import Model, Output
from rtconv.model.weights import save_weights
from rtconv.stream.certify import certify
from rtconv.stream.detector import Detector
from rtconv.training.computed import compute
from rtconv.training.convert import base_path, record_of, versions
from rtconv.training.data import Dataset, load_dataset
from rtconv.training.on_recordings import RecordingsTraining
from rtconv.training.on_signal import train_on_signal
from rtconv.training.plots import plot_training
from rtconv.training.progress import Notes, Progress, Result
from rtconv.training.summary import describe


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


def _check_loss(config: Config, settings: TrainingSettings) -> None:
    last, loss = config.network[-1], settings.chosen_loss
    if loss.endswith("crossentropy") and (last.activation != "sigmoid" or last.residual):
        raise RtconvError(
            f"{config._path}: training.loss {loss} needs activation sigmoid in the last layer"
        )


def _train_network(
    config: Config,
    dataset: Dataset | None,
    base: Path,
    progress: Callable[[Progress], None],
    note: Callable[[str], None],
    resume: bool,
) -> Result:
    from rtconv.training.keras_model import ORACLE, build, keras, predict, tensorflow
    from rtconv.training.pieces import begin_with_pieces

    assert config.training is not None
    keras.utils.set_random_seed(config.training.seed)
    tensorflow.config.experimental.enable_op_determinism()
    network = build(config)
    thresholds, record = [0.5] * len(config.output_names), {}
    if dataset is None:
        record = train_on_signal(network, config, progress)
    else:
        begin_with_pieces(network, config, dataset)
        checkpoint = Path(f"{base}.checkpoint.npz")
        training = RecordingsTraining(config, network, dataset, checkpoint, progress, note)
        thresholds, record = training.run(resume)
    weights, deployed = network.get_weights(), config.deployed()
    if config.precise:
        network = build(deployed)
        network.set_weights(weights)
    return Result(
        layers=layers_from_weights(weights, deployed.network, config.channels),
        weights=weights,
        thresholds=thresholds,
        record=record,
        oracle=lambda x: predict(network, x),
        oracle_name=ORACLE,
        versions=versions(keras, tensorflow),
    )
