"""The space in front of a text, as a setting of a pipeline."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from xplm.text.prefix_space import has_prefix_space, with_prefix_space


def pipeline(normalizer=None, pre_tokenizer=None):
    made = Tokenizer(models.BPE())
    if normalizer:
        made.normalizer = normalizer
    if pre_tokenizer:
        made.pre_tokenizer = pre_tokenizer
    return made


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (pipeline(), None),
        (pipeline(normalizers.ByteLevel()), None),
        (pipeline(normalizers.Prepend("\u2581")), True),
        (pipeline(normalizers.ByteLevel(), pre_tokenizers.ByteLevel(add_prefix_space=True)), True),
        (pipeline(None, pre_tokenizers.ByteLevel(add_prefix_space=False)), False),
        (pipeline(None, pre_tokenizers.Metaspace(prepend_scheme="never")), False),
        (pipeline(None, pre_tokenizers.Metaspace(prepend_scheme="first")), True),
    ],
)
def test_a_part_that_could_add_it_says_whether_it_does(made, found):
    assert has_prefix_space(made) is found
    for on in (True, False) if found is not None else ():
        if made.pre_tokenizer is not None:
            assert has_prefix_space(with_prefix_space(made, on)) is on
