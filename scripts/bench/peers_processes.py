"""What bench_peers.py measures of whole processes: the first token, and compiling the kernels."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.peers_measure import Bench, Measure
from bench.processes import run_to_end
from bench.turns import Figures, take_turns

COMPILATIONS = 2
"""Turns of the part compile, at most: each takes as long as compiling does."""

XPLM_WEIGHTS = {
    "xplm, as pulled": ("model", "fp32"),
    "xplm fp32": ("f32", "fp32"),
    "xplm bf16": ("bf16", "bf16"),
}
"""File and policy."""

LLAMA_CPP = {"llama.cpp F32": "f32", "llama.cpp BF16": "bf16"}
"""File."""

LLAMA_CPP_SCRIPT = str(Path(__file__).with_name("llama_cpp_first_token.py"))
IMPORT = "from time import perf_counter as t; s = t(); import xplm; print(t() - s)"
TRAIN = ("-m", "xplm", "bench", "--train", "llama", "--repeats", "1", "--quiet", "--json")
COMPILED = (("f32", "fp32"), ("bf16", "bf16"), ("f16", "fp16"))
"""File and policy."""

NOT_COMPILED, COMPILED_BEFORE = "kernels not compiled", "kernels compiled before"


def measure_processes(bench: Bench) -> None:
    """Whole processes up to the first token, and the import."""
    measures: dict[str, Measure] = {
        name: partial(run_command, bench, generate(bench, *XPLM_WEIGHTS[name]))
        for name in XPLM_WEIGHTS
    }
    measures |= {name: partial(run_llama_cpp, bench, name) for name in LLAMA_CPP}
    measures["import xplm"] = partial(import_xplm, bench)
    take_turns(bench.log, "process", measures, bench.n_turns)


def measure_compilation(bench: Bench) -> None:
    """Generation in every format and a training step, with no kernel compiled before, and with all of them."""
    commands = [generate(bench, *how, new_tokens=2) for how in COMPILED]  # a second is decoded
    commands.append([*TRAIN, "--threads", str(bench.threads)])
    measures: dict[str, Measure] = {
        NOT_COMPILED: partial(run_uncompiled, bench, commands),
        COMPILED_BEFORE: partial(run_all, bench, commands),
    }
    n_turns = min(bench.n_turns, COMPILATIONS)
    take_turns(bench.log, "compile", measures, n_turns, warm_up=False)


def generate(bench: Bench, weights: str, policy: str, new_tokens: int = 1) -> list[str]:
    """`xplm generate` up to its first token, or a later one."""
    flags = ["--model", bench.paths[weights], "--policy", policy]
    flags += ["--max-new-tokens", str(new_tokens)]
    flags += ["--threads", str(bench.threads), "--quiet"]
    return ["-m", "xplm", "generate", *flags, "--prompt", bench.text["excerpt"]]


def run_command(bench: Bench, command: Sequence[str], turn: int) -> Figures:
    """One process."""
    done = run_to_end(command, bench.threads)
    return {"process_s": done.seconds, "peak_bytes": done.peak_bytes}


def run_all(
    bench: Bench, commands: Sequence[Sequence[str]], turn: int, **variables: str
) -> Figures:
    """Several processes, one after the other."""
    runs = [run_to_end(command, bench.threads, **variables) for command in commands]
    return {"process_s": sum(done.seconds for done in runs)}


def run_uncompiled(bench: Bench, commands: Sequence[Sequence[str]], turn: int) -> Figures:
    """The same, where numba keeps what it has compiled and there is nothing yet."""
    with tempfile.TemporaryDirectory() as empty:
        return run_all(bench, commands, turn, NUMBA_CACHE_DIR=empty)


def run_llama_cpp(bench: Bench, name: str, turn: int) -> Figures:
    """Its process, from start to the first token of the same prompt."""
    command = [LLAMA_CPP_SCRIPT, bench.paths[LLAMA_CPP[name]], str(bench.threads)]
    return run_command(bench, [*command, bench.text["excerpt"]], turn)


def import_xplm(bench: Bench, turn: int) -> Figures:
    """The import alone, as the process itself clocks it."""
    return {"process_s": float(run_to_end(["-c", IMPORT], bench.threads).output)}
