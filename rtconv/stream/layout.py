"""Where everything of a compiled network lies in its state, one block of memory.

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
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from rtconv.model.layers import Layer, hop

#: Frames that pass through all layers before the next ones: activations stay in the L1 cache.
TILE = 64
#: Alignment of every part of the state in bytes: a cache line, and the longest vector.
ALIGNMENT = 64
#: Chains of a layer whose lanes are terms, with the fewest terms for which they are used.
TERM_CHAINS = ((32, 256), (16, 32), (8, 8))


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
        return self.triple.startswith("x86_64")

    @property
    def lanes(self) -> int:
        """Floats in a vector register."""
        if not self.x86:
            return 4
        return 16 if self.has("avx512f") else 8 if self.has("avx") else 4

    @property
    def fma(self) -> bool:
        """Whether it multiplies and adds with one rounding."""
        return not self.x86 or self.has("fma")

    @property
    def sums(self) -> int:
        """Vector registers that hold sums, of 16 or 32; the others hold weights and input."""
        return 24 if self.lanes == 16 or not self.x86 else 12


@dataclass(frozen=True)
class Panel:
    """Filters of a layer that are computed together.

    Attributes
    ----------
    widths : tuple of int
        Lengths of one or two vectors; the last one may reach beyond the filters.
    filters : int
        How many there are.
    """

    widths: tuple[int, ...]
    filters: int

    @property
    def width(self) -> int:
        """Lanes of all vectors."""
        return sum(self.widths)

    @property
    def vectors(self) -> list[tuple[int, int]]:
        """First lane and length of each vector."""
        return [(sum(self.widths[:v]), width) for v, width in enumerate(self.widths)]


@dataclass(frozen=True)
class Kernel:
    """What the code of one layer depends on; layers with equal kernels share a function.

    Attributes
    ----------
    across : {'filters', 'channels', 'terms'}
        What lies across the lanes of a vector, see `rtconv.stream.codegen`.
    chains : int
        Of the terms, a power of two.
    """

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
    def of(cls, layer: Layer, lanes: int) -> "Kernel":
        """The kernel of a layer, for vectors of so many lanes."""
        channels, filters = layer.in_channels // layer.groups, layer.filters // layer.groups
        terms = layer.kernel_size * channels
        unbroken = layer.kernel_size == 1 or (layer.dilation_rate == 1 and layer.groups == 1)

        def fits(chains: int) -> bool:
            return unbroken or channels % chains == 0  # a row of chains is one piece of memory

        # one vector in four chains or two in two: at least four sums to hide the latency
        across, chains = "filters", 4 if filters <= lanes else 2
        while chains > 1 and (terms < 4 * chains or not fits(chains)):
            chains //= 2
        if layer.groups == layer.in_channels == layer.filters > 1:
            across = "channels"
        elif layer.groups == 1 and filters < 4:
            wide = [c for c, fewest in TERM_CHAINS if terms >= fewest and fits(c)]
            across, chains = ("terms", wide[0]) if wide else (across, chains)
        return cls(
            in_channels=layer.in_channels,
            filters=layer.filters,
            kernel_size=layer.kernel_size,
            strides=layer.strides,
            groups=layer.groups,
            activation=layer.activation,
            residual=layer.residual,
            across=across,
            chains=chains,
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

    def panels(self, target: Target) -> list[tuple[Panel, int]]:
        """The panels of a band: so many full ones, and perhaps a smaller one."""
        full, rest = divmod(self.band_filters, 2 * target.lanes)
        panels = [(Panel((target.lanes, target.lanes), 2 * target.lanes), full)] if full else []
        if rest:
            vectors, odd = divmod(rest, target.lanes)
            widths = [target.lanes] * vectors + [1 << (odd - 1).bit_length()] * (odd > 0)
            panels.append((Panel(tuple(widths), rest), 1))
        return panels

    def pack_weights(self, dense: np.ndarray, target: Target) -> np.ndarray:
        """Dense weights in the order in which the code reads them, (n,) float32."""
        oldest_first = dense.reshape(self.kernel_size, -1, self.filters)[::-1]
        by_term = oldest_first.reshape(self.terms, self.filters)
        if self.across == "terms":
            padding = self.rows * self.chains - self.terms
            return np.pad(by_term, ((0, padding), (0, 0))).T.ravel()
        return np.concatenate([part.ravel() for part in self._padded_parts(by_term, target)])

    def pack_bias(self, bias: np.ndarray | None, target: Target) -> np.ndarray:
        """The bias, padded as the weights are, (n,) float32."""
        if bias is None:
            bias = np.zeros(self.filters, np.float32)
        return np.concatenate(self._padded_parts(bias, target), dtype=np.float32)

    def _padded_parts(self, array: np.ndarray, target: Target) -> list[np.ndarray]:
        """What belongs to each panel of each band; filters are the last axis."""
        panels = [panel for panel, count in self.panels(target) for _ in range(count)]
        parts, first = [], 0
        for panel in panels * self.bands:
            part = array[..., first : first + panel.filters]
            padding = [(0, 0)] * (array.ndim - 1) + [(0, panel.width - panel.filters)]
            parts.append(np.pad(part, padding))
            first += panel.filters
        return parts

    def offsets(self, dilation_rate: int) -> np.ndarray:
        """Bytes from the newest row to the first term of each row of chains, (rows,) int64."""
        first = np.arange(self.rows) * self.chains
        taps, channels = np.divmod(first, self.in_channels // self.groups)
        ages = (self.kernel_size - 1 - taps) * dilation_rate
        return 4 * (channels - ages * self.in_channels).astype(np.int64)


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
    def phase(self) -> int:
        """Of the strides: where the number of rows to skip lies."""
        return self.position + 8

    @property
    def row(self) -> int:
        """Bytes of one row of the buffer."""
        return 4 * self.kernel.in_channels


class Layout:
    """Where everything lies in the state of a network.

    Parameters
    ----------
    layers : sequence of Layer
    target : Target

    Attributes
    ----------
    places : list of Place
        One per layer.
    header : int
        Bytes of the positions; the first number is the samples to the next output.
    held : int
        Where the scores of one tile lie when they are held over a hop.
    size : int
        Bytes of the state.
    """

    def __init__(self, layers: Sequence[Layer], target: Target) -> None:
        self.target = target
        self.hop = hop(layers)
        self.channels = layers[0].in_channels
        self.outputs = layers[-1].filters
        self.size = 0
        self._contents: list[tuple[int, np.ndarray]] = []
        self.header = 8 * (1 + 2 * len(layers))
        self._reserve(self.header)
        self.places = [self._place(layer, 8 * (1 + 2 * i)) for i, layer in enumerate(layers)]
        self.held = self._reserve(4 * (TILE + 1) * self.outputs)

    def _place(self, layer: Layer, position: int) -> Place:
        kernel = Kernel.of(layer, self.target.lanes)
        capacity = max(4 * TILE, layer.history)
        return Place(
            kernel,
            position,
            offsets=self._put(kernel.offsets(layer.dilation_rate)),
            weights=self._put(kernel.pack_weights(layer.dense, self.target)),
            bias=self._put(kernel.pack_bias(layer.bias, self.target)),
            # a vector may begin in the last row and end behind it
            buffer=self._reserve(4 * ((layer.history + capacity) * layer.in_channels + 32)),
            history=layer.history,
            capacity=capacity,
        )

    def _reserve(self, size: int) -> int:
        place = self.size
        self.size += ceil(size / ALIGNMENT) * ALIGNMENT
        return place

    def _put(self, values: np.ndarray) -> int:
        place = self._reserve(values.nbytes)
        self._contents.append((place, values))
        return place

    def new_state(self) -> np.ndarray:
        """A state with the weights of the layers and no past, (size,) uint8, aligned."""
        memory = np.empty(self.size + ALIGNMENT, np.uint8)
        begin = -memory.ctypes.data % ALIGNMENT
        state = memory[begin : begin + self.size]
        state.fill(0)  # touches every page, so that the audio callback does not have to
        for place, values in self._contents:
            state[place : place + values.nbytes] = values.view(np.uint8)
        return state
