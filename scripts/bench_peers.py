"""How fast xplm is beside its peers: SmolLM2-135M in float32, on the CPU, in one run.

    pip install ".[peers]"
    python scripts/bench_peers.py [--threads 2] [--cycles 5] [--json FILE]

Every system runs in a process of its own, on the same weights: the model's GGUF file is dequantised to a float32 one
for llama.cpp, by the arithmetic that xplm loads it with. No speed counts until all systems have given the same greedy
tokens. Then they take turns, A B C C B A, so that a machine that slows down slows all of them; the medians are printed,
and the ratio of each to the reference's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import gguf
import numpy as np

import xplm
from xplm.checkpoint.pull import pull

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a village by the sea,",
    "水の化学式は",
)
GREEDY_TOKENS = 48
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
MACHINE_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # BLAS is to choose its own kernel


class Speeds(NamedTuple):
    """One prompt read and continued."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float


class Peer(Protocol):
    """A system under measurement, in its own process."""

    description: str  # of what computes, for the record

    def feed(self, ids: list[int]) -> int:
        """Read ids that follow those before; return the likeliest next one."""

    def reset(self) -> None:
        """Forget every id."""


class XplmPeer:
    """xplm itself."""

    def __init__(self, model: str, threads: int, context: int, kernels: str) -> None:
        """Load the model; threads are the environment's."""
        from threadpoolctl import threadpool_info

        self._lm = xplm.load(model, kernels=kernels)
        self._context = context
        blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        names = [
            f"{b['internal_api']} {b['version']}, {b.get('architecture', 'kernel not named')}, "
            f"{b['num_threads']} threads"
            for b in blas
        ]
        self.description = "; ".join(names) or "no BLAS that threadpoolctl knows"
        self.reset()

    def feed(self, ids: list[int]) -> int:
        """Read ids."""
        return int(self._lm.engine.feed(self._cache, np.asarray([ids]))[0].argmax())

    def reset(self) -> None:
        """A new cache."""
        self._cache = self._lm.engine.allocate(1, self._context)


