"""The live engine on virtual sound cards: what docs/live.md claims, measured.

Usage: python benchmarks/live.py callback|restarts|hour|trigger|start [options]

Needs the packages of the tests (PulseAudio, JACK); each program says at its
head what it measures.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.live_detectors import ramps_in_noise, save_ramp_detector
from tests.virtual_card import Lines, PulseCard

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


def main():
    """Run one of the programs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    programs = parser.add_subparsers(required=True)
    for program in (hour, restarts):
        command = programs.add_parser(program.__name__, help=program.__doc__)
        command.set_defaults(program=program)
        if program is hour:
            command.add_argument("--minutes", type=int, default=60)
        if program is restarts:
            command.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    options.program(options)


if __name__ == "__main__":
    main()
