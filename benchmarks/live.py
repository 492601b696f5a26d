"""The live engine on virtual sound cards: what docs/live.md claims, measured.

Usage: python benchmarks/live.py callback|busy|load|trigger|start|restarts|hour [options]

Needs the packages of the tests (PulseAudio, JACK), and rtmixer for its part of
`callback`. Every program says in its docstring what it measures.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import live_worker
from rtconv.audio import write_audio
from rtconv.stream.compiled import CompiledNetwork
from tests.live_detectors import RAMP, ramps_in_noise, save_ramp_detector
from tests.virtual_card import JackCard, Lines, PulseCard

WORKER = Path(__file__).parent / "live_worker.py"
RATE = 48000


def memory_of(process):
    """Resident memory in kB, threads and open files of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    files = len(os.listdir(f"/proc/{process.pid}/fd"))
    return int(values["VmRSS"].split()[0]), int(values["Threads"]), files


def hour(options):
    """A long run at blocks of 64: events, resident memory, drift."""
    minute = ramps_in_noise(50 * RATE, seed=1)
    with tempfile.TemporaryDirectory() as folder, PulseCard(RATE) as card:
        detector = save_ramp_detector(Path(folder) / "ramp.safetensors")
        live = card.rtconv("listen", str(detector), "--device", "vmic")
        events, messages = Lines(live.stdout), Lines(live.stderr)
        messages.wait_for("receptive field")
        counts, memory = [], []
        for i in range(options.minutes):
            begin, before = time.monotonic(), len(events.lines)
            card.play(minute)
            time.sleep(max(0.0, begin + 60 - time.monotonic()))
            counts.append(len(events.lines) - before)
            memory.append(memory_of(live))
            print(f"minute {i + 1}: {counts[-1]} events, {memory[-1][0]} kB,", end=" ")
            print(f"{memory[-1][1]} threads, {memory[-1][2]} files", flush=True)
        live.send_signal(signal.SIGINT)
        live.wait(30)
        time.sleep(1)
    print("".join(line for _, line in messages.lines))
    print(f"played {len(counts)} times; events each time: {sorted(set(counts))}")
    print(f"gaps: {sum('gap' in line for _, line in events.lines)}")
    print(f"memory after the first minute: {memory[-1][0] - memory[0][0]:+d} kB")


def restarts(options):
    """The server is killed and started again: gaps, time until it runs again, leaks."""
    with tempfile.TemporaryDirectory() as folder, PulseCard(RATE) as card:
        detector = save_ramp_detector(Path(folder) / "ramp.safetensors")
        live = card.rtconv("listen", str(detector), "--device", "vmic")
        events, messages = Lines(live.stdout), Lines(live.stderr)
        messages.wait_for("receptive field")
        time.sleep(2)
        delays, memory = [], [memory_of(live)]
        for i in range(options.times):
            seen = len(messages.lines)
            card.stop(signal.SIGKILL if i % 2 else signal.SIGTERM)
            time.sleep(1)
            card.start()
            back = time.monotonic()
            delays.append(messages.wait_for("is back", seen) - back)
            time.sleep(1.5)
            memory.append(memory_of(live))
        live.send_signal(signal.SIGINT)
        live.wait(30)
        time.sleep(1)
    gaps = [line for _, line in events.lines if "gap" in line]
    print(f"{options.times} restarts, {len(gaps)} gaps")
    print(f"running again after {np.median(delays):.2f} s, at most {max(delays):.2f} s")
    print(f"before: {memory[0]} (kB, threads, files), after: {memory[-1]}")


def callback(options):
    """Python callback, rtmixer with Python, native callback: the same network and card."""
    print(
        f"{'busy':6} {'block':>5}  engine    lost samples  overflows  late blocks  worst ms  load"
    )
    for blocksize in map(int, options.blocks.split(",")):
        with JackCard(RATE, blocksize) as card:
            for way in options.ways.split(","):
                for engine in options.engines.split(","):
                    print(f"{way:6} {blocksize:>5}  {engine:8}", end="", flush=True)
                    print(_measured(card, engine, blocksize, options.seconds, way), flush=True)


def _measured(card, engine, blocksize, seconds, way):
    """One run of the worker as a line of the table."""
    words = (sys.executable, str(WORKER), engine, "system", str(blocksize), str(seconds), way)
    try:
        done = subprocess.run(
            words, env=card.environment, capture_output=True, text=True, timeout=30
        )
    except subprocess.TimeoutExpired:
        return "  hangs: the server has thrown it out"
    if done.returncode:
        return f"  failed: {done.stderr.splitlines()[-1]}"
    values = json.loads(done.stdout)
    late = "-" if values["late"] is None else values["late"]
    load = "-" if values["load"] is None else f"{100 * values['load']:.2f} %"
    return (
        f"{values['lost']:>14}{values['overflows']:>11}{late:>13}"
        f"{values['worst_ms']:>10.1f}  {load}"
    )


