"""The systems that generate, each in a process of its own: what they are called, and how they read and write.

Every one reads its weights from a GGUF file of its own format, and is otherwise left at its defaults. By default
llama.cpp keeps its cache in float16; xplm and transformers keep theirs in the format of the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np

from bench.blas import describe_blas
from bench.gate import ROUNDOFF, Choices, Reference
from xplm.backend import Backend


class System(NamedTuple):
    """A system, and how it stores weights."""

    name: str
    kind: str  # of KINDS
    weights: str  # of bench.weights.FORMATS
    roundoff: float  # of the narrowest format that operands or the cache are rounded to
    kernels: str = "fused"  # of xplm
    blas: str | None = None  # of xplm; None: its own choice


SYSTEMS = {
    system.name: system
    for system in (
        System("xplm fp32", "xplm", "f32", ROUNDOFF["float32"]),
        System("xplm fp32 portable", "xplm", "f32", ROUNDOFF["float32"], "portable"),
        System("xplm bf16", "xplm", "bf16", ROUNDOFF["bfloat16"]),
        System("xplm fp16", "xplm", "f16", ROUNDOFF["float16"]),
        System("xplm fp32 openblas", "xplm", "f32", ROUNDOFF["float32"], blas="openblas"),
        System("xplm bf16 openblas", "xplm", "bf16", ROUNDOFF["bfloat16"], blas="openblas"),
        System("llama.cpp F32", "llama.cpp", "f32", ROUNDOFF["float16"]),
        System("llama.cpp BF16", "llama.cpp", "bf16", ROUNDOFF["bfloat16"]),
        System("llama.cpp F16", "llama.cpp", "f16", ROUNDOFF["float16"]),
        System("transformers float32", "transformers", "f32", ROUNDOFF["float32"]),
        System("transformers bfloat16", "transformers", "bf16", ROUNDOFF["bfloat16"]),
    )
}
REFERENCE = "transformers float32"
"""Whose greedy tokens the others must give."""

POLICIES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class Peer(Protocol):
    """A model, and the sequences that it has read."""

    description: str  # of what computes

    def start(self, rows: int) -> None:
        """Forget every sequence; the next are so many."""

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """Read ids (B, T) that follow those before.   ->  logits (B, V) after the last, float32"""

    def rollback(self, length: int) -> None:
        """Forget what follows the first `length` ids."""


class XplmPeer:
    """xplm itself."""

    def __init__(self, system: System, path: str, threads: int, context: int) -> None:
        """Load the model; threads are the environment's."""
        import xplm
        from xplm.cli.process import tune_process

        tune_process()
        policy = POLICIES[system.weights]
        self._lm = xplm.load(path, policy=policy, kernels=system.kernels, blas=system.blas)
        self._context = context
        self._cache = self._lm.engine.allocate(1, context)
        self.description = f"xplm, {system.kernels} kernels; {_products(self._lm.rt.backend)}"

    def start(self, rows: int) -> None:
        """A new cache, unless there is one."""
        if self._cache.batch != rows:
            self._cache = self._lm.engine.allocate(rows, self._context)
        self._cache.rollback(0)

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """Read ids."""
        return self._lm.engine.feed(self._cache, ids)

    def rollback(self, length: int) -> None:
        """Shorten the cache."""
        self._cache.rollback(length)


def _products(backend: Backend) -> str:
    """What multiplies matrices."""
    with backend.computing():
        chosen = [rate for rate in backend.blas.rates() if rate.is_chosen]
    return ", ".join(f"{rate.dtype} by {rate.library}" for rate in chosen) or describe_blas()


