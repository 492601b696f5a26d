"""A cascade of causal Conv1D layers as LLVM IR: one C function, shapes as constants.

Where weights and past samples lie is drawn in `rtconv.stream.layout`; the words
used here are those of `rtconv.stream.instructions`.

**How a layer is summed.** The terms (tap, channel) of one output are numbered
oldest frame first. Term t belongs to chain ``t % chains``; a chain is a
sequence of fused multiply-adds that begins at zero; the chains are added in
pairs, c and c + chains / 2, then the pairs likewise; then come the bias, the
activation and the residual. `chains` is a constant of the layer's shape and of
the length of the vectors. Every path below computes every output in exactly
this order, so the bits do not depend on the partition of the stream. (They may
differ between processors with vectors of different lengths, and between those
with fused multiply-add and without.)

**What the registers hold.** There are three kinds of layer, named by what lies
across the lanes of a vector:

``filters``: the usual one. A tile is some outputs, one after another in time,
of a panel of one or two vectors of filters, in all its chains at once; here 3
times, 2 vectors and 2 chains, with the 16 registers of AVX2::

                                  chain 0       chain 1
          weights of two terms: | w0 | w1 |   | w2 | w3 |
      x of time 0, in all lanes | s   s   |   | s   s   |   12 registers of sums,
      x of time 1               | s   s   |   | s   s   |   each s += x * w
      x of time 2               | s   s   |   | s   s   |

Twelve independent sums hide the latency of a multiply-add, and each register of
weights or input that is loaded serves two or three of them. A tile of one time,
as blocks of one sample need it, still has four sums: that is what chains are for.

``channels``: depthwise layers (one filter per group); x is a vector too.

``terms``: very few filters, as in the last layer of a detector or in an FIR
filter. The lanes are the chains of one output, and are added at the end::

      w of 8 terms:  | w0 w1 ... w7 | w8 w9 ... |        chain 0 in lane 0: terms 0, 8, ...
      x of 8 terms:  | x0 x1 ... x7 | x8 x9 ... |  ->    s = | s0 s1 s2 s3 s4 s5 s6 s7 |
                                                             (s0 + s4) + (s2 + s6) + ...
"""

from functools import partial

from llvmlite import ir

from rtconv.stream.instructions import BIT, INT, POINTER, VOID, Activations, Code
from rtconv.stream.layout import TILE, Kernel, Layout, Panel, Place, Target


