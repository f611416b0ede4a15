"""The families that xplm has, by the model_type of their config.json."""

from xplm.models.families.family import Family
from xplm.models.families.gpt2 import GPT2
from xplm.models.families.llama import LLAMA
from xplm.models.families.mistral import MISTRAL
from xplm.models.families.phi import PHI
from xplm.models.families.qwen2 import QWEN2
from xplm.models.families.qwen3 import QWEN3
from xplm.models.families.starcoder2 import STARCODER2

_ALL = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GPT2,
    STARCODER2,
    PHI,
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}
