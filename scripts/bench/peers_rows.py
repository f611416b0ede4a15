"""What the turns of bench_peers.py come to: speeds, and figures beside their thresholds."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from xplm_numpy.choice import features
from xplm_numpy.libraries import mkl_file

from bench.peers import SYSTEMS
from bench.peers_measure import BATCH, CONTEXTS, LIMITS, LONG, PROMPTS
from bench.peers_processes import COMPILED_BEFORE, LLAMA_CPP, NOT_COMPILED, XPLM_WEIGHTS
from bench.turns import Spread, Turn, of, ratio, spread
from bench.verdicts import Row, row
from bench.weights import FORMATS, Sizes, prefill_flop

LEAST_DECODE = {"xplm fp32": 1.25, "xplm bf16": 1.45}  # times llama.cpp with the same weights
LEAST_SHARE = {"xplm fp32": 0.85, "xplm bf16": 0.80}  # of the bandwidth limit
LEAST_PREFILL = {"xplm fp32": 1.3, "xplm bf16": 1.0}  # times llama.cpp with the same weights
MOST_ADDED = 1.3  # seconds a longer context adds, over what its bytes take at the bandwidth limit
LEAST_BATCH = 4.0  # times one sequence
MOST_FIRST_TOKEN_S = 1.5
MOST_MEMORY = 1.15  # times llama.cpp's
MOST_IMPORT_S = 0.3
MOST_COMPILING_S = 30.0

RIVALS = {
    "xplm fp32": "llama.cpp F32",
    "xplm bf16": "llama.cpp BF16",
    "xplm fp16": "llama.cpp F16",
    "xplm fp32 openblas": "llama.cpp F32",
    "xplm bf16 openblas": "llama.cpp BF16",
}

OPENBLAS_PREFILL = {"xplm fp32": 1.2, "xplm bf16": 1.0}
"""Times llama.cpp with the same weights, for each length of a prompt: by OpenBLAS."""

MKL_PREFILL = 1.4
"""Times llama.cpp with the same weights, where MKL is installed: in float32."""

MKL_NARROW_PREFILL = {"amx-bf16": 2.5, "avx512bf16": 1.3}
"""The same in bfloat16, where the processor has one of these, the first that it has."""


class Speed(NamedTuple):
    """A system's speed in a part."""

    part: str
    system: str
    prefill: Spread  # tokens a second
    decode: Spread  # tokens a second
    limit: Spread  # decoded tokens a second at the bandwidth limit


def list_speeds(turns: Mapping[str, Sequence[Turn]], sizes: Sizes) -> list[Speed]:
    """The speeds of the parts that read and write."""
    speeds = []
    for part in ("fp32", "half"):
        for system in turns[part][0] if turns[part] else ():
            if system != LIMITS:
                prefill, decode = (
                    of(turns[part], system, f"{what}_tokens_per_s")
                    for what in ("prefill", "decode")
                )
                n_bytes = weight_bytes(sizes, system)
                limit = spread(turn[LIMITS]["bytes_per_s"] / n_bytes for turn in turns[part])
                speeds.append(Speed(part, system, prefill, decode, limit))
    return speeds


def judge(turns: Mapping[str, Sequence[Turn]], sizes: Sizes, prompt_tokens: int) -> list[Row]:
    """All figures, in the order of the parts; those of parts that were not measured are left out.

    Args:
        turns: of each part.
        sizes: the model's.
        prompt_tokens: of the parts fp32 and half.
    """
    rows = []
    for part in ("fp32", "half"):
        rows += judge_speeds(turns[part], sizes, prompt_tokens)
    rows += judge_speeds(turns["long"], sizes, LONG, has_decode=False)
    parts: dict[str, Callable[[Sequence[Turn], Sizes], list[Row]]] = {
        "prompts": judge_prompts,
        "context": judge_context,
        "batch": judge_batch,
        "process": judge_process,
        "compile": judge_compilation,
    }
    for part, judge_part in parts.items():
        if turns[part]:
            rows += judge_part(turns[part], sizes)
    return rows


def judge_speeds(
    turns: Sequence[Turn], sizes: Sizes, prompt_tokens: int, *, has_decode: bool = True
) -> list[Row]:
    """Prefill and decode of xplm beside its rival's, and the share of each of the machine's limits."""
    rows = []
    systems = [name for name in (turns[0] if turns else ()) if name != LIMITS]
    flop = prefill_flop(sizes, prompt_tokens) / prompt_tokens
    for name in systems:
        n_bytes = weight_bytes(sizes, name)
        if has_decode:
            rows += judge_ratios(turns, name, "decode", "decode", LEAST_DECODE)
            share = share_of(turns, name, "decode_tokens_per_s", "bytes_per_s", n_bytes)
            least = LEAST_SHARE.get(name)
            sense = ">=" if least else ""
            rows.append(row(f"decode, {name} / bandwidth limit", share, sense, least or 0.0))
        what = f"prefill {prompt_tokens}"
        rows += judge_ratios(turns, name, "prefill", what, LEAST_PREFILL)
        share = share_of(turns, name, "prefill_tokens_per_s", "flop_per_s", flop)
        rows.append(row(f"{what}, {name} / float32 product limit", share))
    return rows


