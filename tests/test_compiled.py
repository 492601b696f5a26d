"""The compiled network keeps the contract, on every code path and for every processor."""

import ctypes
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llvmlite import ir

from rtconv.errors import RtconvError
from rtconv.model.layers import ACTIVATIONS, Layer
from rtconv.stream import compiled
from rtconv.stream.codegen import network_module
from rtconv.stream.compiled import CompiledNetwork, compile_object, host_target, load_functions
from rtconv.stream.instructions import INT, INT32, POINTER, VOID, Code
from rtconv.stream.layout import Layout, Target
from rtconv.stream.reference import ReferenceNetwork
from tests.contract import check_contract, make_layer, networks, step_in_blocks, table

AWKWARD = (1, 2, 3, 7, 16, 63, 64, 65, 441, 1024)
FOREIGN = {
    "AVX-512": Target("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx512f,+avx,+fma"),
    "AVX2": Target("x86_64-unknown-linux-gnu", "haswell", "+avx2,+avx,+fma"),
    "SSE2": Target("x86_64-unknown-linux-gnu", "x86-64", "+sse2"),
    "NEON": Target("aarch64-unknown-linux-gnu", "cortex-a72", "+neon"),
}


class OtherWidth(Target):
    """This processor, with vectors of another length in the code."""

    width = 4

    @property
    def lanes(self):
        return self.width


