"""A cascade of causal Conv1D layers as LLVM IR: one C function, shapes as constants.

**Where everything lies.** A network at work is one block of memory, its state.
Code never holds a weight, so that all networks of one shape share one code::

    | positions | layer 0: offsets, weights, bias, buffer | layer 1: ... | held scores |

A layer's buffer is linear. A row is one frame, all its channels side by side;
new rows are appended at `position`, and when the buffer is full the last
`history` rows are moved to its front. Nothing else is state::

     row 0                            position
      |  ... history rows ...  | new rows ... |  free ...                      |
                    x[n-2D]   x[n-D]   x[n]
                       |________|________|
          the taps of one output (kernel_size 3, dilation_rate D), found
          through `offsets`, their distances from the newest row in bytes

**How a layer is summed.** The terms (tap, channel) of one output are numbered
oldest frame first. Term t belongs to chain ``t % chains``; a chain is a
sequence of fused multiply-adds that begins at zero; the chains are added in
pairs, c and c + chains / 2, then the pairs likewise; then come the bias, the
activation and the residual. `chains` is a constant of the layer's shape. Every
path below computes every output in exactly this order, so the bits depend
neither on the partition of the stream nor on the length of the vectors. (On a
processor without fused multiply-add they differ from those of one that has it.)

**What the registers hold.** Three kinds of layer, named by what lies across
the lanes of a vector:

``filters``: the usual one. A tile is `times` outputs of a panel of one or two
vectors of filters; here 6 times by 2 vectors, with the 16 registers of AVX2::

                    weights of term t:   | w0 | w1 |     2 registers
      x of time 0, term t, in all lanes  | s00  s01 |
      x of time 1                        | s10  s11 |    12 registers of sums, each
      ...                                |   ...    |    s += x * w for all terms t of
      x of time 5                        | s50  s51 |    one chain, then the next chain

Twelve independent sums hide the latency of a multiply-add. A tile of one time,
as blocks of one sample need it, has only two, so there the chains run side by
side: the same sums in the same order, only more of them at once.

``channels``: depthwise layers (one filter per group); x is a vector too.

``terms``: very few filters, as in the last layer of a detector or in an FIR
filter. The lanes are the chains of one output, and are added at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
from llvmlite import ir

from rtconv.model.layers import LEAKY_RELU_SLOPE, LOG_FLOOR, Layer, hop

#: Frames that pass through all layers before the next ones: activations stay in the L1 cache.
TILE = 64
#: Alignment of every part of the state in bytes: a cache line, and the longest vector.
ALIGNMENT = 64
#: Chains of a layer whose lanes are terms, with the fewest terms for which they are used.
TERM_CHAINS = ((32, 256), (16, 32), (8, 8))

FLOAT, INT, BIT = ir.FloatType(), ir.IntType(64), ir.IntType(1)
INT32 = ir.IntType(32)
POINTER = ir.PointerType()
VOID = ir.VoidType()


@dataclass(frozen=True)
class Target:
    """A processor, as far as the code depends on it.

    Attributes
    ----------
    triple, cpu, features : str
        As LLVM names them.
    """

    triple: str
    cpu: str
    features: str

    def has(self, feature: str) -> bool:
        """Whether a feature is switched on."""
        return f"+{feature}" in self.features.split(",")

    @property
    def x86(self) -> bool:
        """Whether it is an x86 processor; the other family is ARM."""
        return self.triple.startswith(("x86_64", "i686"))

    @property
    def lanes(self) -> int:
        """Floats in a vector register."""
        if self.x86:
            return 16 if self.has("avx512f") else 8 if self.has("avx") else 4
        return 4

    @property
    def fma(self) -> bool:
        """Whether it multiplies and adds with one rounding."""
        return not self.x86 or self.has("fma")

    @property
    def sums(self) -> int:
        """Vector registers that hold sums; the others hold weights and input."""
        return 24 if self.lanes == 16 or not self.x86 else 12


@dataclass(frozen=True)
class Kernel:
    """What the code of one layer depends on; layers with equal kernels share a function."""

    in_channels: int
    filters: int
    kernel_size: int
    strides: int
    groups: int
    activation: str
    residual: bool
    across: str
    chains: int

    @classmethod
    def of(cls, layer: Layer) -> "Kernel":
        """The kernel of a layer: decides what lies across the lanes, and the chains."""
        group = layer.in_channels // layer.groups
        filters = layer.filters // layer.groups
        terms = layer.kernel_size * group
        unbroken = layer.kernel_size == 1 or (layer.dilation_rate == 1 and layer.groups == 1)

        def fits(chains: int) -> bool:
            return unbroken or group % chains == 0  # a row of chains is one piece of memory

        across, chains = "filters", 8 if filters <= 8 else 4
        if layer.groups == layer.in_channels == layer.filters > 1:
            across = "channels"
        while terms < 4 * chains or not fits(chains):
            chains //= 2
            if chains <= 1:
                chains = 1
                break
        if layer.groups == 1 and filters < 4:
            for most, fewest in TERM_CHAINS:
                if terms >= fewest and fits(most):
                    across, chains = "terms", most
                    break
        return cls(
            layer.in_channels,
            layer.filters,
            layer.kernel_size,
            layer.strides,
            layer.groups,
            layer.activation,
            layer.residual,
            across,
            chains,
        )

    @property
    def bands(self) -> int:
        """Parts that are computed one after another because their input differs."""
        return self.groups if self.across == "filters" else 1

    @property
    def band_filters(self) -> int:
        """Filters of one band."""
        return self.filters // self.bands

    @property
    def terms(self) -> int:
        """Terms of one output."""
        return self.kernel_size * (self.in_channels // self.groups)

    @property
    def rows(self) -> int:
        """Rows of `chains` terms, the last one perhaps shorter."""
        return ceil(self.terms / self.chains)

    def panels(self, lanes: int) -> list[list[int]]:
        """Lengths of the vectors that cover a band's filters, two to a panel.

        The last vector may reach beyond the filters; what is there is never stored.
        """
        widths = [lanes] * (self.band_filters // lanes)
        if rest := self.band_filters % lanes:
            widths.append(1 << (rest - 1).bit_length())
        return [widths[i : i + 2] for i in range(0, len(widths), 2)]


@dataclass(frozen=True)
class Place:
    """Where a layer's parts lie in the state, in bytes, and the sizes of its buffer, in rows."""

    kernel: Kernel
    position: int
    offsets: int
    weights: int
    bias: int
    buffer: int
    history: int
    capacity: int

    @property
    def row(self) -> int:
        """Bytes of one row of the buffer."""
        return 4 * self.kernel.in_channels


