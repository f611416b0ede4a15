"""xplm's parameters as transformers' Llama."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from xplm.config import DecoderConfig
from xplm.models.families.config_json import write_config


def make_torch_model(config: DecoderConfig, params: Mapping[str, np.ndarray]) -> Any:
    """The model in float32, with copies of the parameters (float32, on the host)."""
    model = LlamaForCausalLM(LlamaConfig(**write_config(config), attn_implementation="sdpa"))
    state = {name: torch.tensor(param) for name, param in params.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing  # tied, where it is missing
    return model.eval()
