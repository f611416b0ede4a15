"""How near decoding comes to what memory gives, by the shape of a model: Qwen3 and Gemma 3 against SmolLM2, all random.

    python scripts/bench_shapes.py [--device cpu|cuda] [--policy fp32] [--prompt-tokens 128] [--new-tokens 32]

A share is the bytes of weights that a token reads, over its time, over the bytes a second that memory gives. The three
models and the memory take turns in one process. Exit codes: 0 the thresholds are met, 1 one is missed.
"""

import sys

from bench.decoding import make_run, read_plan
from bench.turns import of, ratio
from bench.verdicts import Row, row, table
from bench.weights import measure_sizes

from xplm.backend import load_backend
from xplm.cli.bench import measure_bandwidth
from xplm.config import DecoderConfig
from xplm.models.families.config_json import read_config
from xplm.runtime import make_runtime

MEASURE = "SmolLM2-135M"
SHAPES = {
    MEASURE: {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "Qwen3": {  # as its 0.6B: twice as wide in attention as the stream, two heads a key/value head
        "model_type": "qwen3",
        "vocab_size": 65536,
        "hidden_size": 640,
        "intermediate_size": 1920,
        "num_hidden_layers": 18,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "Gemma 3": {  # its 270M with a smaller vocabulary: a window in five of six layers
        "model_type": "gemma3_text",
        "vocab_size": 81920,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
        "tie_word_embeddings": True,
    },
}
LEAST = 0.85  # of the measure's share


def make_configs() -> dict[str, DecoderConfig]:
    """The three models, of about 150 M parameters."""
    return {name: read_config(shape) for name, shape in SHAPES.items()}


def main() -> int:
    """Measure, judge, print."""
    plan = read_plan(__doc__)
    rt = make_runtime(load_backend(plan.backend, plan.device), plan.policy)

    configs = make_configs()
    numbers = {name: measure_sizes(config).read_numbers for name, config in configs.items()}
    runs = {
        name: make_run(rt, config, plan.prompt_tokens, plan.new_tokens)
        for name, config in configs.items()
    }
    turns: list[dict[str, dict[str, float]]] = []
    for turn in range(-1, plan.turns):  # the first compiles, and is not counted
        bandwidth = measure_bandwidth(rt.backend)
        found = {"memory": {"gb_per_s": bandwidth / 1e9}}
        for name in runs if turn % 2 else reversed(runs):
            token = runs[name](turn).token
            n_bytes = numbers[name] * rt.host_dtype.param.itemsize
            found[name] = {"ms": 1e3 * token, "share": n_bytes / token / bandwidth}
        if turn >= 0:
            turns.append(found)

    rows = [Row(f"parameters read, {name}", n) for name, n in numbers.items()]
    rows.append(row("memory, GB/s", of(turns, "memory", "gb_per_s")))
    rows += [row(f"ms a token, {name}", of(turns, name, "ms")) for name in runs]
    rows += [row(f"share of the limit, {name}", of(turns, name, "share")) for name in runs]
    for name in [name for name in runs if name != MEASURE]:
        shares = ratio(turns, name, MEASURE, "share")
        rows.append(row(f"share, {name} / {MEASURE}", shares, ">=", LEAST))
    print(table(rows))
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