def judge_ratios(
    turns: Sequence[Turn], name: str, figure: str, what: str, least: Mapping[str, float]
) -> list[Row]:
    """A system of ours beside those after it in the part; judged beside its rival."""
    if not name.startswith("xplm"):
        return []
    rows, names = [], [other for other in turns[0] if other != LIMITS]
    for other in names[names.index(name) + 1 :]:
        limit = least.get(name) if other == RIVALS.get(name) else None
        times = ratio(turns, name, other, f"{figure}_tokens_per_s")
        sense = ">=" if limit else ""
        rows.append(row(f"{what}, {name} / {other}", times, sense, limit or 0.0))
    return rows


def share_of(turns: Sequence[Turn], system: str, speed: str, limit: str, cost: float) -> Spread:
    """Cost a token times tokens a second, over what the machine gives, turn by turn."""
    return spread(cost * turn[system][speed] / turn[LIMITS][limit] for turn in turns)


def judge_prompts(turns: Sequence[Turn], sizes: Sizes) -> list[Row]:
    """Prefill of several lengths, beside llama.cpp: by OpenBLAS, and by what xplm chooses where it may."""
    rows = []
    for name, least in least_prefill().items():
        for n in PROMPTS:
            times = ratio(turns, name, RIVALS[name], f"prefill_{n}_tokens_per_s")
            what = f"prefill {n}, {name} / {RIVALS[name]}"
            rows.append(row(what, times, ">=" if least else "", least))
    for name in turns[0]:
        if name != LIMITS:
            for n in PROMPTS:
                speed = of(turns, name, f"prefill_{n}_tokens_per_s")
                rows.append(row(f"prefill {n}, {name}: tokens/s", speed))
    return rows


def least_prefill() -> dict[str, float]:
    """Times llama.cpp that each of xplm's systems must be, here; 0 where nothing is asked."""
    least = {f"{name} openblas": times for name, times in OPENBLAS_PREFILL.items()}
    if mkl_file() is None:
        return least | OPENBLAS_PREFILL
    narrow = [times for name, times in MKL_NARROW_PREFILL.items() if name in features()]
    return least | {"xplm fp32": MKL_PREFILL, "xplm bf16": (*narrow, 0.0)[0]}


def judge_context(turns: Sequence[Turn], sizes: Sizes) -> list[Row]:
    """The seconds a longer context adds to a token, over what the bytes that it adds to the cache take."""
    short, long = CONTEXTS
    rows = []
    for name, itemsize in (("xplm fp32", 4), ("llama.cpp F32", 2)):  # of the caches
        added = (long - short) * sizes.cache_numbers * itemsize
        times = spread(
            (turn[f"{name} after {long}"]["token_s"] - turn[f"{name} after {short}"]["token_s"])
            * turn[LIMITS]["bytes_per_s"]
            / added
            for turn in turns
        )
        sense = "<=" if name.startswith("xplm") else ""
        what = f"context {long} beside {short}, {name}: time added / that of its bytes at the limit"
        rows.append(row(what, times, sense, MOST_ADDED if sense else 0.0))
        slower = ratio(turns, f"{name} after {long}", f"{name} after {short}", "token_s")
        rows.append(row(f"context {long} beside {short}, {name}: time a token", slower))
    ours, theirs = (f"{name} after {long}" for name in ("llama.cpp F32", "xplm fp32"))
    faster = ratio(turns, ours, theirs, "token_s")
    rows.append(row(f"decode at context {long}, xplm fp32 / llama.cpp F32", faster))
    return rows


def judge_batch(turns: Sequence[Turn], sizes: Sizes) -> list[Row]:
    """Tokens a second of all sequences together."""
    one, several = (f"xplm fp32, {rows} at once" for rows in (1, BATCH))
    times = ratio(turns, several, one, "decode_tokens_per_s")
    return [row(f"decode, {BATCH} sequences at once / one, xplm fp32", times, ">=", LEAST_BATCH)]


def judge_process(turns: Sequence[Turn], sizes: Sizes) -> list[Row]:
    """Seconds to the first token, and the peak of memory."""
    rows = []
    for name in (*XPLM_WEIGHTS, *LLAMA_CPP):
        sense = "<=" if name in XPLM_WEIGHTS else ""
        limit = MOST_FIRST_TOKEN_S if sense else 0.0
        seconds = of(turns, name, "process_s")
        rows.append(row(f"first token, whole process, {name}: seconds", seconds, sense, limit))
    for name, rival in RIVALS.items():
        if name in XPLM_WEIGHTS:
            times = ratio(turns, name, rival, "peak_bytes")
            rows.append(row(f"peak memory, {name} / {rival}", times, "<=", MOST_MEMORY))
    seconds = of(turns, "import xplm", "process_s")
    rows.append(row("import xplm: seconds", seconds, "<=", MOST_IMPORT_S))
    return rows


def judge_compilation(turns: Sequence[Turn], sizes: Sizes) -> list[Row]:
    """What processes take longer where nothing is compiled yet."""
    added = spread(
        turn[NOT_COMPILED]["process_s"] - turn[COMPILED_BEFORE]["process_s"] for turn in turns
    )
    return [row("compiling all kernels: seconds", added, "<=", MOST_COMPILING_S)]


def weight_bytes(sizes: Sizes, system: str) -> int:
    """Bytes of weights that a decoded token reads; the cache's are left out."""
    dtype, *_ = FORMATS[SYSTEMS[system].weights]
    return sizes.read_numbers * dtype.itemsize