class _LayerCode:
    """Writes ``void layer(x, y, weights, bias, offsets, frames)`` of one kernel.

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
        x, y, self.weights, self.bias, self.offsets, self.frames = self.function.args
        self.x_step = 4 * kernel.strides * kernel.in_channels  # bytes from output to output
        self.y_step = 4 * kernel.filters
        self.code = code = Code(self.function, target)
        if kernel.across == "terms":
            times = max(1, target.sums * target.lanes // kernel.chains)
            code.cover(self.frames, times, self._term_tile, [x, y], [self.x_step, self.y_step])
        else:
            code.repeat(kernel.bands, self._band, [x, x, y, self.weights, self.bias])
        if kernel.activation in Activations.LONG:
            frames = code.mul(self.frames, INT(kernel.filters))
            code.cover(frames, target.lanes, self._activate, [x, y], [4, 4])
        code.ret_void()

    # Lanes are filters, or the channels of a depthwise layer

    def _band(self, _: ir.Value, pointers: list[ir.Value]) -> list[ir.Value]:
        """All filters of a band. The pointers move on to the next one."""
        for panel, count in self.kernel.panels(self.target):
            pointers = self.code.repeat(count, partial(self._panel, panel), pointers)
        channels = self.kernel.in_channels // self.kernel.bands
        return [self.code.at(pointers[0], 4 * channels), *pointers[1:]]

    def _panel(self, panel: Panel, _: ir.Value, pointers: list[ir.Value]) -> list[ir.Value]:
        """All frames of the filters of one panel: its weights stay in the L1 cache.

        The pointers are the band's input, and of the first filter its channel
        of the input (for the residual), its output, weights and bias.
        """
        code, kernel = self.code, self.kernel
        x, same, y, self.weights, self.bias = pointers
        times = self.target.sums // (len(panel.widths) * kernel.chains)
        steps = [self.x_step, self.x_step, self.y_step]
        code.cover(self.frames, times, partial(self._panel_tile, panel), [x, same, y], steps)
        moves = [4 * panel.filters] * 2 + [4 * kernel.terms * panel.width, 4 * panel.width]
        return [x, *(code.at(p, move) for p, move in zip(pointers[1:], moves, strict=True))]

    def _panel_tile(self, panel: Panel, pointers: list[ir.Value], times: int) -> None:
        """`times` outputs of the filters of one panel."""
        x, same, y = pointers
        terms = same if self.kernel.across == "channels" else x
        sums = self._in_pairs(self._sums(panel, terms, times))
        for (n, lane, width), value in zip(_cells(panel, times), sums, strict=True):
            bias = self.code.read(self.code.at(self.bias, 4 * lane), self.code.vector(width))
            value = self.code.fadd(value, bias)
            self._finish(same, y, n, value, lane, min(width, panel.filters - lane))

    def _in_pairs(self, chains: list[list]) -> list:
        """The sums of all chains, c and c + chains / 2 added, and so on."""
        if len(chains) == 1:
            return chains[0]
        even, odd = self._in_pairs(chains[::2]), self._in_pairs(chains[1::2])
        return [self.code.fadd(a, b) for a, b in zip(even, odd, strict=True)]

    def _sums(self, panel: Panel, x: ir.Value, times: int) -> list[list]:
        """Run through all terms; for each chain its sums, in the order of `_cells`."""
        code, kernel = self.code, self.kernel
        cells = _cells(panel, times)

        def row(chains: int, i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            here = self._row(x, i)
            weights = code.at(self.weights, code.mul(i, INT(4 * kernel.chains * panel.width)))
            places = [(chain, *cell) for chain in range(chains) for cell in cells]
            after = []
            for (chain, n, lane, width), total in zip(places, sums, strict=True):
                kind = code.vector(width)
                place = n * self.x_step + 4 * chain
                if kernel.across == "channels":
                    value = code.read(code.at(here, place + 4 * lane), kind)
                else:
                    value = code.splat(code.read(code.at(here, place)), width)
                w = code.read(code.at(weights, 4 * (chain * panel.width + lane)), kind)
                after.append(code.multiply_add(value, w, total))
            return after

        zeros = [code.number(0, code.vector(width)) for _, _, width in cells]
        full, rest = divmod(kernel.terms, kernel.chains)
        sums = code.repeat(full, partial(row, kernel.chains), zeros * kernel.chains)
        if rest:
            size = rest * len(cells)
            sums[:size] = row(rest, INT(full), sums[:size])
        return [sums[i : i + len(cells)] for i in range(0, len(sums), len(cells))]

    # Lanes are chains of terms

    def _term_tile(self, pointers: list[ir.Value], times: int) -> None:
        """`times` outputs, filter by filter."""
        code, kernel = self.code, self.kernel
        x, y = pointers
        kind = code.vector(kernel.chains)
        full, rest = divmod(kernel.terms, kernel.chains)
        inside = ir.Constant(
            ir.VectorType(BIT, kernel.chains), [lane < rest for lane in range(kernel.chains)]
        )

        def row(w: ir.Value, last: bool, i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            here = self._row(x, i)
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
                self._finish(x, y, n, code.fadd(self._sum_of_lanes(total), bias), f, 1)

    def _sum_of_lanes(self, vector: ir.Value) -> ir.Value:
        """The lanes added in pairs half a vector apart."""
        lanes = self.kernel.chains
        while lanes > 1:
            lanes //= 2
            low = self.code.choose(vector, range(lanes))
            vector = self.code.fadd(low, self.code.choose(vector, range(lanes, 2 * lanes)))
        return vector

    # What all have in common

    def _row(self, x: ir.Value, i: ir.Value) -> ir.Value:
        """Where the terms of row i of the chains begin."""
        return self.code.at(
            x, self.code.read(self.code.gep(self.offsets, [i], source_etype=INT), INT)
        )

    def _finish(
        self, x: ir.Value, y: ir.Value, n: int, value: ir.Value, first: int, filters: int
    ) -> None:
        """Store output n of the filters from `first` on; activated, if that is short."""
        code = self.code
        if self.kernel.activation not in Activations.LONG:
            value = self._activated(value, code.at(x, n * self.x_step + 4 * first))
        lane = 0
        while lane < filters:  # in pieces of 16, 8, 4, 2, 1: lanes beyond the filters stay here
            size = 1 << (filters - lane).bit_length() - 1
            whole = size == getattr(value.type, "count", 1)
            piece = value if whole else code.choose(value, range(lane, lane + size))
            code.write(piece, code.at(y, n * self.y_step + 4 * (first + lane)))
            lane += size

    def _activate(self, pointers: list[ir.Value], lanes: int) -> None:
        """A long activation of so many outputs, whatever their frame and filter."""
        x, y = pointers
        self.code.write(self._activated(self.code.read(y, self.code.vector(lanes)), x), y)

    def _activated(self, value: ir.Value, x: ir.Value) -> ir.Value:
        """Activation and residual; x points at the layer's input of the same frame."""
        activated = Activations(self.code, value.type)(self.kernel.activation, value)
        if not self.kernel.residual:
            return activated
        return self.code.fadd(activated, self.code.read(x, value.type))


def _cells(panel: Panel, times: int) -> list[tuple[int, int, int]]:
    """The vectors of a tile: time, first lane in the panel, length."""
    return [(n, lane, width) for n in range(times) for lane, width in panel.vectors]


