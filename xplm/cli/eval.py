"""`xplm eval`: measure how good a model is."""

from typing import Annotated

import typer

from xplm.cli.eval_recall import recall
from xplm.cli.flags import ModelFlags, takes_flags
from xplm.cli.input import read_text
from xplm.cli.output import Output, OutputFlags

app = typer.Typer(name="eval", help="Measure how good a model is: xplm eval perplexity --help")


@app.callback()
def _eval() -> None:
    """Measure how good a model is."""


@app.command()
@takes_flags
def perplexity(
    model: ModelFlags,
    output: OutputFlags,
    text: Annotated[str, typer.Option(help="A text file in UTF-8; - reads stdin.")],
    window: Annotated[int, typer.Option(help="Token ids that are scored together.")] = 512,
) -> None:
    """Perplexity of a text, cut into windows that are scored alone.

    Example: xplm eval perplexity --text book.txt --window 512
    """
    content = read_text(text)
    out = Output(output)
    result = model.load(out, decodes=False).perplexity(content, window=window)
    out.line(f"perplexity {result.perplexity:.4f} over {result.tokens} tokens")
    out.result({"perplexity": result.perplexity, "tokens": result.tokens})


app.command()(recall)
