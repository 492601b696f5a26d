"""The words in which `codegen` writes: loops, vectors, and the activations.

A thin layer over `llvmlite.ir`. An instruction is written where the builder
stands, and its result is an `ir.Value`; a loop carries values from one turn to
the next and gives the last ones back.
"""

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir

from rtconv.model.layers import LEAKY_RELU_SLOPE, LOG_FLOOR
from rtconv.stream.layout import Target

FLOAT, INT, INT32, BIT = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(1)
POINTER, VOID = ir.PointerType(), ir.VoidType()


class Code(ir.IRBuilder):
    """An `llvmlite.ir.IRBuilder` with the few words that `codegen` is written in.

    A vector of one lane is a plain float.
    """

    def __init__(self, function: ir.Function, target: Target) -> None:
        super().__init__(function.append_basic_block())
        self.target = target

    def vector(self, lanes: int) -> ir.Type:
        """The type of so many floats."""
        return FLOAT if lanes == 1 else ir.VectorType(FLOAT, lanes)

    def number(self, value: float, like: ir.Type) -> ir.Constant:
        """A constant in all lanes."""
        if isinstance(like, ir.VectorType):
            return ir.Constant(like, [self.number(value, like.element).constant] * like.count)
        return ir.Constant(like, float(np.float32(value)) if like == FLOAT else int(value))

    def at(self, pointer: ir.Value, offset: ir.Value | int) -> ir.Value:
        """The address so many bytes further."""
        if isinstance(offset, int):
            offset = INT(offset)
        return self.gep(pointer, [offset], source_etype=ir.IntType(8))

    def read(self, pointer: ir.Value, like: ir.Type = FLOAT) -> ir.Value:
        """Load floats or an integer."""
        return self.load(pointer, align=8 if like == INT else 4, typ=like)

    def write(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store floats or an integer."""
        self.store(value, pointer, align=8 if value.type == INT else 4)

    def splat(self, scalar: ir.Value, lanes: int) -> ir.Value:
        """One float in all lanes."""
        if lanes == 1:
            return scalar
        nothing = ir.Constant(self.vector(lanes), ir.Undefined)
        first = self.insert_element(nothing, scalar, INT32(0))
        return self.choose(first, [0] * lanes)

    def choose(self, vector: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """A vector, or a float, of some of the lanes of a vector."""
        if len(lanes) == 1:
            return self.extract_element(vector, INT32(lanes[0]))
        mask = ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes))
        return self.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call an LLVM intrinsic."""
        function = self.module.globals.get(name)
        if function is None:
            kinds = [argument.type for argument in arguments]
            function = ir.Function(self.module, ir.FunctionType(result, kinds), name)
        return self.call(function, arguments)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c``, with one rounding where the processor can."""
        if not self.target.fma:
            return self.fadd(self.fmul(a, b), c)
        count = getattr(a.type, "count", None)
        return self.intrinsic(f"llvm.fma.{f'v{count}' if count else ''}f32", a.type, [a, b, c])

    def loop(
        self,
        condition: Callable[[list[ir.Value]], ir.Value],
        body: Callable[[list[ir.Value]], list[ir.Value]],
        values: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """``while condition(values): values = body(values)``; the last values."""
        before = self.block
        head, inside, after = (self.append_basic_block() for _ in range(3))
        self.branch(head)
        self.position_at_end(head)
        phis = [self.phi(value.type) for value in values]
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, before)
        self.cbranch(condition(list(phis)), inside, after)
        self.position_at_end(inside)
        for phi, value in zip(phis, body(list(phis)), strict=True):
            phi.add_incoming(value, self.block)
        self.branch(head)
        self.position_at_end(after)
        return list(phis)

    def repeat(
        self,
        count: ir.Value | int,
        body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
        values: Sequence[ir.Value] = (),
    ) -> list[ir.Value]:
        """``for i in range(count): values = body(i, values)``; the last values."""
        last = INT(count) if isinstance(count, int) else count
        return self.loop(
            lambda v: self.icmp_signed("<", v[0], last),
            lambda v: [self.add(v[0], INT(1)), *body(v[0], v[1:])],
            [INT(0), *values],
        )[1:]

    def cover(
        self,
        count: ir.Value,
        largest: int,
        body: Callable[[list[ir.Value], int], None],
        pointers: Sequence[ir.Value],
        steps: Sequence[int],
    ) -> None:
        """Do `count` things, `largest` of them at a time, then half as many, then ... one.

        ``body(pointers, size)`` does so many; each pointer then moves on by its
        step, in bytes, for each of them.
        """
        values = [count, *pointers]
        while largest:
            size = largest

            def enough(v: list[ir.Value], size: int = size) -> ir.Value:
                return self.icmp_signed(">=", v[0], INT(size))

            def some(v: list[ir.Value], size: int = size) -> list[ir.Value]:
                body(v[1:], size)
                moved = [self.at(p, size * step) for p, step in zip(v[1:], steps, strict=True)]
                return [self.sub(v[0], INT(size)), *moved]

            values = self.loop(enough, some, values)
            largest //= 2

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of two integers."""
        return self.select(self.icmp_signed("<", a, b), a, b)

    def copy(self, to: ir.Value, source: ir.Value, size: ir.Value | int) -> None:
        """Move so many bytes; the two places may overlap."""
        size = INT(size) if isinstance(size, int) else size
        self.intrinsic("llvm.memmove.p0.p0.i64", VOID, [to, source, size, BIT(0)])

    def clear(self, place: ir.Value, size: int) -> None:
        """Fill so many bytes with zeros."""
        zero = ir.IntType(8)(0)
        self.intrinsic("llvm.memset.p0.i64", VOID, [place, zero, INT(size), BIT(0)])

    def read_mode(self) -> ir.Value:
        """The floating-point mode: MXCSR on x86, FPCR on ARM."""
        if not self.target.x86:
            return self.intrinsic("llvm.aarch64.get.fpcr", INT, [])
        place = self.alloca(INT32)
        self.intrinsic("llvm.x86.sse.stmxcsr", VOID, [place])
        return self.load(place, typ=INT32)

    def write_mode(self, mode: ir.Value) -> None:
        """Set what `read_mode` reads."""
        if not self.target.x86:
            self.intrinsic("llvm.aarch64.set.fpcr", VOID, [mode])
            return
        place = self.alloca(INT32)
        self.store(mode, place)
        self.intrinsic("llvm.x86.sse.ldmxcsr", VOID, [place])

    def flush_denormals(self) -> None:
        """Count denormal numbers as zero, round to nearest, raise no exception."""
        self.write_mode(INT32(0x9FC0) if self.target.x86 else INT(1 << 24))


class Activations:
    """The activations of `rtconv.model.layers.ACTIVATIONS` on the lanes of a vector.

    The series are those of exp and of atanh; ranges are reduced so that the
    terms left out are below a float's rounding; tanh is a quotient of two
    polynomials. NaN in, NaN out: a comparison with NaN is false, and every
    ``select`` here then keeps its argument.
    """

    LONG = ("tanh", "sigmoid", "softplus", "log")
    LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # the high part has 9 bits: k * high is exact
    TANH_END = 8.1  # up to here: least squares, weights moved until the relative error is even
    TANH_TOP = (1.50358648e-8, 2.17669029e-5, 3.56421751e-3, 0.134383783, 1)
    TANH_BOTTOM = (8.44689757e-7, 3.39897819e-4, 2.61366716e-2, 0.467717049, 1)
    EXP_SERIES = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2)

    def __init__(self, code: Code, kind: ir.Type) -> None:
        self.code, self.kind = code, kind
        count = getattr(kind, "count", None)
        self.integers = ir.VectorType(INT32, count) if count else INT32
        self.suffix = f"v{count}f32" if count else "f32"

    def __call__(self, name: str, x: ir.Value) -> ir.Value:
        """The activation of this name of x."""
        return getattr(self, name)(x)

    def _number(self, value: float) -> ir.Value:
        return self.code.number(value, self.kind)

    def _integer(self, value: int) -> ir.Value:
        return self.code.number(value, self.integers)

    def _at_least(self, x: ir.Value, bound: float) -> ir.Value:
        code, bound = self.code, self._number(bound)
        return code.select(code.fcmp_ordered("<", x, bound), bound, x)

    def _absolute(self, x: ir.Value) -> ir.Value:
        return self.code.intrinsic(f"llvm.fabs.{self.suffix}", self.kind, [x])

    def _series(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        """A polynomial by Horner's rule, the highest power first."""
        value = self._number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.code.multiply_add(value, x, self._number(coefficient))
        return value

    def _exp(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """p and s with ``exp(x) = p * s + s``, for -87 <= x <= 0; s is a power of two."""
        code, magic = self.code, self._number(1.5 * 2**23)  # its last bit has the weight 1
        shifted = code.multiply_add(x, self._number(1 / np.log(2)), magic)
        k = code.fsub(shifted, magic)
        r = code.multiply_add(k, self._number(-self.LN2_HIGH), x)
        r = code.multiply_add(k, self._number(-self.LN2_LOW), r)
        p = code.multiply_add(code.fmul(r, r), self._series(r, self.EXP_SERIES), r)
        exponent = code.shl(code.bitcast(shifted, self.integers), self._integer(23))
        one = code.bitcast(self._number(1), self.integers)
        return p, code.bitcast(code.add(exponent, one), self.kind)

    def _twice_atanh(self, s: ir.Value, terms: int) -> ir.Value:
        """``2 * atanh(s) = 2 * (s + s**3 / 3 + s**5 / 5 + ...)``."""
        code = self.code
        square = code.fmul(s, s)
        series = self._series(square, [2 / (2 * n + 1) for n in range(terms - 1, 0, -1)])
        return code.multiply_add(code.fmul(square, s), series, code.fadd(s, s))

    def linear(self, x: ir.Value) -> ir.Value:
        """x itself."""
        return x

    def relu(self, x: ir.Value) -> ir.Value:
        """``max(x, 0)``."""
        return self._at_least(x, 0)

    def leaky_relu(self, x: ir.Value) -> ir.Value:
        """x, below zero times its slope."""
        code = self.code
        below = code.fmul(x, self._number(LEAKY_RELU_SLOPE))
        return code.select(code.fcmp_ordered("<", x, self._number(0)), below, x)

    def square(self, x: ir.Value) -> ir.Value:
        """``x * x``."""
        return self.code.fmul(x, x)

    def tanh(self, x: ir.Value) -> ir.Value:
        """``x * P(x * x) / Q(x * x)``, beyond `TANH_END` the value there."""
        code, end = self.code, self._number(self.TANH_END)
        x = self._at_least(x, -self.TANH_END)
        x = code.select(code.fcmp_ordered(">", x, end), end, x)
        square = code.fmul(x, x)
        top = code.fmul(x, self._series(square, self.TANH_TOP))
        return code.fdiv(top, self._series(square, self.TANH_BOTTOM))

    def sigmoid(self, x: ir.Value) -> ir.Value:
        """``0.5 + 0.5 * tanh(x / 2)``."""
        half = self._number(0.5)
        return self.code.multiply_add(self.tanh(self.code.fmul(x, half)), half, half)

    def softplus(self, x: ir.Value) -> ir.Value:
        """``max(x, 0) + 2 * atanh(u / (u + 2))`` with ``u = exp(-abs(x))``."""
        code = self.code
        p, s = self._exp(self._at_least(code.fmul(self._absolute(x), self._number(-1)), -80))
        u = code.multiply_add(p, s, s)
        ratio = code.fdiv(u, code.fadd(u, self._number(2)))
        return code.fadd(self.relu(x), self._twice_atanh(ratio, 8))

    def log(self, x: ir.Value) -> ir.Value:
        """``k * log(2) + 2 * atanh((m - 1) / (m + 1))``, x = m * 2**k, m about 1."""
        code, one = self.code, self._number(1)
        x = self._at_least(x, LOG_FLOOR)
        bits = code.bitcast(x, self.integers)
        root = int(np.float32(np.sqrt(0.5)).view(np.int32))
        k = code.ashr(code.sub(bits, self._integer(root)), self._integer(23))
        m = code.bitcast(code.sub(bits, code.shl(k, self._integer(23))), self.kind)
        k = code.sitofp(k, self.kind)
        ratio = code.fdiv(code.fsub(m, one), code.fadd(m, one))
        value = code.multiply_add(k, self._number(self.LN2_LOW), self._twice_atanh(ratio, 5))
        value = code.multiply_add(k, self._number(self.LN2_HIGH), value)
        return code.select(code.fcmp_ordered("<", x, self._number(np.inf)), value, x)
