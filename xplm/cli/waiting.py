"""Work in progress on stderr: bars on a terminal that go away, a rare line on a pipe, nothing if quiet."""

from time import monotonic
from typing import TYPE_CHECKING

from xplm.out_of_memory import format_bytes
from xplm.progress import COMPILING, LOADING, READING, SCORING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from xplm.cli.output import Output

UNITS = {READING: "tokens", SCORING: "tokens", COMPILING: "so far"}
"""The unit of a count, where the name of the work does not give it."""

IN_BYTES = (LOADING, "fetching")
"""Names of work that is counted in bytes begin so."""

SHORT_SECONDS = 0.3
"""Work that ends sooner shows no bar, which would flash."""

RARE_SECONDS = 5.0
"""Between two lines on a pipe, and before the first."""

PAUSE_SECONDS = 2.0
"""Work that begins again within this, as the next kernel does, is the same work."""


class Waiting:
    """Shows work under way. Its `report` is what the library calls with (what, done, total)."""

    def __init__(self, out: "Output") -> None:
        """Show it where the command's notes go."""
        self._out = out
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}  # seconds, by what is done
        self._ended: dict[str, float] = {}
        self._last_line = 0.0

    def report(self, what: str, done: int, total: int | None) -> None:
        """Show how far something is; it is over when done is total."""
        if self._out.flags.quiet:
            return
        now = monotonic()
        if now - self._ended.pop(what, now) > PAUSE_SECONDS:
            del self._begun[what]
        begun = self._begun.setdefault(what, now)
        if total is not None and done >= total:
            self._ended[what] = now
            self._forget(what)
        elif self._out.shows_progress:
            if what == COMPILING or now - begun >= SHORT_SECONDS:
                self._draw(what, done, total, now - begun)
        elif now - max(begun, self._last_line) >= RARE_SECONDS:
            self._last_line = now
            self._out.note(f"{what}: {counted(what, done, total)}{_time(done, total, now - begun)}")

    @property
    def is_shown(self) -> bool:
        """True while a bar is on the screen."""
        return self._bar is not None

    def clear(self) -> None:
        """Take what moves off the screen, before something else is printed; the next report brings it back."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}

    def _forget(self, what: str) -> None:
        task = self._tasks.pop(what, None)
        if self._bar is not None and task is not None:
            self._bar.remove_task(task)
        if not self._tasks:
            self.clear()

    def _draw(self, what: str, done: int, total: int | None, seconds: float) -> None:
        from rich.errors import LiveError
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        if self._bar is None:
            bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[counted]}"),
                console=self._out.stderr,
                transient=True,
                refresh_per_second=4,
            )
            try:
                bar.start()
            except LiveError:  # beside a bar of the command's own, where rich has one at a time
                return
            self._bar = bar
        text = counted(what, done, total) + _time(done, total, seconds)
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, counted=text)
        self._bar.update(self._tasks[what], completed=done, total=total, counted=text)


def counted(what: str, done: int, total: int | None) -> str:
    """Such as "1,024 of 30,000 tokens"."""
    if what.startswith(IN_BYTES):
        return format_bytes(done) + ("" if total is None else f" of {format_bytes(total)}")
    numbers = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    return f"{numbers} {UNITS[what]}" if what in UNITS else numbers


def _time(done: int, total: int | None, seconds: float) -> str:
    """The time that the rest takes at the same pace, or else the time until now, as the end of a line."""
    if total is None:
        return f", {seconds:.0f} s"
    if done == 0:
        return ""
    return f", about {seconds * (total - done) / done:.0f} s left"
