"""`--threads` before NumPy is imported: its BLAS starts its threads at once, as many as the environment says.

A number that is not seen here, or not plain, counts all the same: the backend holds it while it computes. But numba
then has as many threads as the machine has cores, and no more.
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

MOST_DIGITS = 4


def set_threads(arguments: Sequence[str]) -> None:
    """Set the environment to the number of the flag.

    Args:
        arguments: the command line. A number that is no plain one is left to the command, which may refuse it.
    """
    if "numpy" in sys.modules:
        return
    words = takewhile(lambda word: word != "--", arguments)
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        number = value if equals else following
        is_plain = number.isdecimal() and len(number) <= MOST_DIGITS and int(number) > 0
        if name == "--threads" and is_plain:
            os.environ.update(dict.fromkeys(VARIABLES, str(int(number))))
