"""The native callback, called as PortAudio calls it."""

import ctypes

import llvmlite.binding as llvm
import numpy as np
import pytest

from rtconv.live.callback import INPUT_OVERFLOW, callback_address, callback_module
from rtconv.live.ring import Ring
from rtconv.stream.codegen import network_module
from rtconv.stream.compiled import CompiledNetwork, compile_object, host_target
from rtconv.stream.layout import Layout
from tests.contract import table

PaStreamCallback = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
)


def call(ring, block, flags=0, adc_time=0.0, output=None):
    """One call of the callback with a block (frames, device channels)."""
    block = np.ascontiguousarray(block, np.float32)
    times = np.array([adc_time, 0, 0], np.float64)
    callback = PaStreamCallback(callback_address())
    out = 0 if output is None else output.ctypes.data
    answer = callback(block.ctypes.data, out, len(block), times.ctypes.data, flags, ring.address)
    assert answer == 0  # paContinue


def partition(rng, frames, most):
    """Lengths of blocks that add up to `frames`."""
    lengths = []
    while (left := frames - sum(lengths)) > 0:
        lengths.append(min(left, int(rng.integers(1, most + 1))))
    return lengths


@pytest.mark.parametrize("name", ["ramp", "two outputs", "dilated", "strides"])
def test_scores_have_the_bits_of_the_network(name):
    """Any partition, around the end of a small ring many times, three lanes."""
    layers = table()[name]
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, (5000, 3)).astype(np.float32)
    networks = [CompiledNetwork(layers) for _ in range(3)]
    ring = Ring(networks, [[2], [0], None], 3, frames=301, blocks=7)
    samples, scores = [], []
    position = 0
    for length in partition(rng, len(x), 150):
        call(ring, x[position : position + length], adc_time=position)
        position += length
        chunk = ring.read()
        assert chunk.blocks["frames"].tolist() == [length]
        assert chunk.blocks["first"][0] == chunk.blocks["adc_time"][0] == position - length
        samples.append(np.concatenate(chunk.samples, axis=1))
        scores.append(np.concatenate(chunk.scores, axis=1))
    taken = np.stack([x[:, 2], x[:, 0], x.mean(axis=1)], axis=1)
    expected = [CompiledNetwork(layers).step(column[:, np.newaxis]) for column in taken.T]
    np.testing.assert_array_equal(np.concatenate(samples), taken)
    np.testing.assert_array_equal(np.concatenate(scores), np.concatenate(expected, axis=1))


def test_a_network_of_several_channels():
    layers = table()["stereo"]
    x = np.random.default_rng(0).normal(0, 0.3, (500, 4)).astype(np.float32)
    ring = Ring([CompiledNetwork(layers)], [[3, 1]], 4, frames=1000, blocks=10)
    call(ring, x)
    expected = CompiledNetwork(layers).step(x[:, [3, 1]])
    np.testing.assert_array_equal(ring.read().scores[0], expected)


def test_several_blocks_are_read_at_once_and_in_parts():
    ring = Ring([CompiledNetwork(table()["ramp"])], [[0]], 1, frames=1000, blocks=20)
    x = np.arange(600, dtype=np.float32)[:, np.newaxis]
    for part in np.split(x, 6):
        call(ring, part)
    chunk = ring.read(most=250)
    assert chunk.blocks["first"].tolist() == [0, 100]
    np.testing.assert_array_equal(chunk.part(1, 2).samples[0], x[100:200])
    rest = ring.read()
    np.testing.assert_array_equal(np.concatenate([*chunk.samples, *rest.samples]), x)
    assert ring.read() is None


@pytest.mark.parametrize(("frames", "blocks"), [(100, 50), (1000, 3)])
def test_what_does_not_fit_is_counted_and_resets_the_network(frames, blocks):
    layers = table()["dilated"]
    ring = Ring([CompiledNetwork(layers)], [[0]], 1, frames, blocks)
    x = np.random.default_rng(0).normal(0, 0.3, (240, 1)).astype(np.float32)
    for part in np.split(x[:200], 5):
        call(ring, part)  # the ring is full after some
    kept = int(ring.read().blocks["frames"].sum())
    assert kept == (80 if frames == 100 else 120)
    call(ring, x[200:])
    chunk = ring.read()
    assert chunk.blocks["lost"].tolist() == [200 - kept]
    assert chunk.blocks["reset"].tolist() == [1]
    np.testing.assert_array_equal(chunk.scores[0], CompiledNetwork(layers).step(x[200:]))


@pytest.mark.parametrize("reason", ["overflow", "request"])
def test_reset(reason):
    layers = table()["strides"]
    ring = Ring([CompiledNetwork(layers)], [[0]], 1, frames=1000, blocks=10)
    x = np.random.default_rng(0).normal(0, 0.3, (200, 1)).astype(np.float32)
    call(ring, x[:101])
    if reason == "request":
        ring.want_reset()
    call(ring, x[101:], flags=INPUT_OVERFLOW if reason == "overflow" else 0)
    call(ring, x[:10])
    chunk = ring.read()
    assert chunk.blocks["reset"].tolist() == [0, 1, 0]
    expected = CompiledNetwork(layers).step(np.concatenate([x[101:], x[:10]]))
    np.testing.assert_array_equal(chunk.scores[0][101:], expected)


def test_it_calls_nothing_but_memory_copies():
    """What else it calls, the networks and the clock, it is handed as pointers."""
    target = host_target()
    codes = [str(callback_module(target))]
    codes += [str(network_module(Layout(layers, target))) for layers in table().values()]
    for text in codes:
        symbols = undefined_symbols(compile_object(text, target))
        assert symbols <= {"memset", "memcpy", "memmove", "_GLOBAL_OFFSET_TABLE_"}


def test_the_list_of_symbols_shows_a_call():
    text = "declare ptr @malloc(i64) define ptr @f() { %p = call ptr @malloc(i64 8) ret ptr %p }"
    assert "malloc" in undefined_symbols(compile_object(text, host_target()))


def undefined_symbols(code):
    """Names that an ELF object file expects from elsewhere."""
    sections = {
        section.name(): section.data() for section in llvm.ObjectFileRef.from_data(code).sections()
    }
    fields = [("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2")]
    symbols = np.frombuffer(sections[b".symtab"], [*fields, ("value", "u8"), ("size", "u8")])
    names = sections[b".strtab"]
    undefined = symbols["name"][symbols["section"] == 0]
    return {names[i:].split(b"\0")[0].decode() for i in undefined} - {""}
