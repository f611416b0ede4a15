"""`python -m xplm` is `xplm`."""

from xplm.cli.main import run

if __name__ == "__main__":
    run()
