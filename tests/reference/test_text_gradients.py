"""`LanguageModel.loss_and_grads` against transformers' loss on the same ids and torch's autograd.

Sums of up to 200 terms, a few deep, in float32: as in test_torch_gradients, by 1e-5 apart at the very most.
"""

import numpy as np
import pytest

from tests.generate.tiny import tiny_tokenizer
from tests.reference.test_torch_gradients import BOUND, MODELS, Pair
from xplm.language_model import LanguageModel
from xplm.numerics.gradient_check import relative_errors


@pytest.mark.parametrize("name", ["llama, tied", "qwen2", "gpt2"])
def test_loss_and_gradients_of_a_text_equal_transformers(torch, transformers, name):
    pair = Pair(torch, transformers, MODELS[name])
    lm = LanguageModel(pair.config, pair.params, pair.rt, tiny_tokenizer())
    ids = np.random.default_rng(7).integers(0, 101, 19).tolist()
    loss, grads = lm.loss_and_grads(ids)

    row = torch.tensor([ids])
    expected = pair.oracle(row, labels=row).loss
    expected.backward()
    assert abs(loss - expected.item()) <= BOUND
    parameters = {name: p.grad.numpy() for name, p in pair.oracle.named_parameters()}
    found = pair.as_stored(grads)
    assert set(found) == set(parameters)
    errors = relative_errors(found, parameters)
    assert max(errors.values()) <= BOUND, max(errors.items(), key=lambda item: item[1])