class Layout:
    """Where everything lies in the state of a network.

    Parameters
    ----------
    layers : sequence of Layer
        Of the weights only the shapes are looked at.
    target : Target

    Attributes
    ----------
    places : list of Place
        One per layer.
    size : int
        Bytes of the state.
    held : int
        Where the scores of one tile lie when they are held over a hop.
    """

    def __init__(self, layers: Sequence[Layer], target: Target) -> None:
        self.target = target
        self.hop = hop(layers)
        self.channels = layers[0].in_channels
        self.outputs = layers[-1].filters
        self.size = 0
        self._reserve(8 * (1 + 2 * len(layers)))  # samples to the next output; position and phase
        self.places = []
        for i, layer in enumerate(layers):
            kernel = Kernel.of(layer)
            capacity = max(4 * TILE, layer.history)
            rows = layer.history + capacity
            self.places.append(
                Place(
                    kernel,
                    position=8 * (1 + 2 * i),
                    offsets=self._reserve(8 * kernel.rows),
                    weights=self._reserve(4 * _packed_weights(kernel, layer.dense, target).size),
                    bias=self._reserve(4 * _packed_bias(kernel, layer.bias, target).size),
                    # a vector may begin in the last row and end behind it
                    buffer=self._reserve(4 * (rows * layer.in_channels + 32)),
                    history=layer.history,
                    capacity=capacity,
                )
            )
        self.held = self._reserve(4 * (TILE + 1) * self.outputs)

    def _reserve(self, size: int) -> int:
        place = self.size
        self.size += ceil(size / ALIGNMENT) * ALIGNMENT
        return place

    def fill(self, state: np.ndarray, layers: Sequence[Layer]) -> None:
        """Write weights, bias and offsets into a state of zeros, (size,) uint8."""

        def write(place: int, values: np.ndarray) -> None:
            state[place : place + values.nbytes] = np.ravel(values).view(np.uint8)

        for place, layer in zip(self.places, layers, strict=True):
            write(place.offsets, _offsets(place.kernel, layer))
            write(place.weights, _packed_weights(place.kernel, layer.dense, self.target))
            write(place.bias, _packed_bias(place.kernel, layer.bias, self.target))


