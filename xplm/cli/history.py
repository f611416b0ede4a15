"""What was typed in earlier conversations: one JSON string a line, oldest first, in a file that only its user reads."""

import json
import os
from pathlib import Path

from xplm.checkpoint.files import replacing
from xplm.checkpoint.untrusted import parse_json, read_text
from xplm.errors import RequestError

MAX_ENTRIES = 1000
MAX_ENTRY_CHARS = 2**13  # of an entry that is kept
MAX_BYTES = 2**26  # of the file, six bytes a character


class History:
    """A file of entries. Two conversations at a time share it: each writes what it adds to what is there."""

    def __init__(self, path: Path) -> None:
        """Name the file, which need not be there.

        Args:
            path: the file.
        """
        self.path = path

    def load(self) -> list[str]:
        """The entries, oldest first.

        Raises:
            RequestError: the file cannot be read, or holds something else.
        """
        try:
            entries = [
                parse_json(line) for line in read_text(self.path, MAX_BYTES).split("\n") if line
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RequestError(f"{self.path} must be readable; got: {error.strerror}") from error
        except ValueError as error:
            raise RequestError(f"{self.path} must be lines of JSON; got: {error}") from error
        if not all(isinstance(entry, str) for entry in entries):
            raise RequestError(f"{self.path} must hold one JSON string a line; remove the file")
        return entries

    def add(self, entry: str) -> None:
        """Add an entry, and write the file anew; one that is the last already, or long, or no Unicode, is left out.

        Raises:
            RequestError: the file cannot be read or written.
        """
        entries = self.load()
        is_text = not any("\ud800" <= c <= "\udfff" for c in entry)
        if not is_text or len(entry) > MAX_ENTRY_CHARS or entries[-1:] == [entry]:
            return
        lines = [json.dumps(kept, ensure_ascii=False) for kept in [*entries, entry][-MAX_ENTRIES:]]
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(self.path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write("".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise RequestError(f"{self.path} must be writable; got: {error.strerror}") from error
