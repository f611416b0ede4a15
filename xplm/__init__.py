"""A language-model library in which nothing is hidden. Start with `xplm.load`.

A public name is imported when it is first used, so that `import xplm`, which every backend needs too, takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xplm.config import DecoderConfig
    from xplm.errors import XplmError
    from xplm.generate.options import SamplingOptions
    from xplm.generate.result import Generation
    from xplm.generate.session import Chat
    from xplm.language_model import LanguageModel, load
    from xplm.precision import Policy

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "DecoderConfig",
    "Generation",
    "LanguageModel",
    "Policy",
    "SamplingOptions",
    "XplmError",
    "load",
]

_HOME = {
    "Chat": "xplm.generate.session",
    "DecoderConfig": "xplm.config",
    "Generation": "xplm.generate.result",
    "LanguageModel": "xplm.language_model",
    "Policy": "xplm.precision",
    "SamplingOptions": "xplm.generate.options",
    "XplmError": "xplm.errors",
    "load": "xplm.language_model",
}


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


if not TYPE_CHECKING:  # a type checker refuses other names

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)
