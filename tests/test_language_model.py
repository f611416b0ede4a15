"""The Python interface, as the README writes it."""

import numpy as np
import pytest

import xplm
from tests.cli.conftest import write_tiny
from tests.generate.tiny import tiny_model
from tests.paths import STORY, needs_story
from xplm.checkpoint.save import save_directory
from xplm.errors import BackendError, RequestError, XplmError
from xplm.progress import LOADING, READING, SCORING


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def test_progress_is_told_of_loading_long_prompts_and_scoring(tmp_path):
    seen = []
    path = write_tiny(tmp_path / "tiny", max_position_embeddings=1200)
    lm = xplm.load(path, progress=lambda *progress: seen.append(progress))
    n_bytes = sum(array.nbytes for array in lm.params.values())
    assert seen[0] == (LOADING, 0, n_bytes)
    assert seen[-1] == (LOADING, n_bytes, n_bytes)

    seen.clear()
    lm.generate("short", max_new_tokens=1)
    assert seen == []
    lm.generate([5] * 1100, max_new_tokens=1)
    assert seen == [(READING, n, 1100) for n in (0, 512, 1024, 1100)]

    seen.clear()
    lm.perplexity([5] * 21, window=10)
    assert seen == [(SCORING, n, 21) for n in (0, 10, 20, 21)]


def test_logits_are_float32_for_every_position(lm):
    logits = lm.logits([3, 1, 4, 1, 5])
    assert isinstance(logits, np.ndarray)
    assert (logits.shape, logits.dtype) == ((5, 258), np.dtype(np.float32))
    np.testing.assert_array_equal(lm.logits(np.array([3, 1, 4, 1, 5])), logits)


@pytest.mark.parametrize("ids", [[], [258], [-1], [0] * 257, [1.7]])
def test_logits_of_ids_that_cannot_be_read_are_refused(lm, ids):
    with pytest.raises(RequestError):
        lm.logits(ids)


def test_params_have_hugging_face_names(lm):
    assert lm.params["model.layers.1.self_attn.k_proj.weight"].shape == (16, 32)


def test_one_prompt_gives_one_reply_and_a_list_gives_a_list(lm):
    out = lm.generate("Once", max_new_tokens=3, temperature=0.0)
    ids = lm.tokenizer.encode("Once")
    assert lm.generate(ids, max_new_tokens=3).token_ids == out.token_ids
    assert (len(out.token_ids), len(out.logprobs), out.finish_reason) == (3, 3, "length")
    rows = lm.generate(["Once", ids], max_new_tokens=3)
    assert [row.token_ids for row in rows] == [out.token_ids] * 2


def test_the_stream_is_the_text(lm):
    out = lm.generate("Once", max_new_tokens=8)
    assert "".join(lm.stream("Once", max_new_tokens=8)) == out.text


def test_chat_send_rollback_fork(lm):
    chat = lm.chat(system="Be kind.")
    reply = chat.send("Hello", max_new_tokens=5)
    fork = chat.fork()
    chat.rollback(1)
    assert [message["role"] for message in chat.messages] == ["system"]
    assert fork.messages[-1] == {"role": "assistant", "content": reply.text}


def test_a_model_without_a_tokenizer_takes_and_gives_ids(tmp_path, lm):
    shapes = {name: array.shape for name, array in lm.params.items()}
    directory = tmp_path / "model"
    save_directory(
        directory,
        lm.config,
        shapes,
        lambda name, dtype: lm.params[name].astype(dtype),
        "float32",
        lambda path: None,
    )
    bare = xplm.load(directory)
    out = bare.generate([5, 6, 7], max_new_tokens=4)
    assert out.token_ids == lm.generate([5, 6, 7], max_new_tokens=4).token_ids
    assert out.text == ""
    scores = [model.perplexity([5, 6, 7, 8], window=4).perplexity for model in (bare, lm)]
    assert scores[0] == scores[1]
    with pytest.raises(RequestError, match="this model has none; give token ids"):
        bare.generate("Once")


@needs_story
def test_load_a_directory():
    lm = xplm.load(str(STORY))
    assert lm.config.model_type == "llama"
    ids = lm.tokenizer.encode("Once upon a time")
    assert lm.logits(ids).shape == (len(ids), 2048)
    assert lm.generate("Once upon a time", max_new_tokens=4, temperature=0.0).text


@needs_story
def test_portable_kernels_say_the_same():
    texts = [
        xplm.load(STORY, kernels=kernels).generate("Once upon a time", max_new_tokens=40).text
        for kernels in ("fused", "portable")
    ]
    assert texts[0] == texts[1]


@needs_story
@pytest.mark.parametrize("policy", ["bf16", "fp16"])
def test_narrow_policies_tell_a_story(policy):
    assert len(xplm.load(STORY, policy=policy).generate("Once upon a time").text) > 40


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"device": "tpu"}, BackendError),
        ({"backend": "nonesuch"}, BackendError),
        ({"policy": "fp7"}, RequestError),
        ({"policy": None}, RequestError),
        ({"kernels": "magic"}, RequestError),
        ({}, XplmError),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path, arguments, error):
    with pytest.raises(error) as caught:
        xplm.load(tmp_path, **arguments)
    assert "\n" not in str(caught.value)


@needs_story
def test_a_context_beside_the_models_own(caplog):
    assert xplm.load(STORY, context=5).engine.context == 5
    with pytest.raises(RequestError, match="context of 5 tokens"):
        xplm.load(STORY, context=5).logits([1] * 6)
    assert not caplog.records
    own = xplm.load(STORY).engine.context
    assert xplm.load(STORY, context=own + 1).engine.context == own + 1
    assert f"above the {own} positions" in caplog.text
