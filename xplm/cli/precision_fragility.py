"""`xplm precision fragility`: are the tokens that flip in other configurations the ones that were marked?"""

import json
import os
import time
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from xplm.backend import default_backend, load_backend
from xplm.checkpoint.files import replacing, writing
from xplm.checkpoint.named import full_name
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.untrusted import parse_json, read_whole_lines
from xplm.cli.experiment import Model, encode_text, number, table
from xplm.cli.flags import WhereFlags, takes_flags
from xplm.cli.input import read_text
from xplm.cli.output import Output, OutputFlags
from xplm.cli.parity import parse_side
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.errors import RequestError
from xplm.generate.fragility import AGAINST
from xplm.language_model import load_checkpoint
from xplm.numerics.fragility_trial import (
    LEAST_MARKED,
    MOST_FRAGILE,
    count_tokens,
    draw_prompts,
    measure_batch,
    summarise,
)
from xplm.runtime import Runtime, make_runtime

MAX_FIGURES_BYTES = 2**30
HEADINGS = ("configuration", "flips", "marked", "margins moved by", "over noise")


@takes_flags
def fragility(
    where: WhereFlags,
    output: OutputFlags,
    text: Annotated[
        list[str], typer.Option(metavar="FILE", help="UTF-8; may be given several times.")
    ],
    model: Model = "smollm2-135m-instruct:q4_1",
    other: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND:POLICY",
            help="A configuration that reads the replies; may be given several times. If not given, bf16 and fp16 on"
            " the same backend. The default backend of the CPU computes there, the others on --device.",
        ),
    ] = None,
    against: Annotated[str, typer.Option(help="The policy that is guarded against.")] = AGAINST,
    tokens: Annotated[int, typer.Option(min=1, help="Judge at least so many.")] = 5000,
    reply: Annotated[int, typer.Option(min=1, help="Tokens to a reply, at most.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Prompts that run together.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts and perturbations.")] = 0,
    figures: Annotated[
        Path, typer.Option(metavar="FILE", help="Gets a line a batch; a run that stopped goes on.")
    ] = Path("fragility.jsonl"),
) -> None:
    """Count how many of the tokens that flip were marked fragile, and how many of all tokens are.

    Greedy replies to prompts cut from the texts are judged as xplm generate --fragility judges them. Then every other
    configuration reads the same tokens: it flips one if, given those before it, it would choose another.

    Exit code 1 where a share misses its limit.

    Example: xplm precision fragility --text book.txt --tokens 500 --other numpy:bf16 --other numpy:fp16
    """
    out = Output(output)
    own = where.backend or default_backend(where.device)
    sides = other or [f"{own}:bf16", f"{own}:fp16"]
    runtimes = {side: side_runtime(side, where) for side in sides}
    reference = where.runtime("fp32")
    model = full_name(model)
    checkpoint = open_checkpoint(pull_with_progress(model, home(), out))
    lm = load_checkpoint(reference, checkpoint, progress=out.waiting.report)
    others = {side: load_checkpoint(rt, checkpoint).engine for side, rt in runtimes.items()}
    texts = [encode_text(lm.tokenizer, read_text(path), out) for path in text]

    settings = {"model": model, "other": list(sides), "against": against, "reply": reply}
    settings |= {"batch": batch, "seed": seed}
    prompts = draw_prompts(texts, seed)
    batches = read_batches(figures)
    for known in batches:
        same_prompts = list(islice(prompts, len(known["prompts"])))
        if known["settings"] != settings or known["prompts"] != same_prompts:
            raise RequestError(f"{figures} holds another run; give another --figures")
    while count_tokens(batches) < tokens:
        began = time.perf_counter()
        asked = list(islice(prompts, batch))
        replies = [r.token_ids for r in lm.generate(asked, max_new_tokens=reply)]
        measured = measure_batch(lm.engine, others, asked, replies, against, seed)
        batches.append({"settings": settings} | measured)
        with writing(figures), replacing(figures) as file:
            file.writelines((json.dumps(known) + "\n").encode() for known in batches)
        seconds = time.perf_counter() - began
        out.note(f"{count_tokens(batches)} tokens, {seconds:.0f} s a batch")

    result = summarise(batches) | {"model": model, "against": against}
    out.line(report(result))
    out.result(result)
    if not result["is_met"]:
        raise typer.Exit(1)


def side_runtime(side: str, where: WhereFlags) -> Runtime:
    """Where one configuration computes.

    Raises:
        XplmError: there is no such backend, device, policy or kernels.
    """
    backend, policy = parse_side(side)
    device = "cpu" if backend == default_backend("cpu") else where.device
    return make_runtime(
        load_backend(backend, device, where.threads, where.blas), policy, where.kernel_table
    )


def read_batches(path: Path) -> list[dict[str, Any]]:
    """The batches of a file, without a last line that is unfinished; none where there is no file.

    Raises:
        RequestError: it cannot be read, or holds something else.
    """
    try:
        lines = read_whole_lines(path, MAX_FIGURES_BYTES) if os.path.lexists(path) else []
        batches = [parse_json(line.decode()) for line in lines]
    except (OSError, ValueError) as cause:
        raise RequestError(
            f"{path} must hold batches of this command; got: {cause}; give another --figures"
        ) from cause
    if not all(_is_batch(batch) for batch in batches):
        raise RequestError(f"{path} holds another run; give another --figures")
    return batches


def _is_batch(value: Any) -> bool:
    """Whether a line has the parts of a batch."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), dict) for name in ("settings", "others"))
        and all(isinstance(value.get(name), list) for name in ("prompts", "margin", "bound"))
        and isinstance(value.get("replies"), list)
        and all(isinstance(reply, list) for reply in value["replies"])
    )


def report(result: dict[str, Any]) -> str:
    """The result as lines."""
    rows = [
        [side, found["flips"], found["marked"], number(found["moved"], ".2g"),
         number(found["moved_over_noise"], ".2f")]
        for side, found in result["others"].items()
    ]  # fmt: skip
    verdict = "within both limits" if result["is_met"] else "NOT within both limits"
    return (
        f"{table(HEADINGS, rows)}\n"
        f"{result['marked_share']:.1%} of {result['flips']} flips were marked (at least {LEAST_MARKED:.0%}); "
        f"{result['fragile_share']:.1%} of {result['tokens']} tokens are (at most {MOST_FRAGILE:.0%}): {verdict}"
    )
