"""A convolutional network is a cascade of filter banks.

The notes: "Convolutional Neural Networks" are like cascaded filter banks, with a
non-linear function at the output of each filter. Here every layer is designed by
hand, and does what a trained one would have to learn:

1. a cosine-modulated filter bank, a Conv1D with stride: eight subbands (J. H.
   Rothweiler, "Polyphase quadrature filters", 1983), squared;
2. a moving average of each subband, and the logarithm: the power in dB;
3. two filters over all subbands and 40 frames, one for a chirp that rises through the
   subbands, one for a chirp that falls.

The input has two channels, which the first layer adds up.
"""

from collections.abc import Sequence

import numpy as np
from scipy import signal
from scipy.optimize import brentq

from rtconv.config import DetectionSettings, parse_config
from rtconv.lecture.sheet import Sheet
from rtconv.model.dense import weights_from_layers
from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer
from rtconv.stream.detector import Detector
from rtconv.stream.network import open_network

SAMPLERATE = 16_000
SUBBANDS = 8
#: Taps of each filter of the bank.
LENGTH = 128
#: Frames of the chirp, one for every `SUBBANDS` samples.
FRAMES = 40
CHANNELS = 2


def cosine_modulated_bank() -> np.ndarray:
    """Impulse responses of the bank, (LENGTH, SUBBANDS).

    ``h_k[n] = 2 p[n] cos((2k+1) pi / (2M) (n - (N-1)/2) + (-1)^k pi/4)`` with the
    prototype low-pass p, whose cut-off is chosen so that the powers of neighbours add
    up to 1 where they cross.
    """

    def prototype(cutoff: float) -> np.ndarray:
        return signal.firwin(LENGTH, cutoff, window=("kaiser", 9.0))

    def excess(cutoff: float) -> float:
        crossing = np.exp(-0.5j * np.pi / SUBBANDS * np.arange(LENGTH))
        return float(np.abs(prototype(cutoff) @ crossing) - np.sqrt(0.5))

    p = prototype(brentq(excess, 0.1 / SUBBANDS, 1 / SUBBANDS))
    n, k = np.arange(LENGTH)[:, np.newaxis] - (LENGTH - 1) / 2, np.arange(SUBBANDS)
    phase = (2 * k + 1) * np.pi / (2 * SUBBANDS) * n + (-1.0) ** k * np.pi / 4
    return 2 * p[:, np.newaxis] * np.cos(phase)


def chirp(falling: bool = False) -> np.ndarray:
    """A chirp through all subbands in `FRAMES` frames, (frames,), amplitude 0.5."""
    t = np.arange(FRAMES * SUBBANDS) / SAMPLERATE
    x = 0.5 * signal.chirp(t, 0, FRAMES * SUBBANDS / SAMPLERATE, SAMPLERATE / 2, phi=-90)
    return x[::-1] if falling else x


