"""What is compiled ahead: when, and that it is what the command needs."""

import subprocess
import sys
from dataclasses import replace

import pytest

import xplm.cli.ahead as ahead
from xplm.backend import load_backend
from xplm.cli.ahead import compile_ahead
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
from xplm.runtime import make_runtime
from xplm_numpy.jit import KernelCache

task, kind, policy = sys.argv[1:]
compile_ahead.TASKS[task](make_runtime(load_backend("numpy"), policy), kind)
missing = []
load = KernelCache.load_overload
def count(self, signature, context):
    missing.append((self._name, signature))
    return load(self, signature, context)
KernelCache.load_overload = count

from tests.tiny import make_config, make_params
if task == "generate":
    rt = make_runtime(load_backend("numpy"), policy)
    changes = {} if kind == "llama" else {
        "model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 24
    }
    config = make_config(**changes)
    engine = Engine(rt, config, make_params(rt, config))
    cache = engine.allocate(1, 40)
    for ids in (np.zeros((1, 30), np.int64), [[1]], [[2]]):
        engine.feed(cache, np.asarray(ids))
else:
    bench_train(kind, [], ModelFlags(policy=policy), Output(OutputFlags()), n_steps=1, seed=3)
print(*missing, sep="\\n")
"""


def test_it_starts_when_something_is_to_be_compiled_and_not_before(monkeypatch):
    calls, commands, at_exit = [], [], []

    class Process:
        def __init__(self, command, **options):
            commands.append((command, options["env"]["NUMBA_NUM_THREADS"]))

        def kill(self):
            commands.append("killed")

    monkeypatch.setattr(ahead, "_start", START)
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr("atexit.register", at_exit.append)
    backend = replace(load_backend("numpy"), before_compiling=calls.append)
    compile_ahead(make_runtime(backend, "bf16,softmax=fp32"), "generate", "llama")
    assert commands == []

    (call,) = calls
    call()
    program = [sys.executable, "-m", "xplm.cli.compile_ahead", "generate", "llama", "bf16"]
    assert commands == [(program, "1")]
    (leave,) = at_exit
    leave()
    assert commands[1:] == ["killed"]


@pytest.mark.parametrize(
    ("task", "kind", "policy"),
    [
        ("generate", "llama", "fp32"),
        ("generate", "llama", "bf16"),
        ("generate", "gpt2", "fp32"),
        ("train", "llama", "fp32"),
        ("train", "gpt", "fp32"),
    ],
)
def test_the_command_has_nothing_left_to_compile(task, kind, policy):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, task, kind, policy], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "", done.stdout
