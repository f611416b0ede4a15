"""`xplm generate --fragility`: greedy replies, with the tokens marked that rounding could have made others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xplm.cli.output import CONTROLS, Output
from xplm.errors import RequestError
from xplm.generate.fragility import DRAWS, TokenFragility
from xplm.generate.result import Generation
from xplm.text.detokenize import StreamDecoder
from xplm.text.tokenizer import Tokenizer

GREEDY = {"temperature": 0.0, "num_beams": 1, "repetition_penalty": 1.0}
"""Options with which each token is that of the largest logit."""

STYLE = "bold black on yellow"


class Piece(NamedTuple):
    """What one token adds to the text."""

    text: str  # "" where a character is not yet whole, and of a special token
    is_fragile: bool


def require_greedy(options: dict[str, Any]) -> None:
    """Refuse what does not choose the largest logit.

    Raises:
        RequestError: the reply is to be sampled, searched for, or penalised.
    """
    for name, value in GREEDY.items():
        if options[name] != value:
            raise RequestError(
                f"--fragility judges greedy choices, so it needs --{name.replace('_', '-')} {value:g}; "
                f"got {options[name]:g}"
            )


@contextmanager
def watched(out: Output) -> Iterator[Callable[[int], None]]:
    """Show how many perturbed passes are done; what is yielded is told the number of each before it begins."""
    try:
        yield lambda draw: out.waiting.report("perturbed passes", draw, DRAWS)
    finally:
        out.waiting.clear()


def show_tokens(
    out: Output,
    tokenizer: Tokenizer,
    generation: Generation,
    tokens: Sequence[TokenFragility],
    *,
    before: int | None,
    against: str,
) -> None:
    """Print a reply with its fragile tokens marked, their number, and a line for each.

    Args:
        out: the command's output.
        tokenizer: the model's.
        generation: the reply.
        tokens: the judgement of each of its tokens.
        before: the last id of the prompt, where the text runs on from it; None where it stands alone.
        against: the policy that is guarded against.
    """
    if out.flags.as_json:
        return
    console = Console(highlight=False, soft_wrap=True)
    pieces = cut_pieces(tokenizer, generation, tokens, before)
    if console.is_terminal:
        console.print(marked(pieces))
    else:
        out.line(bracketed(pieces))

    n_fragile = sum(token.is_fragile for token in tokens)
    console.print(
        f"\nfragile: {n_fragile} of {len(tokens)} tokens, which arithmetic in {against} could have made others",
        markup=False,
    )
    if n_fragile:
        console.print(_table(tokenizer, generation.token_ids, tokens))


def cut_pieces(
    tokenizer: Tokenizer,
    generation: Generation,
    tokens: Sequence[TokenFragility],
    before: int | None,
) -> list[Piece]:
    """A reply's text, a piece a token; joined they are the text, without what a stop text cut off.

    Where a reply has thoughts or calls, the text is that of all tokens. A character that several tokens make up is in
    the last one's piece, and fragile if any of them is.
    """
    decoder = StreamDecoder(tokenizer)
    if before is not None:
        decoder.push(before)
    pieces = []
    has_parts = generation.reasoning or generation.calls
    rest = tokenizer.decode(generation.token_ids) if has_parts else generation.text
    is_held = False
    for token_id, token in zip(generation.token_ids, tokens, strict=True):
        piece = decoder.push(token_id)[: len(rest)]
        rest = rest[len(piece) :]
        is_fragile = token.is_fragile or is_held
        is_held = is_fragile and not piece
        pieces.append(Piece(piece, is_fragile))
    return [*pieces, Piece(rest, is_held)]


def marked(pieces: Sequence[Piece]) -> Text:
    """The text, its fragile pieces in another colour."""
    text = Text()
    for piece in pieces:
        text.append(piece.text.translate(CONTROLS), STYLE if piece.is_fragile else None)
    return text


def bracketed(pieces: Sequence[Piece]) -> str:
    """The text, its fragile pieces in brackets; white space around a piece stays outside of them."""
    text = ""
    for piece in pieces:
        core = piece.text.strip() or piece.text
        is_marked = piece.is_fragile and core
        text += piece.text.replace(core, f"[{core}]", 1) if is_marked else piece.text
    return text


def as_dict(
    token_ids: Sequence[int], tokens: Sequence[TokenFragility], against: str
) -> dict[str, Any]:
    """Judgements by name, for JSON."""
    return {
        "against": against,
        "fragile_tokens": sum(token.is_fragile for token in tokens),
        "tokens": [
            {
                "token_id": token_id,
                "rival": token.rival,
                "margin": token.margin,
                "bound": token.bound,
                "ratio": token.ratio,
                "fragile": token.is_fragile,
            }
            for token_id, token in zip(token_ids, tokens, strict=True)
        ],
    }


def _table(
    tokenizer: Tokenizer, token_ids: Sequence[int], tokens: Sequence[TokenFragility]
) -> Table:
    """A row for each fragile token."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("", "token", "runner-up"):
        table.add_column(heading, justify="left" if heading else "right")
    for heading in ("margin", "bound", "margin / bound"):
        table.add_column(heading, justify="right")

    def shown(token_id: int) -> Text:
        return Text(repr(tokenizer.decode([token_id], skip_special_tokens=False)))

    for i, (token_id, token) in enumerate(zip(token_ids, tokens, strict=True), start=1):
        if token.is_fragile:
            figures = (f"{token.margin:.2g}", f"{token.bound:.2g}", f"{token.ratio:.2f}")
            table.add_row(str(i), shown(token_id), shown(token.rival), *figures)
    return table
