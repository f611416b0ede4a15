"""Errors of the `tokenizers` library as ours.

What a tokenizer.json holds is checked by the library in part when it is read and in part when it is used: an unknown
token that is missing from the vocabulary, say, shows at the first text that needs it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from xplm.errors import TokenizerError


@contextmanager
def library_faults(invariant: str) -> Iterator[None]:
    """Turn a fault of the library, while it reads or runs a pipeline, into our error.

    Args:
        invariant: what must hold, and where: the message begins with it.

    Raises:
        TokenizerError: the library raised a bare Exception, as it does for all its faults, or panicked.
    """
    try:
        yield
    except BaseException as error:
        # A panic derives from BaseException, and its class cannot be imported.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())
        raise TokenizerError(f"{invariant}; got: {said}; take the model's own file") from None