class LlamaCppPeer:
    """llama.cpp, through llama-cpp-python."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        """Load the model."""
        import llama_cpp

        self._library = llama_cpp
        self._llama = llama_cpp.Llama(
            model, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        system = llama_cpp.llama_print_system_info().decode().strip()
        self.description = f"llama-cpp-python {llama_cpp.__version__}; {system}"

    def feed(self, ids: list[int]) -> int:
        """Read ids."""
        self._llama.eval(ids)
        logits = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        return int(np.ctypeslib.as_array(logits, (self._llama.n_vocab(),)).argmax())

    def reset(self) -> None:
        """Forget."""
        self._llama.reset()


@dataclass(frozen=True)
class System:
    """A row of the table."""

    name: str
    peer: str  # key of PEERS
    weights: str  # "gguf": the model as it came; "f32": the float32 file
    options: dict[str, Any]


PEERS = {"xplm": XplmPeer, "llama.cpp": LlamaCppPeer}
SYSTEMS = (
    System("xplm, portable kernels", "xplm", "gguf", {"kernels": "portable"}),
    System("xplm, fused kernels", "xplm", "gguf", {"kernels": "fused"}),
    System("llama.cpp F32", "llama.cpp", "f32", {}),
)
REFERENCE = "llama.cpp F32"


def write_f32(source: Path, target: Path) -> None:
    """A GGUF file with the metadata of another and its tensors dequantised to float32."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    skipped = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if not name.startswith(skipped):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(system: System, model: str, threads: int, context: int) -> None:
    """Inside a system's process: answer requests, a line of JSON each, from stdin on stdout."""
    peer: Peer = PEERS[system.peer](model, threads, context, **system.options)
    print(json.dumps(peer.description), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        peer.reset()
        started = perf_counter()
        ids = [peer.feed(request["ids"])]
        prefilled = perf_counter()
        for _ in range(request["new_tokens"]):
            ids.append(peer.feed(ids[-1:]))
        decoded = perf_counter()
        speeds = Speeds(
            len(request["ids"]) / (prefilled - started),
            request["new_tokens"] / (decoded - prefilled),
        )
        print(json.dumps({"ids": ids, "speeds": speeds}), flush=True)


class Worker:
    """A system's process, as the measuring process sees it."""

    def __init__(self, index: int, model: str, threads: int, context: int) -> None:
        """Start it, and wait until its model is loaded."""
        environment = {k: v for k, v in os.environ.items() if k not in MACHINE_VARIABLES}
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        arguments = ["--serve", str(index), "--threads", str(threads)]
        arguments += ["--model", model, "--context", str(context)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.description = self._read()

    def run(self, ids: list[int], new_tokens: int) -> tuple[list[int], Speeds]:
        """Read ids and decode: the new ids, and how fast it was."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"ids": ids, "new_tokens": new_tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        return answer["ids"], Speeds(*answer["speeds"])

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"error: a system ended with exit code {self._process.wait()}; see above")
        return json.loads(line)


def require_equal_tokens(workers: list[Worker], prompts: list[list[int]]) -> None:
    """Exit with code 1 unless every system gives the same greedy tokens."""
    for prompt in prompts:
        answers = [worker.run(prompt, GREEDY_TOKENS)[0] for worker in workers]
        for system, answer in zip(SYSTEMS, answers, strict=True):
            if answer != answers[0]:
                first = next(
                    i for i, (a, b) in enumerate(zip(answer, answers[0], strict=True)) if a != b
                )
                print(
                    f"error: {system.name} differs from {SYSTEMS[0].name} at greedy token {first} "
                    f"of the prompt {prompt}",
                    file=sys.stderr,
                )
                sys.exit(1)


def report(runs: list[list[Speeds]]) -> list[dict[str, Any]]:
    """Print the table of medians; return its rows."""
    rows = []
    for system, speeds in zip(SYSTEMS, runs, strict=True):
        prefill, decode = (statistics.median(column) for column in zip(*speeds, strict=True))
        rows.append({"system": system.name, "prefill": prefill, "decode": decode})
    reference = next(row for row in rows if row["system"] == REFERENCE)

    print("| system | prefill tokens/s | decode tokens/s | decode / llama.cpp F32 |")
    print("|---|---|---|---|")
    for row in rows:
        row["decode_ratio"] = row["decode"] / reference["decode"]
        print(
            f"| {row['system']} | {row['prefill']:.0f} | {row['decode']:.1f} "
            f"| {row['decode_ratio']:.2f} |"
        )
    return rows


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name or a .gguf file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cycles", type=int, default=5, help="of A B C C B A")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the random prompt")
    parser.add_argument("--json", type=Path, help="write every run here")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    threads = arguments.threads
    if arguments.serve is not None:
        serve(SYSTEMS[arguments.serve], arguments.model, threads, arguments.context)
        return

    named = os.environ.get("XPLM_HOME")
    source = pull(arguments.model, home=Path(named) if named else None)
    context = arguments.prompt_tokens + arguments.new_tokens + GREEDY_TOKENS
    lm = xplm.load(source)
    prompts = [lm.tokenizer.encode(text) for text in PROMPTS]
    rng = np.random.default_rng(arguments.seed)
    ids = rng.integers(0, lm.config.vocab_size, arguments.prompt_tokens).tolist()
    del lm

    with tempfile.TemporaryDirectory() as directory:
        f32 = Path(directory) / "f32.gguf"
        write_f32(source, f32)
        paths = {"gguf": source, "f32": f32}
        workers = [
            Worker(index, str(paths[system.weights]), threads, context)
            for index, system in enumerate(SYSTEMS)
        ]
        for system, worker in zip(SYSTEMS, workers, strict=True):
            print(f"{system.name}: {worker.description}")
        require_equal_tokens(workers, prompts)
        print(f"greedy tokens: equal on {len(PROMPTS)} prompts of {GREEDY_TOKENS}\n")

        runs: list[list[Speeds]] = [[] for _ in SYSTEMS]
        for worker in workers:  # warm-up
            worker.run(ids, arguments.new_tokens)
        order = [*range(len(SYSTEMS)), *reversed(range(len(SYSTEMS)))]
        for index in order * arguments.cycles:
            runs[index].append(workers[index].run(ids, arguments.new_tokens)[1])
        for worker in workers:
            worker.stop()

    rows = report(runs)
    if arguments.json:
        settings = {
            k: v for k, v in vars(arguments).items() if k not in ("json", "serve", "context")
        }
        for row, speeds, worker in zip(rows, runs, workers, strict=True):
            row |= {"computes_with": worker.description, "runs": [s._asdict() for s in speeds]}
        arguments.json.write_text(json.dumps({"settings": settings, "systems": rows}, indent=2))


if __name__ == "__main__":
    main()