class Width16(OtherWidth):
    width = 16


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    """The tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(platformdirs, "user_cache_path", lambda *_: folder)
        yield


def reference(layers):
    return ReferenceNetwork(layers).step


def reference_without_log(layers):
    """No oracle for random networks with a logarithm: near zero it magnifies any rounding."""
    return None if any(layer.activation == "log" for layer in layers) else reference(layers)


def host(kind):
    target = host_target()
    return kind(target.triple, target.cpu, target.features)


@pytest.mark.parametrize("name", table())
def test_contract_over_the_table(name):
    layers = table()[name]
    check_contract(layers, CompiledNetwork, reference(layers))


@given(networks())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_contract_over_random_networks(layers):
    check_contract(layers, CompiledNetwork, reference_without_log(layers), 1e-5, AWKWARD)


@given(
    st.integers(1, 600),
    st.sampled_from([1, 2, 7, 64, 512]),
    st.integers(1, 8),
    st.sampled_from([(1, 1), (1, 2), (3, 1), (8, 3), (2, 11), (16, 1)]),
    st.sampled_from(sorted(ACTIVATIONS)),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_contract_over_long_and_dilated_layers(kernel_size, dilation_rate, strides, shape, name):
    rng = np.random.default_rng(kernel_size)
    kernel_size = min(kernel_size, 2 + 4000 // dilation_rate)
    layer = make_layer(
        rng,
        *shape,
        kernel_size,
        dilation_rate=dilation_rate,
        strides=strides,
        activation=name,
    )
    check_contract([layer], CompiledNetwork, reference_without_log([layer]), 1e-5, (1, 7, 64, 441))


def deep():
    """A network with most kinds of layers."""
    rng = np.random.default_rng(3)
    return [
        make_layer(rng, 1, 20, 9, activation="relu"),
        make_layer(rng, 20, 20, 3, dilation_rate=5, residual=True, activation="tanh"),
        make_layer(rng, 20, 12, 4, groups=2, strides=2, activation="sigmoid"),
        make_layer(rng, 12, 12, 5, groups=12, activation="softplus"),
        make_layer(rng, 12, 2, 11),
    ]


@pytest.mark.parametrize("kind", [OtherWidth, Width16])
@pytest.mark.parametrize("layers", [*table().values(), deep()])
def test_contract_with_vectors_of_other_lengths(kind, layers):
    check_contract(
        layers,
        lambda layers: CompiledNetwork(layers, host(kind)),
        reference(layers),
        1e-5,
        (1, 7, 16, 65),
    )


@pytest.mark.skipif(not host_target().x86, reason="SSE2 is of x86 processors")
@pytest.mark.parametrize("layers", [*table().values(), deep()])
def test_contract_without_fused_multiply_add(layers):
    sse2 = Target(host_target().triple, "x86-64", "+sse2")
    check_contract(layers, lambda layers: CompiledNetwork(layers, sse2), reference(layers), 1e-5)


@pytest.mark.parametrize("name", FOREIGN)
def test_other_processors_get_verified_code_with_their_vectors(name):
    target = FOREIGN[name]
    text = str(network_module(Layout(deep(), target)))
    code = compile_object(text, target)
    machine_number = 183 if name == "NEON" else 62  # EM_AARCH64, EM_X86_64
    assert code[:4] == b"\x7fELF"
    assert code[18] == machine_number
    assembly = _assembly(text, target)
    expected = {"AVX-512": "%zmm", "AVX2": "%ymm", "SSE2": "mulps", "NEON": "fmla\tv"}
    assert expected[name] in assembly
    assert ("vfmadd" in assembly) == (name in ("AVX-512", "AVX2"))
    assert not re.search(r"\b(fma|exp|log|tanh)f\b", assembly), "calls the C library"


def _assembly(text, target):
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2
    )
    return machine.emit_assembly(llvm.parse_assembly(text))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_against_their_definition_in_float64(name):
    """Within 2e-7 of the value or of 1, over all floats that matter, and odd ones."""
    layers = [Layer(np.ones((1, 1), np.float32), activation=name)]
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(np.log(1e-30), np.log(1e5), 100_000))
    x = np.concatenate(
        [size, -size, np.linspace(-20, 20, 50_001), [0, 1, -1, 88, -88, 1e30, -1e30]]
    )
    x = x.astype(np.float32)[:, np.newaxis]
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[name](x.astype(np.float64))
    scores = CompiledNetwork(layers).step(x)
    finite = np.abs(expected) < np.finfo(np.float32).max
    np.testing.assert_allclose(scores[finite], expected[finite], rtol=2e-7, atol=2e-7)
    if name in ("tanh", "sigmoid"):
        assert ACTIVATIONS[name](np.float32(-50)) <= scores.min()
        assert scores.max() <= 1
    if name in ("tanh", "relu", "leaky_relu", "linear"):  # small values keep their digits
        small = np.abs(x) > 1e-30
        np.testing.assert_allclose(scores[small], expected[small], rtol=4e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_infinities_and_nan_pass_activations_as_in_numpy(name):
    layers = [Layer(np.ones((1, 1), np.float32), activation=name)]
    x = np.array([[np.inf], [-np.inf], [np.nan]], np.float32)
    with np.errstate(all="ignore"):
        expected = ACTIVATIONS[name](x)
    np.testing.assert_allclose(CompiledNetwork(layers).step(x), expected, atol=2e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_the_same_bits_in_every_lane(name):
    """Seventeen filters lie in vectors of different lengths, and one is alone."""
    x = np.random.default_rng(0).normal(0, 4, (300, 1)).astype(np.float32)
    one = CompiledNetwork([Layer(np.ones((1, 1), np.float32), activation=name)]).step(x)
    many = CompiledNetwork([Layer(np.ones((1, 17), np.float32), activation=name)]).step(x)
    np.testing.assert_array_equal(many, np.repeat(one, 17, axis=1))


def test_networks_are_independent_and_run_side_by_side():
    layers = deep()
    x = np.random.default_rng(0).normal(size=(4, 5000, 1)).astype(np.float32)
    expected = [CompiledNetwork(layers).step(signal) for signal in x]
    streams = [CompiledNetwork(layers) for _ in x]

    def run(stream, signal):
        return step_in_blocks(stream, signal, [50])

    with ThreadPoolExecutor(4) as pool:
        for scores, whole in zip(pool.map(run, streams, x), expected, strict=True):
            np.testing.assert_array_equal(scores, whole)


def test_c_functions_do_what_the_methods_do():
    layers = deep()
    network = CompiledNetwork(layers)
    x = np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32)
    expected = network.step(x)
    scores = np.empty_like(expected)
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    reset = ctypes.CFUNCTYPE(None, pointer)(network.reset_address)
    step = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, integer)(network.step_address)
    reset(network.state.ctypes.data)
    step(network.state.ctypes.data, x.ctypes.data, scores.ctypes.data, len(x))
    np.testing.assert_array_equal(scores, expected)
    assert network.state.ctypes.data % 64 == 0


def test_blocks_of_the_wrong_shape_are_refused():
    network = CompiledNetwork([make_layer(np.random.default_rng(0), 2, 1, 3)])
    assert network.step(np.zeros((0, 2), np.float32)).shape == (0, 1)
    with pytest.raises(RtconvError, match=r"\(frames, 2\)"):
        network.step(np.zeros((5, 1), np.float32))
    np.testing.assert_array_equal(
        network.step(np.ones((6, 4), np.float32)[::2, ::2]),
        CompiledNetwork([make_layer(np.random.default_rng(0), 2, 1, 3)]).step(
            np.ones((3, 2), np.float32)
        ),
    )


def test_the_callers_floating_point_mode_is_untouched_and_does_not_matter():
    """Called with rounding towards zero and a raised flag, `step` gives the same bits."""
    target = host_target()
    odd = 0x1F80 | 0x6000 | 0x01 if target.x86 else 3 << 22
    kind = INT32 if target.x86 else INT

    def build():
        module = ir.Module("mode")
        module.triple = target.triple
        arguments = [INT, POINTER, POINTER, POINTER, INT]
        function = ir.Function(module, ir.FunctionType(INT, arguments), "call_in_odd_mode")
        code = Code(function, target)
        address, *rest = function.args
        step = code.inttoptr(
            address, ir.FunctionType(VOID, [POINTER, POINTER, POINTER, INT]).as_pointer()
        )
        before = code.read_mode()
        code.write_mode(kind(odd))
        code.call(step, rest)
        after = code.read_mode()
        code.write_mode(before)
        code.ret(code.zext(after, INT) if target.x86 else after)
        return str(module)

    address = load_functions("test: odd mode", build, ("call_in_odd_mode",))["call_in_odd_mode"]
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    call = ctypes.CFUNCTYPE(integer, integer, pointer, pointer, pointer, integer)(address)
    network = CompiledNetwork(deep())
    x = np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32)
    expected = network.step(x)
    network.reset()
    scores = np.empty_like(expected)
    mode = call(
        network.step_address,
        network.state.ctypes.data,
        x.ctypes.data,
        scores.ctypes.data,
        len(x),
    )
    assert mode == odd
    np.testing.assert_array_equal(scores, expected)


def test_denormals_count_as_zero_inside_and_live_on_outside():
    tiny = np.float32(1e-39)
    network = CompiledNetwork([Layer(np.ones((2, 1), np.float32), kernel_size=2)])
    assert network.step(np.full((4, 1), tiny)).tolist() == [[0.0]] * 4
    assert tiny * np.float32(0.5) > 0


# The cache of object files


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache folder of its own, as a new process finds it."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_: tmp_path)
    monkeypatch.setattr(compiled, "_loaded", {})
    return tmp_path / "code"


def forget_loaded(monkeypatch):
    monkeypatch.setattr(compiled, "_loaded", {})


def refuse_to_compile(monkeypatch):
    def refuse(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(compiled, "compile_object", refuse)


def score(seed=0):
    rng = np.random.default_rng(seed)
    return CompiledNetwork([make_layer(rng, 1, 3, 5)]).step(np.ones((9, 1), np.float32))


def test_a_second_start_compiles_nothing_also_with_other_weights(empty_cache, monkeypatch):
    expected = score()
    assert len(list(empty_cache.iterdir())) == 1
    forget_loaded(monkeypatch)
    refuse_to_compile(monkeypatch)
    np.testing.assert_array_equal(score(), expected)
    assert (score(seed=1) != expected).any()


def test_another_shape_or_another_version_is_another_object(empty_cache, monkeypatch):
    score()
    CompiledNetwork([make_layer(np.random.default_rng(0), 1, 3, 6)])
    assert len(list(empty_cache.iterdir())) == 2
    forget_loaded(monkeypatch)
    monkeypatch.setattr(compiled.llvmlite, "__version__", "0")
    score()
    assert len(list(empty_cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "bit"])
def test_a_damaged_file_is_ignored_and_replaced(empty_cache, monkeypatch, damage):
    expected = score()
    (path,) = empty_cache.iterdir()
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    path.write_bytes({"cut": good[:-100], "empty": b"", "bit": bytes(bad)}[damage])
    forget_loaded(monkeypatch)
    np.testing.assert_array_equal(score(), expected)
    assert path.read_bytes() == good
    assert list(empty_cache.iterdir()) == [path]


def test_no_cache_folder_is_no_error(tmp_path, empty_cache, monkeypatch):
    (tmp_path / "code").write_text("a file where the folder should be")
    assert np.isfinite(score()).all()


def test_the_folder_is_private_and_one_that_others_may_write_to_is_not_used(
    empty_cache, monkeypatch
):
    score()
    assert stat.S_IMODE(empty_cache.stat().st_mode) == 0o700
    (path,) = empty_cache.iterdir()
    path.unlink()
    empty_cache.chmod(0o777)
    forget_loaded(monkeypatch)
    score()
    assert list(empty_cache.iterdir()) == []


def test_two_processes_may_write_at_once(tmp_path):
    program = (
        "import sys, platformdirs, pathlib\n"
        "platformdirs.user_cache_path = lambda *_: pathlib.Path(sys.argv[1])\n"
        "from tests.test_compiled import score\n"
        "print(score().tobytes().hex())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 4, results
    assert {out.strip() for out, _ in results} == {score().tobytes().hex()}
    assert len(list((tmp_path / "code").iterdir())) == 1


def test_equal_layers_share_their_code():
    rng = np.random.default_rng(0)
    layers = [make_layer(rng, 4, 4, 3, dilation_rate=2**i) for i in range(1, 6)]
    text = str(network_module(Layout(layers, host_target())))
    assert text.count('define internal void @"layer_') == 1
