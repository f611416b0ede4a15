"""`xplm eval`: measure how good a model is."""

from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from xplm.cli.eval_recall import recall
from xplm.cli.eval_task import task
from xplm.cli.flags import ModelFlags, takes_flags
from xplm.cli.input import read_text
from xplm.cli.output import Output, OutputFlags
from xplm.generate.perplexity import DEFAULT_WINDOW
from xplm.text.unknown import describe_unknown

TASK = "task"


class TaskGroup(TyperGroup):
    """Commands, and `task` for words that begin with none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `task` in front of the names of tasks; what is nearly a command stays a mistake."""
        words = [*self.commands, *ctx.help_option_names]
        if args and not get_close_matches(args[0], words, cutoff=0.8):
            args = [TASK, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(name="eval", cls=TaskGroup)


@app.callback()
def _eval() -> None:
    """Measure how good a model is: on a task of lm-eval (xplm eval TASK), or by the commands below."""


@app.command()
@takes_flags
def perplexity(
    model: ModelFlags,
    output: OutputFlags,
    text: Annotated[str, typer.Option(help="A text file in UTF-8; - reads stdin.")],
    window: Annotated[
        int | None,
        typer.Option(
            help=f"Token ids that are scored together; if not given, {DEFAULT_WINDOW}, or the context if smaller."
        ),
    ] = None,
) -> None:
    """Perplexity of a text, cut into windows that are scored alone.

    Example: xplm eval perplexity --text book.txt --window 512
    """
    content = read_text(text)
    out = Output(output)
    lm = model.load(out, decodes=False)
    result = lm.perplexity(content, window=window)
    if window is None and result.window < DEFAULT_WINDOW:
        out.note(f"windows of {result.window} tokens, the model's context")
    for note in describe_unknown(
        lm.tokenizer, result.unknown_tokens, result.text_tokens, result.lost_characters
    ):
        out.note(note)
    out.line(f"perplexity {result.perplexity:.4f} over {result.tokens} tokens")
    out.result(result._asdict())


app.command()(recall)
app.command(TASK)(task)
