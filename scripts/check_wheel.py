"""Does what pip installs do what README shows?   python scripts/check_wheel.py [--python PATH ...]

For the oldest and the newest Python that is found, or for those that are named: the wheel goes into an empty
environment without pip, which is then made read-only. Every command line of README's table, and its first Python
example, run there: in another folder, as the user "nobody" where this one is root, with a home that does not exist, and
with XDG_CACHE_HOME in a folder of their own; one more, without it. Flags that shorten a command are added.

It prints a line a command. Exit codes: 0 all did what they should, 1 one did not, 2 no environment could be made.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOBODY = 65534
LONGEST_SECONDS = 600
OLDEST = (3, 11)

FIRST = ["xplm pull smollm2-135m-instruct:q4_1"]  # what others of the table start from
FIRST += ["xplm train facts-pretrain --out runs/facts --steps 2"]
FIRST += ["xplm train facts-chat --init runs/facts --out runs/facts-chat --steps 2"]
MORE = ["xplm precision train shakespeare-char --data book.txt"]
MORE += ["xplm precision search --text book.txt --budget 0.01"]
MORE += ["xplm precision fragility --text book.txt --tokens 500"]
MORE += ["xplm eval perplexity --text book.txt --window 512"]
MORE += ["xplm eval recall --model runs/facts-chat --data chats.jsonl"]
OF_EXTRAS = ("xplm serve", "xplm eval arc_easy")  # which a wheel alone does not have
SHORTER = {
    "xplm generate": "--max-new-tokens 8",
    "xplm chat": "--max-new-tokens 8",
    "xplm train": "--steps 2",
    "xplm precision sweep": "--model shakespeare --characters 200 --window 64",
    "xplm precision train": "--steps 2",
    "xplm precision search": "--model shakespeare --characters 200 --window 64 --part norm",
    "xplm precision fragility": "--model shakespeare --tokens 20 --reply 8 --batch 2",
    "xplm eval perplexity": "--model shakespeare --window 64",
    "xplm gradcheck": "--op rms_norm",
    "xplm bench": "--model shakespeare --prompt-tokens 32 --new-tokens 8 --repeats 1",
}
JUDGE = {"xplm precision fragility"}  # a share of so few tokens may miss its limit: exit code 1
STDIN = {"xplm chat": "What is rain?\n/exit\n"}
LAST = ["xplm --version", "xplm models remove smollm2-135m-instruct:q4_1"]
FORWARD_AND_BACKWARD = '''"""SiLU-gated product."""
import numpy as np

OP = "swiglu"


def forward(gate, up):
    return gate / (1 + np.exp(-gate)) * up


def backward(dy, gate, up):
    s = 1 / (1 + np.exp(-gate))
    return dy * up * (s + gate * s * (1 - s)), dy * gate * s
'''


def readme_commands() -> list[str]:
    """The command lines of README's table, after those that others start from, and more of its commands."""
    table = re.findall(r"^\| `(xplm [^`]*)` \|", README, re.MULTILINE)
    own = [line for line in table if line not in FIRST and not line.startswith(OF_EXTRAS)]
    return [*FIRST, *own, *MORE]


def first_word(command: str, names: Sequence[str]) -> str | None:
    """The entry that a command line begins with."""
    return next((name for name in names if command.startswith(name)), None)


def find_pythons() -> list[str]:
    """The oldest and the newest Python here that xplm runs on."""
    home = Path.home() / ".pyenv" / "versions"
    names = [f"python3.{minor}" for minor in range(OLDEST[1], 30)]
    found: dict[tuple[int, int], str] = {}
    for path in (
        *(shutil.which(name) for name in names),
        *home.glob("3.*/bin/python"),
        sys.executable,
    ):
        ask = [str(path), "-c", "import sys, venv; print(*sys.version_info[:2])"]
        done = subprocess.run(ask, capture_output=True, text=True, check=False) if path else None
        if done and done.returncode == 0:
            major, minor = map(int, done.stdout.split())
            found.setdefault((major, minor), str(path))
    fit = sorted(version for version in found if version >= OLDEST)
    return [found[version] for version in dict.fromkeys((fit[0], fit[-1]))]


def as_nobody() -> dict[str, Any]:
    """What makes a child another user, where this one may."""
    if os.geteuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def reachable(python: str, folder: Path) -> str:
    """A Python that the other user may run: this one, or a copy of its installation in a folder."""
    try:
        subprocess.run([python, "-c", ""], check=True, capture_output=True, **as_nobody())
        return python
    except (PermissionError, subprocess.CalledProcessError):
        ask = [python, "-c", "import sys; print(sys.base_prefix)"]
        prefix = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
        unneeded = shutil.ignore_patterns("test", "site-packages", "__pycache__", "share")
        shutil.copytree(prefix, folder, symlinks=True, ignore=unneeded)
        return str(folder / "bin" / "python3")


