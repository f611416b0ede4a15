"""What a user sees of the Python interface without reading its source: names, types, reprs, and guesses."""

import ast
import inspect
import pydoc
import re
import sys
from dataclasses import fields
from typing import get_args, get_type_hints

import numpy as np
import pytest

import xplm
from tests.generate.tiny import tiny_model
from tests.paths import ROOT
from xplm.errors import RequestError
from xplm.generate.options import BatchKeywords, SamplingKeywords, SamplingOptions
from xplm.generate.result import Timings
from xplm.precision import PolicyParts


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def test_dir_and_help_show_the_public_names():
    assert {name for name in dir(xplm) if not name.startswith("_")} == set(xplm.__all__)
    assert {"__doc__", "__version__"} <= set(dir(xplm))
    page = pydoc.render_doc(xplm, renderer=pydoc.plaintext)
    for name in xplm.__all__:
        assert f"class {name}(" in page or f"\n    {name}(" in page
    assert "Load a model, which is fetched first" in page


@pytest.mark.parametrize("keywords", [SamplingKeywords, BatchKeywords])
def test_keywords_are_the_fields_of_the_options(keywords):
    types = get_type_hints(SamplingOptions)
    hints = get_type_hints(keywords)
    assert set(hints) == set(types)
    for name, hint in hints.items():
        assert hint == types[name] or type(getattr(SamplingOptions, name)) in (
            tuple,
            *get_args(hint),
        )


def test_parts_of_a_policy_are_its_fields():
    assert list(get_type_hints(PolicyParts)) == [field.name for field in fields(xplm.Policy)]


@pytest.mark.parametrize(
    "function",
    [
        xplm.LanguageModel.generate,
        xplm.LanguageModel.stream,
        xplm.Chat.send,
        xplm.Chat.stream,
    ],
)
def test_options_are_typed(function):
    hint = get_type_hints(function)["options"]
    assert get_args(hint)[0] in (SamplingKeywords, BatchKeywords)


def test_a_typo_in_a_keyword_is_refused_with_what_was_meant(lm):
    calls = [
        (lambda: lm.generate("x", temprature=1.0), "temperature"),
        (lambda: lm.generate(["x"], max_tokens=1), "max_new_tokens"),
        (lambda: lm.stream("x", topk=1), "top_k"),
        (lambda: lm.chat().send("x", topp=0.5), "top_p"),
        (lambda: lm.chat(sytem="x"), "system"),
        (lambda: lm.perplexity("abc", windw=2), "window"),
        (lambda: xplm.load("shakespeare", polcy="bf16"), "policy"),
        (lambda: xplm.load("shakespear"), "shakespeare"),
        (lambda: xplm.load("shakespeare", policy="bf61"), "bf16"),
        (lambda: xplm.load("shakespeare", backend="nunpy"), "numpy"),
        (lambda: xplm.load("shakespeare", device="cudo"), "cuda"),
        (lambda: xplm.load("shakespeare", kernels="fusde"), "fused"),
    ]
    for call, meant in calls:
        with pytest.raises(xplm.XplmError, match=rf"; did you mean {meant}\?$"):
            call()


def test_an_argument_of_another_type_is_refused_by_name(lm):
    calls = [
        (lambda: xplm.load(None), "a model is a text or a Path; got None"),
        (lambda: xplm.load("shakespeare", home=5), "home is a text or a Path; got int 5"),
        (lambda: xplm.load("shakespeare", adapter=5), "adapter is a text or a Path; got int 5"),
        (lambda: xplm.load("shakespeare", progress=True), "progress is a function"),
        (lambda: xplm.load("shakespeare", backend=3), 'no backend named "3"'),
        (lambda: xplm.load("shakespeare", device="gpu"), "did you mean cuda?"),
        (lambda: lm.chat(template_args=[1]), "template arguments are a dict"),
        (lambda: lm.generate("x", ignore_eos="no"), "ignore_eos must be True or False; got 'no'"),
        (lambda: lm.generate("x", stop=b"x"), "a list of texts; got b'x'"),
    ]
    for call, says in calls:
        with pytest.raises(xplm.XplmError, match=re.escape(says)):
            call()


def test_load_takes_a_policy_as_a_value():
    policy = xplm.Policy("bf16", norm="bf16")
    assert xplm.load("shakespeare", policy=policy).rt.policy == policy
    with pytest.raises(
        RequestError, match='a policy is a text such as "bf16,softmax=bf16", or a P'
    ):
        xplm.load("shakespeare", policy=16)


def test_reprs_say_what_a_value_is_and_hold_no_arrays(lm):
    assert repr(lm) == ("LanguageModel(llama, 32,032 parameters, context 256, fp32, numpy on cpu)")
    assert repr(lm.rt.policy) == 'Policy("fp32")'
    assert repr(lm.rt) == 'Runtime(numpy on cpu, Policy("fp32"))'
    assert repr(lm.rt.backend) == "Backend(numpy on cpu)"
    assert repr(lm.tokenizer) == 'Tokenizer(BPE, 258 tokens, bos "<s>", eos "</s>", chat template)'
    chat = lm.chat(system="Be kind.")
    assert repr(chat) == "Chat(system='Be kind.', turns=0, tokens=0 of 256)"
    out = chat.send("Hello", max_new_tokens=3)
    assert "turns=1, tokens=" in repr(chat)
    assert repr(out).startswith("Generation('")
    assert repr(out).endswith("', 3 tokens, finish_reason='length')")
    assert "array(" not in repr(lm.engine)
    long = lm.generate("x", max_new_tokens=200)
    assert max(len(repr(value)) for value in (lm, chat, long, lm.tokenizer)) < 250


