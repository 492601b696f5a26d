"""What several tests share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_programs():
    """A shell starts background jobs with SIGINT ignored, and programs inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _import_this_checkout():
    """Programs that tests start import the code under test, from any folder."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )


@pytest.fixture
def rtconv_command():
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments, cwd=None, timeout=120, **more):
        return subprocess.run(
            [sys.executable, "-m", "rtconv", *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd, timeout=timeout, **more,
        )  # fmt: skip

    return run


@pytest.fixture
def ramp_wav(tmp_path):
    """A recording at 8 kHz of the lecture's ramp in weak noise, and where the score must peak.

    That is three samples after the ramp's end, as the lecture's target has it.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1e-3, 20_000).astype(np.float32)
    ends = [1000, 7777, 15_001]
    for end in ends:
        x[end - 4 : end + 1] += np.arange(5, dtype=np.float32)
    path = tmp_path / "ramps.wav"
    soundfile.write(path, x, 8000, subtype="FLOAT")
    return path, x, [end + 3 for end in ends]
