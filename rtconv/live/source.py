"""A sound device with the native callback: opened, watched, reopened, closed."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from rtconv.errors import RtconvError
from rtconv.live import portaudio
from rtconv.live.callback import callback_address
from rtconv.live.devices import Device, find_device
from rtconv.live.ring import Chunk, Ring
from rtconv.model.detector import Model
from rtconv.stream.compiled import CompiledNetwork

#: ``n`` for a channel counted from 1, several of them, each channel, or ``0`` for the mean of all.
Channel = int | Sequence[int] | Literal["all"]

#: Seconds of sound that the ring holds.
RING_SECONDS = 60.0
#: Seconds without a block after which a device counts as lost: when it started, and later.
_SILENCE_AT_START, _SILENCE = 3.0, 0.7


class Source:
    """Blocks of samples and scores from a device.

    Parameters
    ----------
    model : Model
    wanted : int, str or None
        See `rtconv.live.devices.find_device`.
    blocksize : int
    channel : Channel

    Attributes
    ----------
    device : Device
    channels : list of int
        For each network the channel it listens to, as events name it.
    latency : float
        Of the input, seconds.
    locked : bool
        Whether the memory of the audio callback cannot be paged out.

    Raises
    ------
    RtconvError
        If there is no such device, or it cannot do what is wanted.
    """

    def __init__(
        self, model: Model, wanted: int | str | None, blocksize: int, channel: Channel
    ) -> None:
        self.model, self.blocksize = model, blocksize
        self.device = find_device(wanted)
        # Numbers change when devices come and go.
        self._wanted = wanted if wanted is None else str(self.device)
        selected = select_channels(model, self.device, channel)
        self.channels = [
            0 if chosen is None or model.channels > 1 else chosen[0] + 1 for chosen in selected
        ]
        every = selected[0] is None
        self._device_channels = (
            self.device.inputs if every else 1 + max(max(chosen or [0]) for chosen in selected)
        )
        frames = round(RING_SECONDS * model.samplerate)
        self._ring = Ring(
            [CompiledNetwork(model.layers) for _ in selected],
            selected,
            self._device_channels,
            frames,
            # A card may deliver smaller blocks than it was asked for.
            blocks=2 * frames // blocksize + 1000,
            memory=model.memory,
        )
        self.locked = self._ring.locked
        self._stream: Any = None
        self._open()

    def read(self) -> Chunk | None:
        """Blocks that came since the last call."""
        chunk = self._ring.read()
        if chunk is not None:
            self.last_block = int(chunk.blocks["arrived"][-1]) * 1e-9
            self._silence = _SILENCE
        return chunk

    def want_reset(self) -> None:
        """Let the networks be reset before the next block."""
        self._ring.want_reset()

    def alive(self) -> bool:
        """Whether blocks still come; call it after `read`."""
        if time.monotonic() - self.last_block > self._silence:
            return False
        return bool(self._stream.active)

    def reopen(self) -> bool:
        """Try to open the device again; False if it is not there.

        Raises
        ------
        RtconvError
            If PortAudio hangs.
        """
        self.close()
        if not portaudio.restart():
            raise RtconvError("PortAudio hangs since its sound server is gone, start again")
        try:
            self.device = find_device(self._wanted)
            self.want_reset()
            self._open()
        except RtconvError:
            return False
        return True

    def close(self) -> None:
        """Close the stream.

        Raises
        ------
        RtconvError
            If it hangs; the program can then only end.
        """
        stream, self._stream = self._stream, None
        if stream is not None and not portaudio.close(stream):
            raise RtconvError(f"{self.device}: hangs since its sound server is gone, start again")

    def _open(self) -> None:
        sounddevice = portaudio.portaudio()
        ffi = sounddevice._ffi
        try:
            with portaudio.quiet():
                stream = sounddevice._StreamBase(
                    kind="input",
                    device=self.device.number,
                    samplerate=self.model.samplerate,
                    blocksize=self.blocksize,
                    channels=self._device_channels,
                    dtype="float32",
                    latency="low",
                    callback=ffi.cast("PaStreamCallback*", callback_address()),
                    userdata=ffi.cast("void*", self._ring.address),
                )
                stream.start()
        except sounddevice.PortAudioError as error:
            raise RtconvError(
                f"{self.device}: cannot be opened with {self._device_channels} channels at "
                f"{self.model.samplerate} Hz ({portaudio.one_line(error)})"
            ) from error
        self._stream = stream
        self.latency = float(stream.latency)
        self.last_block = time.monotonic()
        self._silence = _SILENCE_AT_START


def select_channels(model: Model, device: Device, channel: Channel) -> list[list[int] | None]:
    """For each network the device's channels, counted from 0; None for the mean of all.

    Raises
    ------
    RtconvError
        If the device does not have them, or the detector takes another number.
    """
    if channel == "all":
        numbers = list(range(1, device.inputs + 1))
    elif isinstance(channel, int):
        numbers = [channel]
    else:
        numbers = list(channel)
    if model.channels > 1:
        if len(numbers) != model.channels:
            numbers = list(range(1, model.channels + 1))
        groups = [numbers]
    elif numbers == [0]:
        return [None] if device.inputs > 1 else [[0]]
    else:
        groups = [[number] for number in numbers]
    for number in numbers:
        if not 1 <= number <= device.inputs:
            raise RtconvError(f"{device}: has no input channel {number}, it has {device.inputs}")
    return [[number - 1 for number in group] for group in groups]
