"""Imports run one way, and `import rtconv` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rtconv"

#: Each part may import itself, those before it, and those of its own line.
ORDER = [
    {"errors"},
    {"files"},
    {"presets", "audio", "labels"},
    {"config"},
    {"model"},
    {"stream"},
    {"live", "evaluation"},
    {"training"},
    {"lecture", "demo"},
    {"cli"},
    {"__main__"},
]
LEVEL = {part: i for i, parts in enumerate(ORDER) for part in parts}


def imported_parts(path):
    """Parts of rtconv that a file imports, also late; not for type checking alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "rtconv" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_run_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for other in imported_parts(path):
        allowed = LEVEL[other] < LEVEL[part] or other == part
        assert allowed, f"{path.relative_to(PACKAGE)} imports rtconv.{other}"


def loaded_by(program):
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_import_is_light():
    heavy = {"tensorflow", "keras", "sounddevice", "llvmlite", "numpy", "scipy", "matplotlib"}
    assert not loaded_by("import rtconv, rtconv.cli") & heavy


def test_replay_loads_nothing_of_training():
    program = "import rtconv; rtconv.load('models/ramp.safetensors'); rtconv.replay"
    heavy = {"tensorflow", "keras", "sounddevice", "scipy", "matplotlib"}
    assert not loaded_by(program) & heavy


def test_no_module_hides_a_public_function():
    import rtconv

    modules = {p.stem for p in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.iterdir()}
    functions = {name for name in rtconv.__all__ if name.islower()}
    assert {"train", "replay", "listen", "load", "convert"} <= functions
    assert not modules & functions
