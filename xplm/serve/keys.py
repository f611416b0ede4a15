"""Files of API keys."""

import re
from pathlib import Path

from xplm.errors import RequestError

_KEY = re.compile(r"[ -~]+")
"""What every client can send in a header as it is."""


def read_key_lines(path: Path) -> list[str]:
    """The keys in a file, one a line; lines that begin with # are none.

    Raises:
        RequestError: the file cannot be read, or has no key, or one that clients cannot send.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"a file of API keys must be readable text; got {error}") from error
    keys = {n: line.strip() for n, line in enumerate(lines, 1) if not line.startswith("#")}
    keys = {n: key for n, key in keys.items() if key}
    if not keys:
        raise RequestError(f"a file of API keys must have one on a line; {path} has none")
    if wrong := next((n for n, key in keys.items() if not _KEY.fullmatch(key)), None):
        raise RequestError(
            f"an API key must be of printable ASCII characters; line {wrong} of {path} has others"
        )
    return list(keys.values())
