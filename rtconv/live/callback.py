"""The audio callback as machine code: samples in, scores out, no Python.

LLVM IR for a ``PaStreamCallback``. It selects the channels, runs the networks,
writes samples, scores and a record of the block to the ring of
`rtconv.live.ring`, and answers ``paContinue``. With an output device it also
writes the trigger's pulses and the scores as sound.

It takes no lock, allocates nothing and makes no system call. It calls the
networks' own machine code and ``clock_gettime``, both through pointers in the
control structure, and nothing else. One code serves all networks; everything
that differs is in the control structure.

The trigger is `rtconv.stream.events.EventPicker` with ``decision: crossing``,
state for state: it is armed, fires at the first ``score >= threshold``, and is
armed again at the first score that is not ``>= release``; it stays silent
within the refractory time.
"""

import ctypes
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from llvmlite import ir

from rtconv.live import layout
from rtconv.live.layout import BLOCK, CONTROL, LANE
from rtconv.stream import instructions
from rtconv.stream.compiled import host_target, load_functions
from rtconv.stream.instructions import FLOAT, INT, POINTER, Code
from rtconv.stream.layout import Target

#: PortAudio's callback flags.
INPUT_UNDERFLOW, INPUT_OVERFLOW, OUTPUT_UNDERFLOW = 1, 2, 4

_INT32, _DOUBLE, _VOID = ir.IntType(32), ir.DoubleType(), ir.VoidType()
_TYPES = {"i8": INT, "f4": FLOAT, "f8": _DOUBLE}


def callback_address() -> int:
    """Address of the ``PaStreamCallback``; its user data is `Ring.address`."""
    return _functions()["callback"]


@cache
def atomics() -> tuple[Callable[[int], int], Callable[[int, int], None]]:
    """``acquire(address)`` and ``release(address, value)`` of an int64, for the reader."""
    functions = _functions()
    acquire = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(functions["acquire"])
    release = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(functions["release"])
    return acquire, release


@cache
def _functions() -> dict[str, int]:
    programs = [
        Path(str(module)).read_text()
        for module in (__file__, layout.__file__, instructions.__file__)
    ]
    target = host_target()
    return load_functions(
        f"callback {time.CLOCK_MONOTONIC} {programs}",
        lambda: str(callback_module(target)),
        ("callback", "acquire", "release"),
        target,
    )


def callback_module(target: Target) -> ir.Module:
    """The IR: the callback, and the reader's two atomic accesses."""
    module = ir.Module("callback")
    module.triple = target.triple
    _atomics(module, target)
    now = _now(module, target)
    fire = _fire(module, target)
    segment = _segment(module, target, fire)
    write = _write(module, target, segment)
    _callback(module, target, now, write)
    return module


class _Structure:
    """A structure in memory whose fields are those of a NumPy type."""

    def __init__(self, code: Code, address: ir.Value, kind: np.dtype) -> None:
        self.code, self.address, self.kind = code, address, kind

    def place(self, name: str) -> tuple[ir.Value, ir.Type]:
        """Address and type of a field."""
        kind, offset = self.kind.fields[name][:2]  # type: ignore[index]
        return self.code.at(self.address, offset), _TYPES.get(kind.str[1:], POINTER)

    def __getitem__(self, name: str) -> ir.Value:
        place, kind = self.place(name)
        return self.code.load(place, typ=kind, align=4 if kind == FLOAT else 8)

    def __setitem__(self, name: str, value: ir.Value) -> None:
        place, kind = self.place(name)
        self.code.store(value, place, align=4 if kind == FLOAT else 8)

    def acquire(self, name: str) -> ir.Value:
        """The value, and everything that was written before it."""
        return _acquire(self.code, self.place(name)[0])

    def release(self, name: str, value: ir.Value) -> None:
        """Set the value after everything that was written before."""
        _release(self.code, self.place(name)[0], value)


def _acquire(code: Code, address: ir.Value) -> ir.Value:
    return code.load_atomic(address, "acquire", 8, typ=INT)


def _release(code: Code, address: ir.Value, value: ir.Value) -> None:
    code.store_atomic(value, _typed(code, address, INT), "release", 8)


