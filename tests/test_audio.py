"""Reading sound files: formats, rates, and files that are broken."""

import numpy as np
import pytest
import soundfile

from rtconv.audio import READ_BLOCKSIZE, audio_info, read_audio, read_blocks, write_audio
from rtconv.errors import RtconvError


def tone(samplerate, seconds=2.0, frequency=440.0, channels=1):
    time = np.arange(round(samplerate * seconds)) / samplerate
    x = 0.5 * np.sin(2 * np.pi * frequency * time).astype(np.float32)
    return np.stack([x * (c + 1) / channels for c in range(channels)], axis=1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("channels", [1, 2])
def test_formats(tmp_path, suffix, channels):
    path = tmp_path / f"tone.{suffix}"
    x = tone(44100, channels=channels)
    soundfile.write(path, x, 44100)
    assert audio_info(path).channels == channels
    read = read_audio(path, 44100)
    assert read.dtype == np.float32
    assert read.shape == x.shape
    assert np.abs(read - x)[2000:-2000].max() < 0.05  # lossy formats are not exact


@pytest.mark.parametrize("samplerate", [8000, 11025, 44100, 48000, 96000])
def test_resampling_keeps_the_time(tmp_path, samplerate):
    """The resampled tone has the phase of one made at the wanted rate."""
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(samplerate), samplerate, subtype="FLOAT")
    read = read_audio(path, 16000)
    expected = tone(16000)
    assert abs(len(read) - len(expected)) <= 1
    inner = slice(500, 31500)
    np.testing.assert_allclose(read[inner], expected[inner], atol=2e-5)


def test_resampling_does_not_depend_on_the_blocks(tmp_path, monkeypatch):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(44100, 4), 44100, subtype="FLOAT")
    whole = read_audio(path, 16000)
    monkeypatch.setattr("rtconv.audio.READ_BLOCKSIZE", 1000)
    np.testing.assert_array_equal(read_audio(path, 16000), whole)


def test_a_file_is_streamed(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(8000, 60), 8000)
    assert max(len(block) for block in read_blocks(path, 8000)) <= READ_BLOCKSIZE


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_a_truncated_file_gives_what_it_has_and_says_so(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (400_000, 1))
    soundfile.write(path, x, 44100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames = 0
    with pytest.raises(RtconvError, match=r"cut\.\w+: (is truncated|cannot be read beyond)"):
        for block in read_blocks(path, 44100):
            frames += len(block)
    assert 0 < frames < 300_000


@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 100, b"RIFF\x24\0\0\0WAVEfmt ", b"\x7fELF" + b"\0" * 500]
)
@pytest.mark.parametrize("suffix", ["wav", "mp3", "raw", "txt"])
def test_files_that_are_no_sound(tmp_path, content, suffix):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    with pytest.raises(RtconvError, match=rf"broken\.{suffix}: (is not a sound file|holds no)"):
        read_audio(path, 8000)


def test_no_file_and_no_samples(tmp_path):
    with pytest.raises(RtconvError, match="no such file"):
        read_audio(tmp_path / "none.wav", 8000)
    with pytest.raises(RtconvError, match="no such file"):
        read_audio(tmp_path, 8000)
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 8000)
    with pytest.raises(RtconvError, match="holds no samples"):
        read_audio(tmp_path / "empty.wav", 8000)


def test_writing(tmp_path):
    x = tone(8000)
    write_audio(tmp_path / "x.wav", x, 8000)
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav", 8000), x)
    with pytest.raises(RtconvError, match=r"x\.xyz: cannot be written as sound"):
        write_audio(tmp_path / "x.xyz", x, 8000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.wav"]
