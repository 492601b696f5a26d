"""The experiments of the lecture, each a short program over the public API.

An experiment is a module with a function ``run(sheet)``: it computes, prints what
it found, draws on the sheet, and returns the numbers that its claim stands on.
"""

from importlib import import_module
from typing import Any

from rtconv.errors import RtconvError
from rtconv.lecture.sheet import Sheet

#: What ``rtconv lecture`` lists, in the order of the notes.
EXPERIMENTS = {
    "activations": "sigmoid, tanh, relu, leaky relu and their derivatives",
    "backprop": "back-propagation from scratch, gradient descent and Adam",
    "digits": "handwritten digits: the network from scratch, Dense and convolutional ones",
    "filterbank": "a network is a cascade of filter banks: a chirp in the subbands",
    "ramp": "a causal Conv1D of eight taps finds the ramp 0 1 2 3 4",
    "valid": "the same without zero-padding: seven samples shorter",
    "pytorch": "the same in PyTorch; which framework correlates, which convolves",
    "dense": "the same as a Dense layer over cut-out blocks",
    "streaming": "a shifting buffer: one output for each new sample",
    "matched": "matched, Wiener and L1 filters beside the trained one: SNR and peak width",
    "live": "a chirp from the microphone, with the scores drawn as they come",
}


def run(name: str, sheet: Sheet | None = None, **options: Any) -> dict[str, Any]:
    """Run one experiment.

    Parameters
    ----------
    name : str
        A key of `EXPERIMENTS`.
    sheet : Sheet, optional
        Where it draws and keeps its files.
    **options
        Of the experiment `live` alone: see `rtconv.lecture.live.run`.

    Returns
    -------
    dict
        The numbers that it found, by name.

    Raises
    ------
    RtconvError
        If there is no such experiment, or a package that it needs is missing.
    """
    if name not in EXPERIMENTS:
        raise RtconvError(f"{name}: no such experiment, there are {', '.join(EXPERIMENTS)}")
    try:
        experiment = import_module(f"rtconv.lecture.{name}")
        return experiment.run(sheet or Sheet(), **options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = {"torch": "torch", "sklearn": "lecture"}.get(package, "train")
        raise RtconvError(
            f"the experiment {name} needs {package}, install it with: pip install 'rtconv[{extra}]'"
        ) from error
