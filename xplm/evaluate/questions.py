"""From texts to token ids that a model is asked about, by the conventions of lm-eval.

A continuation has the tokens by which context and continuation together are longer than the context alone; spaces
that end the context belong to it. Behind a conversation, and behind nothing, it is tokenised by itself. A text is
scored in windows, each of which begins with the last token of the one before; the first with the model's prefix.

A request is at most the context less one token, which a server keeps for a reply.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xplm.errors import ContextError, RequestError, did_you_mean
from xplm.evaluate.subject import Likelihood, Question, Scored, Subject, Text
from xplm.generate.options import SamplingOptions, make_options

DEFAULT_NEW_TOKENS = 256
"""Of an answer, where a task does not say."""

LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names that tasks have for `max_new_tokens`, the first that is given counts."""

SAMPLERS = ("temperature", "top_k", "top_p", "min_p")
"""Options that a greedy answer ignores."""

PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
"""Options that it does not."""

NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "early_stopping": False, "use_cache": True}
"""Further arguments of tasks, with the value of each that changes nothing."""

REPLY_TOKENS = 1


class Questions:
    """Asks a subject what tasks want to know.

    Attributes:
        n_cut: prompts whose beginning was left out, to fit the context.
    """

    def __init__(self, subject: Subject, seed: int = 0) -> None:
        """Nothing is asked yet.

        Args:
            subject: the model.
            seed: of the first sampled answer; the next have seeds that follow.
        """
        self.n_cut = 0
        self._subject, self._seed = subject, seed

    def likelihoods(self, pairs: Sequence[tuple[Text, str]]) -> list[Likelihood]:
        """The likelihood of each continuation after its context.

        Raises:
            RequestError: a continuation does not fit the context.
        """
        asked = [self._fit(scored) for scored in self._scored(pairs)]
        return self._subject.score(asked)

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each whole text."""
        prefix = self._subject.prefix_id
        longest = self._subject.context - REPLY_TOKENS - 1
        cut = [
            list(windows(ids, prefix, longest))
            for ids in self._subject.encode(texts, add_special_tokens=False)
        ]
        found = iter(self._subject.score([window for own in cut for window in own]))
        return [float(sum(next(found).logprob for _ in own)) for own in cut]

    def answers(self, asked: Sequence[tuple[Text, Mapping[str, Any]]]) -> list[str]:
        """The answer to each prompt, generated as the task's arguments say.

        Raises:
            RequestError: an argument is not supported.
        """
        options = [read_arguments(own, self._seed + n) for n, (_, own) in enumerate(asked)]
        texts = [text for text, _ in asked if isinstance(text, str)]
        encoded = iter(self._subject.encode(texts))
        questions = [
            Question(self._shorten(next(encoded), own) if isinstance(text, str) else text, own)
            for (text, _), own in zip(asked, options, strict=True)
        ]
        return self._subject.answer(questions)

    def _scored(self, pairs: Sequence[tuple[Text, str]]) -> Iterator[Scored]:
        """Each pair in tokens; every text is encoded once."""
        split = [_move_spaces(*pair) for pair in pairs]
        joined = [head + tail for head, tail in split if isinstance(head, str) and head]
        heads = [head for head, _ in split if head]
        alone = [tail for head, tail in split if not isinstance(head, str) or not head]
        known = self._encode([*joined, *heads])
        tails = self._encode(alone, add_special_tokens=False)
        for head, tail in split:
            if not head:
                ids, begin = _join(self._subject.prefix_id, tails[tail])
            elif isinstance(head, str):
                before = known[head]
                ids, begin = [*before, *known[head + tail][len(before) :]], len(before)
            else:
                ids, begin = [*known[head], *tails[tail]], len(known[head])
            yield Scored(ids, begin)

    def _encode(
        self, texts: Sequence[Text], *, add_special_tokens: bool = True
    ) -> dict[Text, list[int]]:
        """Token ids by text."""
        unique = [*dict.fromkeys(texts)]
        encoded = self._subject.encode(unique, add_special_tokens=add_special_tokens)
        return dict(zip(unique, encoded, strict=True))

    def _fit(self, scored: Scored) -> Scored:
        """The end that the context has room for."""
        most = self._subject.context - REPLY_TOKENS
        excess = len(scored.ids) - most
        if excess <= 0:
            return scored
        if scored.begin - excess < 1:
            raise ContextError(
                f"a continuation must fit the context of {self._subject.context} tokens; got "
                f"{len(scored.ids) - scored.begin} tokens; shorten it"
            )
        self.n_cut += 1
        return Scored(scored.ids[excess:], scored.begin - excess)

    def _shorten(self, ids: list[int], options: SamplingOptions) -> list[int]:
        """The end of a prompt that leaves room for an answer."""
        most = self._subject.context - options.max_new_tokens
        if most < 1:
            raise ContextError(
                f"an answer must leave room for a prompt in the context of {self._subject.context} tokens; the task "
                f"asks for {options.max_new_tokens}; set max_gen_toks in its generation_kwargs"
            )
        self.n_cut += len(ids) > most
        return ids[-most:]


def windows(ids: Sequence[int], prefix: int, longest: int) -> Iterator[Scored]:
    """The windows of a text, which score each of its tokens once.

    Args:
        ids: the text.
        prefix: the token to stand before the text.
        longest: tokens that a window scores, at most. A window has one token more, and the last is filled up in front
            with tokens that are scored already.
    """
    if ids:
        yield Scored([prefix, *ids[:longest]], 1)
    for begin in range(longest, len(ids), longest):
        end = min(begin + longest, len(ids))
        first = end - longest - 1
        yield Scored([*ids[first:end]], begin - first)


def read_arguments(given: Mapping[str, Any], seed: int) -> SamplingOptions:
    """The options that a task's `generation_kwargs` stand for.

    Args:
        given: as tasks have them; without `do_sample` an answer is sampled if a temperature above 0 is given.
        seed: of the answer.

    Raises:
        RequestError: one is not known, or out of range.
    """
    rest = {name: v for name, v in given.items() if not (name in NEUTRAL and v == NEUTRAL[name])}
    lengths = [rest.pop(name) for name in LENGTH_NAMES if rest.get(name) is not None]
    until = rest.pop("until", None) or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    is_sampled = rest.pop("do_sample", None)
    if is_sampled is None:
        is_sampled = bool(rest.get("temperature"))
    if is_sampled:
        rest.setdefault("temperature", 1.0)
    else:
        rest = {name: value for name, value in rest.items() if name not in SAMPLERS}
    if unknown := sorted(rest.keys() - {*SAMPLERS, *PENALTIES}):
        names = [*LENGTH_NAMES, "until", "do_sample", *SAMPLERS, *PENALTIES]
        raise RequestError(
            f"generation_kwargs of a task may have {', '.join(names)}; got {', '.join(unknown)}"
            f"{did_you_mean(unknown, names)}"
        )
    chosen = {"max_new_tokens": int(lengths[0]) if lengths else DEFAULT_NEW_TOKENS, "seed": seed}
    return make_options(rest | chosen | {"stop": tuple(text for text in stop if text)})


def _move_spaces(context: Text, continuation: str) -> tuple[Text, str]:
    """Spaces that end a context begin the continuation."""
    if not isinstance(context, str):
        return context, continuation
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _join(prefix: int, ids: Sequence[int]) -> tuple[list[int], int]:
    """A text with nothing before it but the prefix, which it may begin with itself."""
    return [*ids] if ids and ids[0] == prefix else [prefix, *ids], 1
