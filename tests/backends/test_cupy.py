"""CuPy: what can be shown without a GPU, and what needs one."""

import inspect
import sys
import types
from collections import defaultdict
from dataclasses import replace
from typing import Any

import array_api_compat.numpy
import numpy as np
import pytest

from tests.backends.missing import without
from tests.tiny import draw_ids, make_config, make_params
from xplm.backend import load_backend
from xplm.cache import KVCache
from xplm.errors import BackendError
from xplm.formats import FORMATS, round_to
from xplm.kernels import PORTABLE
from xplm.models import decoder
from xplm.runtime import make_runtime

UFUNC_KEYWORDS = {"out", "dtype", "casting", "where", "order", "subok"}
"""What a CuPy ufunc takes by keyword: it has no signature to ask."""


class Recorder(types.ModuleType):
    """NumPy's namespace, which notes how each function is called."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.calls: dict[str, list[tuple[int, frozenset[str]]]] = defaultdict(list)
        self.constants: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(array_api_compat.numpy, name)
        if isinstance(value, type) or not callable(value):
            self.constants.add(name)
            return value

        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.calls[name].append((len(args), frozenset(kwargs)))
            return value(*args, **kwargs)

        return recorded


def patch_namespace(monkeypatch, recorder):
    """Make every module of xplm that infers its namespace infer the recorder."""
    patched = 0
    for name, module in list(sys.modules.items()):
        if name.startswith("xplm") and hasattr(module, "array_namespace"):
            monkeypatch.setattr(module, "array_namespace", lambda *_: recorder)
            patched += 1
    assert patched >= len({kernel.__module__ for kernel in PORTABLE.values()})


def use_everything(rt):
    """Every kernel, a forward pass of each kind of model, the cache and all it can do, and a step of decoding."""
    for changes in (
        {},
        {"model_type": "mistral", "sliding_window": 3},
        {"model_type": "qwen2", "tie_word_embeddings": True},
    ):
        config = make_config(**changes)
        params = make_params(rt, config)
        ids = rt.backend.from_host(draw_ids(0, 2, 6))
        cache = KVCache.allocate(rt, config, batch=2, capacity=6)
        decoder.forward(rt, config, params, ids, cache, counts=(6, 4), last_only=True)
        cache.grow(8)
        cache = cache.fork().select([1, 0, 1])
        cache.rollback(5)
        step = rt.backend.from_host(draw_ids(1, 3, 1))
        decoder.forward(rt, config, params, step, cache, last_only=True)
        decoder.forward(rt, config, params, ids)
    x = rt.backend.from_host(np.ones((2, 4), np.float32))
    rt.ops.layer_norm_fwd(x, x[0], x[0], eps=1e-5)
    rt.ops.gelu_fwd(x)
    rt.ops.softmax_fwd(x)
    for format in FORMATS.values():
        round_to(x, format)
        round_to(x, format, coin=x)


def accepts(function, positional, keywords):
    """Whether a CuPy function can be called so."""
    if hasattr(function, "nin"):
        return positional <= function.nin and keywords <= UFUNC_KEYWORDS
    try:
        inspect.signature(function).bind(*[None] * positional, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


@pytest.fixture
def cupy_namespace():
    return pytest.importorskip(
        "array_api_compat.cupy", reason="needs CuPy (no GPU): pip install cupy-cuda13x"
    )


def test_cupy_has_all_that_a_forward_pass_calls(monkeypatch, cupy_namespace):
    recorder = Recorder()
    rt = make_runtime(replace(load_backend("numpy"), xp=recorder, kernels={}), "bf16,loss=fp32")
    patch_namespace(monkeypatch, recorder)
    use_everything(rt)

    assert {"astype", "concat", "exp", "matrix_transpose", "mean", "take", "where"} <= set(
        recorder.calls
    )
    missing = [n for n in {*recorder.calls, *recorder.constants} if not hasattr(cupy_namespace, n)]
    assert missing == []
    refused = [
        f"{name} with {positional} positional arguments and {sorted(keywords)}"
        for name, calls in recorder.calls.items()
        for positional, keywords in set(calls)
        if not accepts(getattr(cupy_namespace, name), positional, keywords)
    ]
    assert refused == []


def test_the_check_above_can_fail(cupy_namespace):
    assert accepts(cupy_namespace.exp, 1, frozenset())
    assert not accepts(cupy_namespace.exp, 1, frozenset({"axis"}))
    assert not accepts(cupy_namespace.take, 1, frozenset({"axis"}))
    assert not accepts(cupy_namespace.sum, 1, frozenset({"axes"}))


def error_of(device="cuda", name=None):
    with pytest.raises(BackendError) as error:
        load_backend(name, device)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [None, "cupy"])
def test_missing_cupy_is_said_with_the_command_that_installs_it(monkeypatch, name):
    without(monkeypatch, "cupy")
    message = error_of(name=name)
    assert "needs CuPy, which is missing" in message
    assert 'pip install "cupy-cuda13x[ctk]"' in message


class FakeRuntime:
    """cupy.cuda.runtime of a machine whose driver answers as told."""

    class CUDARuntimeError(RuntimeError):
        pass

    def __init__(self, gpus: int | None) -> None:
        self.gpus = gpus

    def getDeviceCount(self) -> int:
        if self.gpus is None:
            raise self.CUDARuntimeError("cudaErrorInsufficientDriver: driver\nis too old")
        return self.gpus


def pretend_gpus(monkeypatch, gpus):
    fake = types.ModuleType("cupy")
    fake.cuda = types.SimpleNamespace(runtime=FakeRuntime(gpus))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", fake)
    compat = types.ModuleType("array_api_compat.cupy")
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", compat)
    monkeypatch.setattr(array_api_compat, "cupy", compat, raising=False)


def test_missing_driver_is_said_with_what_to_run(monkeypatch):
    pretend_gpus(monkeypatch, None)
    message = error_of()
    assert "needs an NVIDIA GPU" in message
    assert "cudaErrorInsufficientDriver" in message
    assert "nvidia-smi" in message


def test_missing_gpu_is_said(monkeypatch):
    pretend_gpus(monkeypatch, 0)
    assert "needs an NVIDIA GPU" in error_of()


def test_a_gpu_number_that_is_not_there_is_said(monkeypatch):
    pretend_gpus(monkeypatch, 2)
    assert "GPUs are numbered 0 to 1" in error_of("cuda:2")


def test_a_gpu_number_of_any_length_is_said_to_be_missing(monkeypatch):
    pretend_gpus(monkeypatch, 2)
    for digits in ("1" * 5000, "0" * 5000 + "2"):
        message = error_of(f"cuda:{digits}")
        assert "GPUs are numbered 0 to 1" in message
        assert len(message) < 200


def test_cupy_is_not_on_the_cpu():
    assert "got --device cpu" in error_of("cpu", "cupy")


@pytest.mark.cuda
@pytest.mark.parametrize("policy", ["fp32", "fp16", "bf16"])
def test_forward_pass_on_a_gpu_equals_numpys(policy):
    try:
        gpu = load_backend("cupy", "cuda")
    except BackendError as error:
        pytest.skip(str(error))
    config = make_config()
    logits = []
    for backend in (load_backend("numpy"), gpu):
        rt = make_runtime(backend, policy)
        params = make_params(rt, config)
        y = decoder.forward(rt, config, params, backend.from_host(draw_ids(0, 2, 6)))
        logits.append(backend.to_host(y))
    # Two layers of a dozen roundings each, every one at most u of a value that is at most a few times the largest.
    u = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}[policy]
    assert np.abs(logits[0] - logits[1]).max() <= 64 * u * np.abs(logits[0]).max()
