"""Compiles the kernels that most tests run, on two cores:   python scripts/compile_kernels.py

Without this, test workers and the commands that they start would compile the same kernels at the same time. The
processes share few kernels, so neither waits for what the other compiles.
"""

import subprocess
import sys

SHARES = (
    ("generate llama fp32", "train llama fp32", "train gpt fp32"),
    ("generate llama bf16", "generate llama fp16"),
)
"""The tasks of each process, as `xplm.cli.compile_ahead` takes them."""


def compile_share(share: tuple[str, ...]) -> None:
    """Run the tasks in this process."""
    from xplm.backend import load_backend
    from xplm.cli.compile_ahead import TASKS
    from xplm.runtime import make_runtime

    for task, kind, policy in map(str.split, share):
        TASKS[task](make_runtime(load_backend("numpy"), policy), kind)


def main() -> int:
    """Run a process for each share, and wait for all of them."""
    if len(sys.argv) > 1:
        compile_share(SHARES[int(sys.argv[1])])
        return 0
    processes = [
        subprocess.Popen([sys.executable, __file__, str(number)]) for number in range(len(SHARES))
    ]
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    sys.exit(main())
