"""Streaming inference against other libraries: same weights, same input, outputs checked.

    pip install -e .[bench]
    python benchmarks/inference.py                # all networks, some minutes
    python benchmarks/inference.py M1 M3          # these, the others' figures are kept

Every library gets the same signal in blocks and must carry its state from block
to block; its scores are compared with those of the whole signal before the
clock starts. One thread, one core; the libraries take turns, and the medians of
the rounds count. rtconv is measured twice: called by machine code, as in the
audio callback, and called from Python like the others. A library that is not
installed is left out and named. A bound for blocks of one sample is measured
as well: the time that reading all weights takes once, with nothing computed.

Writes docs/inference.json (the figures), docs/inference-table.md and
docs/inference.png.
"""

import argparse
import ctypes
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
FLAGS = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "CUDA_VISIBLE_DEVICES": "-1"}
os.environ.update(THREADS | QUIET | FLAGS)  # before the libraries are imported

import numpy as np  # noqa: E402
from llvmlite import ir  # noqa: E402

from rtconv.model.examples import example_networks  # noqa: E402
from rtconv.model.layers import Layer, multiply_adds_per_sample, receptive_field  # noqa: E402
from rtconv.stream.benchmark import drive, peak_multiply_adds  # noqa: E402
from rtconv.stream.compiled import CompiledNetwork, host_target, load_functions  # noqa: E402
from rtconv.stream.instructions import INT, POINTER, VOID, Code  # noqa: E402
from rtconv.stream.layout import Target  # noqa: E402

BLOCKSIZES = (1, 16, 64, 1024)
ROUNDS = 9
SECONDS = 0.02
VECTORS_A_TURN = 8
DOCS = Path(__file__).parents[1] / "docs"

#: Takes a block (frames,) float32 and gives its scores (frames,); carries the state.
Runner = Callable[[np.ndarray], np.ndarray]


def taps(layer: Layer) -> np.ndarray:
    """The layer's weights as (kernel_size, in_channels, filters), oldest tap first."""
    return layer.dense.reshape(layer.kernel_size, layer.in_channels, layer.filters)[::-1].copy()


def rtconv_from_python(layers: list[Layer], blocksize: int) -> Runner:
    network = CompiledNetwork(layers)
    return lambda block: network.step(block[:, np.newaxis])[:, 0]


def numpy(layers: list[Layer], blocksize: int) -> Runner:
    """Past frames in front of the block, one matrix product for each tap."""
    buffers = [np.zeros((x.history + blocksize, x.in_channels), np.float32) for x in layers]
    weights = [taps(layer) for layer in layers]

    def run(block: np.ndarray) -> np.ndarray:
        frames = block[:, np.newaxis]
        for layer, buffer, w in zip(layers, buffers, weights, strict=True):
            buffer[: layer.history] = buffer[blocksize:].copy()
            buffer[layer.history :] = frames
            frames = buffer[:blocksize] @ w[0]
            for k in range(1, layer.kernel_size):
                begin = k * layer.dilation_rate
                frames += buffer[begin : begin + blocksize] @ w[k]
            frames += layer.bias
            if layer.activation == "relu":
                np.maximum(frames, 0, out=frames)
            elif layer.activation == "tanh":
                np.tanh(frames, out=frames)
        return frames[:, 0]

    return run


def scipy(layers: list[Layer], blocksize: int) -> Runner | None:
    """`scipy.signal.lfilter` with its state; an FIR filter only."""
    from scipy.signal import lfilter

    if len(layers) > 1:
        return None
    b, bias = layers[0].dense[:, 0], layers[0].bias[0]
    state = np.zeros(len(b) - 1, np.float32)
    one = np.float32(1)

    def run(block: np.ndarray) -> np.ndarray:
        nonlocal state
        scores, state = lfilter(b, one, block, zi=state)
        return scores + bias

    return run