def busy(options):
    """Python held for ten seconds in each way: every sample is there, every score has its bits."""
    samples = ramps_in_noise((options.seconds + 4) * RATE)
    for way in ("loop", "sum", "regex", "gc"):
        with tempfile.TemporaryDirectory() as folder, PulseCard(RATE, samples=samples) as card:
            session = Path(folder) / "session.wav"
            program = BUSY.format(
                folder=str(Path(__file__).parent), way=way, seconds=options.seconds
            )
            live = card.python(program, str(session))
            stdout, stderr = live.communicate()
            heard, _ = soundfile.read(session, dtype="float32")
            scores = np.load(f"{session}.npy")
            expected = CompiledNetwork(live_worker.m3().layers).step(samples[:, np.newaxis])
            count = min(len(expected), len(scores))
            print(
                f"{way:6} lost {len(samples) - len(heard)}, "
                f"other samples {np.count_nonzero(heard != samples[: len(heard)])}, "
                f"other bits of scores {np.count_nonzero(scores[:count] != expected[:count])}; "
                f"{stdout.strip()}{stderr.strip()}",
                flush=True,
            )


BUSY = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import live_worker
import rtconv
from rtconv.stream.detector import Detector
scores = []
live = rtconv.listen(
    Detector(live_worker.m3()), "wavmic", duration={seconds} + 4, record=sys.argv[1],
    on_scores=scores.append,
)
with live:
    while live.statistics.samples < 48000:
        live.poll()
    live_worker.busy({way!r}, {seconds})
    list(live)
s = live.statistics
np.save(sys.argv[1] + ".npy", np.concatenate(scores))
print(f"{{s.gaps}} gaps, callback p99.9 {{100 * s.load(0.999):.2f}} %, most {{100 * s.load(1):.2f}} %")
"""


def load(options):
    """Time in the callback as a part of its period, M3 at blocks of 64.

    On a machine that is busy otherwise, other programs interrupt the callback and count as well;
    ``--realtime 1`` lets nothing interrupt it (not for a single core).
    """
    with PulseCard(RATE) as card:
        program = LOAD.format(
            folder=str(Path(__file__).parent),
            seconds=options.seconds,
            realtime=bool(options.realtime),
        )
        stdout, stderr = card.python(program).communicate()
    print(stdout, stderr)


LOAD = """
import os, sys, threading
sys.path.insert(0, {folder!r})
import live_worker
import rtconv
from rtconv.stream.detector import Detector
with rtconv.listen(Detector(live_worker.m3()), "vmic", duration={seconds}) as live:
    if {realtime}:
        own = {{thread.native_id for thread in threading.enumerate()}}
        for number in set(map(int, os.listdir("/proc/self/task"))) - own:
            os.sched_setscheduler(number, os.SCHED_FIFO, os.sched_param(1))
    list(live)
print(live.statistics)
"""


def trigger(options):
    """The standard deviation of the delay from pattern to trigger on a digital loopback."""
    with tempfile.TemporaryDirectory() as folder, PulseCard(RATE) as card:
        detector = save_ramp_detector(Path(folder) / "ramp.safetensors")
        pattern = Path(folder) / "pattern.wav"
        write_audio(pattern, RAMP, RATE)
        latency = card.rtconv(
            *("latency", str(detector), "--device", "vmic", "--trigger", "speaker"),
            *("--pattern", str(pattern), "--latency", "0.1", "--repetitions", str(options.times)),
        )
        print(*latency.communicate())


def start(options):
    """From Enter to the first processed sample, modules loaded, resident memory."""
    with tempfile.TemporaryDirectory() as folder, PulseCard(RATE) as card:
        detector = save_ramp_detector(Path(folder) / "ramp.safetensors")
        card.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        card.environment["PYTHONPYCACHEPREFIX"] = folder
        for i in range(options.times + 1):
            begin = time.monotonic()
            live = card.python(START, str(detector))
            first, heavy, processor = live.stdout.readline().split(";")
            if i:  # the first fills the caches
                print(
                    f"first sample after {float(first) - begin:.3f} s "
                    f"({float(processor):.3f} s of processor time), "
                    f"TensorFlow {heavy}, {memory_of(live)[0] / 1024:.0f} MiB",
                    flush=True,
                )
            live.send_signal(signal.SIGINT)
            live.wait()


START = """
import os, sys
arguments = ["rtconv", "listen", sys.argv[1], "--device", "vmic"]
sys.argv = arguments
import rtconv.live.source as source
read = source.Source.read
def timed_read(self):
    chunk = read(self)
    if chunk is not None:
        arrived = chunk.blocks["arrived"][0] * 1e-9
        heavy = "loaded" if "tensorflow" in sys.modules else "not loaded"
        print(f"{arrived};{heavy};{sum(os.times()[:2])}", flush=True)
        source.Source.read = read
    return chunk
source.Source.read = timed_read
from rtconv.cli import main
main()
"""


def main():
    """Run one of the programs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    programs = parser.add_subparsers(required=True)
    options = {
        callback: {
            "seconds": 4.0,
            "ways": "idle,loop,sum,regex,gc",
            "blocks": "16,64,256",
            "engines": "python,rtmixer,native",
        },
        busy: {"seconds": 10},
        load: {"seconds": 20, "realtime": 0},
        trigger: {"times": 50},
        start: {"times": 5},
        restarts: {"times": 20},
        hour: {"minutes": 60},
    }
    for program, defaults in options.items():
        command = programs.add_parser(program.__name__, help=program.__doc__)
        command.set_defaults(program=program)
        for name, value in defaults.items():
            command.add_argument(f"--{name}", type=type(value), default=value)
    chosen = parser.parse_args()
    chosen.program(chosen)


if __name__ == "__main__":
    main()
