"""The command line: one app, a command is a few lines over the API.

Events go to stdout, everything else to stderr. Exit code 0 is done, 1 failed
with one sentence, 2 wrong usage.
"""

import os
import sys
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtconv.errors import RtconvError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rtconv.training.trainer as training
    from rtconv.stream.detector import Detector
    from rtconv.stream.events import Event, Gap

app = typer.Typer(
    name="rtconv",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """How events are written."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"
    labels = "labels"


class EngineName(StrEnum):
    """What runs the network."""

    compiled = "compiled"
    reference = "reference"


class Order(StrEnum):
    """Which tap of a kernel meets the newest sample."""

    correlation = "correlation"
    convolution = "convolution"
    pytorch = "pytorch"


DetectorPath = Annotated[Path, typer.Argument(metavar="DETECTOR", help="A .safetensors file.")]
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", help="Default: table on a terminal, jsonl in a pipe."),
]
DeviceOption = Annotated[
    str | None, typer.Option(metavar="NAME|N", help="Default: the system's input.")
]
LatencyOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="S", help="To ask the devices for; default: their low one."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="BASE", help="Default: models/NAME."),
]


def note(message: str) -> None:
    """Tell the user something beside the events, on stderr."""
    print(message, file=sys.stderr, flush=True)


def chosen_format(format: Format | None) -> Any:
    """The format that was asked for, or the one that fits stdout."""
    if format is None:
        return "table" if sys.stdout.isatty() else "jsonl"
    return format.value


@app.callback()
def _options(
    debug: Annotated[  # `main` takes it from anywhere on the line
        bool, typer.Option("--debug", help="Show a traceback on errors.")
    ] = False,
) -> None:
    """Teach a small causal Conv1D network to recognise a sound, and run it sample by sample."""


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where its files go.")
    ] = Path("demo"),
) -> None:
    """The main job without hardware: train, convert, replay a recording, show the events."""
    from rtconv.demo import describe_demo, run_demo

    with training_progress() as progress:
        result = run_demo(output, progress, note)
    print(describe_demo(result, output))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.")],
    output: OutputOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from where Ctrl-C ended a training.")
    ] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="BASE.png: loss, weights, an example, misses.")
    ] = False,
) -> None:
    """Train a detector: BASE.pickle (Conv1D weights) and BASE.safetensors (the detector)."""
    import rtconv

    with training_progress() as progress:
        detector = rtconv.train(config, output, progress, note, resume=resume, plot=plot)
    base = output or Path("models") / detector.name
    note(f"{base}.pickle and {base}.safetensors are written")


@contextmanager
def training_progress() -> "Iterator[Callable[[training.Progress], None]]":
    """A progress bar on stderr, with the loss and the validation figures."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps  {task.description}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))

    def show(progress: "training.Progress") -> None:
        figures = {"loss": progress.loss, **progress.figures}
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if not bar.tasks:
            bar.start()
            bar.add_task("", total=progress.steps)
        bar.update(bar.task_ids[0], completed=progress.step, description=text)

    try:
        yield show
    finally:
        if bar.tasks:
            bar.stop()


@app.command()
def convert(
    weights: Annotated[Path, typer.Argument(metavar="WEIGHTS.pickle")],
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG")],
    output: OutputOption = None,
    order: Annotated[
        Order,
        typer.Option(help="convolution: Keras on Theano; pytorch: its (out, in, K) layout."),
    ] = Order.correlation,
) -> None:
    """Convert Conv1D weights to a detector in Dense format."""
    import rtconv

    detector = rtconv.convert(weights, config, output, order=order.value)
    certificate = detector.model.certificate
    note(
        f"{output or Path('models') / detector.name}.safetensors is written, "
        f"{certificate.largest_difference:.1e} of full scale off {certificate.oracle}"
    )


@app.command()
def replay(
    detector: DetectorPath,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Sound files.")],
    format: FormatOption = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="OUT.npy|OUT.wav", help="Write the scores, one per sample."),
    ] = None,
    blocksize: Annotated[
        int | None, typer.Option(min=1, help="Samples per block; changes no bit.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead of the detector's.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Threads; changes no bit.")] = 1,
    channel: Annotated[
        str, typer.Option(metavar="N|mean|all", help="Of a file with several channels.")
    ] = "mean",
    engine: Annotated[
        EngineName, typer.Option(help="reference: slow, in NumPy; runs on any processor.")
    ] = EngineName.compiled,
) -> None:
    """Run a detector over recordings and print its events."""
    if scores is not None and len(files) > 1:
        raise typer.BadParameter("--scores takes one FILE")
    if format is Format.labels and len(files) > 1:
        raise typer.BadParameter("a label track belongs to one FILE")
    from rtconv.evaluation.replay import with_threshold
    from rtconv.live.sinks import open_writer, write_record
    from rtconv.model.detector import load_model
    from rtconv.stream.detector import Detector

    model = load_model(detector)
    model = model if threshold is None else with_threshold(model, threshold)
    loaded = Detector(model, engine.value)
    several = len(files) > 1
    writer = open_writer(chosen_format(format), sys.stdout, several)
    failed = False
    for file in files:
        try:
            for record in _replay_one(
                loaded, file, parse_channel(channel), blocksize, jobs, scores
            ):
                write_record(writer, record, str(file) if several else None)
        except RtconvError as error:
            note(f"rtconv: {error}")
            failed = True
    if failed:
        raise typer.Exit(1)


