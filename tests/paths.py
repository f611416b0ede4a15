"""Where tests find what the project does not ship, and the reason they skip where it is absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
STORY = SHARED / "models" / "story"
SHAKESPEARE = SHARED / "data" / "tinyshakespeare.txt"

needs_story = pytest.mark.skipif(not STORY.exists(), reason=f"needs the story model in {STORY}")
needs_shakespeare = pytest.mark.skipif(not SHAKESPEARE.exists(), reason=f"needs {SHAKESPEARE}")


def smollm2_gguf() -> Path:
    """The pulled SmolLM2-135M-Instruct; skips the test where it was not pulled."""
    from xplm.checkpoint.pull import default_home, resolve
    from xplm.errors import XplmError

    home = Path(os.environ["XPLM_HOME"]) if "XPLM_HOME" in os.environ else default_home()
    try:
        return resolve("smollm2-135m-instruct", home=home)
    except XplmError:
        pytest.skip("needs SmolLM2; run: xplm pull smollm2-135m-instruct")
