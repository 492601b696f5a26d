"""Writing files so that nothing half-written is ever left."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtconv.errors import RtconvError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block succeeds.

    Parameters
    ----------
    path : path
        The final name; its folder is made when it does not exist.

    Yields
    ------
    Path
        Where to write. It keeps the suffix of `path`, by which libraries tell
        formats apart. It is removed when the block raises.

    Raises
    ------
    RtconvError
        If the file cannot be written there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(6)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # a library may have put another file there, for its owner only
        temporary.replace(path)
    except OSError as error:
        raise RtconvError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
