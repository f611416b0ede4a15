"""Policies from the command line, on the model that comes with xplm."""

import pytest


def generate(xplm, *arguments):
    options = ("--max-new-tokens", 12, "--json", "--quiet", *arguments)
    out = xplm("generate", "--model", "shakespeare", "ROMEO:", *options)
    assert (out.code, out.stderr) == (0, "")
    return out.json["token_ids"]


@pytest.mark.parametrize("policy", ["fp8", "fp32,matmul=tf32", "bf16", "fp8_e5m2,accumulate=fp16"])
def test_any_format_speaks_on_any_backend(xplm, policy):
    ids = generate(xplm, "--policy", policy)
    assert len(ids) == 12
    assert generate(xplm, "--policy", policy, "--backend", "strict") == ids


def test_11_bits_in_products_change_no_word_and_4_do(xplm):
    exact = generate(xplm)
    assert generate(xplm, "--policy", "fp32,matmul=tf32") == exact
    assert generate(xplm, "--policy", "fp8") != exact


def test_an_unknown_format_is_one_line(xplm):
    out = xplm("generate", "--model", "shakespeare", "ROMEO:", "--policy", "bf16,norm=fp7")
    assert '"fp7" in "bf16,norm=fp7"' in out.error
