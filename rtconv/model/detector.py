"""The deployable file of a detector: safetensors, self-contained and free of code.

Tensors ``layer{i}.dense`` and ``layer{i}.bias``; the metadata entry ``rtconv``
is JSON with everything else. The certificate says how the weights were checked
at conversion, and holds their digest, which loading compares.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from rtconv.config import Activation, DetectionSettings, Name, NotNegative, PickerSettings, Settings
from rtconv.errors import RtconvError
from rtconv.files import atomic_path
from rtconv.model.layers import Layer, check_cascade, hop, receptive_field

FORMAT: Literal[1] = 1


class Output(PickerSettings):
    """One score of the network: its name and its picker's settings."""

    name: Name

    def at_threshold(self, threshold: float) -> "Output":
        """The same with another threshold, and the release that belongs to it."""
        settings = DetectionSettings(
            threshold=threshold,
            refractory=self.refractory,
            max_hold=self.max_hold,
            decision=self.decision,
            pattern=self.pattern,
            pulse=self.pulse,
        )
        return Output(name=self.name, **settings.picker().model_dump())


class Certificate(Settings):
    """What the conversion compared, and how far apart it found them.

    Attributes
    ----------
    oracle : str
        The network that the streaming network was compared with.
    largest_difference : float
        Largest absolute difference of the scores, relative to the larger of 1
        and the largest absolute score.
    tested : list of str
        The signals and partitions.
    digest : str
        SHA-256 of the layers.
    """

    oracle: str
    largest_difference: NotNegative
    tested: list[str]
    digest: str


@dataclass(frozen=True)
class Model:
    """A detector as it is stored: layers, settings and record, no state.

    Attributes
    ----------
    name : str
    samplerate : int
        Hz.
    layers : sequence of Layer
    outputs : sequence of Output
        One per filter of the last layer.
    certificate : Certificate or None
        None until `rtconv.stream.certify` has run.
    training : dict
        How it was made: config, data, seed, versions. JSON values only.
    """

    name: str
    samplerate: int
    layers: Sequence[Layer]
    outputs: Sequence[Output]
    certificate: Certificate | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_cascade(self.layers)
        if len(self.outputs) != self.layers[-1].filters:
            raise RtconvError(
                f"{len(self.outputs)} outputs for the {self.layers[-1].filters} filters "
                "of the last layer"
            )

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self.layers[0].in_channels

    @property
    def receptive_field(self) -> int:
        """Samples that one network output depends on."""
        return receptive_field(self.layers)

    @property
    def hop(self) -> int:
        """Samples per new network output."""
        return hop(self.layers)

    @property
    def memory(self) -> int:
        """Samples after which an input can no longer be felt in any score."""
        return self.receptive_field + self.hop - 1


class _StoredLayer(Settings):
    in_channels: int = Field(ge=1, le=65536)
    kernel_size: int = Field(ge=1, le=1_000_000)
    strides: int = Field(ge=1, le=1_000_000)
    dilation_rate: int = Field(ge=1, le=1_000_000)
    groups: int = Field(ge=1, le=65536)
    activation: Activation
    residual: bool


class _Stored(Settings):
    """The JSON in a detector file."""

    format: Literal[1]
    name: Name
    samplerate: int = Field(ge=1, le=10_000_000)
    layers: list[_StoredLayer] = Field(min_length=1, max_length=1000)
    outputs: list[Output] = Field(min_length=1)
    certificate: Certificate
    training: dict[str, Any]


def digest(layers: Sequence[Layer]) -> str:
    """SHA-256 of layers: their numbers and the bytes of their weights."""
    sha = hashlib.sha256()
    for layer, stored in zip(layers, _stored_layers(layers), strict=True):
        sha.update(stored.model_dump_json().encode())
        for array in (layer.dense, layer.bias):
            sha.update(b"none" if array is None else array.astype("<f4").tobytes())
    return sha.hexdigest()


def save_model(path: Path | str, model: Model) -> None:
    """Write a detector file; there is always either the old one or the new one.

    Raises
    ------
    RtconvError
        If the model has no certificate, or the file cannot be written.
    """
    from safetensors.numpy import save_file

    if model.certificate is None:
        raise RtconvError(f"{path}: a detector is saved with its certificate, certify it first")
    stored = _Stored(
        format=FORMAT,
        name=model.name,
        samplerate=model.samplerate,
        layers=_stored_layers(model.layers),
        outputs=list(model.outputs),
        certificate=model.certificate,
        training=model.training,
    )
    tensors = {}
    for i, layer in enumerate(model.layers):
        tensors[f"layer{i}.dense"] = np.ascontiguousarray(layer.dense)
        if layer.bias is not None:
            tensors[f"layer{i}.bias"] = np.ascontiguousarray(layer.bias)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"rtconv": stored.model_dump_json()})


def load_model(path: Path | str) -> Model:
    """Read a detector file.

    Raises
    ------
    RtconvError
        If it cannot be read, is no detector, is damaged, or its weights are not
        those that were certified.
    """
    path = Path(path)
    if not path.is_file():
        raise RtconvError(f"{path}: there is no such file")
    metadata, tensors = _read(path)
    try:
        values = json.loads(metadata)
        stored = _Stored.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part)[:40] for part in first["loc"])
        if key == "format":
            raise RtconvError(
                f"{path}: has a format that this version of rtconv does not know, update rtconv"
            ) from error
        raise RtconvError(f"{path}: is a damaged detector ({key}: {first['msg']})") from error
    except (ValueError, RecursionError) as error:
        raise RtconvError(f"{path}: is a damaged detector (its settings are no JSON)") from error
    try:
        layers = [
            Layer(
                dense=tensors.pop(f"layer{i}.dense"),
                bias=tensors.pop(f"layer{i}.bias", None),
                **layer.model_dump(),
            )
            for i, layer in enumerate(stored.layers)
        ]
        if tensors:
            raise RtconvError(f"unexpected tensor {min(tensors)[:60]!r}")
        model = Model(
            stored.name,
            stored.samplerate,
            layers,
            stored.outputs,
            stored.certificate,
            stored.training,
        )
    except KeyError as error:
        raise RtconvError(f"{path}: is a damaged detector (no tensor {error})") from error
    except RtconvError as error:
        raise RtconvError(f"{path}: is a damaged detector ({error})") from error
    if digest(layers) != stored.certificate.digest:
        raise RtconvError(
            f"{path}: its weights are not those that were certified, convert it again"
        )
    return model


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = (file.metadata() or {}).get("rtconv")
            if metadata is None:
                raise RtconvError(f"{path}: is not a detector of rtconv")
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise RtconvError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise RtconvError(f"{path}: is not a detector, or a damaged one") from error


def _stored_layers(layers: Sequence[Layer]) -> list[_StoredLayer]:
    return [
        _StoredLayer(**{name: getattr(layer, name) for name in _StoredLayer.model_fields})
        for layer in layers
    ]
