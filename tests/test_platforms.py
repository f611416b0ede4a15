"""What only POSIX has is neither imported nor used while a module is imported."""

import ast
import os
import signal

import pytest

from tests.paths import ROOT
from xplm.checkpoint.files import rename
from xplm.cli import main

POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "O_DIRECTORY", "WNOHANG", "execve", "fork", "forkpty", "geteuid", "getuid", "kill", "killpg", "nice",
    "register_at_fork", "sched_getaffinity", "sched_setaffinity", "setsid", "statvfs", "sysconf", "uname", "wait4",
    "waitpid",
}  # fmt: skip
SIGNALS_EVERYWHERE = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
SIGNALS = {name for name in dir(signal) if name.startswith("SIG") and "_" not in name}
FILES = [p for folder in ("xplm", "backends") for p in sorted((ROOT / folder).rglob("*.py"))]


def run_at_import(node):
    """The nodes that importing a module evaluates, but for those that a `try` or the like guards."""
    later = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Try
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, later) and not is_guard(child):
            yield child
            yield from run_at_import(child)


def is_guard(node):
    """Whether it is `if hasattr(...)` or `with contextlib.suppress(ImportError)`."""
    if isinstance(node, ast.With):
        return ast.unparse(node.items[0].context_expr) == "contextlib.suppress(ImportError)"
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Call) and getattr(test.func, "id", None) == "hasattr"


def posix_only(source):
    found = set()
    for node in run_at_import(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & POSIX_MODULES
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            found |= {node.module} & POSIX_MODULES
            found |= names & (POSIX_NAMES if node.module == "os" else set())
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = {"os": POSIX_NAMES, "signal": SIGNALS - SIGNALS_EVERYWHERE}
            found |= {node.attr} & names.get(node.value.id, set())
    return found


def test_nothing_that_only_posix_has_is_needed_to_import():
    used = {str(path.relative_to(ROOT)): posix_only(path.read_text("utf-8")) for path in FILES}
    assert {path: names for path, names in used.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, resource", {"resource"}),
        ("from os import fork", {"fork"}),
        ("class A:\n    x = os.sysconf('SC_PAGE_SIZE')", {"sysconf"}),
        ("QUIT = signal.SIGPIPE", {"SIGPIPE"}),
        ("QUIT = signal.SIGINT\ndef f():\n    import resource\n    os.fork()", set()),
        ("try:\n    import resource\nexcept ModuleNotFoundError:\n    resource = None", set()),
        ('if hasattr(os, "fork"):\n    os.register_at_fork()', set()),
        ("if os.fork():\n    pass", {"fork"}),
    ],
)
def test_the_check_sees_what_runs_at_import(source, found):
    assert posix_only(source) == found


def test_a_file_gets_its_name_where_directories_cannot_be_opened(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY")
    (tmp_path / "a.partial").touch()
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened a directory"))
    rename(tmp_path / "a.partial", tmp_path / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_platform_that_is_not_supported_is_said_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(main, "prepare_streams", lambda: None)
    monkeypatch.setattr(main, "main", lambda arguments: 0)
    monkeypatch.setattr(main.sys, "platform", "win32")
    with pytest.raises(SystemExit):
        main.run()
    assert capsys.readouterr().err == "note: xplm is untested on Windows; where it fails, use WSL\n"
