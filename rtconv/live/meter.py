"""Levels of the inputs, so that a person finds the right microphone."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtconv.errors import RtconvError
from rtconv.live.devices import Device, find_device, list_devices
from rtconv.live.portaudio import portaudio, quiet

#: Channels of a device that are shown; some host APIs offer many that do not exist.
MOST_CHANNELS = 2
#: From here on a sample counts as clipped; full scale of 16 bits is 32767 / 32768.
CLIPPED = 0.999
#: Seconds that a reading covers.
INTERVAL = 0.5


@dataclass(frozen=True)
class Level:
    """What one channel of a device delivered within an interval.

    Attributes
    ----------
    device : Device
    channel : int
        Counted from 1.
    peak, rms : float
        dB relative to full scale; -inf for silence.
    clipped : int
        Samples at full scale.
    """

    device: Device
    channel: int
    peak: float
    rms: float
    clipped: int

    def __str__(self) -> str:
        bar = "#" * round(max(self.peak, -60) / 2 + 30)
        clipped = f"  {self.clipped} CLIPPED" if self.clipped else ""
        return (
            f"{self.device.number:>3} {self.device!s:<32.32} {self.channel:>2}  "
            f"peak {self.peak:6.1f} dB  rms {self.rms:6.1f} dB  {bar:<30}{clipped}"
        )


def levels(device: int | str | None = None) -> Iterator[list[Level]]:
    """Levels of one input device, or of all that can be opened, every `INTERVAL`.

    Raises
    ------
    RtconvError
        If no device can be opened.
    """
    devices = [d for d in list_devices() if d.inputs] if device is None else [find_device(device)]
    with ExitStack() as open_streams:
        meters = []
        for candidate in devices:
            meter = _Meter(candidate)
            try:
                with quiet():
                    open_streams.enter_context(meter.stream())
            except portaudio().PortAudioError:
                continue
            meters.append(meter)
        if not meters:
            raise RtconvError("no input device can be opened, `rtconv devices` lists what there is")
        while True:
            time.sleep(INTERVAL)
            yield [level for meter in meters for level in meter.read()]


def show_levels(device: int | str | None = None) -> None:
    """Print levels until Ctrl-C: in place on a terminal, else line by line."""
    height = 0
    try:
        for readings in levels(device):
            if height and sys.stdout.isatty():
                print(f"\x1b[{height}A", end="")
            print(
                *(f"{level}\x1b[K" if sys.stdout.isatty() else level for level in readings),
                sep="\n",
                flush=True,
            )
            height = len(readings)
    except KeyboardInterrupt:
        return


class _Meter:
    """Collects the samples of one device for an interval."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._channels = min(device.inputs, MOST_CHANNELS)
        self._lock = threading.Lock()
        self._blocks: list[np.ndarray] = []

    def stream(self) -> Any:
        return portaudio().InputStream(
            device=self._device.number,
            channels=self._channels,
            samplerate=self._device.samplerate,
            callback=self._take,
        )

    def _take(self, block: np.ndarray, *_: object) -> None:
        with self._lock:
            self._blocks.append(block.copy())

    def read(self) -> Sequence[Level]:
        with self._lock:
            blocks, self._blocks = self._blocks, []
        samples = np.concatenate([np.zeros((1, self._channels), np.float32), *blocks])
        with np.errstate(divide="ignore"):
            peaks = 20 * np.log10(np.abs(samples).max(axis=0))
            powers = 10 * np.log10(np.square(samples, dtype=np.float64).mean(axis=0))
        clipped = (np.abs(samples) >= CLIPPED).sum(axis=0)
        return [
            Level(self._device, i + 1, float(peaks[i]), float(powers[i]), int(clipped[i]))
            for i in range(self._channels)
        ]
