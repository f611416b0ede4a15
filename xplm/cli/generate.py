"""`xplm generate`: complete texts, or answer one message."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from xplm.cli.flags import ModelFlags, SamplingFlags, takes_flags
from xplm.cli.input import read_prompts
from xplm.cli.output import Output, OutputFlags
from xplm.generate.result import Generation
from xplm.generate.stream import TextStream
from xplm.language_model import LanguageModel
from xplm.numerics.fragility import AGAINST, measure_fragility
from xplm.precision import Policy
from xplm.text import renderer
from xplm.text.chat_encoder import ChatEncoder


@takes_flags
def generate(
    model: ModelFlags,
    sampling: SamplingFlags,
    output: OutputFlags,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="Texts to go on from; - reads stdin."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="The same, as a flag.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send each as a message, in the model's chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="With --chat: the system message.")] = None,
    fragility: Annotated[
        bool, typer.Option("--fragility", help="Mark tokens that rounding could have made others.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY", help="With --fragility: whose rounding; if not given, bf16's."
        ),
    ] = None,
) -> None:
    """Complete a text, or answer a message.

    Several prompts are generated as one batch. The reply goes to stdout, timings to stderr.

    Example: xplm generate "Once upon a time" --max-new-tokens 64 --temperature 0.7 --seed 1
    """
    if system is not None and not chat:
        raise typer.BadParameter("--system needs --chat.")
    if against is not None and not fragility:
        raise typer.BadParameter("--against needs --fragility.")
    texts = read_prompts([*(prompts or []), *(prompt or [])])
    options = sampling.options()
    if fragility:
        from xplm.cli.fragility import require_greedy  # rich comes with it

        require_greedy(options)
        Policy.parse(against or AGAINST)
    out = Output(output)
    if chat:
        renderer.start()  # while the weights are read
    lm = model.load(out)
    if fragility:
        _judge_all(lm, out, texts, options, chat, system, against or AGAINST)
        return

    if len(texts) == 1:
        (text,) = texts
        stream = lm.chat(system=system).stream if chat else lm.stream
        generation = _show(stream(text, **options), out)
        out.timings(generation.timings)
        out.result(_as_dict(generation))
        return

    generations = _answer_all(lm, texts, options, chat, system)
    for text, generation in zip(texts, generations, strict=True):
        out.note(f"> {text}")
        out.line(generation.text)
    if not chat:  # a batch has one for all
        out.timings(generations[0].timings)
    out.result({"generations": [_as_dict(generation) for generation in generations]})


def _show(stream: TextStream, out: Output) -> Generation:
    """Print a reply as it comes. Ctrl-C leaves what there is on the screen."""
    try:
        for piece in stream:
            out.text(piece)
    finally:
        stream.close()
        out.line()
    assert stream.result, "a stream read to its end has a result"
    return stream.result


def _answer_all(
    lm: LanguageModel, texts: list[str], options: dict[str, Any], chat: bool, system: str | None
) -> list[Generation]:
    if chat:
        return [lm.chat(system=system).send(text, **options) for text in texts]
    return lm.generate(texts, **options)


def _judge_all(
    lm: LanguageModel,
    out: Output,
    texts: list[str],
    options: dict[str, Any],
    chat: bool,
    system: str | None,
    against: str,
) -> None:
    """Answer all, and show which tokens are fragile."""
    from xplm.cli.fragility import as_dict, show_tokens, watched

    prompts = [_prompt_ids(lm, text, chat, system) for text in texts]
    with watched(out) as on_draw:
        generations = _answer_all(lm, texts, options, chat, system)
        replies = [generation.token_ids for generation in generations]
        judged = measure_fragility(lm.engine, prompts, replies, against, on_draw=on_draw)

    results = []
    for text, ids, generation, tokens in zip(texts, prompts, generations, judged, strict=True):
        if len(texts) > 1:
            out.note(f"> {text}")
        before = None if chat else ids[-1]
        show_tokens(out, lm.tokenizer, generation, tokens, before=before, against=against)
        judgement = as_dict(generation.token_ids, tokens, against)
        results.append(_as_dict(generation) | {"fragility": judgement})
    if len(texts) == 1 or not chat:  # a batch has one for all
        out.timings(generations[0].timings)
    out.result(results[0] if len(results) == 1 else {"generations": results})


def _prompt_ids(lm: LanguageModel, text: str, chat: bool, system: str | None) -> list[int]:
    if not chat:
        lm.tokenizer.require_fit(text, lm.engine.context)
        return lm.tokenizer.encode(text)
    messages = [*lm.chat(system=system).messages, {"role": "user", "content": text}]
    return ChatEncoder(lm.tokenizer, lm.engine.context).encode(messages)


def _as_dict(generation: Generation) -> dict[str, Any]:
    return asdict(generation) | {"timings": generation.timings.as_dict()}
