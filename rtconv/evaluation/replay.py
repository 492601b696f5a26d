"""Replaying recordings through the same network and event picker as live."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from rtconv.audio import AudioInfo, audio_info, read_blocks
from rtconv.errors import RtconvError
from rtconv.model.detector import Model
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event
from rtconv.stream.network import open_network
from rtconv.stream.session import is_session, replay_session

#: ``0`` for the mean, ``n`` for one channel counted from 1, or each on its own.
Channel = int | Literal["all"]

#: Samples that one job takes at a time.
JOB_SAMPLES = 1 << 18


def replay(
    detector: Detector,
    path: Path | str,
    *,
    channel: Channel = 0,
    blocksize: int | None = None,
    jobs: int = 1,
    on_scores: Callable[[np.ndarray], None] | None = None,
) -> Iterator[Event]:
    """Events of a recording, as they are decided.

    The file is streamed: memory does not grow with its length. Block size and
    number of jobs change no bit of the scores. A session that `rtconv.listen`
    recorded gives the events that it gave then, whatever the options.

    Parameters
    ----------
    detector : Detector
        Its stream is not touched.
    path : path of a sound file
        Any format, samplerate and number of channels.
    channel : int or 'all'
        For a detector of one channel: 0 the mean of the file's channels, 1 the
        first, ..., 'all' each channel on its own.
    blocksize : int, optional
        Samples given to the network at a time.
    jobs : int
        Threads that compute scores.
    on_scores : callable, optional
        Is given the scores of each block, (frames, columns), float32; with
        ``channel='all'`` the columns of the first channel come first.

    Yields
    ------
    Event

    Raises
    ------
    RtconvError
        If the file cannot be read, or its channels do not fit. Events before
        the place where a file breaks have been given by then.
    """
    if is_session(path):
        records = replay_session(detector, path, on_scores)
        yield from (record for record in records if isinstance(record, Event))
        return
    model = detector.model
    info = audio_info(path)
    inputs = _input_channels(model, info, channel)
    pickers = [detector.pickers(number) for number in inputs]
    errors: list[RtconvError] = []
    blocks = _until_error(read_blocks(path, model.samplerate), errors)
    selected = (
        _select(block, inputs, model.channels)
        for block in _reblock(blocks, blocksize or JOB_SAMPLES)
    )
    for scores in _scores(detector, selected, len(inputs), jobs):
        if on_scores is not None:
            on_scores(np.concatenate(scores, axis=1))
        for picker, columns in zip(pickers, scores, strict=True):
            yield from picker.push(columns)
    for picker in pickers:
        yield from picker.finish()
    if errors:
        raise errors[0]


def with_threshold(model: Model, threshold: float) -> Model:
    """The same model with another threshold, and the release that belongs to it."""
    return replace(model, outputs=[output.at_threshold(threshold) for output in model.outputs])


def describe_conversion(model: Model, info: AudioInfo, channel: Channel = 0) -> str | None:
    """What is done to a file's samples before the network sees them, or None."""
    done = []
    if info.samplerate != model.samplerate:
        done.append(f"resampled from {info.samplerate} Hz to {model.samplerate} Hz")
    if model.channels == 1 and info.channels > 1 and channel == 0:
        done.append(f"mean of its {info.channels} channels")
    return f"{info.path}: {', '.join(done)}" if done else None


def _input_channels(model: Model, info: AudioInfo, channel: Channel) -> list[int]:
    """Channel numbers, each of which gets a network of its own."""
    if model.channels > 1:
        if info.channels != model.channels:
            raise RtconvError(
                f"{info.path}: has {info.channels} channels, the detector takes {model.channels}"
            )
        return [0]
    if channel == "all":
        return list(range(1, info.channels + 1))
    if not 0 <= channel <= info.channels:
        raise RtconvError(f"{info.path}: has no channel {channel}, it has {info.channels}")
    # The mean of a single channel is that channel: its number is known.
    return [1 if channel == 0 and info.channels == 1 else channel]


def _select(block: np.ndarray, inputs: list[int], channels: int) -> list[np.ndarray]:
    """Each network's samples (frames, channels) of a file's block."""
    if channels > 1:
        return [block]
    return [
        block.mean(axis=1, keepdims=True) if number == 0 else block[:, number - 1 : number]
        for number in inputs
    ]


def _until_error(blocks: Iterator[np.ndarray], errors: list[RtconvError]) -> Iterator[np.ndarray]:
    """The blocks before an error, which is kept for the end."""
    try:
        yield from blocks
    except RtconvError as error:
        errors.append(error)


def _reblock(blocks: Iterator[np.ndarray], blocksize: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of `blocksize`; the last one may be shorter."""
    kept: list[np.ndarray] = []
    frames = 0
    for block in blocks:
        kept.append(block)
        frames += len(block)
        if frames < blocksize:
            continue
        joined = np.concatenate(kept)
        whole = frames - frames % blocksize
        for start in range(0, whole, blocksize):
            yield joined[start : start + blocksize]
        kept, frames = [joined[whole:]], frames - whole
    if frames:
        yield np.concatenate(kept)


def _scores(
    detector: Detector, blocks: Iterator[list[np.ndarray]], inputs: int, jobs: int
) -> Iterator[list[np.ndarray]]:
    """Scores of each block, for each input a (frames, outputs) array."""
    model, engine = detector.model, detector.engine
    if jobs == 1:
        networks = [open_network(model.layers, engine) for _ in range(inputs)]
        for block in blocks:
            yield [
                network.step(np.ascontiguousarray(samples, np.float32))
                for network, samples in zip(networks, block, strict=True)
            ]
        return

    def run(contexts: list[np.ndarray], block: list[np.ndarray]) -> list[np.ndarray]:
        scores = []
        for context, samples in zip(contexts, block, strict=True):
            joined = np.ascontiguousarray(np.concatenate([context, samples]), np.float32)
            scores.append(open_network(model.layers, engine).step(joined)[len(context) :])
        return scores

    # A job starts so many samples early that nothing before them can be felt, at
    # a multiple of the hop, so that the strides fall on the same samples.
    early = -(-model.memory // model.hop) * model.hop
    contexts = [np.zeros((0, model.channels), np.float32)] * inputs
    position = 0
    pending: deque[Future[list[np.ndarray]]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        for block in blocks:
            pending.append(pool.submit(run, contexts, block))
            position += len(block[0])
            keep = early + position % model.hop
            contexts = [
                np.concatenate([context, samples])[-keep:]
                for context, samples in zip(contexts, block, strict=True)
            ]
            if len(pending) > jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
