"""What an interrupted training goes on from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.errors import RtconvError
from rtconv.files import atomic_path


def save_checkpoint(
    path: Path, state: Mapping[str, Any], arrays: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """Write JSON values and named lists of arrays; there is always the old file or the new."""
    named = {f"{key} {i}": array for key, group in arrays.items() for i, array in enumerate(group)}
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, state=np.array(json.dumps(state)), **named)


def load_checkpoint(
    path: Path, shapes: Mapping[str, Sequence[tuple[int, ...]]]
) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Read what `save_checkpoint` wrote.

    Parameters
    ----------
    path : Path
    shapes : mapping
        Names of the lists, and the shapes of their arrays.

    Raises
    ------
    RtconvError
        If the file cannot be read, or holds something else.
    """
    if not path.is_file():
        raise RtconvError(f"{path}: there is no interrupted training to resume")
    try:
        with np.load(path, allow_pickle=False) as file:
            state = json.loads(str(file["state"]))
            arrays = {
                key: [file[f"{key} {i}"] for i in range(len(group))]
                for key, group in shapes.items()
            }
    # A damaged archive fails in many ways, none of which runs anything.
    except Exception as error:
        raise RtconvError(f"{path}: is no checkpoint, or a damaged one; delete it") from error
    found = {key: [array.shape for array in group] for key, group in arrays.items()}
    if found != {key: list(group) for key, group in shapes.items()} or not isinstance(state, dict):
        raise RtconvError(f"{path}: is the checkpoint of another network; delete it")
    return state, arrays
