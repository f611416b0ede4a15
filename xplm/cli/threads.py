"""`--threads`: libraries read their number of threads from the environment, once, when they are first loaded.

One number is given to all of them: of BLAS and the fused kernels one works at a time.
"""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise, takewhile

VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


STARTED_ANEW = "XPLM_STARTED_ANEW"
"""Tells a process that the number is the flag's: what looks like the flag may be another's value."""

MOST_DIGITS = 4


def set_threads(arguments: Sequence[str]) -> None:
    """Set the number before NumPy is imported, so that `use_threads` finds it there.

    Args:
        arguments: the command line. A number that is no plain one is left to `use_threads`, or refused later.
    """
    if os.environ.pop(STARTED_ANEW, None) or "numpy" in sys.modules:
        return
    words = takewhile(lambda word: word != "--", arguments)
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        number = value if equals else following
        is_plain = number.isdecimal() and len(number) <= MOST_DIGITS and int(number) > 0
        if name == "--threads" and is_plain:
            os.environ.update(dict.fromkeys(VARIABLES, str(int(number))))


def use_threads(threads: int | None) -> int | None:
    """Have this very command run under a number of threads.

    Where the environment says otherwise, NumPy may have been imported already: the variables are set, and the process
    starts itself again in its own place.
    """
    if threads is None or all(os.environ.get(name) == str(threads) for name in VARIABLES):
        return threads
    environment = os.environ | dict.fromkeys(VARIABLES, str(threads)) | {STARTED_ANEW: "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
