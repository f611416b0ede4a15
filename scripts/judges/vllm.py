"""vLLM's test of batch invariance over HTTP (tests/v1/determinism/test_online_batch_invariance.py).

Its bits are compared for one prompt at a time and for 32 at once. What its files import of vLLM is stood in for by
`vllm_stand_in`, which starts `xplm serve`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from judges.listed import Entry, Outcome
from judges.suites import folder_of, run_pytest

INSIDE = "tests/v1/determinism"
FILE = "test_online_batch_invariance.py"


def run(
    suite: Path, model: str, where: Sequence[str], entries: Sequence[Entry], only: str | None
) -> dict[str, Outcome]:
    """Run the test; the arguments are as for llama.cpp's, and `entries` are not needed.

    Raises:
        RequestError: the suite is not there.
    """
    folder = folder_of(suite, INSIDE)
    arguments = [only or FILE, "-p", "judges.vllm_stand_in", "-c", "/dev/null"]
    variables = {"VLLM_TEST_MODEL": model, "XPLM_SERVE_FLAGS": json.dumps(list(where))}
    return run_pytest(folder, arguments, variables)
