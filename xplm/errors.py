"""Errors that a user can cause.

Each message is one line that holds the invariant, what was received, and what to do about it. The command line prints
it as it is and exits with code 2. Any other exception that leaves the library is a bug in the library.
"""

MAX_MESSAGE_CHARS = 1000
CUT = " [...] "


def one_line(text: str) -> str:
    """Text from a file or a user, fit for a message: one printable line of at most MAX_MESSAGE_CHARS.

    Control, bidirectional and other unprintable characters become escapes. The middle of a long text is left out: a
    message says at its beginning what must hold, and at its end what to do.
    """
    return _shorten(visible(" ".join(_shorten(text).split())))


def visible(text: str) -> str:
    """Text with every unprintable character as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shorten(text: str) -> str:
    if len(text) <= MAX_MESSAGE_CHARS:
        return text
    half = (MAX_MESSAGE_CHARS - len(CUT)) // 2
    return text[:half] + CUT + text[-half:]


class XplmError(Exception):
    """Base of every error below; catch this one to catch them all."""

    def __str__(self) -> str:
        """The message on one line of bounded length, whatever a file or a library put into it."""
        return one_line(super().__str__())


class ConfigError(XplmError):
    """A model configuration is missing a field, contradicts itself, or asks for what xplm does not have."""


class CheckpointError(XplmError):
    """A checkpoint file is missing, truncated, malformed, or does not fit its configuration."""


class TokenizerError(XplmError):
    """A tokenizer cannot be built from what the checkpoint holds."""


class TemplateError(XplmError):
    """A chat template cannot be rendered, or tried to leave its sandbox."""


class BackendError(XplmError):
    """An array library, a device, or a dtype that was asked for is not there."""


class KernelError(XplmError):
    """A backend cannot compile a kernel. A runtime calls the portable kernel of the same name in its place."""


class DownloadError(XplmError):
    """A model cannot be fetched."""


class RequestError(XplmError):
    """An option or a prompt of a request is out of range."""


class DataError(XplmError):
    """Training data is missing, malformed, or too little."""


class OutOfMemoryError(XplmError):
    """The memory of the host or the device cannot hold what was asked for."""
