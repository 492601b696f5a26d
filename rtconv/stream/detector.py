"""A detector at work: a model with a streaming network and its state."""

from pathlib import Path

import numpy as np

from rtconv.errors import RtconvError
from rtconv.model.detector import Model, load_model, save_model
from rtconv.stream.events import EventPickers
from rtconv.stream.network import Engine, open_network


class Detector:
    """A model that runs: samples in, one score per sample out.

    Parameters
    ----------
    model : Model
    engine : {'compiled', 'reference'}
        See `rtconv.stream.network.open_network`.

    Attributes
    ----------
    model : Model
        Name, samplerate, layers, outputs, certificate and training record.
    """

    def __init__(self, model: Model, engine: Engine = "compiled") -> None:
        self.model = model
        self.engine: Engine = engine
        self._network = open_network(model.layers, engine)

    @property
    def name(self) -> str:
        """The detector's name."""
        return self.model.name

    @property
    def samplerate(self) -> int:
        """Hz, of the samples it takes."""
        return self.model.samplerate

    def process(self, x: np.ndarray) -> np.ndarray:
        """Scores of a whole signal from zero state; the stream of `step` is not touched.

        Parameters
        ----------
        x : ndarray, (frames,) or (frames, channels), floating point
            Full scale is 1.

        Returns
        -------
        ndarray, (frames,) or (frames, outputs) if there are several, float32

        Raises
        ------
        RtconvError
            If `x` has another shape or is not floating point.
        """
        return self._squeeze(open_network(self.model.layers, self.engine).step(self._samples(x)))

    def step(self, block: np.ndarray) -> np.ndarray:
        """Scores of the next samples of the stream; arguments and result as for `process`.

        Any partition of a signal into blocks gives the bits of `process`.
        """
        return self._squeeze(self._network.step(self._samples(block)))

    def reset(self) -> None:
        """Forget all past samples of the stream."""
        self._network.reset()

    def pickers(self, channel: int = 1) -> EventPickers:
        """Fresh event pickers, one for each output."""
        return EventPickers(self.model.outputs, self.samplerate, channel)

    def save(self, path: Path | str) -> None:
        """Write the detector file; see `rtconv.model.detector.save_model`."""
        save_model(path, self.model)

    def _samples(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if x.dtype.kind != "f":
            raise RtconvError(
                f"samples must be floating point with full scale 1, not {x.dtype}; "
                "divide integer samples by their full scale"
            )
        if x.ndim == 1:
            x = x[:, np.newaxis]
        if x.ndim != 2 or x.shape[1] != self.model.channels:
            raise RtconvError(
                f"samples have the shape {x.shape}, (frames, {self.model.channels}) was expected"
            )
        return np.ascontiguousarray(x, np.float32)

    def _squeeze(self, scores: np.ndarray) -> np.ndarray:
        return scores[:, 0] if scores.shape[1] == 1 else scores


def load(path: Path | str, engine: Engine = "compiled") -> Detector:
    """Load a detector file.

    Parameters
    ----------
    path : path of a ``.safetensors`` file
    engine : {'compiled', 'reference'}

    Raises
    ------
    RtconvError
        If it is not a detector, is damaged, or was changed after its certification.
    """
    return Detector(load_model(path), engine)
