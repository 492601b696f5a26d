"""How good the detectors are that a few recordings give, beside other keyword detectors.

Everything is measured on labelled streams of hours that `rtconv mix` makes: the
same stream, the same one-to-one counting and the same event picker for all. What
a detector was trained or calibrated on is in no stream: recordings are split by
number (neighbouring numbers are often one speaker), backgrounds by package.

    python benchmarks/quality.py --keywords DIR --sounds DIR --work DIR
        [--peers PYTHON] [--seeds 3] [--jobs 2] [--only TASK ...] [--table docs/quality.md]

`--keywords` holds ``alexa/*.flac`` and ``view_glass/*.flac``, `--sounds` the
unpacked Debian packages, `--work` keeps streams, detectors and results: what is
there is not made again. `--peers` is a Python environment with Porcupine and
microWakeWord, see `benchmarks/peers.py`. `--table` writes the tables into the
marked place of a document, and the plots beside it.
"""

import argparse
import os
import queue
import random
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

import rtconv
from rtconv.audio import audio_info, read_audio, read_blocks
from rtconv.errors import RtconvError
from rtconv.evaluation.matching import match_events
from rtconv.evaluation.measures import (
    Counts,
    OperatingPoint,
    Scored,
    count,
    detection_error_tradeoff,
    operating_point,
)
from rtconv.evaluation.mixture import find_occurrences, load_mixture, write_mixture
from rtconv.evaluation.plots import empty_figure
from rtconv.evaluation.quality import read_label_track
from rtconv.evaluation.report import describe_misses
from rtconv.evaluation.trace import ScoreTrace
from rtconv.labels import read_labels
from rtconv.model.detector import Model, Output
from rtconv.stream.detector import Detector
from rtconv.training.closed_form import closed_form
from rtconv.training.fourier import open_quick_network

#: Packages whose speech, music and noises are for training, and for the streams.
TRAINING_BACKGROUNDS = [
    "asterisk-core-sounds-en-wav/**/*.wav",
    "asterisk-core-sounds-es-wav/**/*.wav",
    "fillets-ng-data-cs/**/*.ogg",
    "warzone2100-music/**/legacy_soundtrack/*.opus",
    "minetest-data/**/*.ogg",
]
TEST_BACKGROUNDS = [
    "asterisk-core-sounds-fr-wav/**/*.wav",
    "asterisk-core-sounds-it-wav/**/*.wav",
    "asterisk-moh-opsound-wav/**/*.wav",
    "warzone2100-music/**/aftermath_soundtrack/*.opus",
    "warzone2100-music/**/original_soundtrack/*.opus",
]
#: Recordings of a keyword, in the order of their numbers: the first are for training, the last
#: for the streams.
TRAINING_WORDS, TEST_WORDS = 200, 110
#: One recording each, of 90, 230 and 40 ms, and the preset for such a length.
FIXED = {
    "bell": ("click", "sound-theme-freedesktop/**/bell.oga"),
    "complete": ("chime", "sound-theme-freedesktop/**/complete.oga"),
    "information": ("click", "sound-theme-freedesktop/**/dialog-information.oga"),
}
#: A snare drum, soft to loud; every third take is for the stream, the other five for training.
DRUM = "hydrogen-drumkits/**/Millo_MultiLayered3/sd_*.*"
#: Seconds by which an event may be off the label's end. Other detectors decide
#: later than ours, so that theirs count in a wide collar.
KEYWORD_COLLAR, FIXED_COLLAR = 0.75, 0.1
WISH = 1.0


def main():
    arguments = parse_arguments()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tasks = {"keyword": keyword, "fixed": fixed, "drum": drum}
    results = {name: tasks[name](arguments, work) for name in arguments.only or tasks}
    text = "\n\n".join(results.values())
    print(text)
    if arguments.table:
        insert(arguments.table, results)


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keywords", type=Path, required=True)
    parser.add_argument("--sounds", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peers", type=Path, help="Python with Porcupine and microWakeWord")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, a core each")
    parser.add_argument("--numbers", type=int, nargs="*", default=[200, 50, 10])
    parser.add_argument("--only", nargs="*", choices=["keyword", "fixed", "drum"])
    parser.add_argument("--table", type=Path)
    return parser.parse_args()


# Keyword


