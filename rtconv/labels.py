"""Audacity label tracks: where a recording holds which sound.

A line is ``start<TAB>end<TAB>text``, in seconds. The text is the sound's name,
after which may stand what is known of this occurrence, as ``key=value``::

    12.034000	12.711000	alexa snr_db=10 room=shoebox file=17

A label marks the whole pattern, and its end is the time at which a causal
detector can know it: delays are counted from there. A point label has its end
at its start. Audacity's second lines with frequencies, ``\\<TAB>low<TAB>high``,
are passed over.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtconv.errors import RtconvError
from rtconv.files import atomic_path

#: Seconds by which a label may lie over the end of its file: labels are rounded.
END_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Label:
    """One occurrence of a sound.

    Attributes
    ----------
    start, end : float
        Seconds from the beginning of the file.
    text : str
        Name and conditions; see the module.
    """

    start: float
    end: float
    text: str = ""

    @property
    def name(self) -> str:
        """The text without its conditions."""
        return " ".join(word for word in self.text.split() if not _is_condition(word))

    @property
    def conditions(self) -> dict[str, str]:
        """The ``key=value`` words of the text."""
        words = (word for word in self.text.split() if _is_condition(word))
        return {key: value for key, _, value in (word.partition("=") for word in words)}


def label_text(name: str, conditions: dict[str, object]) -> str:
    """The text of a label; white space within a value becomes an underscore."""
    words = (f"{key}={'_'.join(str(value).split())}" for key, value in conditions.items())
    return " ".join([name, *words])


def label_path(sound: Path | str) -> Path:
    """Where the labels of a sound file are expected: beside it, its stem with ``.txt``."""
    return Path(sound).with_suffix(".txt")


def read_labels(path: Path | str, seconds: float = math.inf) -> list[Label]:
    """Read a label track.

    Parameters
    ----------
    path : path of the label track
    seconds : float
        Length of the sound file, in which the labels must lie.

    Returns
    -------
    list of Label
        In order; labels of one name do not overlap.

    Raises
    ------
    RtconvError
        If the file cannot be read, a line is no label, or a label lies outside
        the sound file, overlaps another of its name or is out of order.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RtconvError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RtconvError(f"{path}: is not a text file of labels") from error
    labels: list[Label] = []
    last: dict[str, Label] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        where = f"{path}: line {number}"
        label = _parse(line, where)
        if label.end > seconds + END_TOLERANCE:
            raise RtconvError(
                f"{where}: the label ends at {label.end:.3f} s, after the sound file's end at "
                f"{seconds:.3f} s; are they labels of another file?"
            )
        if labels and label.start < labels[-1].start:
            raise RtconvError(
                f"{where}: the label starts at {label.start:.3f} s, before the one above it at "
                f"{labels[-1].start:.3f} s; sort the lines by time"
            )
        before = last.get(label.name)
        if before is not None and label.start < before.end:
            raise RtconvError(
                f"{where}: the label starts at {label.start:.3f} s, within another {label.name!r} "
                f"that ends at {before.end:.3f} s; make them one, or separate them"
            )
        last[label.name] = label
        labels.append(label)
    return labels


def write_labels(path: Path | str, labels: Iterable[Label]) -> None:
    """Write a label track, in microseconds' resolution."""
    lines = [f"{label.start:.6f}\t{label.end:.6f}\t{label.text}\n" for label in labels]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def label_names(labels: Sequence[Label]) -> list[str]:
    """The different names of labels, in the order of their first appearance."""
    return list(dict.fromkeys(label.name for label in labels))


def _is_condition(word: str) -> bool:
    key, sign, value = word.partition("=")
    return bool(key and sign and value)


def _parse(line: str, where: str) -> Label:
    start, end, text = [*line.split("\t", 2), "", ""][:3]
    try:
        label = Label(float(start), float(end), " ".join(text.split()))
    except ValueError as error:
        raise RtconvError(
            f"{where}: is no label, start, end in seconds and text are expected, separated by tabs"
        ) from error
    if not 0 <= label.start <= label.end < math.inf:
        raise RtconvError(
            f"{where}: the label goes from {start.strip()} to {end.strip()} s, "
            "its start must not be negative nor after its end"
        )
    return label
