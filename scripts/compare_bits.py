"""Does a change leave every bit as it was?   python scripts/compare_bits.py [--before REVISION_OR_DIRECTORY]

Two checkouts, the one before and this tree, compute the same, each in its own process:

    ops        every op, forward and back, on seeded numbers
    models     tiny random models of each family: logits, loss, gradients, replies alone, in a batch, in chunks, by beam
               search and in a chat
    training   three steps: weights, optimizer state, metrics

with fused and portable kernels, under fp32, bf16, fp16 and an emulated policy each. A line a group says that all arrays
are equal, bit for bit, or which differ and by how much. A revision is checked out into a temporary directory, where
its kernels are compiled first; a directory keeps them. Bits are those of one machine: nothing is kept for another day.

Exit codes: 0 all are equal, 1 some are not, 2 one of the two could not be recorded, 130 interrupted.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from bench.run import add_where_flags, guarded
from bits.arrays import Recorded, load
from bits.compare import compare

from xplm.errors import RequestError

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
PARTS = ("ops", "models", "training")


def check_out(revision: str, folder: Path) -> Path:
    """The files of a revision of this repository, in a folder.

    Raises:
        RequestError: git knows no such revision.
    """
    archive = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise RequestError(
            f'--before must be a directory, or a revision that git knows; got "{revision}": '
            f"{archive.stderr.decode(errors='replace').strip()}"
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def start(checkout: Path, folder: Path, plan: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """Begin to record what a checkout computes, by the recorder of this tree."""
    paths = [checkout, checkout / "backends", SCRIPTS]
    variables = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "XPLM_HOME": str(folder / "home")}
    where = json.dumps({"device": plan.device, "name": plan.backend})
    command = ["-m", "bits.record", folder, "--checkout", checkout, "--where", where]
    return subprocess.Popen(
        [sys.executable, "-P", *command, "--only", *plan.only],
        env=os.environ | variables,
        cwd=folder.parent,
    )


def finish(checkout: Path, folder: Path, process: "subprocess.Popen[bytes]") -> Recorded:
    """Wait for a recording.

    Raises:
        RequestError: it failed; its process has said why.
    """
    if code := process.wait():
        raise RequestError(f"{checkout} could not be recorded: exit code {code}")
    return load(folder)


def main() -> int:
    """Record twice, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", default="HEAD~1", help="if not given, the commit before HEAD")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument(
        "--except",
        dest="excepted",
        action="append",
        default=[],
        metavar="PATTERN",
        help='names that may differ, as in "ops/*/attention/*"; may be given several times',
    )
    add_where_flags(parser)
    plan = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="xplm-bits-") as name:
        top = Path(name).resolve()
        is_directory = Path(plan.before).is_dir()
        before = (
            Path(plan.before).resolve() if is_directory else check_out(plan.before, top / "tree")
        )
        sides = {top / "before": before, top / "after": ROOT}
        processes = {folder: start(tree, folder, plan) for folder, tree in sides.items()}
        try:
            records = [finish(tree, folder, processes[folder]) for folder, tree in sides.items()]
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
        groups = compare(*records, plan.excepted)
    print(*groups, sep="\n")
    n_different = sum(bool(group.differences) for group in groups)
    print(f"{n_different} of {len(groups)} groups differ from {plan.before}")
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(guarded(main))
