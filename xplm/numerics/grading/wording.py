"""The words of known mistakes, with the names that a file has for its arrays."""

import re
from collections.abc import Mapping


def in_their_names(says: str, names: Mapping[str, str]) -> str:
    """A sentence with gradients, and arrays of one letter, under the file's names: "dbias" is "db"."""
    theirs = {arg.lower(): name for arg, name in names.items() if name.lower() != arg.lower()}

    def gradient(word: re.Match[str]) -> str:
        return f"d{theirs[word[1].lower()]}" if word[1].lower() in theirs else word[0]

    def letter(word: re.Match[str]) -> str:
        return theirs.get(word[0], word[0])

    says = re.sub(r"\bd([A-Za-z]+)\b", gradient, says)
    return re.sub(r"(?<![\w'])[xqkv](?![\w'])", letter, says)