@pytest.mark.parametrize(
    "kind", [xplm.Policy, xplm.DecoderConfig, SamplingOptions, xplm.Generation, Timings]
)
def test_every_field_of_a_public_value_has_a_docstring(kind):
    (tree,) = ast.parse(inspect.getsource(kind)).body
    bare = [
        node.target.id
        for node, after in zip(tree.body, [*tree.body[1:], None], strict=True)
        if isinstance(node, ast.AnnAssign)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]
    assert not bare


SNIPPET = """
import numpy as np
import xplm

lm = xplm.load("shakespeare", policy=xplm.Policy("bf16", softmax="fp32"), home="models")
text: str = lm.generate("x", temperature=1, stop=["a"], seed=3).text
several: list[xplm.Generation] = lm.generate(["x", [1, 2], np.array([3])], seed=[1, 2, 3])
for piece in lm.stream([1, 2], top_p=0.5):
    print(piece.upper())
loss, grads = lm.loss_and_grads(text)
print(loss + 1.0, list(grads))
reply = lm.chat(system="x").send("hi", max_new_tokens=3)

lm.generate("x", temprature=1.0)  # wrong
lm.generate(["x"], max_tokens=1)  # wrong
lm.generate("x", top_k="many")  # wrong
lm.stream("x", seed=[1, 2])  # wrong
lm.chat().send("x", topp=0.5)  # wrong
lm.chat(sytem="x")  # wrong
xplm.load("shakespeare", polcy="bf16")  # wrong
xplm.Policy("bf16", nrom="fp32")  # wrong
xplm.SamplingOptions(temprature=1.0)  # wrong
"""


@pytest.mark.nightly
def test_mypy_finds_typos_in_a_users_program(tmp_path, monkeypatch):
    api = pytest.importorskip("mypy.api", reason="needs mypy: pip install mypy")
    program = tmp_path / "program.py"
    program.write_text(SNIPPET)
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    found, problems, _ = api.run(
        ["--config-file=", "--no-incremental", "--ignore-missing-imports", "--no-error-summary",
         "--follow-imports=silent", f"--python-executable={sys.executable}", str(program)]
    )  # fmt: skip
    assert not problems
    refused = {int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line}
    wrong = {n for n, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# wrong")}
    assert refused == wrong, found


def test_gradients_are_named_and_shaped_as_parameters_in_the_policys_dtypes():
    for policy, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp64", "float64")):
        lm = tiny_model(policy=policy, tie_word_embeddings=True)
        loss, grads = lm.loss_and_grads("Hello there")
        assert isinstance(loss, float)
        assert list(grads) == list(lm.params)
        for name, grad in grads.items():
            assert (grad.shape, grad.dtype.name) == (lm.params[name].shape, dtype)
    ids = lm.tokenizer.encode("Hello there")
    perplexity = lm.perplexity(ids, window=64).perplexity
    np.testing.assert_allclose(np.exp(loss), perplexity, rtol=1e-6)
    assert lm.loss_and_grads(np.array(ids))[0] == loss


@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True}, {"model_type": "qwen2"}, {"mlp_bias": True, "head_dim": 10}],
)
def test_gradients_are_central_differences_of_the_loss(changes):
    lm = tiny_model(policy="fp64", **changes)
    _, grads = lm.loss_and_grads("Hello")
    rng = np.random.default_rng(0)
    for name, param in lm.params.items():
        direction = rng.standard_normal(param.shape)
        direction /= np.linalg.norm(direction)
        ends = []
        for step in (1e-5, -1e-5):
            params = lm.params | {name: param + step * direction}
            moved = xplm.LanguageModel(lm.config, params, lm.rt, lm.tokenizer)
            ends.append(moved.loss_and_grads("Hello")[0])
        slope = (ends[0] - ends[1]) / 2e-5
        # A loss near 10 in float64 is known to 1e-15 x 10, so its difference over 2e-5 to 1e-9.
        np.testing.assert_allclose(np.sum(grads[name] * direction), slope, rtol=1e-6, atol=2e-8)


def test_gradients_in_float16_are_scaled_where_they_would_underflow():
    exact = tiny_model(policy="fp32").loss_and_grads("Hello there")[1]
    half = tiny_model(policy="fp16").loss_and_grads("Hello there")[1]
    for name, grad in half.items():
        assert grad.dtype == np.float16
        error = np.linalg.norm(grad.astype(np.float32) - exact[name])
        assert error <= 0.05 * np.linalg.norm(exact[name]), name


def test_a_text_too_short_for_a_loss_is_refused(lm):
    for text in ("", "x", [5], [5] * 257, [258, 3]):
        with pytest.raises(RequestError):
            lm.loss_and_grads(text)
