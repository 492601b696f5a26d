"""A detector's configuration: YAML to typed, validated settings.

Every message names the file and the key. An unknown key is refused with the
nearest known one, so that a misspelt setting never falls back to its default
unnoticed.
"""

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rtconv.errors import RtconvError
from rtconv.presets import expand_preset

Activation = Literal["linear", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "square", "log"]
Loss = Literal[
    "mean_absolute_error",
    "mean_squared_error",
    "huber",
    "binary_crossentropy",
    "focal_crossentropy",
]
Method = Literal[
    "network",
    "matched_filter",
    "whitened",
    "wiener",
    "l1",
    "normalised",
    "whitened_normalised",
]
Initializer = Literal[
    "glorot_uniform", "he_normal", "zeros", "gabor", "pairs", "identity", "average"
]
Name = Annotated[str, Field(pattern=r"^[\w][\w. -]*$", max_length=100)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Proper = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused with the nearest known one."""

    # Built when first used: a replay needs few of the settings, and starts sooner.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise ValueError(f"must be a mapping with keys such as {next(iter(cls.model_fields))}")
        for key in values:
            if key not in cls.model_fields:
                nearest = difflib.get_close_matches(str(key), cls.model_fields, 1, cutoff=0)[0]
                raise ValueError(f"unknown key {str(key)[:60]!r}, the nearest known is {nearest!r}")
        return values


class LayerSettings(Settings):
    """One Conv1D layer, in Keras' words.

    `batch_normalization` stands before the activation and is folded into the
    weights at conversion. `residual` adds the layer's input after the activation.

    Where training starts: `kernel_initializer` is one of Keras' or ``gabor`` (cosines
    and sines under a Hann window, frequencies spread over `band` in Hz; in the first layer,
    and when there are recordings, `pieces` pairs of them are pieces of the patterns
    instead, whitened), ``pairs``
    (output i is input i plus input i of the second half), ``identity`` or ``average``;
    the bias starts at `bias_initializer`. With ``trainable: false`` it stays there.
    `dropout` is the share of the filters that are left out of each training example.
    """

    filters: int = Field(ge=1, le=65536)
    kernel_size: int = Field(ge=1, le=1_000_000)
    strides: int = Field(1, ge=1, le=1_000_000)
    dilation_rate: int = Field(1, ge=1, le=1_000_000)
    groups: int = Field(1, ge=1)
    use_bias: bool = True
    activation: Activation = "linear"
    batch_normalization: bool = False
    residual: bool = False
    kernel_initializer: Initializer = "glorot_uniform"
    band: tuple[Positive, Positive] | None = None
    pieces: int = Field(0, ge=0)
    bias_initializer: Finite = 0.0
    trainable: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _initializer_fits(self) -> "LayerSettings":
        if (self.kernel_initializer == "gabor") != (self.band is not None):
            raise ValueError("band and kernel_initializer gabor belong together")
        if self.band is not None and (self.filters % 2 or self.band[0] > self.band[1]):
            raise ValueError("gabor needs an even number of filters and band from low to high")
        if self.pieces and (self.band is None or 2 * self.pieces >= self.filters):
            raise ValueError(
                "pieces belong to kernel_initializer gabor, fewer than half its filters"
            )
        return self


class PulseSettings(Settings):
    """The pulse that a trigger sends to an output device.

    Attributes
    ----------
    length : float
        Seconds.
    level : float
        Full scale is 1.
    channel : int
        Of the device, counted from 1.
    """

    length: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.005
    level: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.5
    channel: Annotated[int, Field(ge=1, le=1024)] = 1


class PickerSettings(Settings):
    """How scores become events; see `rtconv.stream.events.EventPicker`."""

    threshold: Finite
    release: Finite
    refractory: NotNegative
    max_hold: Positive
    decision: Literal["peak", "crossing"]
    pattern: Positive | None = None
    pulse: PulseSettings = PulseSettings()

    @model_validator(mode="after")
    def _release_below_threshold(self) -> "PickerSettings":
        if self.release > self.threshold:
            raise ValueError(f"release {self.release} is above threshold {self.threshold}")
        return self


class DetectionSettings(Settings):
    """Detection as the user asks for it.

    Attributes
    ----------
    threshold, release : float
        Score at which a candidate starts, and below which it ends. Without a
        threshold, training solves it from `false_alarms_per_hour`.
    false_alarms_per_hour : float
    refractory, max_hold : float
        Seconds.
    decision : {'peak', 'crossing'}
    pattern : float
        Length of the pattern in seconds, where it is known.
    pulse : PulseSettings
        What ``rtconv listen --trigger`` sends.
    """

    threshold: Finite | None = None
    release: Finite | None = None
    false_alarms_per_hour: Positive = 1.0
    refractory: NotNegative = 0.5
    max_hold: Positive = 1.0
    decision: Literal["peak", "crossing"] = "peak"
    pattern: Positive | None = None
    pulse: PulseSettings = PulseSettings()

    @model_validator(mode="after")
    def _release_needs_threshold(self) -> "DetectionSettings":
        if self.release is not None and self.threshold is None:
            raise ValueError("release is given without a threshold")
        self.picker()
        return self

    def picker(self, threshold: float = 0.5, pattern: float | None = None) -> PickerSettings:
        """Settings of the picker; the arguments fill in what the user left open.

        Without a release, it is half of a positive threshold, or the threshold.
        """
        chosen = threshold if self.threshold is None else self.threshold
        release = self.release
        if release is None:
            release = chosen / 2 if chosen > 0 else chosen
        return PickerSettings(
            threshold=chosen,
            release=release,
            refractory=self.refractory,
            max_hold=self.max_hold,
            decision=self.decision,
            pattern=self.pattern or pattern,
            pulse=self.pulse,
        )


class SignalSettings(Settings):
    """Training data written into the config: one input and its target, sample by sample."""

    input: list[Finite] = Field(min_length=1)
    target: list[Finite] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_length(self) -> "SignalSettings":
        if len(self.input) != len(self.target):
            raise ValueError(
                f"input has {len(self.input)} samples and target {len(self.target)}, "
                "they must be as many"
            )
        return self


class TargetSettings(Settings):
    """What the score shall be around a pattern's end.

    Attributes
    ----------
    shape : {'impulse', 'plateau'}
        A triangle that peaks at the pattern's end and reaches zero `width` seconds
        before and after it; or 1 from `delay` to ``delay + width`` after it.
    width, delay : float
        Seconds.
    ignore : float
        Seconds before and after the target that do not count in the loss.
    """

    shape: Literal["impulse", "plateau"] = "impulse"
    width: Positive = 0.01
    delay: NotNegative = 0.0
    ignore: NotNegative = 0.02


Range = Annotated[tuple[Finite, Finite], Field()]


class AugmentSettings(Settings):
    """How the recordings are varied: each value is drawn evenly from its range.

    Attributes
    ----------
    gain_db : range
        Of the whole mixture.
    snr_db : range
        Level of a pattern against that of the background around it.
    speed : range
        Factor of speed, the pitch changes with it.
    background_speed : range
        Factor of speed of half of the excerpts of background, other voices and tones; drawn
        evenly on a logarithmic scale.
    tempo : range
        Factor of tempo, the pitch stays.
    pitch : range
        Factor of pitch; the tempo and the formants of a voice stay. The fewer recordings
        there are, the more of them get another one.
    reverb : float or bool
        Share of the patterns that get the reverberation of exponentially decaying noise.
    room : float or bool
        Share that is put in a rectangular room by image sources.
    filter : float or bool
        Share that goes through a short random filter.
    bandwidth : float or bool
        Share that loses its high frequencies; the same share of whole mixtures does.
    truncate : float or bool
        Share of which only a part sounds, which must not fire.
    """

    gain_db: Range = (-12, 6)
    snr_db: Range = (0, 30)
    speed: Range = (1.0, 1.0)
    background_speed: Range = (1.0, 1.0)
    tempo: Range = (1.0, 1.0)
    pitch: Range = (1.0, 1.0)
    reverb: Share = 0.0
    room: Share = 0.0
    filter: Share = 0.0
    bandwidth: Share = 0.0
    truncate: Share = 0.0

    @field_validator("gain_db", "snr_db", "speed", "background_speed", "tempo", "pitch")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"a range goes from low to high, not from {value[0]} to {value[1]}")
        return value

    @field_validator("speed", "background_speed", "tempo", "pitch")
    @classmethod
    def _near_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.5 <= value[0] <= value[1] <= 2:
            raise ValueError(f"must lie in 0.5 to 2, not {value[0]} to {value[1]}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> "AugmentSettings":
        if self.room + self.reverb > 1:
            raise ValueError(f"room {self.room} and reverb {self.reverb} are more than 1 together")
        return self

    @property
    def stretches(self) -> bool:
        """Whether tempo or pitch are varied apart from each other."""
        return (self.tempo, self.pitch) != ((1, 1), (1, 1))


class TrainingSettings(Settings):
    """What to train on, and how. Either `signal` or `positives`.

    Attributes
    ----------
    method : str
        ``network``, or a closed form: the filter is computed from the positives and the
        backgrounds, and the config needs no network.
    signal : SignalSettings
        Trained on as a whole, one step an epoch.
    positives : list of str, or such a list for each output
        Sound files, also as patterns like ``sounds/*.wav``: each holds the sound once,
        or has an Audacity label track beside it.
    negatives : list of str
        Files with other sounds, mixed in like the positives, that must not fire.
    backgrounds : list of str
        What is heard when the sound is not there.
    calibration : list of str
        Backgrounds that training never sees, for the threshold. Without them,
        `calibration_share` of the backgrounds is set aside, by recording.
    group : str
        Regular expression whose first group in a file's path is its speaker or
        session: recordings of one group are never split.
    validation_share : float
        Share of the positives that training never sees.
    target : TargetSettings
    loss, optimizer, learning_rate, weight_decay : as in Keras
        ``focal_crossentropy`` weighs the cross-entropy by ``|target - score|**0.5``.
    schedule : {'constant', 'cosine'}
        Of the learning rate; cosine falls to zero after a short warm-up.
    epochs, steps_per_epoch, batch_size : int
    patience : int
        Epochs without fewer validation misses after which training stops early.
    excerpt : float
        Seconds of an example.
    mining : int
        How often the network so far is run over the training backgrounds, to train
        further on where it fires wrongly.
    seed : int
    augment : AugmentSettings
    """

    method: Method = "network"
    signal: SignalSettings | None = None
    positives: list[str] | dict[Name, list[str]] = []
    negatives: list[str] = []
    backgrounds: list[str] = []
    calibration: list[str] = []
    calibration_share: Proper = 0.3
    group: str | None = None
    validation_share: Proper = 0.15
    target: TargetSettings = TargetSettings()
    loss: Loss | None = None
    optimizer: Literal["adam", "adamw", "nadam", "lion", "rmsprop", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    epochs: int = Field(30, ge=1, le=10_000_000)
    steps_per_epoch: int = Field(100, ge=1, le=100_000)
    batch_size: int = Field(32, ge=1, le=4096)
    excerpt: Positive = 4.0
    patience: int | None = Field(None, ge=1)
    mining: int = Field(0, ge=0, le=10)
    seed: int = Field(0, ge=0, lt=2**31)
    augment: AugmentSettings = AugmentSettings()

    @field_validator("group")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from error
            if groups != 1:
                raise ValueError("needs one group in parentheses, such as '_([a-z]+)_'")
        return value

    @property
    def chosen_loss(self) -> Loss:
        """The loss, or what suits the kind of data: mean absolute error for a signal."""
        return self.loss or ("focal_crossentropy" if self.signal is None else "mean_absolute_error")

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> "TrainingSettings":
        if (self.signal is None) == (not self.positives):
            raise ValueError("give either signal or positives")
        if self.signal is not None and self.method != "network":
            raise ValueError(f"method {self.method} needs positives")
        return self


class Config(Settings):
    """A detector's configuration.

    Attributes
    ----------
    name : str
    samplerate : int
        Hz.
    channels : int
        Channels of the network's input.
    outputs : list of str
        Names of the scores, one per filter of the last layer.
    network : list of LayerSettings
    precise : bool
        Run at the full rate what was trained with strides: an event is placed on the
        sample, at as many times the cost as the hop has samples.
    training : TrainingSettings, optional
    detection : DetectionSettings, or one for each output's name
    """

    name: Name
    samplerate: int = Field(ge=1, le=10_000_000)
    channels: int = Field(1, ge=1, le=1024)
    outputs: list[Name] = []
    network: list[LayerSettings] = []
    precise: bool = False
    training: TrainingSettings | None = None
    detection: DetectionSettings | dict[str, DetectionSettings] = DetectionSettings()
    _path: Path | None = None

    @field_validator("detection", mode="before")
    @classmethod
    def _one_or_by_output(cls, value: Any) -> Any:
        # Decided here, so that an error speaks of one form and not of both.
        if isinstance(value, dict):
            if value and all(isinstance(part, dict) for part in value.values()):
                return {key: DetectionSettings.model_validate(part) for key, part in value.items()}
            return DetectionSettings.model_validate(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if not self.network and not self.closed_form:
            raise ValueError("network is missing, it needs at least 1 layer or {preset: NAME}")
        channels = self.channels
        for i, layer in enumerate(self.network):
            if channels % layer.groups or layer.filters % layer.groups:
                raise ValueError(
                    f"network.{i}: groups {layer.groups} does not divide "
                    f"{channels} channels and {layer.filters} filters"
                )
            if layer.residual and (layer.strides != 1 or layer.filters != channels):
                raise ValueError(
                    f"network.{i}: residual needs strides 1 and filters {channels}, "
                    f"as many as come in"
                )
            if layer.pieces and i > 0:
                raise ValueError(f"network.{i}: pieces belong to the first layer")
            channels = layer.filters
        if len(set(self.outputs)) < len(self.outputs):
            raise ValueError("outputs: two have the same name")
        filters = 1 if self.closed_form else channels
        if self.outputs and len(self.outputs) != filters:
            raise ValueError(
                f"outputs: {len(self.outputs)} names for the {filters} filters of the last layer"
            )
        positives = None if self.training is None else self.training.positives
        if positives and len(self.output_names) > 1 and isinstance(positives, list):
            raise ValueError("training.positives: name the patterns of each output")
        if isinstance(positives, dict) and set(positives) != set(self.output_names):
            raise ValueError(
                f"training.positives: needs patterns for {', '.join(self.output_names)}"
            )
        if isinstance(self.detection, dict):
            unknown = set(self.detection) - set(self.output_names)
            if unknown:
                raise ValueError(
                    f"detection: unknown output {min(unknown)!r}, "
                    f"known are {', '.join(self.output_names)}"
                )
        return self

    @property
    def closed_form(self) -> bool:
        """Whether the layers are computed, and a network is not needed."""
        return self.training is not None and self.training.method != "network"

    @property
    def output_names(self) -> list[str]:
        """The outputs' names: as given, or the detector's name, numbered if several."""
        count = 1 if self.closed_form else self.network[-1].filters
        if self.outputs:
            return self.outputs
        return [self.name] if count == 1 else [f"{self.name}-{i}" for i in range(1, count + 1)]

    @property
    def receptive_field(self) -> float:
        """Samples that a score depends on; a closed form is as long as the pattern."""
        if self.closed_form:
            return math.inf
        field, step = 1, 1
        for layer in self.network:
            field += (layer.kernel_size - 1) * layer.dilation_rate * step
            step *= layer.strides
        return field

    def deployed(self) -> "Config":
        """The config whose network is run: with `precise`, its strides have become dilations.

        Every output that lies between those of the strided network is computed as if
        the stream had begun some samples later; the weights are the same.
        """
        if not self.precise:
            return self
        step, layers = 1, []
        for layer in self.network:
            update = {"strides": 1, "dilation_rate": layer.dilation_rate * step}
            layers.append(layer.model_copy(update=update))
            step *= layer.strides
        return self.model_copy(update={"network": layers})

    def detection_of(self, output: str) -> DetectionSettings:
        """Detection settings of one output."""
        if isinstance(self.detection, dict):
            return self.detection.get(output, DetectionSettings())
        return self.detection

    def training_patterns(self) -> list[tuple[str, list[str]]]:
        """Keys of the training section that name files, with their patterns."""
        if self.training is None:
            return []
        keys = ["negatives", "backgrounds", "calibration"]
        found = [(f"training.{key}", getattr(self.training, key)) for key in keys]
        positives = self.training.positives
        if isinstance(positives, list):
            return [("training.positives", positives), *found]
        by_output = [(f"training.positives.{name}", positives[name]) for name in positives]
        return by_output + found

    def find_files(self, key: str, patterns: list[str]) -> list[Path]:
        """Files that a list of patterns matches, sorted, each once.

        A relative pattern is looked for beside the config file, then in the
        current folder.

        Raises
        ------
        RtconvError
            If a pattern matches no file.
        """
        return find_files(self._path, key, patterns)


def find_files(config: Path | None, key: str, patterns: list[str]) -> list[Path]:
    """Files that the patterns of a config's key match; see `Config.find_files`."""
    folders = [Path.cwd()] if config is None else [config.parent, Path.cwd()]
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches: list[Path] = []
        for folder in folders:
            matches = matches or sorted(p for p in _glob(folder, pattern) if p.is_file())
        if not matches:
            raise RtconvError(f"{config}: {key}: {pattern!r} matches no file")
        found.update(dict.fromkeys(match.resolve() for match in matches))
    return list(found)


def _glob(folder: Path, pattern: str) -> list[Path]:
    whole = folder / pattern
    if whole.exists():  # the name of a file, whatever characters are in it
        return [whole]
    anchor = Path(whole.anchor)
    return list(anchor.glob(str(whole.relative_to(anchor))))


def load_config(path: Path | str) -> Config:
    """Read a detector's configuration.

    Parameters
    ----------
    path : path of a YAML file

    Raises
    ------
    RtconvError
        If the file cannot be read, is not YAML, or a setting is unknown, of the
        wrong type or impossible.
    """
    path = Path(path)
    return parse_config(read_yaml(path), path)


def read_yaml(path: Path) -> Any:
    """Read a YAML file into plain values; nothing in it is executed or repeated.

    Raises
    ------
    RtconvError
        If it cannot be read or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RtconvError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RtconvError(f"{path}: is not a YAML text file") from error
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        detail = " ".join(str(error).split()).removeprefix("while ")
        raise RtconvError(f"{path}: is not valid YAML: {detail[:200]}") from error


def parse_config(values: Any, path: Path | None = None) -> Config:
    """Validate settings that are already in memory.

    Parameters
    ----------
    values : mapping
    path : Path, optional
        The file they come from, named in messages and the base of relative patterns.
    """
    where = "config" if path is None else str(path)
    try:
        config = Config.model_validate(expand_preset(values))
    except ValidationError as error:
        raise RtconvError(f"{where}: {sentence(error)}") from error
    except ValueError as error:
        raise RtconvError(f"{where}: {error}") from error
    if path is not None:
        config._path = path.resolve()
        if config.training is not None:
            for key, patterns in config.training_patterns():
                config.find_files(key, patterns)
    return config


def sentence(error: ValidationError) -> str:
    """The first complaint of a validation error as one sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    got = repr(first["input"])
    got = got if len(got) <= 60 else got[:57] + "..."
    return f"{key} is {got}: {message[0].lower()}{message[1:]}"


class _PlainLoader(yaml.SafeLoader):
    """Plain YAML without aliases, which can grow a small file without bound."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*name) are not allowed, {self.peek_event().start_mark}")
        return super().compose_node(parent, index)