def install(python: str, wheel: Path, environment: Path) -> None:
    """An environment that holds the wheel, what it needs, and nothing else; nobody can write to it."""
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install"]
    subprocess.run([*pip, "-qq", "--disable-pip-version-check", wheel], check=True)
    subprocess.run(["chmod", "-R", "a-w,a+rX", environment], check=True)


def run(
    command: Sequence[str], folder: Path, has_cache: bool, stdin: str
) -> "subprocess.CompletedProcess[str]":
    """Run in a folder as a user without a home."""
    kept = {k: v for k, v in os.environ.items() if re.search("CERT|PROXY|CA_BUNDLE", k.upper())}
    variables = kept | {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    prefix = Path(command[0]).with_name("python").resolve().parents[1]
    variables["LD_LIBRARY_PATH"] = str(prefix / "lib")  # a copy looks where it was installed
    variables |= {"XDG_CACHE_HOME": str(folder / "cache")} if has_cache else {}
    variables |= {name: v for name in ("PIP_INDEX_URL",) if (v := os.environ.get(name))}
    return subprocess.run(
        command, cwd=folder, env=variables, input=stdin, capture_output=True, text=True, check=False,
        timeout=LONGEST_SECONDS, **as_nobody(),
    )  # type: ignore[call-overload]  # fmt: skip


def checks(environment: Path, folder: Path) -> Iterator[tuple[str, bool, float, str]]:
    """Each command line, whether it did what it should, its seconds, and the last line on stderr where it did not."""
    (folder / "mine.py").write_text(FORWARD_AND_BACKWARD)
    (folder / "book.txt").write_text(README)
    chats = environment.glob("lib/*/site-packages/xplm/train/recipes/data/facts-chat.jsonl")
    (folder / "chats.jsonl").write_text(next(chats).read_text(encoding="utf-8"))
    (code,) = re.findall(r"^```python\n(import xplm\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (folder / "example.py").write_text(code)

    alone = "xplm generate ROMEO: --model shakespeare --max-new-tokens 8"
    lines = [alone, *readme_commands(), "python example.py", *LAST]
    for line in lines:
        model = next((folder / "cache").glob("xplm/models/*/*.gguf"), None)
        if model and not (folder / "model.gguf").exists():
            (folder / "model.gguf").symlink_to(model)
        name, *words = shlex.split(line)
        words += shlex.split(SHORTER.get(first_word(line, list(SHORTER)) or "", ""))
        stdin = STDIN.get(first_word(line, list(STDIN)) or "", "")
        began = time.perf_counter()
        try:
            done = run([str(environment / "bin" / name), *words], folder, line != alone, stdin)
        except subprocess.TimeoutExpired:
            yield line, False, time.perf_counter() - began, f"still ran after {LONGEST_SECONDS} s"
            continue
        right = (0, 1) if first_word(line, list(JUDGE)) else (0,)
        is_right = done.returncode in right and "Traceback" not in done.stderr
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        why = "" if is_right else f"exit code {done.returncode}: {' '.join(last)}"
        yield line, is_right, time.perf_counter() - began, why


def main() -> int:
    """Build, install, run, and say what failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", nargs="+", help="if not given, the oldest and the newest here")
    given = parser.parse_args()
    n_failed = 0
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", top]
        try:
            subprocess.run([*build, ROOT], check=True)
            (wheel,) = top.glob("*.whl")
            for i, python in enumerate(given.python or find_pythons()):
                environment, folder = top / f"environment{i}", top / f"folder{i}"
                install(reachable(python, top / f"python{i}"), wheel, environment)
                folder.mkdir()
                if os.geteuid() == 0:
                    os.chown(folder, NOBODY, NOBODY)
                print(f"{python}:", flush=True)
                for line, is_right, seconds, why in checks(environment, folder):
                    n_failed += not is_right
                    print(
                        f"  {'ok' if is_right else 'FAILED':6} {seconds:6.1f} s  {line}  {why}",
                        flush=True,
                    )
        except subprocess.CalledProcessError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        finally:
            subprocess.run(["chmod", "-R", "u+w", top], check=False)
    print(f"{n_failed} commands failed" if n_failed else "every command did what it should")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
