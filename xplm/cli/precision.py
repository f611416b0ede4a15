"""`xplm precision`: experiments with number formats."""

import typer

from xplm.cli.precision_fragility import fragility
from xplm.cli.precision_search import search
from xplm.cli.precision_sweep import peak, sweep
from xplm.cli.precision_train import train

HELP = "Measure what number formats do to a model: xplm precision sweep --help"

app = typer.Typer(name="precision", help=HELP)
for command in (sweep, train, search, fragility):
    app.command()(command)
app.command(hidden=True)(peak)
