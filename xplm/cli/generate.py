"""`xplm generate`: complete texts, or answer one message."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from xplm.cli.flags import ModelFlags, SamplingFlags, takes_flags
from xplm.cli.input import read_prompts
from xplm.cli.output import Output, OutputFlags
from xplm.cli.sampling import note_sampling
from xplm.cli.template_args import TemplateArgs, parse_template_args
from xplm.generate.fragility import AGAINST, measure_fragility
from xplm.generate.result import Generation
from xplm.generate.session import Chat
from xplm.generate.stream import TextStream
from xplm.language_model import LanguageModel
from xplm.precision import Policy
from xplm.text import renderer

NewChat = Callable[[], Chat] | None
"""Starts a conversation; None where a prompt is none."""


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
    template_arg: TemplateArgs = None,
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
    if template_arg and not chat:
        raise typer.BadParameter("--template-arg needs --chat.")
    template_args = parse_template_args(template_arg)
    if against is not None and not fragility:
        raise typer.BadParameter("--against needs --fragility.")
    texts = read_prompts([*(prompts or []), *(prompt or [])])
    options = sampling.options()
    seed = {"seed": options["seed"]} if sampling.draws_seed else {}
    if fragility:
        from xplm.cli.fragility import require_greedy  # rich comes with it

        require_greedy(options)
        Policy.parse(against or AGAINST)
    out = Output(output)
    if chat:
        renderer.start()  # while the weights are read
    lm = model.load(out)
    new_chat = partial(lm.chat, system, template_args) if chat else None
    note_sampling(out, options, sampling.given, lm.sampling, draws_seed=sampling.draws_seed)
    if fragility:
        _judge_all(lm, out, texts, options, new_chat, against or AGAINST)
        return
    _answer(lm, out, texts, options, new_chat, seed)


def _answer(
    lm: LanguageModel,
    out: Output,
    texts: list[str],
    options: dict[str, Any],
    new_chat: NewChat,
    seed: dict[str, int],
) -> None:
    """Answer one prompt as its reply comes, or several together."""
    if len(texts) == 1:
        (text,) = texts
        stream = new_chat().stream if new_chat else lm.stream
        generation = _show(stream(text, **options), out)
        out.timings(generation.timings)
        out.result(_as_dict(generation) | seed)
        return

    generations = _answer_all(lm, texts, options, new_chat)
    for text, generation in zip(texts, generations, strict=True):
        out.note(f"> {text}")
        out.line(generation.text)
    if not new_chat:  # a batch has one for all
        out.timings(generations[0].timings)
    out.result({"generations": [_as_dict(generation) for generation in generations]} | seed)


def _show(stream: TextStream, out: Output) -> Generation:
    """Print a reply as it comes. Ctrl-C leaves what there is on the screen."""
    try:
        for _ in out.parts(stream):
            pass
    finally:
        stream.close()
        out.line()
    assert stream.result, "a stream read to its end has a result"
    return stream.result


def _answer_all(
    lm: LanguageModel, texts: list[str], options: dict[str, Any], new_chat: NewChat
) -> list[Generation]:
    if new_chat:
        return [new_chat().send(text, **options) for text in texts]
    return lm.generate(texts, **options)


def _judge_all(
    lm: LanguageModel,
    out: Output,
    texts: list[str],
    options: dict[str, Any],
    new_chat: NewChat,
    against: str,
) -> None:
    """Answer all, and show which tokens are fragile."""
    from xplm.cli.fragility import as_dict, show_tokens, watched

    prompts = [_prompt_ids(lm, text, new_chat) for text in texts]
    with watched(out) as on_draw:
        generations = _answer_all(lm, texts, options, new_chat)
        replies = [generation.token_ids for generation in generations]
        judged = measure_fragility(lm.engine, prompts, replies, against, on_draw=on_draw)

    results = []
    for text, ids, generation, tokens in zip(texts, prompts, generations, judged, strict=True):
        if len(texts) > 1:
            out.note(f"> {text}")
        before = None if new_chat else ids[-1]
        show_tokens(out, lm.tokenizer, generation, tokens, before=before, against=against)
        judgement = as_dict(generation.token_ids, tokens, against)
        results.append(_as_dict(generation) | {"fragility": judgement})
    if len(texts) == 1 or not new_chat:  # a batch has one for all
        out.timings(generations[0].timings)
    out.result(results[0] if len(results) == 1 else {"generations": results})


def _prompt_ids(lm: LanguageModel, text: str, new_chat: NewChat) -> list[int]:
    if new_chat:
        return new_chat().prompt_ids(text)
    lm.tokenizer.require_fit(text, lm.engine.context)
    return lm.tokenizer.encode(text)


def _as_dict(generation: Generation) -> dict[str, Any]:
    return asdict(generation) | {"timings": generation.timings.as_dict()}
