"""Structures that the audio callback and Python share, field by field."""

import numpy as np

#: Bytes; the callback and the reader write to different lines.
CACHE_LINE = 64


def _lines(*groups: list[tuple[str, str]]) -> np.dtype:
    """A structure whose groups of fields of 8 bytes lie on cache lines of their own."""
    names, formats, offsets, offset = [], [], [], 0
    for group in groups:
        for name, kind in group:
            names.append(name)
            formats.append(kind)
            offsets.append(offset)
            offset += 8
        offset += -offset % CACHE_LINE
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": offset})


#: What the callback and the reader share; addresses are ``u8``, counts and positions ``i8``.
CONTROL = _lines(
    [  # written by the callback
        ("blocks_written", "i8"),
        ("samples_written", "i8"),
        ("lost", "i8"),  # samples that found no room since the last block
        ("resets_done", "i8"),
        ("position", "i8"),  # samples that arrived, the lost ones with them
        ("valid_from", "i8"),  # position from which on scores are valid
        ("armed", "i8"),
        ("last_trigger", "i8"),
        ("pulse_left", "i8"),
        ("triggers", "i8"),
    ],
    [  # written by the reader
        ("blocks_read", "i8"),
        ("samples_read", "i8"),
        ("resets_wanted", "i8"),
    ],
    [  # constant while the stream runs
        ("block_capacity", "i8"),
        ("sample_capacity", "i8"),
        ("blocks", "u8"),
        ("lanes", "u8"),
        ("lane_count", "i8"),
        ("device_channels", "i8"),
        ("inputs", "i8"),  # channels of a network's input
        ("outputs", "i8"),
        ("memory", "i8"),  # samples after a reset until scores are valid
        ("clock", "u8"),  # address of clock_gettime
        ("output_channels", "i8"),  # of the output device, 0 without one
        ("threshold", "f4"),
        ("release", "f4"),
        ("refractory", "i8"),  # samples
        ("pulse_length", "i8"),  # samples, 0 without a trigger
        ("pulse_level", "f4"),
        ("pulse_channel", "i8"),  # counted from 0
        ("score_channel", "i8"),  # counted from 0, -1 without scores as sound
        ("pattern", "u8"),  # address of samples that are played once every period
        ("pattern_length", "i8"),  # samples, 0 without a pattern
        ("pattern_period", "i8"),  # samples
    ],
)

#: One network on one input.
LANE = np.dtype(
    [
        ("step", "u8"),
        ("reset", "u8"),
        ("state", "u8"),
        ("samples", "u8"),
        ("scores", "u8"),
        ("channels", "u8"),  # device channels of the inputs, from 0, one int64 each; 0: their mean
    ]
)

#: One call of the callback.
BLOCK = np.dtype(
    [
        ("first", "i8"),  # its first sample, counted over all samples that were written
        ("frames", "i8"),
        ("lost", "i8"),  # samples that found no room before it
        ("flags", "i8"),  # PaStreamCallbackFlags
        ("reset", "i8"),  # 1 when the networks were reset before it
        ("adc_time", "f8"),  # inputBufferAdcTime, s
        ("arrived", "i8"),  # ns, monotonic clock, when the callback was called
        ("spent", "i8"),  # ns in the callback
        ("trigger", "i8"),  # position of the last pulse that began in it, -1 without one
    ]
)
