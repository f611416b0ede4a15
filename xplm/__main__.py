"""`python -m xplm` is `xplm`."""

from xplm.cli.entry import run

if __name__ == "__main__":
    run()
