"""A sound device with the native callback: opened, watched, reopened, closed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Literal

import numpy as np

from rtconv.config import PulseSettings
from rtconv.errors import RtconvError
from rtconv.live import portaudio
from rtconv.live.callback import callback_address
from rtconv.live.devices import Device, find_device, supported_samplerates, supports
from rtconv.live.ring import Chunk, Ring
from rtconv.model.decimation import decimated
from rtconv.model.detector import Model, Output
from rtconv.stream.compiled import CompiledNetwork

#: ``n`` for a channel counted from 1, several of them, each channel, or ``0`` for the mean of all.
Channel = int | Sequence[int] | Literal["all"]

#: Seconds of sound that the ring holds.
RING_SECONDS = 60.0
#: A device may run at this many times the detector's samplerate.
MOST_DECIMATION = 24
#: Seconds without a block after which a device counts as lost: when it started, and later.
_SILENCE_AT_START, _SILENCE = 3.0, 0.7
#: The most of a silence that counts at one look, seconds.
_LOOK = 0.1

#: What audio callbacks write to: kept as long as their streams may run.
_in_use: set[Ring] = set()


@dataclass(frozen=True)
class Trigger:
    """What is sent to an output device, in the audio callback itself.

    Attributes
    ----------
    device : int, str or None
        As for the input; the default output unless told.
    pulse : PulseSettings or None
        At each crossing; None for that of the detector's first output.
    score_channel : int or None
        For the score as sound, counted from 1, if wanted.
    """

    device: int | str | None = None
    pulse: PulseSettings | None = None
    score_channel: int | None = None


class Source:
    """Blocks of samples and scores from a device.

    Parameters
    ----------
    model : Model
    wanted : int, str or None
        See `rtconv.live.devices.find_device`.
    blocksize : int
    channel : Channel
    trigger : Trigger, optional
    latency : float, optional
        To ask the devices for, seconds; their own low one unless told.

    Attributes
    ----------
    device : Device
    output : Device or None
    model : Model
        At the device's samplerate: with a decimating filter in front where that
        is a multiple of the detector's.
    channels : list of int
        For each network the channel it listens to, as events name it.
    latency : float
        Of the input, seconds.
    output_latency : float
        Of the output, seconds; NaN without one.
    locked : bool
        Whether the memory of the audio callback cannot be paged out.

    Raises
    ------
    RtconvError
        If there is no such device, or it cannot do what is wanted.
    """

    def __init__(
        self,
        model: Model,
        wanted: int | str | None,
        blocksize: int,
        channel: Channel,
        trigger: Trigger | None = None,
        latency: float | None = None,
    ) -> None:
        self.blocksize, self._trigger = blocksize, trigger
        self._wanted_latency: float | str = "low" if latency is None else latency
        self.device = find_device(wanted)
        self.output = None if trigger is None else find_device(trigger.device, "output")
        # Numbers change when devices come and go.
        self._wanted = wanted if wanted is None else str(self.device)
        selected = select_channels(model, self.device, channel)
        self.channels = [
            0 if chosen is None or model.channels > 1 else chosen[0] + 1 for chosen in selected
        ]
        self._device_channels = (
            self.device.inputs
            if selected[0] is None
            else 1 + max(number for chosen in selected for number in chosen or [])
        )
        self.model = _at_samplerate_of(self.device, self._device_channels, model)
        self._ring = self._make_ring(selected)
        self.locked = self._ring.locked
        self._stream: Any = None
        self.latency = self.output_latency = nan
        self._looked = self._silent = self._patience = 0.0
        self._open()

    def _make_ring(self, selected: Sequence[list[int] | None]) -> Ring:
        frames = round(RING_SECONDS * self.model.samplerate)
        ring = Ring(
            [CompiledNetwork(self.model.layers) for _ in selected],
            selected,
            self._device_channels,
            frames,
            blocks=frames // self.blocksize + 1000,
            memory=self.model.memory,
        )
        trigger = self._trigger
        if trigger is not None and self.output is not None:
            settings, rate = self.model.outputs[0], self.model.samplerate
            pulse = trigger.pulse or settings.pulse
            self._output_channels = max(pulse.channel, trigger.score_channel or 0)
            if self._output_channels > self.output.outputs:
                raise RtconvError(
                    f"{self.output}: has no output channel {self._output_channels}, "
                    f"it has {self.output.outputs}"
                )
            length = round(pulse.length * rate)
            ring.set_trigger(settings, rate, length, pulse.level, pulse.channel)
            ring.control["output_channels"] = self._output_channels
            ring.control["score_channel"] = (trigger.score_channel or 0) - 1
        return ring

    def play_pattern(self, pattern: np.ndarray, period: int) -> None:
        """Play samples (frames,) on the output; see `Ring.play_pattern`."""
        self._ring.play_pattern(pattern, period)

    @property
    def position(self) -> int:
        """Samples that the callback was given, by which the positions of triggers count."""
        return int(self._ring.control["position"])

    @property
    def triggers(self) -> int:
        """Pulses that were written to the output."""
        return int(self._ring.control["triggers"])

    def describe(self) -> str:
        """What is listened to, and what makes an event late: one line."""
        rate = self.model.samplerate
        names = ", ".join("mean" if n == 0 else str(n) for n in self.channels)
        parts = [
            f"{self.device}: channel {names}, {rate} Hz",
            f"block {self.blocksize} samples ({1000 * self.blocksize / rate:.1f} ms)",
            f"input {1000 * self.latency:.1f} ms",
            f"receptive field {self.model.receptive_field} samples "
            f"({1000 * self.model.receptive_field / rate:.1f} ms)",
            "; ".join(decision_delay(output) for output in self.model.outputs),
        ]
        if self.output is not None:
            parts.insert(3, f"output {self.output} {1000 * self.output_latency:.1f} ms")
        if not self.locked:
            parts.append("memory is not locked (see ulimit -l)")
        return ", ".join(parts)

    def read(self) -> Chunk | None:
        """Blocks that came since the last call."""
        chunk = self._ring.read()
        if chunk is not None:
            self._silent, self._patience = 0.0, _SILENCE
        return chunk

    def want_reset(self) -> None:
        """Let the networks be reset before the next block."""
        self._ring.want_reset()

    def alive(self) -> bool:
        """Whether blocks still come; call it after `read`.

        A silence counts only as far as this was called during it: when the
        whole process stood still, the blocks of that time are yet to come.
        """
        now = time.monotonic()
        self._silent += min(now - self._looked, _LOOK)
        self._looked = now
        return self._silent < self._patience and bool(self._stream.active)

    def reopen(self) -> bool:
        """Try to open the device again; False if it is not there.

        Raises
        ------
        RtconvError
            If PortAudio hangs.
        """
        self.close()
        portaudio.restart()
        try:
            self.device = find_device(self._wanted)
            if self._trigger is not None:
                self.output = find_device(self._trigger.device, "output")
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
        if stream is not None:

            def work() -> None:
                stream.abort()
                stream.close()

            portaudio.within_deadline(work, portaudio.CLOSE_DEADLINE, str(self.device))
            _in_use.discard(self._ring)

    def _open(self) -> None:
        sounddevice = portaudio.portaudio()
        ffi = sounddevice._ffi
        options: dict[str, Any] = {"device": self.device.number, "channels": self._device_channels}
        duplex = self.output is not None
        if self.output is not None:
            options["device"] = self.device.number, self.output.number
            options["channels"] = self._device_channels, self._output_channels

        def work() -> Any:
            stream = sounddevice._StreamBase(
                kind="duplex" if duplex else "input",
                samplerate=self.model.samplerate,
                blocksize=self.blocksize,
                dtype="float32",
                latency=self._wanted_latency,
                callback=ffi.cast("PaStreamCallback*", callback_address()),
                userdata=ffi.cast("void*", self._ring.address),
                **options,
            )
            stream.start()
            return stream

        _in_use.add(self._ring)
        try:
            with portaudio.quiet(), portaudio.favoured_threads():
                stream = portaudio.within_deadline(work, portaudio.OPEN_DEADLINE, str(self.device))
        except sounddevice.PortAudioError as error:
            devices = f"{self.device} with {self.output}" if duplex else str(self.device)
            raise RtconvError(
                f"{devices}: cannot be opened with {self._device_channels} channels at "
                f"{self.model.samplerate} Hz ({portaudio.one_line(error)})"
            ) from error
        self._stream = stream
        if duplex:
            self.latency, self.output_latency = stream.latency
        else:
            self.latency = stream.latency
        self._looked, self._silent, self._patience = time.monotonic(), 0.0, _SILENCE_AT_START


def decision_delay(output: Output) -> str:
    """When an event is known, in words."""
    if output.decision == "crossing":
        return f"{output.name} is decided at the crossing"
    return f"{output.name} is decided at most {1000 * output.max_hold:.0f} ms after its threshold"


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
        if numbers == [1]:
            numbers = list(range(1, model.channels + 1))
        if len(numbers) != model.channels:
            raise RtconvError(
                f"{model.name} takes {model.channels} channels at once, "
                f"{len(numbers)} were chosen for it"
            )
        groups = [numbers]
    elif numbers == [0]:
        return [None] if device.inputs > 1 else [[0]]
    else:
        groups = [[number] for number in numbers]
    for number in numbers:
        if not 1 <= number <= device.inputs:
            raise RtconvError(f"{device}: has no input channel {number}, it has {device.inputs}")
    return [[number - 1 for number in group] for group in groups]


def _at_samplerate_of(device: Device, channels: int, model: Model) -> Model:
    """The model at its own samplerate, or decimated from the lowest multiple that is possible."""
    for factor in range(1, MOST_DECIMATION + 1):
        if supports(device, channels, factor * model.samplerate):
            return decimated(model, factor)
    if possible := supported_samplerates(device, channels):
        rates = ", ".join(map(str, possible))
        raise RtconvError(
            f"{device}: does not run at {model.samplerate} Hz or a multiple of it; choose another "
            f"device, or train {model.name} for a samplerate that divides one of its own: {rates}"
        )
    raise RtconvError(
        f"{device}: cannot be opened with {channels} channels, another program may be using it"
    )
