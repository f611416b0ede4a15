"""Where the command line keeps files, and where it fetches them from, as the environment says."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from xplm.checkpoint.pull import default_home
from xplm.cli.output import Output
from xplm.errors import DownloadError


def home() -> Path | None:
    """XPLM_HOME, where pulled models are kept; None: in `default_home()`."""
    named = os.environ.get("XPLM_HOME")
    return Path(named) if named else None


def token_cache(out: Output) -> Path:
    """The folder that keeps the tokens of training texts; a temporary one where the user's cannot be written."""
    try:
        kept = (home() or default_home()) / "tokens"
        kept.mkdir(parents=True, exist_ok=True)
        if os.access(kept, os.W_OK):
            return kept
        reason = f"{kept} is not writable"
    except (OSError, DownloadError) as error:
        reason = str(error)
    out.note(f"tokens are not kept for the next run: {reason}")
    temporary = tempfile.mkdtemp(prefix="xplm-tokens-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def history_file() -> Path | None:
    """What was typed in chats, in the user's state directory; None: there is no such directory."""
    path = _state_directory()
    return path / "chat_history.jsonl" if path else None


def sessions_directory() -> Path | None:
    """The conversations of a server, in the user's state directory; None: there is no such directory."""
    path = _state_directory()
    return path / "sessions" if path else None


def _state_directory() -> Path | None:
    from platformdirs import user_state_dir  # for chats alone

    try:
        path = Path(user_state_dir("xplm", appauthor=False))
    except RuntimeError:  # the user has no home directory
        return None
    return path if path.is_absolute() else None


def package_index() -> str | None:
    """The user's package index, as pip has it; None: the public one."""
    return os.environ.get("PIP_INDEX_URL") or None
