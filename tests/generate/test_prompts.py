"""What is taken for a prompt, and what people give by mistake."""

from array import array

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.errors import RequestError

ACCEPTED = "a prompt is a text, or its token ids: integers in a list or in a 1-D NumPy array"


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


class Tensor:
    """As much of another library's array as an error looks at."""

    shape, dtype = (1, 3), "torch.int64"

    def tolist(self):
        raise AssertionError("nothing is converted behind the caller's back")


MISTAKES = {
    "bytes": (b"the", "got bytes b'the'; decode it"),
    "bytearray": (bytearray(b"the"), "decode it"),
    "None": (None, "got None"),
    "a number": (5, "got int 5"),
    "a truth value": (True, "got bool True"),
    "a dict": ({"role": "user", "content": "hi"}, "through lm.chat()"),
    "a tokenizer's dict": ({"input_ids": [[1, 2]]}, 'give one row of its "input_ids"'),
    "an iterator": (iter([7]), "give list(...) of it"),
    "a set": ({3, 4}, "give list(...) of it"),
    "a tensor": (Tensor(), "Tensor of shape (1, 3) and dtype torch.int64; give one row"),
    "an array of floats": (np.ones(2), "numpy.ndarray of shape (2,) and dtype float64"),
    "an array of rows": (np.ones((1, 2), int), "numpy.ndarray of shape (1, 2) and dtype int64"),
    "an array of one": (np.array(3), "numpy.ndarray of shape () and dtype int64"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_type_is_refused_by_name_wherever_a_prompt_is_read(lm, mistake):
    value, got = MISTAKES[mistake]
    calls = (
        lm.generate,
        lm.stream,
        lm.perplexity,
        lm.loss_and_grads,
        lambda prompt: lm.generate(["the", prompt]),
        lambda prompt: lm.fragility(prompt, [5]),
    )
    for call in calls:
        with pytest.raises(RequestError) as caught:
            call(value)
        assert str(caught.value).startswith(f"{ACCEPTED}; got ")
        assert got in str(caught.value)


@pytest.mark.parametrize("value", [None, b"the", 5, {"a": 1}, Tensor(), np.ones(2), "the"])
def test_what_reads_ids_alone_says_so(lm, value):
    for call in (lm.logits, lambda ids: lm.fragility("the", ids)):
        with pytest.raises(
            RequestError, match=r"^token ids must be integers, in a list or in a 1-D"
        ):
            call(value)


@pytest.mark.parametrize("value", [None, b"the", 5, ["the"], {"role": "user"}, np.ones(2)])
def test_what_reads_text_alone_says_so(lm, value):
    for call in (lm.chat().send, lm.chat().stream, lm.tokenizer.encode, lm.tokenizer.encode_long):
        with pytest.raises(RequestError, match="is a text; got "):
            call(value)
    if value is not None:
        with pytest.raises(RequestError, match="a system message is a text; got "):
            lm.chat(system=value)


@pytest.mark.parametrize("several", [["the", "end"], [[1, 2], [3]], [np.array([1, 2])]])
def test_several_prompts_are_refused_where_one_is_read(lm, several):
    for call in (lm.stream, lm.perplexity, lm.loss_and_grads, lm.logits):
        with pytest.raises(RequestError, match=f"of one sequence; got a list of {len(several)}"):
            call(several)


@pytest.mark.parametrize("ids", [[1.5], [True], ["a"], [[1]], [1, "a"], [2**70], [None]])
def test_a_list_of_other_than_ids_is_refused(lm, ids):
    with pytest.raises(RequestError):
        lm.logits(ids)
    with pytest.raises(RequestError):
        lm.generate([ids])


IDS = [5, 6, 7]
ONE_PROMPT = [
    IDS, tuple(IDS), range(5, 8), array("q", IDS), np.array(IDS), np.array(IDS, np.uint16),
    np.array(IDS)[::-1][::-1], [np.int64(i) for i in IDS],
]  # fmt: skip


@pytest.mark.parametrize("ids", ONE_PROMPT, ids=lambda ids: type(ids).__name__)
def test_sequences_and_arrays_of_integers_are_one_prompt(lm, ids):
    out = lm.generate(ids, max_new_tokens=2)
    assert out.prompt_tokens == 3
    assert out.token_ids == lm.generate(IDS, max_new_tokens=2).token_ids


@pytest.mark.parametrize(
    ("prompts", "tokens"),
    [
        (["ab", IDS], [2, 3]),
        (("ab", np.array(IDS)), [2, 3]),
        ([IDS], [3]),
        (np.array(["ab", "c"]), [2, 1]),
        ([], []),
    ],
)
def test_a_list_of_prompts_is_a_batch(lm, prompts, tokens):
    assert [out.prompt_tokens for out in lm.generate(prompts, max_new_tokens=1)] == tokens
