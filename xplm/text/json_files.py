"""Small files of a tokenizer: absent, or read as a whole."""

import os
from pathlib import Path
from typing import Any

from xplm.checkpoint.untrusted import MAX_SMALL_BYTES, read_json_object, read_text
from xplm.errors import TokenizerError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is not there.

    Raises:
        TokenizerError: it cannot be read, or is no JSON object.
    """
    return read_json_object(path, TokenizerError) if os.path.lexists(path) else {}


def read_optional_text(path: Path, at_most: int = MAX_SMALL_BYTES) -> str | None:
    """A file's text; None when the file is not there.

    Raises:
        TokenizerError: it cannot be read, or is not UTF-8.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read_text(path, at_most)
    except OSError as error:
        raise TokenizerError(f"{path} must be readable; got: {error.strerror}") from error
    except ValueError as error:
        raise TokenizerError(f"{path} must be a UTF-8 text; got: {error}") from error
