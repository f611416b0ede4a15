"""`xplm bench --train`: a training step measured."""

import pytest

SMALL = ("--set", "model.hidden_size=16", "--set", "batch_size=2", "--set", "context=8")
KEYS = {"step_seconds", "tokens_per_s", "peak_memory_bytes"}


@pytest.mark.parametrize("arch", ["llama", "gpt"])
@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
def test_a_step_is_measured(xplm, arch, policy):
    flags = ("--policy", policy, "--repeats", 2, "--json")
    out = xplm("bench", "--train", arch, *SMALL, *flags).json
    assert out.keys() >= KEYS
    assert min(out["runs"]) <= out["step_seconds"] <= max(out["runs"])
    assert out["tokens_per_s"] == pytest.approx(16 / out["step_seconds"])
    assert out["peak_memory_bytes"] > 1e6
    assert out["predicted_peak_memory_bytes"] >= sum(out["predicted_memory_bytes"].values())
    assert (out["arch"], out["policy"], len(out["runs"])) == (arch, policy, 2)


def test_the_sizes_asked_for_are_those_measured(xplm):
    sizes = ("model.vocab_size=11", "model.num_hidden_layers=1", "model.hidden_size=8")
    more = ("model.num_attention_heads=2", "model.intermediate_size=5", "data.accumulation=3")
    flags = [word for size in (*sizes, *more, "batch_size=1") for word in ("--set", size)]
    out = xplm("bench", "--train", "llama", *flags, "--repeats", 1, "--json").json
    C, F, V = 8, 5, 11
    assert out["parameters"] == V * C + 4 * C * C + 3 * C * F + 3 * C
    assert out["tokens_per_s"] == pytest.approx(3 * 64 / out["step_seconds"])


def test_the_table_says_what_was_measured(xplm):
    lines = xplm("bench", "--train", "gpt", *SMALL, "--repeats", 3).stdout.splitlines()
    assert lines[0].startswith("gpt  ")
    assert lines[0].endswith("parameters  fp32  numpy on cpu")
    assert [line.split()[0] for line in lines[1:]] == ["step", "speed", "memory"]
    assert lines[1].endswith("2 x 8 tokens, median of 3")
    assert lines[3].endswith("predicted")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train", "mamba"], "got 'mamba'"),
        (["--train", "llama", "--set", "model.hiden_size=8"], "unknown hiden_size"),
        (["--train", "llama", "--set", "train.policy=bf16"], "got train.policy"),
        (["--train", "llama", "--set", "data.path=x"], "got data.path"),
        (["--train", "llama", "--set", "hidden_size"], "a setting is SECTION.KEY=VALUE"),
        (["--train", "llama", "--set", "vocab_size=0"], "vocab_size must be at least 1; got 0"),
        (["--train", "llama", "--set", "batch_size=0"], "must be at least 1; got 0"),
        (["--train", "llama", "--set", "model.max_position_embeddings=8"], "8 positions; got 64"),
        (["--train", "llama", "--model", "shakespeare"], "got --train and a model"),
        (["--train", "llama", "--policy", "fp5"], "fp5"),
        (["--set", "batch_size=2"], "give --train too"),
    ],
)
def test_bad_input_is_one_line(xplm, flags, message):
    assert message in xplm("bench", *flags).error
