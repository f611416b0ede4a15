"""Where the `xplm` command begins: with nothing imported, so that Ctrl-C is heard from the first moment."""

import sys

INTERRUPTED = 130


def run() -> None:
    """Run what the command line says, and exit."""
    try:
        from xplm.cli.main import run as run_main

        run_main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