def _replay_one(
    detector: "Detector",
    file: Path,
    channel: Any,
    blocksize: int | None,
    jobs: int,
    scores: Path | None,
) -> "Iterator[Event | Gap]":
    """Events of one file, with its scores written beside if wanted; of a session also gaps."""
    from rtconv.audio import audio_info
    from rtconv.evaluation.replay import describe_conversion, replay
    from rtconv.evaluation.scores import score_writer
    from rtconv.stream.session import is_session

    if is_session(file):
        yield from _replay_session(detector, file, scores)
        return
    info = audio_info(file)
    if conversion := describe_conversion(detector.model, info, channel):
        note(conversion)
    if scores is None:
        yield from replay(detector, file, channel=channel, blocksize=blocksize, jobs=jobs)
        return
    inputs = info.channels if channel == "all" else 1
    columns = inputs * len(detector.model.outputs)
    with score_writer(scores, detector.samplerate, columns) as append:
        yield from replay(
            detector, file, channel=channel, blocksize=blocksize, jobs=jobs, on_scores=append
        )


def _replay_session(
    detector: "Detector", file: Path, scores: Path | None
) -> "Iterator[Event | Gap]":
    """Events and gaps of a recorded session, with its scores written beside if wanted."""
    from rtconv.evaluation.scores import score_writer
    from rtconv.stream.session import replay_session, session_info

    if scores is None:
        yield from replay_session(detector, file)
        return
    info = session_info(file)
    columns = len(info.channels) * len(detector.model.outputs)
    with score_writer(scores, info.samplerate, columns) as append:
        yield from replay_session(detector, file, append)


@app.command()
def evaluate(
    detector: DetectorPath,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Labels: FILE's stem + .txt.")
    ],
    collar: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds off the label's end that still hit.")
    ] = 0.5,
    against: Annotated[
        Path | None, typer.Option(metavar="DETECTOR", help="Another one beside it.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a page with plots, and JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Threads; changes no bit.")] = 1,
    channel: Annotated[str, typer.Option(metavar="N|mean", help="Of several.")] = "mean",
) -> None:
    """Measure misses, false alarms and timing on recordings with Audacity labels."""
    from rich.console import Console

    import rtconv
    from rtconv.audio import audio_info
    from rtconv.evaluation.report import format_json, format_table, write_report

    detectors = [rtconv.load(path) for path in (detector, against) if path is not None]
    seconds = sum(audio_info(file).seconds for file in files) * len(detectors)
    with progress_bar("evaluating", seconds) as advance:
        evaluations = [
            rtconv.evaluate(
                each,
                files,
                collar=collar,
                channel=parse_channel(channel),
                jobs=jobs,
                on_progress=advance,
            )
            for each in detectors
        ]
    if as_json:
        print(format_json(evaluations))
    else:
        Console().print(format_table(evaluations))
    if report is not None:
        note(f"{write_report(evaluations, report)} is written")


