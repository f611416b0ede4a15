"""A reply as a stream of text."""

from collections.abc import Generator, Iterator

from xplm.errors import RequestError
from xplm.generate.beam import search_beams
from xplm.generate.engine import Engine
from xplm.generate.request import Request
from xplm.generate.result import Generation
from xplm.generate.scheduler import generate_steps
from xplm.page_pool import PagePool
from xplm.text.reply_parts import Part


def stream_reply(
    engine: Engine, request: Request, pool: PagePool | None = None
) -> Generator[Part, None, Generation]:
    """Generate one reply.

    Args:
        engine: the decoder.
        request: its reply is empty, and ends up holding the result.
        pool: that holds the request's row; None: one of its own.

    Yields:
        Its parts. Beam search knows them at the end only.

    Returns:
        The finished reply.
    """
    if request.reply.options.num_beams > 1:
        generation = search_beams(engine, request.reply, pool, request.row)
        yield from request.reply.parts
        return generation
    for events in generate_steps(engine, [request], pool):
        for event in events:
            yield from event.parts
    return request.result()


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