def _offsets(kernel: Kernel, layer: Layer) -> np.ndarray:
    """Distance in bytes from the newest row to the first term of each row of chains."""
    first = np.arange(kernel.rows) * kernel.chains
    taps, channels = np.divmod(first, layer.in_channels // layer.groups)
    ages = (layer.kernel_size - 1 - taps) * layer.dilation_rate
    return 4 * (channels - ages * layer.in_channels).astype(np.int64)


def _packed_weights(kernel: Kernel, dense: np.ndarray, target: Target) -> np.ndarray:
    """The weights in the order in which the code reads them, (n,) float32."""
    taps = dense.reshape(kernel.kernel_size, -1, kernel.filters)[::-1]  # oldest first
    by_term = taps.reshape(kernel.terms, kernel.filters)
    if kernel.across == "terms":
        padding = kernel.rows * kernel.chains - kernel.terms
        return np.pad(by_term, ((0, padding), (0, 0))).T.ravel()
    parts, begin = [], 0
    for _ in range(kernel.bands):
        end = begin + kernel.band_filters
        for panel in kernel.panels(target.lanes):
            part = by_term[:, begin : min(begin + sum(panel), end)]
            parts.append(np.pad(part, ((0, 0), (0, sum(panel) - part.shape[1]))).ravel())
            begin += part.shape[1]
    return np.concatenate(parts)


def _packed_bias(kernel: Kernel, bias: np.ndarray | None, target: Target) -> np.ndarray:
    """The bias of each band, padded as the weights are, (n,) float32."""
    if bias is None:
        bias = np.zeros(kernel.filters, np.float32)
    if kernel.across == "terms":
        return bias
    width = sum(map(sum, kernel.panels(target.lanes)))
    return np.pad(
        bias.reshape(kernel.bands, -1), ((0, 0), (0, width - kernel.band_filters))
    ).ravel()


class Code(ir.IRBuilder):
    """An `llvmlite.ir.IRBuilder` with the few words that this module is written in.

    A vector of one lane is a plain float.
    """

    def __init__(self, function: ir.Function, target: Target) -> None:
        super().__init__(function.append_basic_block("entry"))
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

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of two integers."""
        return self.select(self.icmp_signed("<", a, b), a, b)


class Activations:
    """The activations of `rtconv.model.layers.ACTIVATIONS` on the lanes of a vector.

    The series are those of exp and of atanh; ranges are reduced so that the
    terms left out are below a float's rounding. NaN in, NaN out: a comparison
    with NaN is false, and every ``select`` here then keeps its argument.
    """

    LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # the high part has 9 bits: k * high is exact
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
        """``-e / (e + 2)`` with ``e = exp(-2 * abs(x)) - 1``, and the sign of x."""
        code = self.code
        p, s = self._exp(self._at_least(code.fmul(self._absolute(x), self._number(-2)), -40))
        e = code.multiply_add(p, s, code.fsub(s, self._number(1)))
        size = code.fdiv(e, code.fadd(e, self._number(2)))
        return code.intrinsic(f"llvm.copysign.{self.suffix}", self.kind, [size, x])

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


class _LayerCode:
    """Writes the function ``void layer(x, y, weights, bias, offsets, frames)`` of one kernel.

    x points at the newest row of the first output, y at the first output row.
    """

    def __init__(self, module: ir.Module, name: str, kernel: Kernel, target: Target) -> None:
        self.kernel, self.target = kernel, target
        kind = ir.FunctionType(VOID, [POINTER] * 5 + [INT])
        self.function = ir.Function(module, kind, name)
        self.function.linkage = "internal"
        self.function.attributes.add("noinline")
        for argument in self.function.args[:5]:
            argument.add_attribute("noalias")
        self.x, self.y, self.weights, self.bias, self.offsets, self.frames = self.function.args
        self.x_step = 4 * kernel.strides * kernel.in_channels  # bytes between outputs
        self.y_step = 4 * kernel.filters
        self.code = code = Code(self.function, target)
        if kernel.across == "terms":
            self._walk(max(1, target.sums * target.lanes // 2 // kernel.chains), self._term_tile)
        elif kernel.bands == 1:
            self._band()
        else:
            band_bias = 4 * sum(map(sum, kernel.panels(target.lanes)))
            steps = (
                4 * kernel.in_channels // kernel.groups,
                4 * kernel.band_filters,
                kernel.terms * band_bias,
                band_bias,
            )
            begin = [self.x, self.y, self.weights, self.bias]

            def band(_: ir.Value, pointers: list[ir.Value]) -> list[ir.Value]:
                self.x, self.y, self.weights, self.bias = pointers
                self._band()
                return [code.at(p, step) for p, step in zip(pointers, steps, strict=True)]

            code.repeat(kernel.bands, band, begin)
        code.ret_void()

    def _walk(self, times: int, tile: Callable[[ir.Value, ir.Value, int], None]) -> None:
        """Cover all frames with tiles of `times` outputs, then of half as many, then ... of one."""
        code = self.code
        values = [self.x, self.y, self.frames]
        while times:
            size = times

            def enough(v: list[ir.Value], size: int = size) -> ir.Value:
                return code.icmp_signed(">=", v[2], INT(size))

            def body(v: list[ir.Value], size: int = size) -> list[ir.Value]:
                tile(v[0], v[1], size)
                x, y = code.at(v[0], size * self.x_step), code.at(v[1], size * self.y_step)
                return [x, y, code.sub(v[2], INT(size))]

            values = code.loop(enough, body, values)
            times //= 2

    def _band(self) -> None:
        """All filters of a band, panel by panel: its weights stay in the L1 cache."""
        begin = place = 0
        for widths in self.kernel.panels(self.target.lanes):
            panel = _Panel(widths, begin, place)
            times = self.target.sums // len(widths)
            self._walk(times, partial(self._panel_tile, panel))
            begin += sum(widths)
            place += 4 * sum(widths) * self.kernel.terms

    def _panel_tile(self, panel: "_Panel", x: ir.Value, y: ir.Value, times: int) -> None:
        """`times` outputs of the filters of one panel."""
        sums = self._total(x, times, panel, 0, 1)
        for n in range(times):
            for v, width in enumerate(panel.widths):
                first = panel.begin + sum(panel.widths[:v])
                bias = self.code.read(self.code.at(self.bias, 4 * first), self.code.vector(width))
                value = self.code.fadd(sums[n * len(panel.widths) + v], bias)
                self._finish(x, y, n, value, first, min(width, self.kernel.band_filters - first))

    def _total(self, x: ir.Value, times: int, panel: "_Panel", first: int, step: int) -> list:
        """Sums over the chains first, first + step, ...: two halves, or one pass if they fit."""
        chains = range(first, self.kernel.chains, step)
        if len(chains) == 1 or len(chains) * times * len(panel.widths) <= self.target.sums:
            return self._pairs(self._pass(x, times, panel, chains), first, step)
        half = self._total(x, times, panel, first, 2 * step)
        other = self._total(x, times, panel, first + step, 2 * step)
        return [self.code.fadd(a, b) for a, b in zip(half, other, strict=True)]

    def _pairs(self, sums: dict[int, list], first: int, step: int) -> list:
        """The sums of chains in registers, added in pairs."""
        if first + step >= self.kernel.chains:
            return sums[first]
        halves = (self._pairs(sums, begin, 2 * step) for begin in (first, first + step))
        return [self.code.fadd(a, b) for a, b in zip(*halves, strict=True)]

    def _pass(self, x: ir.Value, times: int, panel: "_Panel", chains: range) -> dict[int, list]:
        """Run through the terms of these chains, side by side."""
        code, kernel = self.code, self.kernel
        row = 4 * kernel.chains * sum(panel.widths)
        size = times * len(panel.widths)
        weights = code.at(self.weights, panel.place)

        def body(chains: Sequence[int], i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            here = code.at(x, code.read(code.gep(self.offsets, [i], source_etype=INT), INT))
            row_weights = code.at(weights, code.mul(i, INT(row)))
            after = []
            for c, chain in enumerate(chains):
                w = code.at(row_weights, 4 * chain * sum(panel.widths))
                after += self._term(here, w, chain, panel, sums[c * size : (c + 1) * size])
            return after

        zeros = [code.number(0, code.vector(w)) for _ in range(times) for w in panel.widths]
        full, rest = divmod(kernel.terms, kernel.chains)
        sums = code.repeat(full, lambda i, s: body(chains, i, s), zeros * len(chains))
        last = [c for c in chains if c < rest]  # chains is ascending: they are the first ones
        if last:
            sums[: len(last) * size] = body(last, INT(full), sums[: len(last) * size])
        return {chain: sums[c * size : (c + 1) * size] for c, chain in enumerate(chains)}

    def _term(self, x: ir.Value, w: ir.Value, term: int, panel: "_Panel", sums: list) -> list:
        """One more term in the sums of one chain: 'times' by 'vectors' multiply-adds."""
        code = self.code
        after = []
        for n in range(len(sums) // len(panel.widths)):
            place = n * self.x_step + 4 * term
            value = None if self.kernel.across == "channels" else code.read(code.at(x, place))
            for v, width in enumerate(panel.widths):
                kind, lane = code.vector(width), sum(panel.widths[:v])
                if value is None:
                    channels = code.read(code.at(x, place + 4 * (panel.begin + lane)), kind)
                else:
                    channels = code.splat(value, width)
                weight = code.read(code.at(w, 4 * lane), kind)
                after.append(code.multiply_add(channels, weight, sums[n * len(panel.widths) + v]))
        return after

    def _term_tile(self, x: ir.Value, y: ir.Value, times: int) -> None:
        """`times` outputs, filter by filter; the lanes are the chains."""
        code, kernel = self.code, self.kernel
        kind = code.vector(kernel.chains)
        full, rest = divmod(kernel.terms, kernel.chains)
        mask = [lane < rest for lane in range(kernel.chains)]
        inside = ir.Constant(ir.VectorType(BIT, kernel.chains), mask)

        def row(w: ir.Value, last: bool, i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            here = code.at(x, code.read(code.gep(self.offsets, [i], source_etype=INT), INT))
            weights = code.read(code.at(w, code.mul(i, INT(4 * kernel.chains))), kind)
            after = []
            for n, total in enumerate(sums):
                value = code.read(code.at(here, n * self.x_step), kind)
                if last:  # what lies behind the newest frame is not of this output
                    value = code.select(inside, value, code.number(0, kind))
                after.append(code.multiply_add(value, weights, total))
            return after

        for f in range(kernel.filters):
            w = code.at(self.weights, 4 * f * kernel.rows * kernel.chains)
            sums = code.repeat(full, partial(row, w, False), [code.number(0, kind)] * times)
            if rest:
                sums = row(w, True, INT(full), sums)
            bias = code.read(code.at(self.bias, 4 * f))
            for n, total in enumerate(sums):
                self._finish(x, y, n, code.fadd(self._across(total), bias), f, 1)

    def _across(self, vector: ir.Value) -> ir.Value:
        """The sum of a vector's lanes, in pairs half a vector apart."""
        lanes = self.kernel.chains
        while lanes > 1:
            lanes //= 2
            low = self.code.choose(vector, range(lanes))
            vector = self.code.fadd(low, self.code.choose(vector, range(lanes, 2 * lanes)))
        return vector

    def _finish(
        self, x: ir.Value, y: ir.Value, n: int, value: ir.Value, first: int, filters: int
    ) -> None:
        """Activation and residual; store output n of some filters from `first` on."""
        code, kernel = self.code, self.kernel
        value = Activations(code, value.type)(kernel.activation, value)
        if kernel.residual:
            value = code.fadd(value, code.read(code.at(x, n * self.x_step + 4 * first), value.type))
        lane = 0
        while lane < filters:  # in pieces of 16, 8, 4, 2, 1
            piece = 1 << (filters - lane).bit_length() - 1
            whole = piece == getattr(value.type, "count", 1)
            part = value if whole else code.choose(value, range(lane, lane + piece))
            code.write(part, code.at(y, n * self.y_step + 4 * (first + lane)))
            lane += piece


@dataclass(frozen=True)
class _Panel:
    """One or two vectors of filters: their lengths, the first filter, where the weights lie."""

    widths: list[int]
    begin: int
    place: int


def network_module(layout: Layout) -> ir.Module:
    """The code of a network.

    Two functions can be called from C. `step` neither allocates nor locks nor
    calls the system; it works with denormals flushed to zero and gives the
    caller's floating-point mode back::

        void step(void *state, const float *x, float *scores, int64_t frames);
        void reset(void *state);

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    llvmlite.ir.Module
    """
    module = ir.Module("network")
    module.triple = layout.target.triple
    functions: dict[Kernel, ir.Function] = {}
    for place in layout.places:
        if place.kernel not in functions:
            name = f"layer_{len(functions)}"
            functions[place.kernel] = _LayerCode(module, name, place.kernel, layout.target).function
    tile = _tile_function(module, layout, functions)
    _step_function(module, layout, tile)
    _reset_function(module, layout)
    return module


def _step_function(module: ir.Module, layout: Layout, tile: ir.Function) -> None:
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER] * 3 + [INT]), "step")
    code = Code(function, layout.target)
    state, x, scores, frames = function.args
    mode = _read_mode(code)
    _write_mode(code, INT32(0x9FC0) if code.target.x86 else code.or_(mode, INT(1 << 24)))

    def body(v: list[ir.Value]) -> list[ir.Value]:
        count = code.smaller(v[2], INT(TILE))
        code.call(tile, [state, v[0], v[1], count])
        x_bytes = code.mul(count, INT(4 * layout.channels))
        score_bytes = code.mul(count, INT(4 * layout.outputs))
        return [code.at(v[0], x_bytes), code.at(v[1], score_bytes), code.sub(v[2], count)]

    code.loop(lambda v: code.icmp_signed(">", v[2], INT(0)), body, [x, scores, frames])
    _write_mode(code, mode)
    code.ret_void()


