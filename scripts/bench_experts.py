"""What routing costs: a Mixtral-shaped model beside a dense one with the same active parameters, both random.

    python scripts/bench_experts.py [--device cpu|cuda] [--policy fp32] [--prompt-tokens 128] [--new-tokens 32]

The dense model's MLP is as wide as the experts that a token takes together. The two take turns in one process: a
prompt is read, then tokens are decoded one by one. Exit codes: 0 the threshold is met, 1 it is missed.
"""

import sys
from statistics import median

from bench.decoding import Seconds, make_run, read_plan
from bench.verdicts import Row, table

from xplm.backend import load_backend
from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.params import count_params
from xplm.runtime import make_runtime

CHOSEN = 2
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
WIDTH = 1536  # of an expert
MOST = 1.3  # times the dense model's time


def make_configs() -> dict[str, DecoderConfig]:
    """The two models."""
    routed = {"model_type": "mixtral", "intermediate_size": WIDTH, "num_experts_per_tok": CHOSEN}
    dense = {"model_type": "llama", "intermediate_size": CHOSEN * WIDTH}
    return {"routed": read_config(SHAPE | routed), "dense": read_config(SHAPE | dense)}


def main() -> int:
    """Measure, judge, print."""
    plan = read_plan(__doc__)
    rt = make_runtime(load_backend(plan.backend, plan.device), plan.policy)

    configs = make_configs()
    runs = {
        name: make_run(rt, config, plan.prompt_tokens, plan.new_tokens)
        for name, config in configs.items()
    }
    found: dict[str, list[Seconds]] = {name: [] for name in runs}
    for turn in range(-1, plan.turns):  # the first compiles, and is not counted
        for name in runs if turn % 2 else reversed(runs):
            seconds = runs[name](turn)
            if turn >= 0:
                found[name].append(seconds)

    rows = [
        Row(f"parameters, {name}", count_params(param_specs(config)))
        for name, config in configs.items()
    ]
    for what in Seconds._fields:
        times = {name: [getattr(turn, what) for turn in turns] for name, turns in found.items()}
        rows += [Row(f"ms a {what}, {name}", 1e3 * median(own)) for name, own in times.items()]
        ratios = [a / b for a, b in zip(times["routed"], times["dense"], strict=True)]
        asked = ("<=", MOST) if what == "token" else ("", 0.0)
        rows.append(Row(f"{what}, routed / dense", median(ratios), *asked))
    print(table(rows))
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
