"""generation_config.json as transformers writes it."""

import pytest

from xplm.checkpoint.sampling import sampling_from_config


def test_a_file_with_the_defaults_of_transformers_is_wholly_honoured(transformers):
    config = transformers.GenerationConfig()
    defaults = config._get_default_generation_params()
    sampling = sampling_from_config(config.to_dict() | defaults)
    assert sampling.ignored == {}
    sampled = sampling_from_config(defaults | {"do_sample": True}).options
    assert sampled == {name: defaults[name] for name in sampled}


@pytest.mark.parametrize(
    "key", ["typical_p", "epsilon_cutoff", "no_repeat_ngram_size", "suppress_tokens"]
)
def test_another_value_is_reported(transformers, key):
    config = transformers.GenerationConfig().to_dict() | {key: [3] if "tokens" in key else 0.5}
    assert list(sampling_from_config(config).ignored) == [key]
