"""How tokens are chosen: what the flags say, what the model's own files say, and both in one line."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from xplm.checkpoint.sampling import NO_SAMPLING, ModelSampling
from xplm.cli.output import Output
from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions

RANDOM = "random"
SEED_BITS = 32  # of a drawn seed: short enough to be typed again

FILTERS = ("top_k", "top_p", "min_p")
SAMPLERS = ("temperature", *FILTERS, "repetition_penalty")
"""The options that choose a token, in the order in which they are shown."""

NEUTRAL = asdict(SamplingOptions())


def parse_seed(text: str) -> int:
    """A seed, drawn where the text is "random".

    Raises:
        RequestError: it is neither that nor an integer.
    """
    if text == RANDOM:
        return secrets.randbits(SEED_BITS)
    try:
        return int(text)
    except ValueError as error:
        raise RequestError(f'--seed must be an integer or "{RANDOM}"; got "{text}"') from error


def merge_options(given: Mapping[str, Any], model: ModelSampling = NO_SAMPLING) -> dict[str, Any]:
    """The fields of SamplingOptions.

    Args:
        given: those that flags set.
        model: the model's own, which hold where no flag says otherwise; stop texts add up.

    Raises:
        RequestError: one is out of range.
    """
    SamplingOptions(**given)
    own = {name: value for name, value in model.options.items() if name not in {*given} - {"stop"}}
    if given.get("num_beams", 1) > 1:  # a search, which does not sample
        own.pop("temperature", None)
    for name, value in own.items():
        try:
            SamplingOptions(**{name: value})
        except RequestError as error:
            advice = "" if name == "stop" else f", or give --{name.replace('_', '-')}"
            raise RequestError(f"{error}; correct {model.source}{advice}") from error
    stop = SamplingOptions(stop=model.options.get("stop", ())).stop + given.get("stop", ())
    return asdict(SamplingOptions(**{**own, **given, "stop": stop}))


def describe_sampling(
    options: Mapping[str, Any], given: Mapping[str, Any], model: ModelSampling
) -> str:
    """One line on how tokens are chosen, such as "temperature 0.6, top_p 0.9 (the model's own); seed 0"."""
    is_greedy = options["temperature"] == 0
    active = ("repetition_penalty",) if is_greedy else SAMPLERS
    changed = [name for name in active if name == "temperature" or options[name] != NEUTRAL[name]]
    own = [name for name in (*changed, "stop") if name in model.options and name not in given]
    others = [name for name in changed if name not in own]

    def listed(names: list[str]) -> str:
        return ", ".join(f"{name} {_shown(options[name])}" for name in names)

    n_beams, unused = options["num_beams"], model.ignored.get("temperature")
    parts = [
        (f"beam search with {n_beams} beams" if n_beams > 1 else "greedy") if is_greedy else "",
        f"{listed(own)} (the model's own)" if own else "",
        listed(others),
        f"{model.source} has temperature {unused} without do_sample"
        if unused and is_greedy
        else "",
        "" if is_greedy else f"seed {options['seed']}",
    ]
    return "; ".join(part for part in parts if part)


def unused_flags(options: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The flags that were given to filter what is sampled, where nothing is."""
    return [
        f"--{name.replace('_', '-')}"
        for name in FILTERS
        if options["temperature"] == 0 and given.get(name, NEUTRAL[name]) != NEUTRAL[name]
    ]


def note_sampling(
    out: Output,
    options: Mapping[str, Any],
    given: Mapping[str, Any],
    model: ModelSampling,
    *,
    draws_seed: bool,
) -> None:
    """Say which seed was drawn, and what is asked for without effect, by a flag or by the model's files."""
    if draws_seed:
        out.note(f"seed {options['seed']}; --seed {options['seed']} repeats the run")
    if flags := unused_flags(options, given):
        out.note(f"{', '.join(flags)}: of no effect at temperature 0, which is greedy")
    beyond = {name: value for name, value in model.ignored.items() if name not in SAMPLERS}
    if asked := ", ".join(f"{name} {value!r:.40}" for name, value in beyond.items()):
        out.note(f"not honoured of {model.source}: {asked}")


def _shown(value: Any) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else str(value)
