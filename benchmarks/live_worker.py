"""One listener for benchmarks/live.py, in a process of its own: prints a JSON line.

Usage: python benchmarks/live_worker.py ENGINE DEVICE BLOCKSIZE SECONDS BUSY

ENGINE is `native` (this project's callback), `python` (sounddevice, the network
called in its Python callback) or `rtmixer` (its ring, the network called by a
Python thread). BUSY is what the main thread does meanwhile.
"""

import gc
import json
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer
from rtconv.stream.compiled import CompiledNetwork

RATE = 48000


def m3():
    """Eight dilated layers of 16 channels with 3 taps, then 1x1: M3 of the design."""
    rng = np.random.default_rng(0)

    def layer(inputs, filters, taps, dilation, activation):
        dense = rng.normal(0, (inputs * taps) ** -0.5, (inputs * taps, filters))
        return Layer(
            dense.astype(np.float32),
            np.zeros(filters, np.float32),
            inputs,
            taps,
            dilation_rate=dilation,
            activation=activation,
        )

    layers = [layer(1 if i == 0 else 16, 16, 3, 2**i, "relu") for i in range(8)]
    settings = {"release": 50, "refractory": 0.1, "max_hold": 0.1, "decision": "peak"}
    output = Output(name="m3", threshold=100, **settings)
    return Model("m3", RATE, [*layers, layer(16, 1, 1, 1, "linear")], [output])


def busy(way, seconds):
    """Hold the interpreter in one of the ways of an ordinary program."""
    end = time.monotonic() + seconds
    objects = [[] for _ in range(3_000_000)] if way == "gc" else None
    while time.monotonic() < end:
        if way == "idle":
            time.sleep(0.05)
        elif way == "sum":
            sum(range(30_000_000))
        elif way == "regex":
            re.match(r"(a+)+b", "a" * 25)
        elif way == "gc":
            gc.collect()
    del objects


def native(device, blocksize, seconds, way):
    """The callback of this project; its ring is read after the busy time."""
    from rtconv.live.source import Source

    source = Source(m3(), device, blocksize, 1)
    source._ring.read()
    busy(way, seconds)
    blocks = []
    while (chunk := source.read()) is not None:
        blocks.append(chunk.blocks)
    source.close()
    blocks = np.concatenate(blocks)
    return {
        "arrived": blocks["arrived"] * 1e-9,
        "frames": blocks["frames"],
        "overflows": int(((blocks["flags"] & 2) != 0).sum()),
        "load": np.quantile(blocks["spent"] * 1e-9 * RATE / blocks["frames"], 0.999),
    }


def python(device, blocksize, seconds, way):
    """The network called in the Python callback of sounddevice."""
    import sounddevice

    network = CompiledNetwork(m3().layers)
    arrived, frames, spent, overflows = [], [], [], []

    def callback(block, count, times, status):
        begin = time.monotonic()
        network.step(block)
        arrived.append(begin)
        frames.append(count)
        spent.append(time.monotonic() - begin)
        overflows.append(status.input_overflow)

    with sounddevice.InputStream(
        device=device, samplerate=RATE, blocksize=blocksize, channels=1, dtype="float32",
        latency="low", callback=callback,
    ):  # fmt: skip
        busy(way, seconds)
    return {
        "arrived": np.array(arrived),
        "frames": np.array(frames),
        "overflows": sum(overflows),
        "load": np.quantile(np.array(spent) * RATE / blocksize, 0.999),
    }


def rtmixer(device, blocksize, seconds, way):
    """A ring that native code fills, the network called by a Python thread."""
    import rtmixer

    network = CompiledNetwork(m3().layers)
    recorder = rtmixer.Recorder(
        device=device, channels=1, samplerate=RATE, blocksize=blocksize, latency="low"
    )
    ring = rtmixer.RingBuffer(4, 1 << 22)
    done, worst, read = threading.Event(), [0.0], [0]

    def work():
        while not done.is_set():
            begin = time.monotonic()
            block = np.frombuffer(ring.read(), np.float32)
            if len(block):
                network.step(block[:, np.newaxis])
                read[0] += len(block)
            time.sleep(blocksize / RATE)
            worst[0] = max(worst[0], time.monotonic() - begin)

    with recorder:
        begin = time.monotonic()
        recorder.record_ringbuffer(ring)
        thread = threading.Thread(target=work)
        thread.start()
        busy(way, seconds)
        end = time.monotonic()
        statistics = recorder.fetch_and_reset_stats().stats
        done.set()
        thread.join()
    return {
        "arrived": np.array([begin, end]),
        "frames": np.array([0, read[0] + ring.read_available]),
        "overflows": statistics.input_overflows,
        "worst": worst[0],
    }


def main():
    """Run one engine and print what came."""
    engine, device, blocksize, seconds, way = sys.argv[1:]
    blocksize = int(blocksize)
    result = globals()[engine](device, blocksize, float(seconds), way)
    arrived, frames = result["arrived"], result["frames"]
    elapsed = arrived[-1] - arrived[0]
    intervals = np.diff(arrived)
    lost = round(elapsed * RATE) - int(frames[1:].sum())
    values = {
        "lost": lost,
        "overflows": result["overflows"],
        "worst_ms": 1000 * float(result.get("worst", intervals.max())),
        "load": result.get("load"),
        "late": int((intervals > 2 * blocksize / RATE).sum()) if engine != "rtmixer" else None,
    }
    print(json.dumps(values))


if __name__ == "__main__":
    main()
