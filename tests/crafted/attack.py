"""Mutate the files of a loader, and see that each is read or refused in one line.

python -m tests.crafted.attack LOADER COUNT SEED        in a process of bounded memory; prints what came of it
"""

import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest.mock import patch

from tests.crafted.loaders import LOADERS
from xplm.errors import MAX_MESSAGE_CHARS, XplmError

SECONDS = 5.0  # of this process, that one file may take
EXTRA_BYTES = 2 * 2**30  # of address space, beyond what the process has


class Outcome(NamedTuple):
    read: int  # files
    refused: int
    slowest: float  # seconds
    faults: list[str]


def attack(name: str, folder: Path, count: int, seed: int) -> Outcome:
    """Load `count` mutated files, one at a time.

    Args:
        name: of the loader.
        folder: where its files go; it does not exist.
        count: how many.
        seed: of all that is drawn.
    """
    loader = LOADERS[name]
    mutators = loader.make(folder)
    originals = {path: path.read_bytes() for path in mutators}
    loader.load(folder, next(iter(mutators)))  # the files are good
    tally: Counter[str] = Counter()
    slowest, faults = 0.0, []
    for number in range(count):
        rng = Random(f"{name} {seed} {number}")
        path = rng.choice(list(mutators))
        path.write_bytes(mutators[path](originals[path], rng))
        began = time.process_time()
        try:
            with patch("os.fsync"):  # of files that nobody keeps
                loader.load(folder, path)
            tally["read"] += 1
        except XplmError as error:
            tally["refused"] += 1
            said = str(error)
            if not said or not said.isprintable() or len(said) > MAX_MESSAGE_CHARS:
                faults.append(f"{number}, {path.name}: the message {said!r:.200}")
        except Exception as error:  # noqa: BLE001 - which is what is looked for
            faults.append(f"{number}, {path.name}: {type(error).__name__}: {error}"[:300])
        seconds = time.process_time() - began
        slowest = max(slowest, seconds)
        if seconds > SECONDS:
            faults.append(f"{number}, {path.name}: took {seconds:.1f} s")
        for changed, content in originals.items():
            if changed.read_bytes() != content:
                changed.write_bytes(content)
    return Outcome(tally["read"], tally["refused"], slowest, faults)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + EXTRA_BYTES,) * 2)
    with tempfile.TemporaryDirectory() as scratch:
        outcome = attack(sys.argv[1], Path(scratch) / "files", int(sys.argv[2]), int(sys.argv[3]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    lines = [
        *outcome.faults,
        f"{sys.argv[1]}: {outcome.read} read, {outcome.refused} refused, {len(outcome.faults)} faults; "
        f"slowest {outcome.slowest:.2f} s, peak {peak:.0f} MiB",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(outcome.faults))
