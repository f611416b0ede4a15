"""Where the `xplm` command begins: with nothing imported, so that Ctrl-C is heard from the first moment."""

import gc
import signal
import sys

INTERRUPTED = 130
BAD_INPUT = 2

NEW_OBJECTS = 100_000
"""So many, and Python looks for cycles among them. By itself it looks after some hundreds; opening a model makes many
more, and drops few."""

OUT_OF_MEMORY = "error: a command must fit the memory; there is not enough to start it; free memory, or raise its limit"
"""Fixed: a message made now might find no memory either."""


def run() -> None:
    """Run what the command line says, and exit."""
    gc.set_threshold(NEW_OBJECTS)
    try:
        from xplm.cli.process import tune_process
        from xplm.cli.threads import set_threads

        set_threads(sys.argv[1:])
        tune_process()
        from xplm.cli.main import run as run_main

        run_main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends what is waited for
        sys.exit(INTERRUPTED)
    except MemoryError:
        print(OUT_OF_MEMORY, file=sys.stderr)
        sys.exit(BAD_INPUT)
    finally:
        gc.freeze()  # what is left goes with the process; searched for cycles, it would keep the user waiting