def onnx_runtime(layers: list[Layer], blocksize: int) -> Runner:
    """State as inputs and outputs, all bound to fixed memory, two sets that alternate."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, array: np.ndarray) -> None:
        constants.append(numpy_helper.from_array(array, name))

    def tensor(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes, constants, current = [], [], "x"
    inputs, outputs = [tensor("x", (1, 1, blocksize))], []
    shapes = {"x": (1, 1, blocksize)}
    for i, layer in enumerate(layers):
        constant(f"w{i}", taps(layer).transpose(2, 1, 0).copy())
        constant(f"b{i}", layer.bias)
        if layer.history:
            shape = (1, layer.in_channels, layer.history)
            shapes[f"s{i}"] = shape
            inputs.append(tensor(f"s{i}", shape))
            outputs.append(tensor(f"n{i}", shape))
            nodes.append(helper.make_node("Concat", [f"s{i}", current], [f"c{i}"], axis=2))
            for name, value in (("begin", blocksize), ("end", blocksize + layer.history)):
                constant(f"{name}{i}", np.array([value], np.int64))
            constant(f"axis{i}", np.array([2], np.int64))
            slices = [f"c{i}", f"begin{i}", f"end{i}", f"axis{i}"]
            nodes.append(helper.make_node("Slice", slices, [f"n{i}"]))
            current = f"c{i}"
        conv = helper.make_node(
            "Conv", [current, f"w{i}", f"b{i}"], [f"y{i}"], dilations=[layer.dilation_rate]
        )
        nodes.append(conv)
        current = f"y{i}"
        if layer.activation != "linear":
            kind = {"relu": "Relu", "tanh": "Tanh"}[layer.activation]
            nodes.append(helper.make_node(kind, [current], [f"a{i}"]))
            current = f"a{i}"
    outputs.append(tensor(current, (1, 1, blocksize)))
    graph = helper.make_graph(nodes, "network", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    arrays = [{n: np.zeros(s, np.float32) for n, s in shapes.items()} for _ in range(2)]
    scores = np.zeros((1, 1, blocksize), np.float32)
    values = [
        {n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in side.items()} for side in arrays
    ]
    bindings = []
    for here, there in ((0, 1), (1, 0)):
        binding = session.io_binding()
        for name in shapes:
            if name == "x":
                array = arrays[0]["x"]
                binding.bind_input("x", "cpu", 0, np.float32, array.shape, array.ctypes.data)
            else:
                binding.bind_ortvalue_input(name, values[here][name])
                binding.bind_ortvalue_output(f"n{name[1:]}", values[there][name])
        binding.bind_output(current, "cpu", 0, np.float32, scores.shape, scores.ctypes.data)
        bindings.append(binding)

    def run(block: np.ndarray) -> np.ndarray:
        arrays[0]["x"][0, 0] = block
        session.run_with_iobinding(bindings[0])
        bindings.reverse()
        return scores[0, 0]

    return run


def tensorflow_function(layers: list[Layer], blocksize: int):
    """The network with explicit state as a TensorFlow function, and the shapes of its state."""
    import tensorflow as tf

    def step(x, *states):
        frames, after, left = tf.reshape(x, (1, blocksize, 1)), [], list(states)
        for layer in layers:
            if layer.history:
                frames = tf.concat([left.pop(0), frames], axis=1)
                after.append(frames[:, blocksize:])
            w = taps(layer)
            frames = tf.nn.conv1d(frames, w, 1, "VALID", dilations=layer.dilation_rate)
            frames = tf.nn.bias_add(frames, layer.bias)
            if layer.activation != "linear":
                frames = getattr(tf.nn, layer.activation)(frames)
        return (tf.reshape(frames, (blocksize,)), *after)

    shapes = [(1, layer.history, layer.in_channels) for layer in layers if layer.history]
    return step, shapes


def litert(layers: list[Layer], blocksize: int) -> Runner:
    """LiteRT (TensorFlow Lite) with its XNNPACK kernels, converted from TensorFlow."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    step, shapes = tensorflow_function(layers, blocksize)
    specs = [
        tf.TensorSpec((blocksize,), tf.float32),
        *[tf.TensorSpec(s, tf.float32) for s in shapes],
    ]
    concrete = tf.function(step, input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    inputs = {d["name"]: d["index"] for d in interpreter.get_input_details()}
    places = [inputs[tensor.name.split(":")[0]] for tensor in concrete.inputs]
    results = [d["index"] for d in interpreter.get_output_details()]
    by_name = [d["name"] for d in interpreter.get_output_details()]
    order = sorted(range(len(results)), key=lambda i: _output_number(by_name[i]))
    results = [results[i] for i in order]
    for place, shape in zip(places[1:], shapes, strict=True):
        interpreter.set_tensor(place, np.zeros(shape, np.float32))

    def run(block: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(places[0], block)
        interpreter.invoke()
        for place, result in zip(places[1:], results[1:], strict=True):
            interpreter.tensor(place)()[...] = interpreter.tensor(result)()
        return interpreter.get_tensor(results[0])

    return run


def _output_number(name: str) -> int:
    """``Identity`` is the first output, ``Identity_1`` the second."""
    _, _, number = name.partition("_")
    return int(number or 0)


def pytorch(layers: list[Layer], blocksize: int) -> Runner:
    """Cached padding: the past frames are concatenated with the block."""
    import torch

    torch.set_num_threads(1)
    weights = [torch.from_numpy(taps(layer).transpose(2, 1, 0).copy()) for layer in layers]
    biases = [torch.from_numpy(layer.bias) for layer in layers]
    states = [torch.zeros(1, layer.in_channels, layer.history) for layer in layers]
    activations = {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda x: x}

    @torch.inference_mode()
    def run(block: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(block)[None, None]
        for i, layer in enumerate(layers):
            if layer.history:
                frames = torch.cat((states[i], frames), 2)
                states[i] = frames[:, :, blocksize:]
            frames = torch.nn.functional.conv1d(
                frames, weights[i], biases[i], dilation=layer.dilation_rate
            )
            frames = activations[layer.activation](frames)
        return frames[0, 0].numpy()

    return run


def jax(layers: list[Layer], blocksize: int) -> Runner:
    """One compiled function of block and state."""
    import jax

    weights = [taps(layer) for layer in layers]

    @jax.jit
    def step(block, states):
        frames, after = block[None, :, None], []
        for layer, w, state in zip(layers, weights, states, strict=True):
            frames = jax.numpy.concatenate([state, frames], axis=1)
            after.append(frames[:, blocksize:])
            frames = jax.lax.conv_general_dilated(
                frames,
                w,
                (1,),
                "VALID",
                rhs_dilation=(layer.dilation_rate,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
            frames = frames + layer.bias
            if layer.activation != "linear":
                frames = getattr(jax.nn, layer.activation)(frames)
        return frames[0, :, 0], after

    states = [jax.numpy.zeros((1, layer.history, layer.in_channels)) for layer in layers]

    def run(block: np.ndarray) -> np.ndarray:
        nonlocal states
        scores, states = step(block, states)
        return np.asarray(scores)

    return run


def keras_predict(layers: list[Layer], blocksize: int) -> Runner:
    """`Model.predict` of the block and the samples before it: Keras carries no state."""
    import keras

    parts = [keras.Input((None, 1))]
    for layer in layers:
        parts.append(
            keras.layers.Conv1D(
                layer.filters,
                layer.kernel_size,
                padding="causal",
                dilation_rate=layer.dilation_rate,
                activation=layer.activation,
            )
        )
    model = keras.Sequential(parts)
    model.set_weights([w for layer in layers for w in (taps(layer), layer.bias)])
    past = receptive_field(layers) - 1
    window = np.zeros((1, past + blocksize, 1), np.float32)
    seen = 0  # causal padding knows of no samples before the first one

    def run(block: np.ndarray) -> np.ndarray:
        nonlocal seen
        window[0, :past, 0] = window[0, blocksize:, 0].copy()
        window[0, past:, 0] = block
        seen = min(seen + blocksize, past + blocksize)
        shown = window if seen == window.shape[1] else window[:, -seen:]
        return model.predict(shown, verbose=0)[0, -blocksize:, 0]

    return run


LIBRARIES: dict[str, tuple[Callable[[list[Layer], int], Runner | None], str]] = {
    "NumPy": (numpy, "numpy"),
    "SciPy": (scipy, "scipy"),
    "ONNX Runtime": (onnx_runtime, "onnxruntime"),
    "LiteRT": (litert, "ai-edge-litert"),
    "PyTorch": (pytorch, "torch"),
    "JAX": (jax, "jax"),
    "Keras predict": (keras_predict, "keras"),
}
OURS = "rtconv"
OURS_FROM_PYTHON = "rtconv from Python"


def open_runners(layers: list[Layer], blocksize: int, x: np.ndarray) -> dict[str, Runner]:
    """Every library that can run the network, checked against the whole signal."""
    expected = CompiledNetwork(layers).step(x[:, np.newaxis])[:, 0]
    scale = np.abs(expected).max()
    runners = {OURS_FROM_PYTHON: rtconv_from_python(layers, blocksize)}
    for name, (prepare, _) in LIBRARIES.items():
        try:
            runner = prepare(layers, blocksize)
        except ImportError as error:
            print(f"  {name} is left out: {error}", file=sys.stderr)
            continue
        if runner is not None:
            runners[name] = runner
    for name, runner in runners.items():
        blocks = 4 if name == "Keras predict" else max(4, 300 // blocksize)
        for i in range(blocks):
            block = slice(i * blocksize, (i + 1) * blocksize)
            error = np.abs(runner(x[block]) - expected[block]).max() / scale
            if not error < 2e-5:
                raise SystemExit(f"{name} is off by {error:.1e} of full scale at block {i}")
    return runners


def seconds_per_sample(runner: Runner, x: np.ndarray, blocksize: int, blocks: int) -> float:
    begin = perf_counter()
    for i in range(blocks):
        runner(x[i * blocksize : (i + 1) * blocksize])
    return (perf_counter() - begin) / (blocks * blocksize)


def measure(layers: list[Layer], blocksize: int, x: np.ndarray) -> dict:
    """Median ns per sample and ratio to rtconv of each library, and rtconv's part of the peak."""
    runners = open_runners(layers, blocksize, x)
    most = len(x) // blocksize
    blocks = {}
    for name, runner in runners.items():
        one = seconds_per_sample(runner, x, blocksize, 3 if name == "Keras predict" else 20)
        blocks[name] = int(min(max(SECONDS / (one * blocksize), 2), most))
    network = CompiledNetwork(layers)
    one = drive(network, x[:, np.newaxis], blocksize) / len(x)
    frames = min(max(int(SECONDS / 4 / (blocksize * one)), 4), most) * blocksize
    times: dict[str, list[float]] = {name: [] for name in (OURS, *runners)}
    ratios: dict[str, list[float]] = {name: [] for name in runners}
    fractions = []
    for _ in range(ROUNDS):
        peak = peak_multiply_adds()
        ours = drive(network, x[:frames, np.newaxis], blocksize) / frames
        times[OURS].append(ours)
        fractions.append(multiply_adds_per_sample(layers) / ours / peak)
        for name, runner in runners.items():
            seconds = seconds_per_sample(runner, x, blocksize, blocks[name])
            times[name].append(seconds)
            ratios[name].append(seconds / ours)
    return {
        "ns": {name: median(t) * 1e9 for name, t in times.items()},
        "ratio": {name: median(r) for name, r in ratios.items()},
        "peak": median(fractions),
    }


def ns_to_read_weights(layers: list[Layer]) -> float:
    """ns that this core needs to read all weights once, when it does nothing else."""
    target = host_target()
    address = load_functions("read", lambda: str(_reading_module(target)), ("read",))["read"]
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    read = ctypes.CFUNCTYPE(None, pointer, integer, integer, pointer)(address)
    floats = VECTORS_A_TURN * target.lanes
    turns = -(-sum(layer.dense.size for layer in layers) // floats)
    memory = np.zeros(turns * floats + 16, np.float32)
    memory = memory[-memory.ctypes.data % 64 // 4 :]
    result = np.zeros(target.lanes, np.float32)
    repetitions = 4_000_000 // turns
    times = []
    for _ in range(ROUNDS):
        begin = perf_counter()
        read(memory.ctypes.data, turns, repetitions, result.ctypes.data)
        times.append((perf_counter() - begin) / repetitions)
    return median(times) * 1e9


def _reading_module(target: Target) -> ir.Module:
    """``void read(const float *memory, int64_t turns, int64_t repetitions, float *result)``."""
    module = ir.Module("read")
    module.triple = target.triple
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER, INT, INT, POINTER]), "read")
    code = Code(function, target)
    memory, turns, repetitions, result = function.args
    vector = code.vector(target.lanes)

    def turn(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        here = code.at(memory, code.mul(i, INT(4 * len(sums) * target.lanes)))
        places = [code.at(here, 4 * n * target.lanes) for n in range(len(sums))]
        return [code.fadd(s, code.read(p, vector)) for s, p in zip(sums, places, strict=True)]

    start = [code.number(0, vector)] * VECTORS_A_TURN
    sums = code.repeat(repetitions, lambda _, sums: code.repeat(turns, turn, sums), start)
    code.write(reduce(code.fadd, sums), result)
    code.ret_void()
    return module


def table(results: dict) -> str:
    """The figures as Markdown: ns per sample, and how many times rtconv is faster."""
    names = [OURS, OURS_FROM_PYTHON, *LIBRARIES]
    lines = [
        f"Measured on {results['processor']}; {results['versions']}.",
        "",
        "ns per sample; in brackets how many times rtconv, called by machine code, is faster",
        "(the median of the ratios of each round).",
    ]
    for network, entry in results["networks"].items():
        rows = entry["blocks"]
        lines += ["", f"**{network}**", ""]
        lines.append("| | " + " | ".join(f"block {size}" for size in rows) + " |")
        lines.append("|---" * (len(rows) + 1) + "|")
        for name in names:
            cells = [
                _short(row["ns"][name])
                + (f" ({_short(row['ratio'][name])})" if name in row["ratio"] else "")
                for row in rows.values()
                if name in row["ns"]
            ]
            if cells:
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
        fractions = " | ".join(f"{row['peak']:.0%}" for row in rows.values())
        lines.append(f"| rtconv, of this core's peak | {fractions} |")
        lines += ["", f"Reading all weights once: {_short(entry['ns_to_read_weights'])} ns."]
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def plot(results: dict, path: Path) -> None:
    """One panel for each network: ns per sample over the block size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    networks = results["networks"]
    figure, axes = plt.subplots(1, len(networks), figsize=(3.2 * len(networks), 4), sharey=True)
    for axis, (network, entry) in zip(np.atleast_1d(axes), networks.items(), strict=True):
        rows = entry["blocks"]
        for color, name in enumerate((OURS, OURS_FROM_PYTHON, *LIBRARIES)):
            points = [(int(s), row["ns"][name]) for s, row in rows.items() if name in row["ns"]]
            style = {"lw": 2.5, "color": "black"} if name == OURS else {"color": f"C{color}"}
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", ms=3, label=name, **style)
        axis.set_title(network)
        axis.set_xlabel("block, samples")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("ns per sample")
    handles = {
        label: handle
        for axis in np.atleast_1d(axes)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), ncols=5, loc="outside lower center", fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=110)


def main() -> None:
    networks = example_networks() | {"M3 tanh": example_networks("tanh")["M3"]}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(networks))
    parser.add_argument("--core", type=int, default=0, help="the processor core to run on")
    options = parser.parse_args()
    if unknown := set(options.networks) - set(networks):
        parser.error(f"unknown network {', '.join(unknown)}; known are {', '.join(networks)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})

    figures = DOCS / "inference.json"
    old = json.loads(figures.read_text())["networks"] if figures.exists() else {}
    measured = {}
    x = np.random.default_rng(0).uniform(-1, 1, 1 << 15).astype(np.float32)
    for name in options.networks or networks:
        blocks = {}
        for blocksize in BLOCKSIZES:
            print(f"{name}, blocks of {blocksize}", file=sys.stderr, flush=True)
            blocks[str(blocksize)] = measure(networks[name], blocksize, x)
        reading = ns_to_read_weights(networks[name])
        measured[name] = {"blocks": blocks, "ns_to_read_weights": reading}
    results = {
        "processor": f"one core of {platform.machine()} {host_target().cpu}",
        "versions": ", ".join(f"{n} {version(p)}" for n, (_, p) in LIBRARIES.items()),
        "networks": {n: (old | measured)[n] for n in networks if n in old | measured},
    }
    figures.write_text(json.dumps(results, indent=1) + "\n")
    (DOCS / "inference-table.md").write_text(table(results))
    plot(results, DOCS / "inference.png")
    print(table(results))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("MPLCONFIGDIR", scratch)
        main()
