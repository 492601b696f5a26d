"""How fast a network runs here, and how much of what this core can do that is.

The clock is read around machine code that hands the network its blocks as an
audio callback does, so that no interpreter is measured. The core's peak is
measured in the same run: a loop of multiply-adds on registers alone.
"""

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import median
from time import perf_counter

import numpy as np
from llvmlite import ir

from rtconv.model.layers import Layer, multiply_adds_per_sample
from rtconv.stream.compiled import CompiledNetwork, host_target, load_functions
from rtconv.stream.instructions import FLOAT, INT, POINTER, VOID, Code
from rtconv.stream.layout import Target

BLOCKSIZES = (1, 16, 64, 256, 1024)
#: Block size of the row called offline: a file at once.
OFFLINE = 1 << 15
ROUNDS = 15
SECONDS = 0.004


@dataclass(frozen=True)
class Speed:
    """The speed at one block size.

    Attributes
    ----------
    blocksize : int or None
        Samples per call, None for a file at once.
    seconds : float
        Per sample.
    peak_fraction : float
        Multiply-adds per second over those of the core's peak.
    """

    blocksize: int | None
    seconds: float
    peak_fraction: float

    def times_real_time(self, samplerate: float) -> float:
        """How many streams of this rate one core could run."""
        return 1 / (self.seconds * samplerate)


def benchmark(
    layers: Sequence[Layer], blocksizes: Sequence[int] = BLOCKSIZES
) -> tuple[float, list[Speed]]:
    """Measure a network on one core: medians of interleaved rounds, about two seconds.

    Parameters
    ----------
    layers : sequence of Layer
    blocksizes : sequence of int
        Samples per call; offline follows as the last row.

    Returns
    -------
    peak : float
        Multiply-adds per second of this core.
    speeds : list of Speed
    """
    network = CompiledNetwork(layers)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((OFFLINE, network.channels), np.float32)
    cost = multiply_adds_per_sample(layers)
    sizes = [*blocksizes, OFFLINE]
    frames = {size: _enough_frames(network, x, size) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    fractions: dict[int, list[float]] = {size: [] for size in sizes}
    peaks = []
    for _ in range(ROUNDS):
        for size in sizes:
            # the clock of a processor moves: the peak belongs to the moment of the measurement
            peaks.append(peak_multiply_adds())
            seconds = drive(network, x[: frames[size]], size) / frames[size]
            times[size].append(seconds)
            fractions[size].append(cost / (seconds * peaks[-1]))
    speeds = [
        Speed(None if size == OFFLINE else size, median(times[size]), median(fractions[size]))
        for size in sizes
    ]
    return median(peaks), speeds


def format_benchmark(
    name: str, samplerate: int, peak: float, speeds: Sequence[Speed], as_json: bool = False
) -> str:
    """The result of `benchmark` as a table for a person, or as one JSON object."""
    if as_json:
        rows = [
            {
                "blocksize": speed.blocksize,
                "ns_per_sample": speed.seconds * 1e9,
                "times_real_time": speed.times_real_time(samplerate),
                "peak_fraction": speed.peak_fraction,
            }
            for speed in speeds
        ]
        facts = {"network": name, "samplerate": samplerate, "peak_multiply_adds": peak}
        return json.dumps(facts | {"speeds": rows})
    lines = [
        f"{name} at {samplerate} Hz; this core's peak: {peak / 1e9:.1f} G multiply-adds/s",
        f"{'block':>8} {'ns per sample':>14} {'x real time':>12} {'of the peak':>12}",
    ]
    for speed in speeds:
        lines.append(
            f"{speed.blocksize or 'offline':>8} {speed.seconds * 1e9:>14.2f} "
            f"{speed.times_real_time(samplerate):>12.0f} {speed.peak_fraction:>12.1%}"
        )
    return "\n".join(lines) + "\n"


def _enough_frames(network: CompiledNetwork, x: np.ndarray, size: int) -> int:
    """A whole number of blocks that takes about `SECONDS`."""
    first = max(size, 256)
    drive(network, x[:first], size)  # wakes the caches
    needed = int(SECONDS / (drive(network, x[:first], size) / first))
    return min(max(needed, size) // size * size, len(x) // size * size)


def drive(network: CompiledNetwork, x: np.ndarray, blocksize: int) -> float:
    """Seconds that the network takes for x, (frames, channels) float32, in blocks."""
    functions = _measuring_functions()
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 4)(functions["drive"])
    scores = np.zeros((len(x), network.outputs), np.float32)
    addresses = [array.ctypes.data for array in (network.state, x, scores)]
    rows = 4 * network.channels, 4 * network.outputs  # bytes
    begin = perf_counter()
    call(network.step_address, *addresses, len(x), blocksize, *rows)
    return perf_counter() - begin


def peak_multiply_adds(repetitions: int = 300_000) -> float:
    """Multiply-adds per second that this core does on registers."""
    target = host_target()
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(_measuring_functions()["peak"])
    result = np.zeros(target.lanes, np.float32)
    begin = perf_counter()
    call(result.ctypes.data, repetitions)
    return repetitions * target.sums * target.lanes / (perf_counter() - begin)


def _measuring_functions() -> dict[str, int]:
    target = host_target()
    return load_functions(
        "benchmark 1", lambda: str(_measuring_module(target)), ("drive", "peak"), target
    )


def _measuring_module(target: Target) -> ir.Module:
    """Two functions: `drive` hands out blocks, `peak` multiplies and adds."""
    module = ir.Module("benchmark")
    module.triple = target.triple
    kind = ir.FunctionType(VOID, [INT] + [POINTER] * 3 + [INT] * 4)
    function = ir.Function(module, kind, "drive")
    code = Code(function, target)
    address, state, x, scores, frames, blocksize, x_row, score_row = function.args
    step = code.inttoptr(address, ir.FunctionType(VOID, [POINTER] * 3 + [INT]).as_pointer())

    def block(v: list[ir.Value]) -> list[ir.Value]:
        count = code.smaller(v[2], blocksize)
        code.call(step, [state, v[0], v[1], count])
        x_after = code.at(v[0], code.mul(count, x_row))
        return [x_after, code.at(v[1], code.mul(count, score_row)), code.sub(v[2], count)]

    code.loop(lambda v: code.icmp_signed(">", v[2], INT(0)), block, [x, scores, frames])
    code.ret_void()

    function = ir.Function(module, ir.FunctionType(VOID, [POINTER, INT]), "peak")
    code = Code(function, target)
    vector = code.vector(target.lanes)
    start = [code.number(n, vector) for n in range(target.sums)]
    # factors from memory, or the loop would be computed when it is compiled
    factor = code.splat(code.read(function.args[0], FLOAT), target.lanes)
    sums = code.repeat(
        function.args[1], lambda _, s: [code.multiply_add(v, factor, factor) for v in s], start
    )
    code.write(reduce(code.fadd, sums), function.args[0])
    code.ret_void()
    return module