class LlamaCppPeer:
    """llama.cpp, through the C interface that llama-cpp-python wraps."""

    def __init__(self, system: System, path: str, threads: int, context: int) -> None:
        """Load the model."""
        import llama_cpp

        self._library = llama_cpp
        self._llama = llama_cpp.Llama(
            path, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self._vocab_size = self._llama.n_vocab()
        info = llama_cpp.llama_print_system_info().decode().strip()
        self.description = f"llama-cpp-python {llama_cpp.__version__}; {info}"

    def start(self, rows: int) -> None:
        """Forget."""
        assert rows == 1, "llama.cpp is measured with one sequence"
        self.rollback(0)

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """Read ids."""
        self._llama.eval(ids[0].tolist())
        logits = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        return np.ctypeslib.as_array(logits, (1, self._vocab_size)).copy()

    def rollback(self, length: int) -> None:
        """Count fewer tokens; the next evaluation drops the rest."""
        self._llama.n_tokens = length


class TransformersPeer:
    """transformers on torch."""

    def __init__(self, system: System, path: str, threads: int, context: int) -> None:
        """Load the model."""
        from pathlib import Path

        import torch
        import transformers

        from bench.torch_model import make_torch_model
        from xplm.checkpoint.opening import open_checkpoint
        from xplm.models.decoder import param_specs

        torch.set_num_threads(threads)
        self._torch, self._transformers = torch, transformers
        checkpoint = open_checkpoint(Path(path))
        float32 = np.dtype(np.float32)
        params = {n: checkpoint.read(n, float32) for n in param_specs(checkpoint.config)}
        model = make_torch_model(checkpoint.config, params)
        self._model = model.to(torch.bfloat16 if system.weights == "bf16" else torch.float32)
        self.description = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def start(self, rows: int) -> None:
        """A new cache."""
        self._cache = self._transformers.DynamicCache(config=self._model.config)

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """Read ids."""
        with self._torch.inference_mode():
            out = self._model(
                self._torch.tensor(ids), past_key_values=self._cache, logits_to_keep=1
            )
        return out.logits[:, -1].float().numpy()

    def rollback(self, length: int) -> None:
        """Shorten the cache."""
        excess = self._cache.get_seq_length() - length
        if excess:
            self._cache.crop(-excess)


KINDS: dict[str, Callable[[System, str, int, int], Peer]] = {
    "xplm": XplmPeer,
    "llama.cpp": LlamaCppPeer,
    "transformers": TransformersPeer,
}


@dataclass
class Player:
    """A peer that answers requests: {"task": a method's name, and its arguments}."""

    peer: Peer
    read: np.ndarray | None = None  # (B, T) the ids that the peer has read and may keep

    def __call__(self, request: dict[str, Any]) -> Any:
        """Do one."""
        return getattr(self, request.pop("task"))(**request)

    def greedy(self, prompt: list[int], new_tokens: int) -> Reference:
        """Continue a prompt."""
        ids, runners_up, margins, deviation = [], [], [], 0.0
        logits = self._begin([prompt])[0]
        for _ in range(new_tokens):
            second, first = np.argsort(logits)[-2:]
            ids.append(int(first))
            runners_up.append(int(second))
            margins.append(float(logits[first] - logits[second]))
            deviation = max(deviation, float(logits.std()))
            logits = self.peer.feed(np.asarray([[first]]))[0]
        return Reference(prompt, ids, runners_up, margins, deviation)

    def follow(self, reference: list[Any]) -> Choices:
        """Read a reference's tokens, and say at each what would have been chosen."""
        prompt, expected, runners_up, _, _ = Reference(*reference)
        ids, margins = [], []
        logits = self._begin([prompt])[0]
        for first, second in zip(expected, runners_up, strict=True):
            ids.append(int(logits.argmax()))
            margins.append(float(logits[first] - logits[second]))
            logits = self.peer.feed(np.asarray([[first]]))[0]
        return Choices(ids, margins)

    def time(self, prompt: list[list[int]], new_tokens: int) -> dict[str, float]:
        """Read prompts of one length, and decode greedily: seconds of both."""
        started = perf_counter()
        logits = self._begin(prompt)
        prefilled = perf_counter()
        self._decode(logits, new_tokens)
        return {"prefill_s": prefilled - started, "decode_s": perf_counter() - prefilled}

    def time_after(self, prompt: list[list[int]], new_tokens: int) -> dict[str, float]:
        """Decode after a prompt, which is read only if it was not the last one read."""
        ids = np.asarray(prompt)
        if self.read is None or not np.array_equal(self.read, ids):
            self._begin(prompt)
        self.peer.rollback(ids.shape[1] - 1)
        logits = self.peer.feed(ids[:, -1:])
        started = perf_counter()
        self._decode(logits, new_tokens)
        self.read = ids
        return {"decode_s": perf_counter() - started}

    def _begin(self, prompt: list[list[int]]) -> np.ndarray:
        self.read = None
        ids = np.asarray(prompt)
        self.peer.start(len(ids))
        return self.peer.feed(ids)

    def _decode(self, logits: np.ndarray, new_tokens: int) -> None:
        for _ in range(new_tokens):
            logits = self.peer.feed(logits.argmax(axis=-1)[:, None])


def make_player(options: dict[str, Any]) -> tuple[str, Player]:
    """Load a system."""
    system = SYSTEMS[options["name"]]
    peer = KINDS[system.kind](system, options["path"], options["threads"], options["context"])
    return peer.description, Player(peer)
