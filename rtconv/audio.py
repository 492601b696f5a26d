"""Sound files as blocks of samples at the samplerate that is wanted."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtconv.errors import RtconvError

#: Frames that are read from a file at a time.
READ_BLOCKSIZE = 65536


# What libsndfile notes while it opens a file whose header promises more than there is.
_CUT_SHORT = re.compile(r"(?:data|SSND) : (\d+) \(should be (\d+)\)|Calculated frame count")


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
    truncated : bool
        Whether the file is shorter than its header says.
    """

    path: Path
    samplerate: int
    channels: int
    frames: int
    truncated: bool = False

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
            cut_short = _CUT_SHORT.search(file.extra_info) is not None
            truncated = cut_short or (file.format == "OGG" and not _ogg_ends(path))
            info = AudioInfo(path, file.samplerate, file.channels, file.frames, truncated)
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

    class Forward(soundfile.SoundFile):
        """Never seeks: seeking after each block makes MP3 files click there."""

        def seekable(self) -> bool:
            return False

    info = audio_info(path)
    resampler = None
    if info.samplerate != samplerate:
        import soxr

        resampler = soxr.ResampleStream(
            info.samplerate, samplerate, info.channels, dtype="float32", quality="VHQ"
        )
    frames = 0
    try:
        with Forward(info.path) as file:
            ogg = file.format == "OGG"
            while len(block := file.read(READ_BLOCKSIZE, dtype="float32", always_2d=True)):
                frames += len(block)
                yield block if resampler is None else resampler.resample_chunk(block)
    except (soundfile.SoundFileError, OSError) as error:
        raise RtconvError(
            f"{path}: cannot be read beyond {frames / info.samplerate:.3f} s ({_reason(error)})"
        ) from error
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros((0, info.channels), np.float32), last=True)
    # Of an Ogg file the last page tells: the count of frames may be a few too large.
    if info.truncated or (frames < info.frames and not ogg):
        raise RtconvError(f"{path}: is truncated, it ends after {frames / info.samplerate:.3f} s")


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


def _ogg_ends(path: Path) -> bool:
    """Whether the last page of an Ogg file is marked as the end (RFC 3533, header type 4)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 70_000))  # a page has less than 65,308 bytes
        tail = file.read()
    page = tail.rfind(b"OggS\0")
    return page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & 4)


def _reason(error: Exception) -> str:
    """What libsndfile says, without the file's name and in one line."""
    return " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
