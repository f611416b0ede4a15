"""The families that xplm has, by the model_type of their config.json."""

from xplm.models.families.arcee import ARCEE
from xplm.models.families.cohere import COHERE
from xplm.models.families.cohere2 import COHERE2
from xplm.models.families.deepseek_v2 import DEEPSEEK_V2
from xplm.models.families.deepseek_v3 import DEEPSEEK_V3
from xplm.models.families.ernie4_5 import ERNIE4_5
from xplm.models.families.exaone4 import EXAONE4
from xplm.models.families.falcon import FALCON
from xplm.models.families.family import Family
from xplm.models.families.gemma import GEMMA
from xplm.models.families.gemma2 import GEMMA2
from xplm.models.families.gemma3_text import GEMMA3_TEXT
from xplm.models.families.glm4 import GLM4
from xplm.models.families.glm4_moe import GLM4_MOE
from xplm.models.families.gpt2 import GPT2
from xplm.models.families.gpt_neox import GPT_NEOX
from xplm.models.families.gpt_oss import GPT_OSS
from xplm.models.families.granite import GRANITE
from xplm.models.families.granitemoe import GRANITEMOE
from xplm.models.families.llama import LLAMA
from xplm.models.families.mistral import MISTRAL
from xplm.models.families.mixtral import MIXTRAL
from xplm.models.families.nemotron import NEMOTRON
from xplm.models.families.olmo2 import OLMO2
from xplm.models.families.olmo3 import OLMO3
from xplm.models.families.olmoe import OLMOE
from xplm.models.families.opt import OPT
from xplm.models.families.phi import PHI
from xplm.models.families.phi3 import PHI3
from xplm.models.families.qwen2 import QWEN2
from xplm.models.families.qwen2_moe import QWEN2_MOE
from xplm.models.families.qwen3 import QWEN3
from xplm.models.families.qwen3_moe import QWEN3_MOE
from xplm.models.families.seed_oss import SEED_OSS
from xplm.models.families.smollm3 import SMOLLM3
from xplm.models.families.stablelm import STABLELM
from xplm.models.families.starcoder2 import STARCODER2

_ALL = (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GPT2,
    STARCODER2,
    PHI,
    ARCEE,
    OPT,
    GPT_NEOX,
    FALCON,
    STABLELM,
    SMOLLM3,
    SEED_OSS,
    ERNIE4_5,
    PHI3,
    MIXTRAL,
    QWEN3_MOE,
    QWEN2_MOE,
    GLM4_MOE,
    GRANITE,
    GEMMA,
    GEMMA2,
    GEMMA3_TEXT,
    OLMO2,
    OLMO3,
    COHERE,
    NEMOTRON,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GLM4,
    EXAONE4,
    COHERE2,
    OLMOE,
    GRANITEMOE,
    GPT_OSS,
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}
