"""Conv1D weights in a pickle, as the lecture's programs write and read them.

The file is exactly ``pickle.dump(keras_model.get_weights(), f)``: a list of
arrays. A pickle is a program, so it is not run by Python's own reader: only the
instructions that lists and arrays need are known here, and the few names that
NumPy writes stand for plain records that are checked and turned into arrays
afterwards. Everything else is refused by name.
"""

import io
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.errors import RtconvError
from rtconv.files import atomic_path

#: Larger files are refused before they are read.
MAX_BYTES = 1 << 28

# Containers that can be keys (dicts, sets) are left out: hashing a nested tuple
# can take forever.
_OPCODES = (
    "PROTO STOP FRAME MARK POP "
    "INT BININT BININT1 BININT2 LONG LONG1 NONE NEWTRUE NEWFALSE "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD"
).split()


class _DType:
    """Stands for numpy.dtype: keeps its code and byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code
        self.byteorder = "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.byteorder = ">"


class _Array:
    """Stands for numpy.ndarray: keeps shape, dtype and bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array, as float32.

        Raises
        ------
        ValueError
            If it is not an array of real numbers with as many bytes as its
            shape asks for.
        """
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("is not a complete NumPy array")
        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _DType) or not isinstance(dtype.code, str | bytes):
            raise ValueError("has no readable data type")
        code = dtype.code if isinstance(dtype.code, str) else dtype.code.decode("latin1")
        if code.startswith(("O", "|O")):
            raise ValueError("is an object array, which could hold anything")
        if code not in ("f2", "f4", "f8"):
            raise ValueError(f"is an array of {code[:20]!r}, float32 was expected")
        if isinstance(data, str):  # Python 2 wrote bytes as text
            data = data.encode("latin1")
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("has no readable shape")
        if not isinstance(data, bytes):
            raise ValueError("has no data")
        values = np.frombuffer(data, dtype.byteorder + code).astype(np.float32)
        return values.reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stands for the function that protocol 5 names for contiguous arrays."""
    array = _Array()
    array.state = (1, shape, dtype, order == "F", data)
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Stands for _codecs.encode, with which protocol 2 writes bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}
for _package in ("numpy.core", "numpy._core"):
    _NAMES[f"{_package}.multiarray", "_reconstruct"] = _Array
    _NAMES[f"{_package}.numeric", "_frombuffer"] = _from_buffer


class _GuardedUnpickler(pickle._Unpickler):
    """The readable unpickler of the standard library, with most of it taken away.

    The one in C allocates whatever a damaged file asks for.
    """

    dispatch = {  # noqa: RUF012
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
        for name in _OPCODES
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise RtconvError(
                f"it contains {module[:60]}.{name[:60]}, only NumPy arrays are admitted"
            ) from None

    def load_bytearray8(self: Any) -> None:
        """Read bytes of the stated length, or as many as there are."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytes(self.read(min(length, MAX_BYTES))))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def load_weights(path: Path | str) -> list[np.ndarray]:
    """Read a pickled list of weights, running nothing that is in it.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of ndarray, float32
        As ``keras.Model.get_weights`` gives them.

    Raises
    ------
    RtconvError
        If the file cannot be read, or is anything but a list of real arrays.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RtconvError(
                f"{path}: is larger than {MAX_BYTES >> 20} MiB, too large for weights"
            )
        data = path.read_bytes()
    except OSError as error:
        raise RtconvError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        content = _GuardedUnpickler(io.BytesIO(data), encoding="latin1").load()
    except RtconvError as error:
        raise RtconvError(f"{path}: refused, {error}") from error
    except KeyError as error:
        raise RtconvError(
            f"{path}: refused, it is not a pickled list of weights (instruction {error})"
        ) from error
    # A damaged file can make any step of the unpickler fail in any way.
    except Exception as error:
        raise RtconvError(f"{path}: refused, it is not a pickled list of weights") from error
    if not isinstance(content, list):
        raise RtconvError(f"{path}: refused, it holds no list of weight arrays")
    arrays = []
    for i, entry in enumerate(content):
        if not isinstance(entry, _Array):
            raise RtconvError(f"{path}: refused, entry {i} of the list is not a NumPy array")
        try:
            arrays.append(entry.array())
        except (ValueError, TypeError, OverflowError, struct.error) as error:
            raise RtconvError(f"{path}: refused, array {i} {error}") from error
    return arrays


def save_weights(path: Path | str, weights: Sequence[np.ndarray]) -> None:
    """Write weights as the lecture's programs do, readable with ``pickle.load``.

    Parameters
    ----------
    path : path
    weights : sequence of ndarray
        As ``keras.Model.get_weights`` gives them.
    """
    arrays = [np.ascontiguousarray(array, np.float32) for array in weights]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        pickle.dump(arrays, file)