@app.command()
def mix(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="STREAM.flac", help="Labels: its stem + .txt.")
    ],
) -> None:
    """Make a labelled test stream: sounds in backgrounds, by SNR, room, speed and bandwidth."""
    from rtconv.evaluation.mixture import load_mixture, write_mixture

    settings = load_mixture(config)
    with progress_bar("mixing", 1) as advance:
        labels = write_mixture(settings, output, on_progress=advance)
    note(f"{output} is written, with {len(labels)} labels in {output.with_suffix('.txt')}")


@contextmanager
def progress_bar(title: str, total: float) -> "Iterator[Callable[[float], None]]":
    """A bar on stderr, and the function that moves it on."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda step: bar.update(task, advance=step)


@app.command()
def devices(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
    meter: Annotated[
        bool, typer.Option("--meter", help="Show what comes in; make a sound to find it.")
    ] = False,
    device: DeviceOption = None,
) -> None:
    """List the inputs: number, name, host API, channels and samplerate."""
    from rtconv.live.devices import format_devices, list_devices

    if meter:
        from rtconv.live.meter import show_levels

        show_levels(device)
        return
    print(format_devices(list_devices(), as_json))


@app.command()
def listen(
    detector: DetectorPath,
    device: DeviceOption = None,
    blocksize: Annotated[int, typer.Option(min=1, help="Samples per callback.")] = 64,
    latency: LatencyOption = None,
    channel: Annotated[
        str, typer.Option(metavar="N|N,N|mean|all", help="Several: each on its own.")
    ] = "1",
    duration: Annotated[float | None, typer.Option(min=0, metavar="S", help="Seconds.")] = None,
    format: FormatOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the device.")] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="SESSION.wav", help="Record, for a replay to the bit.")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Keep the statistics there.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Output for a pulse at each crossing.")
    ] = None,
    pulse_length: Annotated[
        float | None, typer.Option(min=0, max=3600, metavar="S", help="Default: the detector's.")
    ] = None,
    pulse_level: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Full scale is 1.")
    ] = None,
    pulse_channel: Annotated[int | None, typer.Option(min=1, max=1024)] = None,
    play_scores: Annotated[
        int | None,
        typer.Option(min=1, metavar="CHANNEL", help="Output channel for the score as sound."),
    ] = None,
) -> None:
    """Listen to a microphone and print events as they happen; Ctrl-C ends with statistics."""
    import rtconv
    from rtconv.live.console import hide_native_messages, run
    from rtconv.live.sinks import open_writer
    from rtconv.live.source import Trigger

    loaded = rtconv.load(detector)
    output = None
    if trigger is not None or play_scores is not None:
        options = {
            "length": pulse_length if trigger is not None else 0.0,
            "level": pulse_level,
            "channel": pulse_channel,
        }
        chosen = {name: value for name, value in options.items() if value is not None}
        pulse = loaded.model.outputs[0].pulse.model_copy(update=chosen)
        output = Trigger(trigger, pulse, play_scores)
    if "--debug" not in sys.argv:
        hide_native_messages()
    live = rtconv.listen(
        loaded,
        device,
        blocksize=blocksize,
        latency=latency,
        channel=parse_channels(channel),
        duration=duration,
        wait=wait,
        trigger=output,
        record=record,
        on_message=note,
    )
    run(live, open_writer(chosen_format(format), sys.stdout), note, stats)


@app.command()
def latency(
    detector: DetectorPath,
    device: DeviceOption = None,
    blocksize: Annotated[int, typer.Option(min=1, help="Samples per callback.")] = 64,
    wanted: Annotated[
        float | None,
        typer.Option("--latency", min=0, metavar="S", help="To ask the devices for."),
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Output that the input hears.")
    ] = None,
    pattern: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A sound that the detector recognises.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1)] = 20,
) -> None:
    """Tell the latencies; with --trigger and --pattern measure the loop from sound to trigger."""
    from rtconv.audio import read_audio
    from rtconv.live.console import hide_native_messages
    from rtconv.live.latency import measure_loop
    from rtconv.live.source import Source, Trigger
    from rtconv.model.detector import load_model

    if (trigger is None) != (pattern is None):
        raise typer.BadParameter("--trigger and --pattern belong together")
    if "--debug" not in sys.argv:
        hide_native_messages()
    output = None if trigger is None else Trigger(trigger)
    source = Source(load_model(detector), device, blocksize, 1, output, wanted)
    with closing(source):
        print(source.describe(), flush=True)
        if pattern is not None:
            sound = read_audio(pattern, source.model.samplerate).mean(axis=1)
            print(measure_loop(source, sound, repetitions))


@app.command()
def inspect(
    detector: DetectorPath,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw weights and responses.")
    ] = None,
) -> None:
    """Show layers, receptive field, hop, cost, settings and certificate of a detector."""
    from rtconv.model.description import describe
    from rtconv.model.detector import load_model

    model = load_model(detector)
    print(describe(model, as_json))
    if plot is not None:
        from rtconv.evaluation.plots import plot_network

        plot_network(model, plot)


@app.command()
def bench(
    detector: Annotated[
        Path | None,
        typer.Argument(metavar="[DETECTOR]", help="Default: example networks M1 to M4."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per network.")] = False,
) -> None:
    """Measure ns per sample, x real time and the fraction of this core's peak."""
    from rtconv.model.detector import load_model
    from rtconv.model.examples import example_networks
    from rtconv.stream.benchmark import benchmark, format_benchmark

    if detector is None:
        networks, samplerate = example_networks(), 48000
    else:
        model = load_model(detector)
        networks, samplerate = {model.name: list(model.layers)}, model.samplerate
    for name, layers in networks.items():
        peak, speeds = benchmark(layers)
        print(format_benchmark(name, samplerate, peak, speeds, as_json), flush=True)


