"""The streaming network as machine code: the one that users get.

`codegen` writes a network as LLVM IR; here the IR becomes an object file, which
is kept in the user's cache folder, and is loaded into the process::

    shapes, processor, versions -- digest --> NAME.o in the cache --> functions in memory
                                                 |        ^
                                                 none     |
                                                 '-> IR --' compiled once, 0.1 to 1 s

`load_functions` does this for any IR; `CompiledNetwork` is a network with its state.
"""

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numpy as np
import platformdirs

from rtconv.errors import RtconvError
from rtconv.files import atomic_path
from rtconv.model.layers import Layer, check_cascade
from rtconv.stream.codegen import network_module
from rtconv.stream.layout import Layout, Target

_loaded: dict[str, tuple[llvm.ExecutionEngine, dict[str, int]]] = {}  # code lives with the process
_loading = threading.Lock()


@cache
def host_target() -> Target:
    """The processor that this program runs on.

    Raises
    ------
    RtconvError
        If there is no code for it; `rtconv.stream.reference` runs everywhere.
    """
    triple = llvm.get_process_triple()
    if not triple.startswith(("x86_64", "aarch64", "arm64")):
        raise RtconvError(f"there is no machine code for {triple}, use engine='reference'")
    return Target(triple, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


def compile_object(ir_text: str, target: Target) -> bytes:
    """Optimise LLVM IR and turn it into an object file.

    Parameters
    ----------
    ir_text : str
    target : Target
        Any that LLVM knows, not only this processor.
    """
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(ir_text)
    module.verify()
    machine = _machine(target)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    # vectors are chosen already, and loops are long or short on purpose
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def load_functions(
    key: str, build: Callable[[], str], names: Sequence[str], target: Target | None = None
) -> dict[str, int]:
    """Functions of LLVM IR in memory, compiled only when the cache has no object for them.

    They stay as long as the process lives, so C may have their addresses.
    Several threads and processes may load the same code at the same time.

    Parameters
    ----------
    key : str
        Says what the IR depends on: equal keys, equal IR. The processor, the
        version of LLVM and the programs beside this one are added here.
    build : callable
        Gives the text of the IR; only called when it has to be compiled.
    names : sequence of str
        Functions with external linkage.
    target : Target, optional
        The processor to compile for, this one unless told; it must be able to
        run the code.

    Returns
    -------
    dict
        The address of each function.
    """
    target = target or host_target()
    versions = (_generator_version(), llvmlite.__version__, llvm.llvm_version_info)
    words = (key, repr(target), repr(versions))
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()
    with _loading:
        if digest not in _loaded:
            folder = _cache_folder()
            code = _read_cached(folder / f"{digest}.o") if folder else None
            if code is None:
                code = compile_object(build(), target)
                if folder:
                    with suppress(RtconvError), atomic_path(folder / f"{digest}.o") as path:
                        path.write_bytes(hashlib.sha256(code).digest() + code)
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(target))
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
            engine.finalize_object()
            addresses = {name: engine.get_function_address(name) for name in names}
            _loaded[digest] = engine, addresses
        return dict(_loaded[digest][1])


def _machine(target: Target) -> llvm.TargetMachine:
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="jitdefault"
    )


def _cache_folder() -> Path | None:
    """The folder of the object files, or None when somebody else may write there."""
    folder = platformdirs.user_cache_path("rtconv") / "code"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        return None  # machine code from there would run with this user's rights
    return folder


def _read_cached(path: Path) -> bytes | None:
    """The object file at `path`, or None when there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, code = content[:32], content[32:]
    return code if hashlib.sha256(code).digest() == checksum else None


@cache
def _generator_version() -> str:
    """A digest of the programs that write the IR: another program, another object."""
    names = ("codegen.py", "instructions.py", "layout.py")
    programs = (Path(__file__).with_name(name).read_bytes() for name in names)
    return hashlib.sha256(b"".join(programs)).hexdigest()


_STEP = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
_RESET = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class CompiledNetwork:
    """A cascade of causal Conv1D layers as machine code, with its state.

    Scores have the same bits for every partition of the input into blocks.
    Denormal numbers count as zero. Calls release the interpreter's lock;
    different networks may run at the same time, one network may not.

    Parameters
    ----------
    layers : sequence of Layer
    target : Target, optional
        The processor to compile for, this one unless told.

    Attributes
    ----------
    channels, outputs : int
        Channels of the input and number of scores.
    state : ndarray, uint8
        All that the machine code reads and writes; it lives as long as the network.
    step_address : int
        Of ``void step(void *state, const float *x, float *scores, int64_t frames)``, as
        `rtconv.stream.codegen.network_module` describes it.
    reset_address : int
        Of ``void reset(void *state)``.

    Raises
    ------
    RtconvError
        If the layers do not fit each other, or there is no code for this processor.
    """

    def __init__(self, layers: Sequence[Layer], target: Target | None = None) -> None:
        check_cascade(layers)
        target = target or host_target()
        layout = Layout(layers, target)
        self.channels, self.outputs = layout.channels, layout.outputs
        functions = load_functions(
            f"network {layout.places}",
            lambda: str(network_module(layout)),
            ("step", "reset"),
            target,
        )
        self.step_address, self.reset_address = functions["step"], functions["reset"]
        self._step, self._reset = _STEP(self.step_address), _RESET(self.reset_address)
        self.state = layout.new_state()
        self._state_address = self.state.ctypes.data

    def reset(self) -> None:
        """Forget all past samples."""
        self._reset(self._state_address)

    def step(self, block: np.ndarray) -> np.ndarray:
        """Scores of the next samples of the stream.

        Parameters
        ----------
        block : ndarray, (frames, channels), float32
            Any number of frames, also none.

        Returns
        -------
        ndarray, (frames, outputs), float32
            One row per sample; between network outputs the last one is held.

        Raises
        ------
        RtconvError
            If the block has another shape.
        """
        block = np.ascontiguousarray(block, np.float32)
        if block.ndim != 2 or block.shape[1] != self.channels:
            raise RtconvError(
                f"a block has the shape {block.shape}, (frames, {self.channels}) was expected"
            )
        scores = np.empty((len(block), self.outputs), np.float32)
        self._step(self._state_address, block.ctypes.data, scores.ctypes.data, len(block))
        return scores