def _read_mode(code: Code) -> ir.Value:
    """The floating-point mode: MXCSR on x86, FPCR on ARM."""
    if not code.target.x86:
        return code.intrinsic("llvm.aarch64.get.fpcr", INT, [])
    place = code.alloca(INT32)
    code.intrinsic("llvm.x86.sse.stmxcsr", VOID, [place])
    return code.load(place, typ=INT32)


def _write_mode(code: Code, mode: ir.Value) -> None:
    if not code.target.x86:
        code.intrinsic("llvm.aarch64.set.fpcr", VOID, [mode])
        return
    place = code.alloca(INT32)
    code.store(mode, place)
    code.intrinsic("llvm.x86.sse.ldmxcsr", VOID, [place])


def _tile_function(
    module: ir.Module, layout: Layout, functions: dict[Kernel, ir.Function]
) -> ir.Function:
    """Up to `TILE` frames through all layers."""
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER] * 3 + [INT]), "tile")
    function.linkage = "internal"
    code = Code(function, layout.target)
    state, x, scores, frames = function.args
    rows = frames
    source = _append(code, state, layout.places[0], rows)
    _copy(code, source, x, code.mul(rows, INT(layout.places[0].row)))
    for i, place in enumerate(layout.places):
        kernel = place.kernel
        newest = source
        if kernel.strides > 1:
            skip, rows = _stride(code, code.at(state, place.position + 8), rows, kernel.strides)
            newest = code.at(source, code.mul(skip, INT(place.row)))
        if i + 1 < len(layout.places):
            source = _append(code, state, layout.places[i + 1], rows)
        else:
            source = code.at(state, layout.held + 4 * layout.outputs) if layout.hop > 1 else scores
        parts = [code.at(state, p) for p in (place.weights, place.bias, place.offsets)]
        code.call(functions[kernel], [newest, source, *parts, rows])
    if layout.hop > 1:
        _hold(code, layout, state, scores, frames, rows)
    code.ret_void()
    return function


