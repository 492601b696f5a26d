"""The native callback, called as PortAudio calls it."""

import ctypes

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtconv.live.callback import INPUT_OVERFLOW, callback_address, callback_module
from rtconv.live.ring import Ring
from rtconv.model.detector import Output
from rtconv.model.layers import Layer
from rtconv.stream.codegen import network_module
from rtconv.stream.compiled import CompiledNetwork, compile_object, host_target
from rtconv.stream.events import EventPicker
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


IDENTITY = [Layer(np.ones((1, 1), np.float32))]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
    fall=st.sampled_from([0.0, 0.2]),
    refractory=st.sampled_from([0.0, 0.0125, 0.1, 0.3]),
)
def test_the_trigger_crosses_where_the_picker_does(seed, threshold, fall, refractory):
    """Random scores, with NaN among them, in random blocks: one pulse for every event."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, (500, 1)).astype(np.float32)
    scores = np.where(rng.random((500, 1)) < 0.5, np.float32(0.5), scores)
    scores[rng.random(500) < 0.02] = np.nan
    output = Output(
        name="x",
        threshold=threshold,
        release=threshold - fall,
        refractory=refractory,
        max_hold=1,
        decision="crossing",
    )
    picker = EventPicker(output, samplerate=1000)
    expected = [event.sample for event in picker.push(scores[:, 0])]
    ring = Ring([CompiledNetwork(IDENTITY)], [[0]], 1, frames=1000, blocks=1000)
    ring.set_trigger(output, 1000, length=1, level=0.25, channel=2)
    ring.control["output_channels"] = 3
    played = np.full((500, 3), np.nan, np.float32)
    position = 0
    for length in partition(rng, 500, 40):
        part = slice(position, position + length)
        call(ring, scores[part], output=played[part])
        position += length
    assert np.flatnonzero(played[:, 1]).tolist() == expected
    assert set(played[expected, 1]) <= {np.float32(0.25)}
    assert not played[:, [0, 2]].any()
    assert int(ring.control["triggers"]) == len(expected)
    told = ring.read().blocks["trigger"]
    assert set(told[told >= 0]) <= set(expected)
    assert bool(expected) == bool((told >= 0).any())


def test_pulses_across_blocks_scores_as_sound_and_a_pattern():
    scores = np.zeros((100, 1), np.float32)
    scores[[10, 60], 0] = 1.0, 5.0
    scores[99] = np.nan
    ring = Ring([CompiledNetwork(IDENTITY)], [[0]], 1, frames=1000, blocks=100)
    output = Output(
        name="x", threshold=0.5, release=0.2, refractory=0, max_hold=1, decision="crossing"
    )
    ring.set_trigger(output, 1000, length=15, level=0.5, channel=1)
    ring.control["score_channel"] = 1
    ring.control["output_channels"] = 2
    played = np.full((100, 2), np.nan, np.float32)
    for first in range(0, 100, 7):
        call(ring, scores[first : first + 7], output=played[first : first + 7])
    expected = np.zeros(100, np.float32)
    expected[10:25] = expected[60:75] = 0.5
    np.testing.assert_array_equal(played[:, 0], expected)
    np.testing.assert_array_equal(played[:, 1], np.nan_to_num(scores[:, 0]).clip(-1, 1))

    pattern = np.array([0.1, 0.2, 0.3], np.float32)
    ring.play_pattern(pattern, period=50)
    ring.control["score_channel"] = -1
    call(ring, np.zeros((100, 1)), output=played)
    expected = np.zeros((100, 2), np.float32)
    expected[0:3, 0] = expected[50:53, 0] = pattern
    np.testing.assert_array_equal(played, expected)


def test_no_trigger_while_scores_are_invalid():
    """After an overflow until the network has forgotten what was before."""
    layers = table()["dilated"]
    ring = Ring([CompiledNetwork(layers)], [[0]], 1, frames=1000, blocks=100, memory=62)
    output = Output(
        name="x", threshold=-9, release=-9, refractory=0, max_hold=1, decision="crossing"
    )
    ring.set_trigger(output, 1000, length=1, level=1, channel=1)
    ring.control["output_channels"] = 1
    played = np.zeros((200, 1), np.float32)
    x = np.random.default_rng(0).normal(0, 0.3, (200, 1)).astype(np.float32)
    call(ring, x[:100], output=played[:100])
    call(ring, x[100:], flags=INPUT_OVERFLOW, output=played[100:])
    assert np.flatnonzero(played[:, 0]).tolist() == [0, 162]
