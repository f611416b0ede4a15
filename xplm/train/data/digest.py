"""Which data these are: a hash of their files' content, wherever the files are and whatever they are called."""

import hashlib
from pathlib import Path

from xplm.checkpoint.untrusted import open_regular
from xplm.errors import DataError
from xplm.progress import OnProgress, unseen
from xplm.train.data.sources import list_files

BLOCK_BYTES = 2**20


def data_digest(path: Path, progress: OnProgress = unseen) -> str:
    """64 hexadecimal digits that differ once a file at a path is changed, added or removed, or its form is another.

    Args:
        path: a file or a folder, as `list_files` takes it.
        progress: told of the bytes that are read.

    Raises:
        DataError: there is no file, or one cannot be read.
    """
    files = list_files(path)
    total = sum(file.stat().st_size for file in files)
    digest = hashlib.sha256()
    done = 0
    for file in files:
        digest.update(f"\0{file.suffix.lower()}\0{file.stat().st_size}\0".encode())
        try:
            with open_regular(file) as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
                    done += len(block)
                    progress("comparing", done, total)
        except OSError as cause:
            raise DataError(f"{file} must be readable; got: {cause.strerror}") from cause
    return digest.hexdigest()
