"""The networks on which speed is told, with random weights."""

import numpy as np

from rtconv.model.layers import Layer


def example_networks(activation: str = "relu") -> dict[str, list[Layer]]:
    """Networks from one small filter to a large cascade.

    ``M1`` one filter of 8 taps; ``M2`` 1-8-8-1 channels of 16 taps; ``M3`` eight
    dilated layers (1, 2, 4, ..., 128) of 16 channels and 3 taps, then 1x1; ``M4``
    the same with 64 channels.

    Parameters
    ----------
    activation : str
        Of all layers but the last, which is linear.
    """
    rng = np.random.default_rng(0)

    def layer(channels: int, filters: int, kernel_size: int, dilation_rate: int = 1) -> Layer:
        rows = kernel_size * channels
        return Layer(
            dense=rng.normal(0, rows**-0.5, (rows, filters)).astype(np.float32),
            bias=rng.normal(0, 0.1, filters).astype(np.float32),
            in_channels=channels,
            kernel_size=kernel_size,
            dilation_rate=dilation_rate,
            activation="linear" if filters == 1 else activation,
        )

    def dilated(channels: int) -> list[Layer]:
        first = layer(1, channels, 3)
        others = [layer(channels, channels, 3, 2**i) for i in range(1, 8)]
        return [first, *others, layer(channels, 1, 1)]

    return {
        "M1": [layer(1, 1, 8)],
        "M2": [layer(1, 8, 16), layer(8, 8, 16), layer(8, 1, 16)],
        "M3": dilated(16),
        "M4": dilated(64),
    }
