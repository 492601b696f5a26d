"""Writing scores block by block, so that memory does not grow with the recording."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rtconv.errors import RtconvError
from rtconv.files import atomic_path

SUFFIXES = (".npy", ".wav")


@contextmanager
def score_writer(
    path: Path, samplerate: int, columns: int
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends scores (frames, columns) to a ``.npy`` or ``.wav`` file.

    A single column is written as (frames,). The file appears under its name when
    the block is left without an error.

    Parameters
    ----------
    path : Path
    samplerate : int
        Hz, for a WAV file.
    columns : int
        Scores per sample.

    Raises
    ------
    RtconvError
        If the suffix is another one, or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise RtconvError(f"{path}: scores are written as {' or '.join(SUFFIXES)}")
    with atomic_path(path) as temporary:
        if path.suffix == ".wav":
            import soundfile

            with soundfile.SoundFile(temporary, "w", samplerate, columns, "FLOAT") as wav:
                yield wav.write
            return
        with temporary.open("wb") as file:
            frames = 0

            def write_header() -> None:
                shape = (frames,) if columns == 1 else (frames, columns)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                # NumPy leaves room for the first dimension to grow in place.
                np.lib.format.write_array_header_1_0(file, header)

            def append(scores: np.ndarray) -> None:
                nonlocal frames
                frames += len(scores)
                file.write(scores.astype("<f4").tobytes())

            write_header()
            yield append
            file.seek(0)
            write_header()