@app.command()
def lecture(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Default: list them.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the figures there.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the figures on the screen.")] = False,
    play: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME", help="live: write the chirps, or play them on an output."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME|N", help="live: the input to listen to.")
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0, help="live: seconds.")] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="live: chirp, matched, filterbank, ramp or a detector file."),
    ] = None,
) -> None:
    """Run one of the lecture's experiments, or list them."""
    from rtconv.lecture import EXPERIMENTS, run
    from rtconv.lecture.sheet import Sheet

    if name is None:
        for key, sentence in EXPERIMENTS.items():
            print(f"{key:12} {sentence}")
        return
    options = {"play": play, "device": device, "duration": duration, "detector": detector}
    options = {key: value for key, value in options.items() if value is not None}
    if options and name != "live":
        raise typer.BadParameter(f"--{next(iter(options))} belongs to the experiment live")
    sheet = Sheet(plot, show)
    run(name, sheet, **options)
    sheet.wait()


def parse_channel(text: str) -> Any:
    """Channel number (0 is the mean) or 'all'."""
    if text == "mean":
        return 0
    if text == "all":
        return "all"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a channel number from 1 nor mean nor all")


def parse_channels(text: str) -> Any:
    """One channel as `parse_channel` reads it, or a list of numbers."""
    if "," not in text:
        return parse_channel(text)
    return [parse_channel(part.strip()) for part in text.split(",")]


def main() -> None:
    """Entry point: one sentence for every error."""
    # Looking for plugins of pydantic, which rtconv has none of, delays every start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    debug = "--debug" in sys.argv
    try:
        app([argument for argument in sys.argv[1:] if argument != "--debug"])
    except RtconvError as error:
        if debug:
            raise
        note(f"rtconv: {error}")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our events is gone, as with `| head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        note(f"rtconv: internal error ({type(error).__name__}: {error}), --debug shows where")
        sys.exit(1)