def keyword(arguments, work):
    """The word "alexa" from 10, 50 and 200 recordings, at full and at telephone bandwidth."""
    words = readable(arguments.keywords / "alexa")
    others = readable(arguments.keywords / "view_glass")
    streams = {}
    for name, samplerate in (("16 kHz", 16000), ("8 kHz", 8000)):
        streams[name] = stream(
            work / f"alexa-{samplerate}.flac",
            {
                "samplerate": samplerate,
                "positives": {"alexa": words[-TEST_WORDS:]},
                "backgrounds": paths(arguments.sounds, TEST_BACKGROUNDS),
                "per_hour": 100,
                "snr_db": [10],
            },
        )
    configs = {
        (number, seed): {
            "name": "alexa",
            "samplerate": 16000,
            "network": {"preset": "keyword"},
            "training": {
                "positives": random.Random(seed).sample(words[:TRAINING_WORDS], number),
                "negatives": others[:TRAINING_WORDS],
                "backgrounds": paths(arguments.sounds, TRAINING_BACKGROUNDS),
                "seed": seed,
            },
            "detection": {"false_alarms_per_hour": WISH, "refractory": 1.0},
        }
        for number in arguments.numbers
        for seed in range(arguments.seeds)
    }
    bases = {key: work / "alexa-{}-{}".format(*key) for key in configs}
    detectors = trained({bases[key]: config for key, config in configs.items()}, arguments.jobs)

    def measured(task):
        ((number, seed), base), (name, path) = task
        detector, minutes = detectors[base]
        curve, own, at_wish = evaluated(detector, path, KEYWORD_COLLAR)
        ours = f"ours, {number} recordings"
        note(f"{name}, {ours}, seed {seed}: {describe_misses(at_wish)}")
        row = Row(name, "alexa", ours, at_wish, own, bound(detector), minutes)
        return row, (name, ours, curve)

    tasks = list(product(bases.items(), streams.items()))
    measurements = in_parallel(measured, tasks, arguments.jobs)
    rows = [row for row, _ in measurements]
    curves = [curve for _, curve in measurements]
    if arguments.peers:
        for name, path in streams.items():
            for peer, (curve, own, at_wish) in peers(arguments.peers, path, "alexa").items():
                curves.append((name, peer, curve))
                rows.append(Row(name, "alexa", peer, at_wish, own))
    if arguments.table:
        plot_curves(curves, arguments.table.parent / "quality-alexa.png")
    return keyword_table(rows)


