"""`xplm bench`: how fast a model loads, reads a prompt and writes.

Decoding one sequence reads every weight once a token, so that memory sets the limit:

    bandwidth_share = bytes of weights read a token * decoded tokens a second / bytes a second that memory gives

where the last is measured in the same run, on the same device, by a matrix-vector product too large for any cache.

With --train it is a training step that is measured.
"""

from dataclasses import asdict, replace
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from xplm.backend import Backend, DeviceMemory
from xplm.checkpoint.named import full_name
from xplm.cli.bench_train import STEPS, bench_train
from xplm.cli.flags import ModelFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.peak import peak_json, peak_line
from xplm.cli.products import product_lines, products_json
from xplm.errors import RequestError
from xplm.generate.engine import Engine
from xplm.generate.memory import count_weights, plan_generation
from xplm.language_model import LanguageModel
from xplm.models.decoder import EMBEDDING, param_specs
from xplm.models.miniature import POSITIONS, miniature
from xplm.params import init_params
from xplm.transfers import Transfers, count_transfers
from xplm.weights import weight_bytes

STREAM_SHAPE = (131072, 1024)  # float32: 512 MiB, larger than the last cache of any machine
STREAM_REPEATS = 5
RUNS = 3


class Run(NamedTuple):
    """One prompt read and continued."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@takes_flags
def bench(
    model: ModelFlags,
    output: OutputFlags,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Random ids to read.")] = 256,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode, greedily.")] = 64,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help=f"Runs after a warm-up; if not given, {RUNS}, or {STEPS} steps."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random ids.")] = 0,
    train: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="Measure a training step instead, of a llama or a gpt."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="With --train: as in model.hidden_size=256, batch_size=32, context=256.",
        ),
    ] = None,
) -> None:
    """Measure loading, prefill, decode and memory.

    Speeds are the best of the repeats; --json gives each run. The limit is the memory's: decoding a token reads every
    weight once, and what the memory gives is measured in the same run.

    With --train: the median time of whole training steps of a new model on random ids, by default in the sizes of the
    recipe shakespeare-char.

    Example: xplm bench --prompt-tokens 256 --new-tokens 64 --json
    """
    out = Output(output)
    if train is not None:
        if model != ModelFlags(where=model.where, policy=model.policy):
            raise RequestError("a training step is that of a new model; got --train and a model")
        n_steps = repeats or STEPS
        bench_train(train, settings or [], model, out, n_steps=n_steps, seed=seed)
        return
    if settings:
        raise RequestError("--set changes the model of a training step; give --train too")
    _bench_generation(model, out, prompt_tokens, new_tokens, repeats or RUNS, seed)


def _bench_generation(
    model: ModelFlags, out: Output, prompt_tokens: int, new_tokens: int, n_runs: int, seed: int
) -> None:
    """Load a model, generate, and print the measurements."""
    model.fetch(out)
    started = perf_counter()
    lm = model.load(out)
    lm.rt.backend.synchronize()
    load_seconds = perf_counter() - started

    ids = draw_ids(lm, prompt_tokens, new_tokens, seed)
    plan = plan_generation(
        lm.engine, measure_process(lm), prompt_tokens=prompt_tokens, new_tokens=new_tokens
    )
    run_once(lm.engine, ids, new_tokens)  # warm-up
    runs = [run_once(lm.engine, ids, new_tokens) for _ in range(n_runs)]
    prefill, decode = (max(column) for column in zip(*runs, strict=True))

    peak_memory_bytes = lm.rt.backend.memory().peak  # before the bandwidth takes memory of its own
    bandwidth = measure_bandwidth(lm.rt.backend)
    share = weight_bytes_per_token(lm) * decode / bandwidth
    copies = count_decode(lm.engine, ids)
    with lm.rt.backend.computing():
        rates = lm.rt.backend.blas.rates()

    out.line(
        f"{full_name(model.model)}  stored as {lm.stored_as}  {lm.rt.policy}  "
        f"{lm.rt.backend.name} on {lm.rt.backend.device_name}"
    )
    out.line(f"load     {load_seconds:10.2f} s")
    out.line(f"prefill  {prefill:10.1f} tokens/s   {prompt_tokens} tokens")
    out.line(f"decode   {decode:10.1f} tokens/s   {new_tokens} tokens")
    out.line(f"limit    {share:10.0%} of it        memory gives {bandwidth / 1e9:.1f} GB/s")
    for line in product_lines(rates):
        out.line(f"products  {line}")
    out.line(peak_line(plan, peak_memory_bytes))
    out.line(_copies_line(copies))
    out.result(
        {
            "prefill_tokens_per_s": prefill,
            "decode_tokens_per_s": decode,
            "load_seconds": load_seconds,
            **peak_json(plan, peak_memory_bytes),
            "products": products_json(rates),
            "bandwidth_share": share,
            "bandwidth_bytes_per_s": bandwidth,
            "weight_bytes_per_token": weight_bytes_per_token(lm),
            "transfers_per_token": asdict(copies),
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "runs": [run._asdict() for run in runs],
            **_setup(model, lm),
        }
    )


def _copies_line(copies: Transfers) -> str:
    n_copies = copies.to_device + copies.to_host
    return (
        f"copies   {n_copies:10} a token    {copies.to_device_bytes:,} bytes to the device, "
        f"{copies.to_host_bytes:,} back"
    )


def draw_ids(lm: LanguageModel, prompt_tokens: int, new_tokens: int, seed: int) -> np.ndarray:
    """Random token ids (prompt_tokens,).

    Raises:
        RequestError: with the new tokens they would not fit the model's context.
    """
    if prompt_tokens + new_tokens > lm.engine.context:
        raise RequestError(
            f"prompt and new tokens must fit the model's context of {lm.engine.context}; "
            f"got {prompt_tokens} and {new_tokens}; ask for fewer"
        )
    return np.random.default_rng(seed).integers(0, lm.config.vocab_size, prompt_tokens)


def measure_process(lm: LanguageModel) -> DeviceMemory:
    """What the process holds beside the weights: a miniature has brought in all the code that generation runs."""
    rt, config = lm.rt, miniature(lm.config)
    engine = Engine(rt, config, init_params(rt, param_specs(config), seed=0))
    run_once(engine, np.zeros(POSITIONS - 1, np.int64), new_tokens=1)
    rt.backend.synchronize()
    memory = rt.backend.memory()
    return memory._replace(used=memory.used - count_weights(rt, lm.config))


def run_once(engine: Engine, ids: np.ndarray, new_tokens: int) -> Run:
    """Read a prompt of ids (T,), then decode, each token the likeliest."""
    cache = engine.allocate(1, len(ids) + new_tokens)
    started = perf_counter()
    logits = engine.feed(cache, ids[None, :])
    prefilled = perf_counter()
    for _ in range(new_tokens):
        logits = engine.feed(cache, logits.argmax(axis=-1)[:, None])
    decoded = perf_counter()
    return Run(len(ids) / (prefilled - started), new_tokens / (decoded - prefilled))


def count_decode(engine: Engine, ids: np.ndarray) -> Transfers:
    """Copies between host and device that decoding one token takes, after a prompt of ids (T,)."""
    backend, copies = count_transfers(engine.rt.backend)
    counted = replace(engine, rt=replace(engine.rt, backend=backend))
    cache = counted.allocate(1, len(ids) + 1)
    logits = counted.feed(cache, ids[None, :])
    read = replace(copies)
    counted.feed(cache, logits.argmax(axis=-1)[:, None])
    return copies.since(read)


def measure_bandwidth(backend: Backend, shape: tuple[int, int] = STREAM_SHAPE) -> float:
    """Bytes a second that the device reads from memory: the best of several float32 matrix-vector products.

    Args:
        backend: whose device to measure.
        shape: of the matrix, large enough that no cache holds it.
    """
    xp = backend.xp
    matrix = xp.ones(shape, dtype=xp.float32, device=backend.device)
    vector = xp.ones(shape[1], dtype=xp.float32, device=backend.device)
    seconds = []
    for _ in range(STREAM_REPEATS):
        backend.synchronize()
        started = perf_counter()
        product = xp.matmul(matrix, vector)
        backend.synchronize()  # which may wait for no more than the arrays that are held
        seconds.append(perf_counter() - started)
        del product
    return shape[0] * shape[1] * 4 / min(seconds)


def weight_bytes_per_token(lm: LanguageModel) -> int:
    """Bytes of weights that one decoded token reads: all but an embedding table that is not also the head."""
    is_read = lm.config.tie_word_embeddings
    return sum(
        weight_bytes(weight, lm.rt.host_dtype.param)
        for name, weight in lm.params.items()
        if name != EMBEDDING or is_read
    )


def _setup(model: ModelFlags, lm: LanguageModel) -> dict[str, Any]:
    return {
        "model": full_name(model.model),
        "stored_as": lm.stored_as,
        "device": lm.rt.backend.device_name,
        "backend": lm.rt.backend.name,
        "policy": str(lm.rt.policy),
        "kernels": model.kernels,
    }
