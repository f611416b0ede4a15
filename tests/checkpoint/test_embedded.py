"""The model that comes with xplm."""

import xplm
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.pull import EMBEDDED, pull


def test_it_is_small_and_stored_in_bfloat16():
    path = pull("shakespeare")
    assert path == EMBEDDED["shakespeare"]
    assert (path / "model.safetensors").stat().st_size <= 3_000_000
    checkpoint = open_checkpoint(path)
    assert {info.kind for info in checkpoint.tensors.values()} == {"BF16"}


def test_it_writes_the_lines_of_a_play():
    lm = xplm.load("shakespeare")
    out = lm.generate("ROMEO:\n", max_new_tokens=60, temperature=0.8, seed=1)
    assert out.text.count("\n") >= 2
    # Untrained, each of its 1024 tokens would have the log-probability -6.9.
    assert sum(out.logprobs) / len(out.logprobs) > -5