def _typed(code: Code, address: ir.Value, kind: ir.Type) -> ir.Value:
    """A pointer of which llvmlite knows what it points to, as stores and calls demand."""
    return code.inttoptr(code.ptrtoint(address, INT), kind.as_pointer())


def _function(
    module: ir.Module, target: Target, name: str, result: ir.Type, *arguments: ir.Type
) -> tuple[ir.Function, Code]:
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    return function, Code(function, target)


def _atomics(module: ir.Module, target: Target) -> None:
    function, code = _function(module, target, "acquire", INT, POINTER)
    code.ret(_acquire(code, function.args[0]))
    function, code = _function(module, target, "release", _VOID, POINTER, INT)
    _release(code, *function.args)
    code.ret_void()


def _now(module: ir.Module, target: Target) -> ir.Function:
    """``int64 now(control)``: the monotonic clock in nanoseconds."""
    function, code = _function(module, target, "now", INT, POINTER)
    function.linkage = "internal"
    control = _Structure(code, function.args[0], CONTROL)
    timespec = code.alloca(INT, 2)
    kind = ir.FunctionType(_INT32, [_INT32, POINTER])
    code.call(_typed(code, control["clock"], kind), [_INT32(time.CLOCK_MONOTONIC), timespec])
    seconds = code.read(timespec, INT)
    nanoseconds = code.read(code.at(timespec, 8), INT)
    code.ret(code.add(code.mul(seconds, INT(10**9)), nanoseconds))
    return function


def _callback(module: ir.Module, target: Target, now: ir.Function, write: ir.Function) -> None:
    """``int callback(input, output, frames, times, flags, control)``."""
    function, code = _function(
        module, target, "callback", _INT32, POINTER, POINTER, INT, POINTER, INT, POINTER
    )
    input_, output, frames, times, flags, address = function.args
    control = _Structure(code, address, CONTROL)
    begin = code.call(now, [address])
    with code.if_then(code.icmp_signed("!=", control["output_channels"], INT(0))):
        _play(code, control, output, frames)
    blocks, samples = control["blocks_written"], control["samples_written"]
    block_room = code.sub(
        control["block_capacity"], code.sub(blocks, control.acquire("blocks_read"))
    )
    sample_room = code.sub(
        control["sample_capacity"], code.sub(samples, control.acquire("samples_read"))
    )
    fits = code.and_(
        code.icmp_signed(">", block_room, INT(0)), code.icmp_signed("<=", frames, sample_room)
    )
    with code.if_else(fits) as (room, no_room):
        with no_room:
            control["lost"] = code.add(control["lost"], frames)
            control["position"] = code.add(control["position"], frames)
        with room:
            index = code.srem(blocks, control["block_capacity"])
            place = code.at(control["blocks"], code.mul(index, INT(BLOCK.itemsize)))
            block = _Structure(code, place, BLOCK)
            position = control["position"]
            code.call(write, [input_, output, frames, flags, place, address])
            fired = code.icmp_signed(">=", control["last_trigger"], position)
            block["trigger"] = code.select(fired, control["last_trigger"], INT(-1))
            block["adc_time"] = code.load(times, typ=_DOUBLE, align=8)
            block["arrived"] = begin
            block["spent"] = code.sub(code.call(now, [address]), begin)
            control.release("blocks_written", code.add(blocks, INT(1)))
    code.ret(_INT32(0))