def network() -> list[Layer]:
    """The three layers, in Dense form."""
    bank = np.repeat(cosine_modulated_bank(), CHANNELS, axis=0) / CHANNELS
    average = np.full((SUBBANDS, SUBBANDS), 1 / SUBBANDS)
    # A subband is on when the chirp passes it: in 5 of the 40 frames. The newest
    # frame comes first; the mean is removed, so that the level does not matter.
    frame, band = np.mgrid[:FRAMES, :SUBBANDS]
    rising = np.where((FRAMES - 1 - frame) * SUBBANDS // FRAMES == band, 1.0, 0.0)
    patterns = np.stack([rising, rising[:, ::-1]], axis=-1)
    patterns = (patterns - patterns.mean(axis=(0, 1))) / FRAMES
    decibels = 10 / np.log(10)
    return [
        Layer(
            bank.astype(np.float32),
            in_channels=CHANNELS,
            kernel_size=LENGTH,
            strides=SUBBANDS,
            activation="square",
        ),
        Layer(
            average.astype(np.float32),
            bias=np.full(SUBBANDS, 1e-6, np.float32),  # silence is -60 dB
            in_channels=SUBBANDS,
            kernel_size=SUBBANDS,
            groups=SUBBANDS,
            activation="log",
        ),
        Layer(
            (decibels * patterns).reshape(-1, 2).astype(np.float32),
            in_channels=SUBBANDS,
            kernel_size=FRAMES,
        ),
    ]


def detector() -> Detector:
    """The network at work, with an output for each chirp."""
    settings = DetectionSettings(threshold=6, refractory=0.02, max_hold=0.02).picker()
    outputs = [Output(name=name, **settings.model_dump()) for name in ("rising", "falling")]
    return Detector(Model("filterbank", SAMPLERATE, network(), outputs))


def offline(layers: Sequence[Layer], x: np.ndarray) -> np.ndarray:
    """Scores of the whole signal at once, by Keras."""
    from rtconv.training.keras_model import build, predict

    settings = ("filters", "kernel_size", "strides", "groups", "activation")
    network = [
        {name: getattr(layer, name) for name in settings} | {"use_bias": layer.bias is not None}
        for layer in layers
    ]
    model = build(
        parse_config(
            {
                "name": "filterbank",
                "samplerate": SAMPLERATE,
                "channels": CHANNELS,
                "network": network,
            }
        )
    )
    model.set_weights(weights_from_layers(layers))
    return predict(model, x)


def run(sheet: Sheet) -> dict[str, float]:
    """Measure the bank, and find the rising and the falling chirp."""
    responses = np.abs(np.fft.rfft(cosine_modulated_bank(), 4096, axis=0))
    total = 10 * np.log10(np.sum(responses**2, axis=1))
    frequencies = np.fft.rfftfreq(4096, 1 / SAMPLERATE)
    width = SAMPLERATE / 2 / SUBBANDS
    stop = max(
        responses[np.abs(frequencies - (k + 0.5) * width) > 1.5 * width, k].max()
        for k in range(SUBBANDS)
    )
    ripple, attenuation = float(np.ptp(total)), float(-20 * np.log10(stop))
    print(f"Bank of {SUBBANDS} subbands of {width:.0f} Hz:")
    print(f"  the sum of their powers is constant within {ripple:.2f} dB")
    print(f"  beyond the neighbouring subbands the attenuation is {attenuation:.0f} dB")

    x = 0.01 * np.random.default_rng(0).normal(size=(SAMPLERATE // 2, CHANNELS))
    length = FRAMES * SUBBANDS
    x[1600 : 1600 + length, 0] += chirp()
    x[4800 : 4800 + length, 1] += chirp(falling=True)
    x = x.astype(np.float32)
    found = detector()
    blocks = np.split(x, np.arange(0, len(x), 441)[1:])
    scores = np.concatenate([found.step(block) for block in blocks])
    difference = float(np.abs(scores - offline(network(), x)).max())
    print(f"Streaming in blocks of 441 against Keras at once: {difference:.1e} dB")
    numbers = {"ripple": ripple, "attenuation": attenuation, "difference": difference}
    for name, start in (("rising", 1600), ("falling", 4800)):
        part = scores[start : start + 2 * length]
        delay = int(part.max(axis=1).argmax()) - length + 1
        numbers |= {
            f"{name} chirp, {o.name} score": float(s)
            for o, s in zip(found.model.outputs, part.max(axis=0), strict=True)
        }
        print(
            f"{name} chirp: scores {part[:, 0].max():.1f} dB rising, "
            f"{part[:, 1].max():.1f} dB falling, {delay} samples after its end"
        )
    _draw_responses(sheet, frequencies, responses, total)
    _draw_chirps(sheet, x, scores)
    return numbers


def _draw_responses(
    sheet: Sheet, frequencies: np.ndarray, responses: np.ndarray, total: np.ndarray
) -> None:
    with sheet.figure("filterbank", height=3) as axes:
        axes.plot(frequencies / 1000, 20 * np.log10(np.maximum(responses, 1e-6)), linewidth=0.9)
        axes.plot(frequencies / 1000, total, "k-", linewidth=2)
        axes.set(
            title="Eight subbands and, thick, the sum of their powers",
            xlabel="frequency (kHz)",
            ylabel="magnitude (dB)",
        )
        axes.set(ylim=(-110, 10))


def _draw_chirps(sheet: Sheet, x: np.ndarray, scores: np.ndarray) -> None:
    """Input, the power in the subbands, which is the second layer's output, and scores."""
    power = 10 / np.log(10) * open_network(network()[:2]).step(x)
    time = np.arange(len(x)) / SAMPLERATE * 1000
    extent = (0.0, time[-1], 0.0, SAMPLERATE / 2000)
    with sheet.figure("filterbank_chirps", rows=3, height=2, sharex=True) as (top, middle, bottom):
        top.plot(time, x.sum(axis=1), "k-", linewidth=0.5)
        top.set(title="A rising and a falling chirp in noise", ylabel="amplitude")
        image = middle.imshow(
            power[::SUBBANDS].T, cmap="gray_r", aspect="auto", origin="lower", extent=extent
        )
        middle.figure.colorbar(image, ax=middle, label="dB")
        middle.grid(visible=False)
        middle.set(title="Power in the subbands", ylabel="frequency (kHz)")
        bottom.plot(time, scores, label=["rising", "falling"])
        bottom.set(title="The scores", xlabel="time (ms)", ylabel="score (dB)")
        bottom.legend()