def _append(code: Code, state: ir.Value, place: Place, rows: ir.Value) -> ir.Value:
    """Make room for new rows in a buffer; where they go."""
    pointer = code.at(state, place.position)
    buffer = code.at(state, place.buffer)
    position = code.read(pointer, INT)
    full = code.icmp_signed(">", code.add(position, rows), INT(place.capacity))
    before = code.block
    with code.if_then(full, likely=False):
        _copy(
            code,
            buffer,
            code.at(buffer, code.mul(position, INT(place.row))),
            INT(place.history * place.row),
        )
        inside = code.block
    begin = code.phi(INT)
    begin.add_incoming(position, before)
    begin.add_incoming(INT(0), inside)
    code.write(code.add(begin, rows), pointer)
    return code.at(buffer, code.mul(code.add(begin, INT(place.history)), INT(place.row)))


def _copy(code: Code, to: ir.Value, source: ir.Value, size: ir.Value) -> None:
    code.intrinsic("llvm.memmove.p0.p0.i64", VOID, [to, source, size, BIT(0)])


def _stride(
    code: Code, pointer: ir.Value, rows: ir.Value, strides: int
) -> tuple[ir.Value, ir.Value]:
    """Of new rows, how many lie before the first that gives an output, and how many give one."""
    skip = code.read(pointer, INT)
    reach = code.add(code.sub(rows, skip), INT(strides - 1))  # never negative: skip < strides
    outputs = code.udiv(reach, INT(strides))
    after = code.add(skip, code.sub(code.mul(outputs, INT(strides)), rows))
    code.write(after, pointer)
    return skip, outputs


