"""Perplexity: by hand for a model that knows nothing, then against its own logits."""

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.errors import RequestError
from xplm.text.trainable import train_tokenizer


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def test_a_model_that_knows_nothing_is_as_unsure_as_the_vocabulary_is_large():
    lm = tiny_model()
    lm.params["lm_head.weight"] = np.zeros_like(lm.params["lm_head.weight"])
    # All logits are 0; the mean is over float32 logarithms of about 1e-7.
    np.testing.assert_allclose(lm.perplexity([3, 4, 5, 6], window=4).perplexity, 258.0, rtol=1e-6)


def test_windows_are_scored_alone_and_their_first_ids_not_at_all(lm):
    ids = np.random.default_rng(0).integers(2, 258, 21).tolist()
    total = 0.0
    for window in (ids[:10], ids[10:20]):
        logits = lm.logits(window).astype(np.float64)
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        total += sum(np.log(probs[t, window[t + 1]]) for t in range(9))
    result = lm.perplexity(ids, window=10)
    assert result.tokens == 18
    # Log-probabilities of float32 logits, to about 1e-7 each.
    np.testing.assert_allclose(result.perplexity, np.exp(-total / 18), rtol=1e-6)


def test_a_window_is_the_smaller_of_512_and_the_context_unless_told(lm):
    ids = np.random.default_rng(0).integers(2, 258, 600)
    assert lm.perplexity(ids) == lm.perplexity(ids, window=256)
    wide = tiny_model(max_position_embeddings=1024)
    assert wide.perplexity(ids).window == 512
    assert wide.perplexity(ids, window=600).tokens == 599


def test_what_the_tokenizer_lacks_is_counted(lm):
    lm = tiny_model()
    lm.tokenizer = train_tokenizer("char", ["ab"])
    found = lm.perplexity("abéb水")
    assert (found.text_tokens, found.unknown_tokens, found.lost_characters) == (5, 2, 0)


def test_text_is_tokenised_once(lm):
    text = "To be, or not to be"
    assert lm.perplexity(text, window=8) == lm.perplexity(lm.tokenizer.encode(text), window=8)


@pytest.mark.parametrize(
    ("ids", "window", "message"),
    [
        ([1, 2, 3], 1, "a window must be an integer, and hold at least 2 ids"),
        ([1, 2, 3], 2.5, "a window must be an integer.*got 2.5"),
        ([1, 2, 3], 257, "at most the model's context of 256; got 257"),
        ([1], 8, "at least 2 ids; got 1"),
        ([1, 999], 8, "below 258; got 999"),
    ],
)
def test_bad_requests_are_refused(lm, ids, window, message):
    with pytest.raises(RequestError, match=message):
        lm.perplexity(ids, window=window)


def test_a_text_that_the_model_rules_out_has_infinite_perplexity():
    lm = tiny_model()
    lm.params["lm_head.weight"] *= np.float32(1e5)  # log-probabilities of about -10^5
    result = lm.perplexity([3, 4, 5, 6], window=4)
    assert result[:2] == (np.inf, 3)
