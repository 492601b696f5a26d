"""Teach a small causal Conv1D network to recognise a sound, and run it sample by sample.

    >>> import rtconv
    >>> detector = rtconv.load("models/ramp.safetensors")
    >>> scores = detector.process(x)                    # one score per sample
    >>> for event in rtconv.replay(detector, "door.wav"):
    ...     print(event)

`train`, `convert`, `load`, `replay`, `listen` and `evaluate` are the whole API. Everything is
imported when it is first used: ``import rtconv`` loads neither TensorFlow nor PortAudio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rtconv.errors import RtconvError

if TYPE_CHECKING:
    from rtconv.config import Config as Config
    from rtconv.config import load_config as load_config
    from rtconv.evaluation.quality import Evaluation as Evaluation
    from rtconv.evaluation.quality import evaluate as evaluate
    from rtconv.evaluation.replay import replay as replay
    from rtconv.live.engine import listen as listen
    from rtconv.stream.detector import Detector as Detector
    from rtconv.stream.detector import load as load
    from rtconv.stream.events import Event as Event
    from rtconv.stream.events import EventPicker as EventPicker

__version__ = "0.1.0"

_HOMES = {
    "Config": "rtconv.config",
    "load_config": "rtconv.config",
    "Detector": "rtconv.stream.detector",
    "load": "rtconv.stream.detector",
    "Event": "rtconv.stream.events",
    "EventPicker": "rtconv.stream.events",
    "replay": "rtconv.evaluation.replay",
    "evaluate": "rtconv.evaluation.quality",
    "Evaluation": "rtconv.evaluation.quality",
    "listen": "rtconv.live.engine",
    "train": "rtconv.training.trainer",
    "convert": "rtconv.training.convert",
}

__all__ = [*_HOMES, "RtconvError"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rtconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