def _hold(
    code: Code,
    layout: Layout,
    state: ir.Value,
    scores: ir.Value,
    frames: ir.Value,
    rows: ir.Value,
) -> None:
    """One row of scores per frame: row 0 of `held` is the last one, new ones follow."""
    held = code.at(state, layout.held)
    row = 4 * layout.outputs
    wait, _ = _stride(code, state, frames, layout.hop)
    lead = code.sub(INT(layout.hop), wait)

    def body(n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        number = code.udiv(code.add(n, lead), INT(layout.hop))
        _copy(
            code,
            code.at(scores, code.mul(n, INT(row))),
            code.at(held, code.mul(number, INT(row))),
            INT(row),
        )
        return []

    code.repeat(frames, body)
    _copy(code, held, code.at(held, code.mul(rows, INT(row))), INT(row))


def _reset_function(module: ir.Module, layout: Layout) -> None:
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "reset")
    code = Code(function, layout.target)
    (state,) = function.args

    def clear(place: int, size: int) -> None:
        zero = ir.IntType(8)(0)
        where = code.at(state, place)
        code.intrinsic("llvm.memset.p0.i64", VOID, [where, zero, INT(size), BIT(0)])

    clear(0, 8 * (1 + 2 * len(layout.places)))
    clear(layout.held, 4 * layout.outputs)
    for place in layout.places:
        clear(place.buffer, place.history * place.row)
    code.ret_void()
