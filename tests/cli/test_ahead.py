"""What is compiled ahead: when, and that it is what the command needs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest

import xplm.cli.ahead as ahead
from xplm.backend import load_backend
from xplm.cli.ahead import compile_ahead, start_early
from xplm.cli.flags import ModelFlags
from xplm.cli.output import Output, OutputFlags
from xplm.compiler import Compiler
from xplm.generate.engine import Engine
from xplm.models.decoder import param_specs
from xplm.numerics.tiny_models import tiny_config
from xplm.params import init_params
from xplm.runtime import make_runtime

START = ahead._start  # before the tests' conftest replaces it

PROGRAM = """
import sys
import numpy as np
from xplm.backend import load_backend
from xplm.cli import compile_ahead
from xplm.cli.bench_train import bench_train
from xplm.cli.flags import ModelFlags
from xplm.cli.output import Output, OutputFlags
from xplm.generate.engine import Engine
from xplm.models.decoder import param_specs
from xplm.numerics.tiny_models import tiny_config
from xplm.params import init_params
from xplm.runtime import make_runtime
from xplm_numpy.numba_insides import KernelCache

task, kind, policy = sys.argv[1:]
compile_ahead.TASKS[task](make_runtime(load_backend("numpy"), policy), kind)
missing = []
load = KernelCache.load_overload
def count(self, signature, context):
    found = load(self, signature, context)
    if found is None:
        missing.append((self._function.__qualname__, signature))
    return found
KernelCache.load_overload = count

if task == "generate":
    rt = make_runtime(load_backend("numpy"), policy)
    config = tiny_config({"model_type": kind, "max_position_embeddings": 64})
    engine = Engine(rt, config, init_params(rt, param_specs(config), seed=1))
    cache = engine.allocate(1, 40)
    for ids in (np.zeros((1, 30), np.int64), [[1]], [[2]]):
        engine.feed(cache, np.asarray(ids))
else:
    bench_train(kind, [], ModelFlags(policy=policy), Output(OutputFlags()), n_steps=1, seed=3)
print(*missing, sep="\\n")
"""


@pytest.fixture
def call(monkeypatch):
    """What a backend calls before it compiles."""
    monkeypatch.setattr(ahead, "_start", START)
    calls = []
    backend = replace(load_backend("numpy"), compiler=Compiler(before_compiling=calls.append))
    compile_ahead(make_runtime(backend, "bf16,softmax=fp32"), "generate", "llama")
    return calls.pop()


def test_it_runs_the_program_until_the_command_is_over(monkeypatch, call):
    commands, ended, reaped = [], Event(), Event()

    class Process:
        def __init__(self, command, **options):
            commands.append((command, options["env"]["NUMBA_NUM_THREADS"]))
            self.stdin = SimpleNamespace(close=ended.set)

        def wait(self):
            assert ended.wait(timeout=10)
            reaped.set()

    monkeypatch.setattr(subprocess, "Popen", Process)
    call()
    program = [sys.executable, "-P", "-m", "xplm.cli.compile_ahead"]
    program += ["generate", "llama", "bf16", "numpy", "cpu"]
    assert commands == [(program, "1")]
    ahead.stop_compiling_ahead()
    assert reaped.wait(timeout=10)
    assert commands == [(program, "1")]


def test_it_does_not_start_once_the_command_is_over(monkeypatch, call):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    ahead.stop_compiling_ahead()
    call()


@pytest.mark.parametrize(("cpus", "n_calls"), [(1, 0), (2, 1)])
def test_one_cpu_has_no_second_process(monkeypatch, cpus, n_calls):
    monkeypatch.setattr(ahead, "count_cpus", lambda: cpus)
    calls = []
    backend = replace(load_backend("numpy"), compiler=Compiler(before_compiling=calls.append))
    compile_ahead(make_runtime(backend, "fp32"), "generate", "llama")
    ahead.stop_compiling_ahead()
    assert len(calls) == n_calls


def test_a_command_goes_on_alone_where_no_second_process_can_start(monkeypatch, caplog, call):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    call()
    assert "no second can be started" in caplog.text


@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16,loss=fp16", "fp8"])
def test_what_starts_it_early_is_what_makes_logits(policy):
    dtypes = []
    rt = make_runtime(load_backend("numpy"), policy)

    def linear_fwd(x, weight, bias=None):
        dtypes.append((x.dtype, weight.dtype))
        return linear(x, weight, bias)

    linear = rt.ops.linear_fwd
    rt = replace(rt, kernels={**rt.kernels, "linear_fwd": linear_fwd})
    start_early(rt)
    (early,) = dtypes
    config = tiny_config({"model_type": "llama"})
    engine = Engine(rt, config, init_params(rt, param_specs(config), seed=1))
    engine.feed(engine.allocate(1, 4), np.array([[1, 2, 3]]))
    assert dtypes[-1] == early


@pytest.mark.parametrize(
    ("flags", "decodes", "expected"),
    [
        ({}, True, ["helper", "kernel", "weights"]),
        ({}, False, ["weights"]),
        ({"adapter": Path("adapter")}, True, ["weights"]),
    ],
)
def test_it_starts_before_weights_are_read(monkeypatch, tmp_path, flags, decodes, expected):
    done = []

    def note(name, result=None):
        return lambda *_, **__: done.append(name) or result

    checkpoint = SimpleNamespace(config=SimpleNamespace(model_type="llama"))
    monkeypatch.setattr("xplm.cli.flags.open_checkpoint", lambda path: checkpoint)
    monkeypatch.setattr("xplm.cli.flags.compile_ahead", note("helper"))
    monkeypatch.setattr("xplm.cli.flags.start_early", note("kernel"))
    monkeypatch.setattr("xplm.cli.flags.load_checkpoint", note("weights", "a model"))
    model = ModelFlags(model=str(tmp_path), **flags)
    assert model.load(Output(OutputFlags()), decodes=decodes) == "a model"
    assert done == expected


def test_it_ends_with_its_stdin():
    program = [sys.executable, "-P", "-m", "xplm.cli.compile_ahead"]
    program += ["train", "llama", "fp32", "numpy", "cpu"]
    process = subprocess.Popen(program, stdin=subprocess.PIPE)
    process.stdin.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("task", "kind", "policy"),
    [
        ("generate", "llama", "fp32"),
        ("train", "llama", "fp32"),
        *(
            pytest.param(*of_another, marks=pytest.mark.nightly)
            for of_another in (
                ("generate", "llama", "bf16"),
                ("generate", "gpt2", "fp32"),
                ("train", "gpt", "fp32"),
            )
        ),
    ],
)
def test_the_command_has_nothing_left_to_compile(task, kind, policy):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, task, kind, policy], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "", done.stdout
