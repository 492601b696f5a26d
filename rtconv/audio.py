"""Sound files as blocks of samples at the samplerate that is wanted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtconv.errors import RtconvError

#: Frames that are read from a file at a time.
READ_BLOCKSIZE = 65536


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file says of itself.

    Attributes
    ----------
    path : Path
    samplerate : int
        Hz.
    channels : int
    frames : int
        At its own samplerate.
    """

    path: Path
    samplerate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.samplerate


def audio_info(path: Path | str) -> AudioInfo:
    """Read the header of a sound file.

    Raises
    ------
    RtconvError
        If there is no such file, or it holds no readable sound.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise RtconvError(f"{path}: there is no such file")
    try:
        with soundfile.SoundFile(path) as file:
            info = AudioInfo(path, file.samplerate, file.channels, file.frames)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise RtconvError(f"{path}: is not a sound file that can be read ({_reason(error)})") from (
            error
        )
    if info.frames < 1:
        raise RtconvError(f"{path}: holds no samples")
    return info


def read_blocks(path: Path | str, samplerate: int) -> Iterator[np.ndarray]:
    """Read a sound file in blocks, resampled where its samplerate is another.

    One stateful resampler (soxr, very high quality) runs over the whole file.
    It makes up for its own delay: sample n of the output lies at ``n /
    samplerate`` seconds of the file.

    Parameters
    ----------
    path : path
        Any format that libsndfile reads: WAV, FLAC, Ogg, MP3, ...
    samplerate : int
        Hz, of the blocks.

    Yields
    ------
    ndarray, (frames, channels), float32
        Frames as many as come; full scale is 1.

    Raises
    ------
    RtconvError
        If the file cannot be read, or ends before the length in its header.
    """
    import soundfile

    info = audio_info(path)
    resampler = None
    if info.samplerate != samplerate:
        import soxr

        resampler = soxr.ResampleStream(
            info.samplerate, samplerate, info.channels, dtype="float32", quality="VHQ"
        )
    frames = 0
    try:
        with soundfile.SoundFile(info.path) as file:
            while len(block := file.read(READ_BLOCKSIZE, dtype="float32", always_2d=True)):
                frames += len(block)
                yield block if resampler is None else resampler.resample_chunk(block)
    except (soundfile.SoundFileError, OSError) as error:
        raise RtconvError(
            f"{path}: cannot be read beyond {frames / info.samplerate:.3f} s ({_reason(error)})"
        ) from error
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros((0, info.channels), np.float32), last=True)
    if frames < info.frames:
        raise RtconvError(f"{path}: is truncated, it ends after {frames} of {info.frames} frames")


def read_audio(path: Path | str, samplerate: int) -> np.ndarray:
    """Read a whole sound file; see `read_blocks`.

    Returns
    -------
    ndarray, (frames, channels), float32
    """
    return np.concatenate(list(read_blocks(path, samplerate)))


def write_audio(path: Path | str, samples: np.ndarray, samplerate: int) -> None:
    """Write a sound file; its suffix chooses the format.

    Parameters
    ----------
    path : path
    samples : ndarray, (frames,) or (frames, channels)
        Full scale is 1. WAV is written as float32, other formats in their
        default resolution.
    samplerate : int
        Hz.
    """
    import soundfile

    from rtconv.files import atomic_path

    subtype = "FLOAT" if Path(path).suffix.lower() == ".wav" else None
    try:
        with atomic_path(path) as temporary:
            soundfile.write(temporary, samples, samplerate, subtype=subtype)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise RtconvError(f"{path}: cannot be written as sound ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What libsndfile says, without the file's name and in one line."""
    return " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