def keyword_table(rows):
    lines = [
        "| stream | detector | misses at 1 false alarm/h | at its own threshold: misses | "
        "false alarms/h | minutes of training |",
        "|---|---|---|---|---|---|",
    ]
    for same in grouped(rows):
        minutes = ", ".join(f"{row.minutes:.0f}" for row in same if row.minutes is not None)
        cells = [same[0].stream, same[0].detector, spread_text(same), *own_texts(same), minutes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", promise_text(rows)])


# Fixed sounds


def fixed(arguments, work):
    """Three sounds, one recording each: exact copies in noise, and in rooms at other speeds."""
    files = {name: paths(arguments.sounds, [pattern]) for name, (_, pattern) in FIXED.items()}
    common = {
        "samplerate": 16000,
        "positives": files,
        "backgrounds": paths(arguments.sounds, TEST_BACKGROUNDS),
        "hours": 1.4,
        "per_hour": 300,
        "snr_db": [-10, -5, 0, 5, 10],
    }
    varied = {"rooms": ["shoebox", "decay"], "speeds": [0.98, 0.99, 1.01, 1.02], "seed": 1}
    streams = {
        "exact": stream(work / "fixed-exact.flac", common),
        "room and speed": stream(work / "fixed-varied.flac", {**common, **varied}),
    }
    networks = trained(
        {
            work / f"fixed-{name}-{seed}": sound_config(
                name, FIXED[name][0], recordings, arguments, seed
            )
            for name, recordings in files.items()
            for seed in range(arguments.seeds)
        },
        arguments.jobs,
    )
    tasks = []
    for name, recordings in files.items():
        detectors = {
            method: closed_detector(method, name, recordings, arguments, work)
            for method in ("matched_filter", "whitened", "whitened_normalised")
        }
        for seed in range(arguments.seeds):
            detectors[f"network {seed}"], _ = networks[work / f"fixed-{name}-{seed}"]
        tasks += product(streams.items(), detectors.items())
    return timing_table(in_parallel(evaluated_timing, tasks, arguments.jobs))


def drum(arguments, work):
    """A snare drum, takes that the detector has not heard, clean to 0 dB.

    Among speech, and among speech and music, which has drums of its own.
    """
    takes = paths(arguments.sounds, [DRUM])
    test = takes[1::3]
    training = [take for take in takes if take not in test]
    common = {
        "samplerate": 16000,
        "positives": {"snare": test},
        "per_hour": 360,
        "snr_db": [0, 10, 20, 30],
        "aligned": True,
    }
    speech = paths(arguments.sounds, TEST_BACKGROUNDS[:2])
    every = paths(arguments.sounds, TEST_BACKGROUNDS)
    streams = {
        "speech": stream(work / "drum-speech.flac", {**common, "backgrounds": speech}),
        "speech, music with drums": stream(
            work / "drum-music.flac", {**common, "backgrounds": every, "hours": 0.6}
        ),
    }
    detectors = {"whitened": closed_detector("whitened", "snare", training, arguments, work)}
    configs = {
        work / f"drum-{seed}": {
            **sound_config("snare", "chime", training, arguments, seed, refractory=0.2),
            "precise": True,
        }
        for seed in range(arguments.seeds)
    }
    for seed, (detector, _) in enumerate(trained(configs, arguments.jobs).values()):
        detectors[f"network {seed}"] = detector
    tasks = list(product(streams.items(), detectors.items()))
    return timing_table(in_parallel(evaluated_timing, tasks, arguments.jobs))


def sound_config(name, preset, recordings, arguments, seed, refractory=0.5):
    """A network for a fixed sound."""
    return {
        "name": name,
        "samplerate": 16000,
        "network": {"preset": preset},
        "training": {
            "positives": recordings,
            "backgrounds": paths(arguments.sounds, TRAINING_BACKGROUNDS),
            "seed": seed,
        },
        "detection": {"false_alarms_per_hour": WISH, "refractory": refractory},
    }


def timing_table(rows):
    lines = [
        "| stream | sound | detector | misses at 1 false alarm/h | by SNR, dB | timing p95 (ms) | "
        "at its own threshold: misses | false alarms/h |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for same in grouped(rows):
        by_snr = ", ".join(
            f"{snr}: {100 * statistics.mean(row.by_snr[snr] for row in same):.0f} %"
            for snr in same[0].by_snr
        )
        timing = ", ".join(f"{1000 * row.p95:.2f}" for row in same if row.p95 is not None)
        cells = [same[0].stream, same[0].sound, same[0].detector, spread_text(same), by_snr, timing]
        lines.append(f"| {' | '.join([*cells, *own_texts(same)])} |")
    for stream_name in dict.fromkeys(row.stream for row in rows):
        networks = [r for r in rows if r.stream == stream_name and r.detector == "network"]
        recall = 1 - statistics.mean(row.at_wish.miss_rate for row in networks)
        lines += ["", f"Mean recall of the networks, {stream_name}: {recall:.3f}."]
    return "\n".join([*lines, "", promise_text(rows)])


class Row(NamedTuple):
    """One detector on one stream; `bound` is what its calibration promised."""

    stream: str
    sound: str
    detector: str
    at_wish: Counts
    own: Counts | None
    bound: float | None = None
    minutes: float | None = None
    by_snr: dict | None = None
    p95: float | None = None


def grouped(rows):
    """Rows that differ in the seed only."""
    keys = dict.fromkeys((row.stream, row.sound, row.detector) for row in rows)
    return [[row for row in rows if (row.stream, row.sound, row.detector) == key] for key in keys]


def bound(detector):
    """At most so many false alarms per hour, as its calibration told at 95 %."""
    calibration = detector.model.training.get("calibration", {})
    return calibration[detector.model.outputs[0].name]["at_most_per_hour"] if calibration else None


def promise_text(rows):
    """How often the false alarms of a stream are within what calibration told."""
    promised = [row for row in rows if row.bound is not None]
    kept = [row for row in promised if row.own.false_alarms_per_hour <= row.bound]
    return (
        f"In {len(kept)} of {len(promised)} cases the false alarms per hour at the calibrated "
        "threshold are within the 95 % interval that calibration told."
    )


# Making and measuring


def stream(path, settings):
    """The path of a stream, which is mixed if it is not there."""
    if not path.exists():
        config = path.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(jsonable(settings)))
        labels = write_mixture(load_mixture(config), path)
        note(f"{path.name}: {len(labels)} labels")
    return path


def trained(configs, jobs):
    """By the base of their files, detectors and the minutes their training took.

    Those that are not there are trained, each in a process of its own, so that its time
    and its memory are its own; several at once get a core each.
    """
    cores = sorted(os.sched_getaffinity(0))
    free = queue.Queue()
    for i in range(jobs):
        free.put({cores[i % len(cores)]} if jobs > 1 else set(cores))

    def train(base):
        config_path, log_path = base.with_suffix(".yaml"), base.with_suffix(".log")
        config_path.write_text(yaml.safe_dump(jsonable(configs[base])))
        mine = free.get()
        note(f"training {base.name}")
        start = time.monotonic()
        try:
            with log_path.open("w") as log:
                subprocess.run(
                    [sys.executable, "-m", "rtconv", "train", config_path, "-o", base],
                    stdout=log, stderr=log, check=True,
                    preexec_fn=lambda: os.sched_setaffinity(0, mine),
                )  # fmt: skip
        finally:
            free.put(mine)
        base.with_suffix(".seconds").write_text(f"{time.monotonic() - start:.0f}")

    missing = [base for base in configs if not base.with_suffix(".safetensors").exists()]
    in_parallel(train, missing, jobs)
    return {
        base: (
            rtconv.load(base.with_suffix(".safetensors")),
            float(base.with_suffix(".seconds").read_text()) / 60,
        )
        for base in configs
    }


def closed_detector(method, name, recordings, arguments, work):
    """A matched filter from recordings and ten minutes of the training backgrounds."""
    config = work / f"closed-{name}.yaml"
    backgrounds = paths(arguments.sounds, TRAINING_BACKGROUNDS)
    settings = {"samplerate": 16000, "positives": {name: recordings}, "backgrounds": backgrounds}
    config.write_text(yaml.safe_dump(jsonable(settings)))
    patterns = [
        read_audio(found.path, 16000).mean(axis=1)[found.start : found.end]
        for found in find_occurrences(load_mixture(config))
    ]
    sample = random.Random(0).sample(backgrounds, 40)
    noise = [read_audio(path, 16000).mean(axis=1)[: 16000 * 15] for path in sample]
    layers = closed_form(method, patterns, [x for x in noise if x.any()])
    output = Output(
        name=name, threshold=0.5, release=0.25, refractory=0.5, max_hold=1.0, decision="peak"
    )
    return Detector(Model(name, 16000, layers, [output]))


def evaluated(detector, path, collar):
    """DET curve, counts at the detector's own threshold and at `WISH`; kept beside the stream."""
    evaluation = rtconv.evaluate(detector, [path], collar=collar)
    output = evaluation.outputs[0]
    return output.curve, output.counts, output.points[WISH].counts


def in_parallel(function, tasks, jobs):
    """What a function makes of each task, in their order; networks run beside each other."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(function, tasks))


def evaluated_timing(task):
    """A row: counts at `WISH`, misses by SNR, p95 of the timing error there, and its own counts.

    The error is taken from its median: where in a sound its end is, is a matter of definition.
    """
    (stream_name, path), (method, detector) = task
    output = detector.model.outputs[0]
    trace = ScoreTrace(detector.samplerate)
    network = open_quick_network(detector.model.layers)  # matched filters of a second, by FFT
    for block in read_blocks(path, detector.samplerate):
        trace.push(network.step(block)[:, 0])
    labels = [label for label in read_label_track(path) if label.name == output.name]
    recording = Scored(trace, np.array([label.end for label in labels]))
    point = operating_point([recording], output, FIXED_COLLAR, WISH)
    times = np.array([e.time for e in trace.events(output.at_threshold(point.threshold))])
    matching = match_events(recording.reference, times, FIXED_COLLAR)
    errors = times[matching.pairs[:, 1]] - recording.reference[matching.pairs[:, 0]]
    p95 = float(np.percentile(np.abs(errors - np.median(errors)), 95)) if len(errors) else None
    missed = set(matching.missed)
    by_snr = {}
    for snr in sorted({float(label.conditions["snr_db"]) for label in labels}):
        same = [i for i, label in enumerate(labels) if float(label.conditions["snr_db"]) == snr]
        by_snr[f"{snr:g}"] = sum(i in missed for i in same) / len(same)
    own = count([recording], output, FIXED_COLLAR) if detector.model.certificate else None
    note(f"{path.stem}, {output.name}, {method}: {describe_misses(point.counts)}")
    name = method.split()[0]
    return Row(
        stream_name, output.name, name, point.counts, own, bound(detector), None, by_snr, p95
    )


def peers(python, path, word):
    """DET curve and counts of the other detectors, through our matching."""
    kept = path.with_name(path.stem + "-peers.npz")
    if not kept.exists():
        note(f"other detectors on {path.name}")
        program = Path(__file__).with_name("peers.py")
        subprocess.run([python, program, path, word, kept], check=True)
    results = np.load(kept)
    info = audio_info(path)
    ends = np.array([label.end for label in read_labels(path.with_suffix(".txt"))])
    found = {"Porcupine 1.9.5": porcupine(results, ends, info.seconds / 3600)}
    if "microwakeword" in results:
        found["microWakeWord"] = micro_wake_word(results, ends, info.seconds)
    return found


def porcupine(results, ends, hours):
    """Its sensitivities are its thresholds; 0.5 is its default."""
    points = {}
    for key in results:
        if key.startswith("porcupine"):
            matching = match_events(ends, results[key] / 16000, KEYWORD_COLLAR)
            sensitivity = float(key.split()[1])
            points[sensitivity] = Counts(
                len(ends), len(matching.pairs), len(matching.duplicates),
                len(matching.false_alarms), hours,
            )  # fmt: skip
    silent = OperatingPoint(2.0, Counts(len(ends), 0, 0, 0, hours))  # switched off
    curve = [silent, *(OperatingPoint(1 - s, counts) for s, counts in sorted(points.items()))]
    allowed = [p.counts for p in curve if p.counts.false_alarms_per_hour <= WISH]
    return curve, points[0.5], min(allowed, key=lambda counts: counts.misses)


def micro_wake_word(results, ends, seconds):
    """Its mean probability as a score for our picker; 0.9 is its default."""
    hop = int(results["microwakeword_hop"])
    trace = ScoreTrace(16000)
    # A probability is known when the last of its samples is.
    trace.push(np.repeat(np.concatenate([[0], results["microwakeword"]]), hop).astype(np.float32))
    recording = Scored(trace, ends)
    output = Output(
        name="a", threshold=0.9, release=0.45, refractory=1.0, max_hold=1.0, decision="crossing"
    )
    own = count([recording], output, KEYWORD_COLLAR)
    curve = detection_error_tradeoff([recording], output, KEYWORD_COLLAR)
    return curve, own, operating_point([recording], output, KEYWORD_COLLAR, WISH).counts


def readable(folder):
    """The recordings of a folder that can be read, in the order of their numbers."""
    found = []
    for path in sorted(folder.glob("*.flac"), key=lambda p: int(p.stem)):
        try:
            read_audio(path, 16000)
            found.append(path)
        except RtconvError as error:
            note(f"left out: {error}")
    return found


def paths(folder, patterns):
    """Files of a folder, sorted."""
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not found:
        sys.exit(f"{folder} holds none of {', '.join(patterns)}")
    return found


def jsonable(value):
    """The same with paths as text."""
    if isinstance(value, dict):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [jsonable(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def spread_text(rows):
    """Mean and spread of the misses at the wish, in percent."""
    values = [100 * row.at_wish.miss_rate for row in rows]
    if len(values) == 1:
        return f"{values[0]:.1f} %"
    return f"{statistics.mean(values):.1f} % ({min(values):.1f} to {max(values):.1f})"


def own_texts(rows):
    """Misses in percent and false alarms per hour of each row at its own threshold."""
    own = [row.own for row in rows if row.own is not None]
    misses = ", ".join(f"{100 * counts.miss_rate:.1f}" for counts in own)
    alarms = ", ".join(f"{counts.false_alarms_per_hour:.2g}" for counts in own)
    return (f"{misses} %", alarms) if own else ("–", "–")


def plot_curves(curves, path):
    """DET curves (stream, detector, curve), one panel for each stream, one colour a detector."""
    streams = list(dict.fromkeys(stream_name for stream_name, _, _ in curves))
    detectors = list(dict.fromkeys(detector for _, detector, _ in curves))
    figure = empty_figure(5.5 * len(streams), 4.5)
    axes = figure.subplots(1, len(streams), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, streams, strict=True):
        for i, detector in enumerate(detectors):
            label = detector  # of the first seed
            for curve in [c for s, d, c in curves if (s, d) == (name, detector)]:
                rates = [max(p.counts.false_alarms_per_hour, 0.1) for p in curve]
                misses = [100 * p.counts.miss_rate for p in curve]
                axis.step(rates, misses, where="post", linewidth=1, color=f"C{i}", label=label)
                label = None
        axis.set(
            xscale="log", xlim=(0.1, 100), ylim=(0, 100), title=name,
            xlabel="false alarms per hour",
        )  # fmt: skip
        axis.grid(which="both", alpha=0.25)
    axes[0].set_ylabel("misses (%)")
    axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def insert(document, results):
    """Replace what stands between the marks ``<!-- NAME -->`` and ``<!-- end -->``."""
    text = document.read_text()
    for name, table in results.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, t=table: m[1] + t + "\n" + m[2], text, flags=re.DOTALL)
    document.write_text(text)


def note(message):
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