def network_module(layout: Layout) -> ir.Module:
    """The code of a network.

    Two functions can be called from C; x is (frames, channels) and scores is
    (frames, outputs). `step` neither allocates nor locks nor calls the system;
    it flushes denormals to zero and gives the caller's floating-point mode back::

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
    layers: dict[Kernel, ir.Function] = {}
    for place in layout.places:
        if place.kernel not in layers:
            writer = _LayerCode(module, f"layer_{len(layers)}", place.kernel, layout.target)
            layers[place.kernel] = writer.function
    tile = ir.Function(module, ir.FunctionType(VOID, [POINTER] * 3 + [INT]), "tile")
    tile.linkage = "internal"
    _write_tile(Code(tile, layout.target), layout, layers)
    step = ir.Function(module, tile.ftype, "step")
    _write_step(Code(step, layout.target), layout, tile)
    reset = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "reset")
    _write_reset(Code(reset, layout.target), layout)
    return module


def _write_step(code: Code, layout: Layout, tile: ir.Function) -> None:
    """Any number of frames, tile by tile."""
    state, x, scores, frames = code.function.args
    mode = code.read_mode()
    code.flush_denormals()

    def body(v: list[ir.Value]) -> list[ir.Value]:
        count = code.smaller(v[2], INT(TILE))
        code.call(tile, [state, v[0], v[1], count])
        x_after = code.at(v[0], code.mul(count, INT(4 * layout.channels)))
        scores_after = code.at(v[1], code.mul(count, INT(4 * layout.outputs)))
        return [x_after, scores_after, code.sub(v[2], count)]

    code.loop(lambda v: code.icmp_signed(">", v[2], INT(0)), body, [x, scores, frames])
    code.write_mode(mode)
    code.ret_void()


def _write_tile(code: Code, layout: Layout, layers: dict[Kernel, ir.Function]) -> None:
    """Up to `TILE` frames through all layers."""
    state, x, scores, rows = code.function.args
    source = _append(code, state, layout.places[0], rows)
    code.copy(source, x, code.mul(rows, INT(layout.places[0].row)))
    for place, following in zip(layout.places, [*layout.places[1:], None], strict=True):
        newest = source
        if place.kernel.strides > 1:
            skip, rows = _stride(code, code.at(state, place.phase), rows, place.kernel.strides)
            newest = code.at(source, code.mul(skip, INT(place.row)))
        if following is not None:
            source = _append(code, state, following, rows)
        elif layout.hop > 1:
            source = code.at(state, layout.held + 4 * layout.outputs)
        else:
            source = scores
        parts = [code.at(state, part) for part in (place.weights, place.bias, place.offsets)]
        code.call(layers[place.kernel], [newest, source, *parts, rows])
    if layout.hop > 1:
        _hold(code, layout, rows)
    code.ret_void()


def _append(code: Code, state: ir.Value, place: Place, rows: ir.Value) -> ir.Value:
    """Make room for new rows in a buffer; where they go."""
    pointer, buffer = code.at(state, place.position), code.at(state, place.buffer)
    position = code.read(pointer, INT)
    full = code.icmp_signed(">", code.add(position, rows), INT(place.capacity))
    with code.if_then(full, likely=False):
        newest = code.at(buffer, code.mul(position, INT(place.row)))
        code.copy(buffer, newest, place.history * place.row)
    position = code.select(full, INT(0), position)
    code.write(code.add(position, rows), pointer)
    return code.at(buffer, code.mul(code.add(position, INT(place.history)), INT(place.row)))


def _stride(code: Code, phase: ir.Value, rows: ir.Value, strides: int) -> tuple[ir.Value, ir.Value]:
    """Of new rows, how many lie before the first that gives an output, and how many give one."""
    skip = code.read(phase, INT)
    reach = code.add(code.sub(rows, skip), INT(strides - 1))  # never negative: skip < strides
    outputs = code.udiv(reach, INT(strides))
    code.write(code.add(skip, code.sub(code.mul(outputs, INT(strides)), rows)), phase)
    return skip, outputs


def _hold(code: Code, layout: Layout, rows: ir.Value) -> None:
    """One row of scores per frame: row 0 of `held` is the last one, `rows` new ones follow."""
    state, _, scores, frames = code.function.args
    held, row = code.at(state, layout.held), 4 * layout.outputs
    wait, _ = _stride(code, state, frames, layout.hop)
    lead = code.sub(INT(layout.hop), wait)

    def body(n: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        number = code.udiv(code.add(n, lead), INT(layout.hop))
        source = code.at(held, code.mul(number, INT(row)))
        code.copy(code.at(scores, code.mul(n, INT(row))), source, row)
        return []

    code.repeat(frames, body)
    code.copy(held, code.at(held, code.mul(rows, INT(row))), row)


def _write_reset(code: Code, layout: Layout) -> None:
    """Forget all past samples; the weights stay."""
    (state,) = code.function.args
    code.clear(state, layout.header)
    code.clear(code.at(state, layout.held), 4 * layout.outputs)
    for place in layout.places:
        code.clear(code.at(state, place.buffer), place.history * place.row)
    code.ret_void()