def _play(code: Code, control: _Structure, output: ir.Value, frames: ir.Value) -> None:
    """Silence on the output, or the pattern, which begins at every multiple of its period."""
    channels = control["output_channels"]
    size = code.mul(frames, code.mul(channels, INT(4)))
    zero, plain = ir.IntType(8)(0), ir.IntType(1)(0)
    code.intrinsic("llvm.memset.p0.i64", _VOID, [output, zero, size, plain])

    def body(n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        place = code.srem(code.add(control["position"], n), control["pattern_period"])
        with code.if_then(code.icmp_signed("<", place, control["pattern_length"])):
            sample = code.read(code.at(control["pattern"], code.mul(place, INT(4))))
            code.write(sample, code.at(output, code.mul(code.mul(n, channels), INT(4))))
        return []

    with code.if_then(code.icmp_signed(">", control["pattern_length"], INT(0))):
        code.repeat(frames, body)


def _write(module: ir.Module, target: Target, segment: ir.Function) -> ir.Function:
    """``write(input, output, frames, flags, block, control)``: a block that has room."""
    function, code = _function(
        module, target, "write", _VOID, POINTER, POINTER, INT, INT, POINTER, POINTER
    )
    function.linkage = "internal"
    input_, output, frames, flags, place, address = function.args
    control, block = _Structure(code, address, CONTROL), _Structure(code, place, BLOCK)
    samples, lost = control["samples_written"], control["lost"]
    wanted = control.acquire("resets_wanted")
    missing = code.and_(flags, INT(INPUT_OVERFLOW | INPUT_UNDERFLOW))
    reset = code.or_(
        code.icmp_signed("!=", code.or_(missing, lost), INT(0)),
        code.icmp_signed("!=", wanted, control["resets_done"]),
    )
    with code.if_then(reset):
        _each_lane(code, control, lambda lane: _reset(code, lane))
        control["resets_done"] = wanted
        control["valid_from"] = code.add(control["position"], control["memory"])
    block["first"], block["frames"], block["flags"] = samples, frames, flags
    block["reset"], block["lost"] = code.zext(reset, INT), lost
    control["lost"] = INT(0)

    # Around the end of the ring in two parts; the scores do not depend on the partition.
    start = code.srem(samples, control["sample_capacity"])
    first = code.smaller(frames, code.sub(control["sample_capacity"], start))
    rest = code.sub(frames, first)
    code.call(segment, [input_, output, start, first, address])
    with code.if_then(code.icmp_signed(">", rest, INT(0))):
        code.call(
            segment,
            [
                code.at(input_, code.mul(first, code.mul(control["device_channels"], INT(4)))),
                code.at(output, code.mul(first, code.mul(control["output_channels"], INT(4)))),
                INT(0),
                rest,
                address,
            ],
        )
    control["samples_written"] = code.add(samples, frames)
    code.ret_void()
    return function


def _each_lane(code: Code, control: _Structure, body: Callable[[_Structure], None]) -> None:
    lanes = control["lanes"]

    def one(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        body(_Structure(code, code.at(lanes, code.mul(i, INT(LANE.itemsize))), LANE))
        return []

    code.repeat(control["lane_count"], one)


def _reset(code: Code, lane: _Structure) -> None:
    kind = ir.FunctionType(_VOID, [POINTER])
    code.call(_typed(code, lane["reset"], kind), [lane["state"]])


def _segment(module: ir.Module, target: Target, fire: ir.Function) -> ir.Function:
    """``segment(input, output, start, frames, control)``: samples that lie in one piece."""
    function, code = _function(
        module, target, "segment", _VOID, POINTER, POINTER, INT, INT, POINTER
    )
    function.linkage = "internal"
    input_, output, start, frames, address = function.args
    control = _Structure(code, address, CONTROL)
    inputs, outputs = control["inputs"], control["outputs"]
    sample_offset = code.mul(start, code.mul(inputs, INT(4)))
    score_offset = code.mul(start, code.mul(outputs, INT(4)))
    step = ir.FunctionType(_VOID, [POINTER, POINTER, POINTER, INT])

    def run(lane: _Structure) -> None:
        samples = code.at(lane["samples"], sample_offset)
        scores = code.at(lane["scores"], score_offset)
        _select(code, control, lane, input_, samples, frames)
        code.call(_typed(code, lane["step"], step), [lane["state"], samples, scores, frames])

    _each_lane(code, control, run)
    with code.if_then(code.icmp_signed("!=", control["output_channels"], INT(0))):
        lane = _Structure(code, control["lanes"], LANE)
        code.call(fire, [code.at(lane["scores"], score_offset), output, frames, address])
    control["position"] = code.add(control["position"], frames)
    code.ret_void()
    return function


def _select(
    code: Code,
    control: _Structure,
    lane: _Structure,
    input_: ir.Value,
    samples: ir.Value,
    frames: ir.Value,
) -> None:
    """Copy a lane's channels, or the mean of all, out of interleaved frames."""
    device_channels, inputs = control["device_channels"], control["inputs"]
    numbers = lane["channels"]

    def device_sample(n: ir.Value, channel: ir.Value) -> ir.Value:
        index = code.add(code.mul(n, device_channels), channel)
        return code.read(code.at(input_, code.mul(index, INT(4))))

    def chosen(n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        def one(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            channel = code.read(code.at(numbers, code.mul(i, INT(8))), INT)
            index = code.add(code.mul(n, inputs), i)
            code.write(device_sample(n, channel), code.at(samples, code.mul(index, INT(4))))
            return []

        code.repeat(inputs, one)
        return []

    def mean(n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        (total,) = code.repeat(
            device_channels,
            lambda channel, v: [code.fadd(v[0], device_sample(n, channel))],
            [FLOAT(0.0)],
        )
        value = code.fdiv(total, code.sitofp(device_channels, FLOAT))
        code.write(value, code.at(samples, code.mul(n, INT(4))))
        return []

    is_mean = code.icmp_signed("==", code.ptrtoint(numbers, INT), INT(0))
    with code.if_else(is_mean) as (then, otherwise):
        with then:
            code.repeat(frames, mean)
        with otherwise:
            code.repeat(frames, chosen)


def _fire(module: ir.Module, target: Target) -> ir.Function:
    """``fire(scores, output, frames, control)``: pulses at crossings, and scores as sound."""
    function, code = _function(module, target, "fire", _VOID, POINTER, POINTER, INT, POINTER)
    function.linkage = "internal"
    scores, output, frames, address = function.args
    control = _Structure(code, address, CONTROL)
    outputs, channels = control["outputs"], control["output_channels"]

    def place(n: ir.Value, channel: ir.Value) -> ir.Value:
        return code.at(output, code.mul(code.add(code.mul(n, channels), channel), INT(4)))

    def body(n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        score = code.read(code.at(scores, code.mul(n, code.mul(outputs, INT(4)))))
        with code.if_then(code.icmp_signed(">=", control["score_channel"], INT(0))):
            code.write(_clip(code, score), place(n, control["score_channel"]))
        with code.if_then(code.icmp_signed(">", control["pulse_length"], INT(0))):
            _decide(code, control, code.add(control["position"], n), score)
            with code.if_then(code.icmp_signed(">", control["pulse_left"], INT(0))):
                code.write(control["pulse_level"], place(n, control["pulse_channel"]))
                control["pulse_left"] = code.sub(control["pulse_left"], INT(1))
        return []

    code.repeat(frames, body)
    code.ret_void()
    return function


def _decide(code: Code, control: _Structure, position: ir.Value, score: ir.Value) -> None:
    """One step of the crossing decision."""
    valid = code.icmp_signed(">=", position, control["valid_from"])
    above = code.and_(valid, code.fcmp_ordered(">=", score, control["threshold"]))
    held = code.and_(valid, code.fcmp_ordered(">=", score, control["release"]))
    armed = code.icmp_signed("!=", control["armed"], INT(0))
    crossing = code.and_(armed, above)
    since = code.sub(position, control["last_trigger"])
    fires = code.and_(crossing, code.icmp_signed(">=", since, control["refractory"]))
    still_armed = code.and_(code.not_(crossing), code.or_(armed, code.not_(held)))
    control["armed"] = code.zext(still_armed, INT)
    with code.if_then(fires):
        control["last_trigger"] = position
        control["pulse_left"] = control["pulse_length"]
        control["triggers"] = code.add(control["triggers"], INT(1))


def _clip(code: Code, score: ir.Value) -> ir.Value:
    """The score as sound: within full scale, silence for NaN."""
    for sign, bound in (("<", -1.0), (">", 1.0)):
        beyond = code.fcmp_ordered(sign, score, FLOAT(bound))
        score = code.select(beyond, FLOAT(bound), score)
    return code.select(code.fcmp_ordered("ord", score, score), score, FLOAT(0.0))
