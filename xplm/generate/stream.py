"""A reply as a stream of text."""

from collections.abc import Generator, Iterator

from xplm.cache import KVCache
from xplm.errors import RequestError
from xplm.generate.beam import beam_steps
from xplm.generate.decode import generate_steps, sum_timings
from xplm.generate.engine import Engine
from xplm.generate.reply import Reply
from xplm.generate.result import Generation
from xplm.text.reply_parts import Part


def stream_reply(
    engine: Engine, reply: Reply, cache: KVCache | None = None
) -> Generator[Part, None, Generation]:
    """Generate one reply.

    Args:
        engine: the decoder.
        reply: empty; owns how to generate, and ends up holding the result.
        cache: one row with room for the prompt and its reply; empty, or holding a beginning of the prompt. None:
            one is allocated for the first piece.

    Yields:
        Its parts. Beam search knows them at the end only.

    Returns:
        The finished reply.
    """
    if cache is None:
        cache = engine.allocate(1, len(reply.prompt_ids) + reply.max_tokens)
    seconds, compiled_before = [], engine.rt.backend.compiler.compilations()
    prefill_tokens = len(reply.prompt_ids) - cache.length
    is_beam = reply.options.num_beams > 1
    steps = beam_steps(engine, cache, reply) if is_beam else generate_steps(engine, cache, [reply])
    for step in steps:
        seconds.append(step.seconds)
        for _, part in step.parts:
            yield part
    return reply.result(sum_timings(engine, [reply], prefill_tokens, seconds, compiled_before))


class TextStream(Iterator[str]):
    """A reply's text, piece by piece; the pieces joined are the text. Close it, or drop it, to stop early.

    A thought is not text; `parts` has it too.
    """

    def __init__(self, parts: Generator[Part, None, Generation]) -> None:
        """Read a generator of parts that returns the whole."""
        self._parts = parts
        self.result: Generation | None = None  # once every piece has been read

    def __next__(self) -> str:
        """The next piece of the answer, never empty, never a part of a character."""
        return next(part.text for part in self.parts() if part.kind == "content")

    def parts(self) -> Iterator[Part]:
        """The parts that are left: pieces of the answer, of thoughts, and of calls to tools, as they come."""
        while True:
            try:
                part = next(self._parts)
            except StopIteration as end:
                self.result = self.result or end.value
                return
            yield part

    def close(self) -> None:
        """Stop generating, and leave everything as it was before."""
        self._parts.close()

    def finish(self) -> Generation:
        """Read the pieces that are left; return the whole.

        Raises:
            RequestError: the stream was closed, or has failed.
        """
        for _ in self:
            pass
        if self.result is None:
            raise RequestError(
                "a stream must be read to its end; this one was closed, or failed, before; start another"
            )
        return self.result
