"""Sound devices: what there is, and which one is meant."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rtconv.errors import RtconvError
from rtconv.live.portaudio import portaudio, quiet

#: Hz.
USUAL_SAMPLERATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000)

Kind = Literal["input", "output"]


class DeviceMissingError(RtconvError):
    """The device that is wanted is not there; it may come."""


@dataclass(frozen=True)
class Device:
    """A sound device.

    Attributes
    ----------
    number : int
        As PortAudio counts them; it changes when devices come and go.
    name, host_api : str
    inputs, outputs : int
        Channels, at most.
    samplerate : int
        Hz, its default.
    default_input, default_output : bool
    """

    number: int
    name: str
    host_api: str
    inputs: int
    outputs: int
    samplerate: int
    default_input: bool
    default_output: bool

    def channels(self, kind: Kind) -> int:
        """Channels in one direction."""
        return self.inputs if kind == "input" else self.outputs

    def __str__(self) -> str:
        return f"{self.name}, {self.host_api}"


def list_devices() -> list[Device]:
    """All sound devices.

    Raises
    ------
    RtconvError
        If PortAudio cannot be loaded.
    """
    sounddevice = portaudio()
    host_apis = sounddevice.query_hostapis()
    default_input, default_output = sounddevice.default.device
    return [
        Device(
            number=number,
            name=" ".join(values["name"].split()),
            host_api=host_apis[values["hostapi"]]["name"],
            inputs=values["max_input_channels"],
            outputs=values["max_output_channels"],
            samplerate=round(values["default_samplerate"]),
            default_input=number == default_input,
            default_output=number == default_output,
        )
        for number, values in enumerate(sounddevice.query_devices())
    ]


def find_device(wanted: int | str | None, kind: Kind = "input") -> Device:
    """The device that is meant.

    Parameters
    ----------
    wanted : int, str or None
        Its number; or its name, a part of it, or ``name, host API``, in any
        case; or None for the default.
    kind : {'input', 'output'}

    Raises
    ------
    RtconvError
        If the name fits several; `DeviceMissingError` if there is none such.
    """
    devices = [device for device in list_devices() if device.channels(kind)]
    if wanted is None:
        found = [d for d in devices if (d.default_input if kind == "input" else d.default_output)]
        return _only(found, devices, kind, f"there is no default {kind} device")
    if isinstance(wanted, int) or wanted.isdecimal():
        found = [device for device in devices if device.number == int(wanted)]
        return _only(found, devices, kind, f"there is no {kind} device {wanted}")
    text = wanted.casefold()
    exact = [d for d in devices if text in (d.name.casefold(), str(d).casefold())]
    found = exact or [d for d in devices if text in str(d).casefold()]
    return _only(found, devices, kind, f"there is no {kind} device {wanted!r}")


def supported_samplerates(device: Device, channels: int) -> list[int]:
    """Of the usual samplerates those that an input device takes, Hz."""
    return [rate for rate in USUAL_SAMPLERATES if supports(device, channels, rate)]


def supports(device: Device, channels: int, samplerate: int) -> bool:
    """Whether an input device takes so many channels at this samplerate."""
    sounddevice = portaudio()
    try:
        with quiet():
            sounddevice.check_input_settings(device.number, channels, "float32", None, samplerate)
    except (sounddevice.PortAudioError, ValueError):
        return False
    return True


def _only(found: list[Device], devices: list[Device], kind: Kind, otherwise: str) -> Device:
    if len(found) == 1:
        return found[0]
    if found:
        raise RtconvError(f"several {kind} devices fit, choose one by its number: {_names(found)}")
    there = f"there are {_names(devices)}" if devices else f"there is no {kind} device at all"
    raise DeviceMissingError(f"{otherwise}; {there}")


def _names(devices: Sequence[Device]) -> str:
    return "; ".join(f"{device.number} {device}" for device in devices)


def format_devices(devices: Sequence[Device], as_json: bool = False) -> str:
    """The inputs as a table, or all devices as one JSON list."""
    if as_json:
        return json.dumps([asdict(device) for device in devices], indent=2)
    inputs = [device for device in devices if device.inputs]
    if not inputs:
        return "there is no input device"
    lines = [f"{'':2}{'number':>6}  {'channels':>8}  {'Hz':>6}  name, host API"]
    for device in inputs:
        mark = "*" if device.default_input else " "
        lines.append(
            f"{mark:2}{device.number:>6}  {device.inputs:>8}  {device.samplerate:>6}  {device}"
        )
    return "\n".join([*lines, "* is the default"])
