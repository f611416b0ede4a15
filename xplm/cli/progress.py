"""Fetching a model in sight of the user: a bar with the bytes per second on a terminal, a rare line on a pipe."""

from contextlib import ExitStack
from pathlib import Path

from xplm.checkpoint.pull import pull
from xplm.cli.output import Output
from xplm.cli.places import package_index


def pull_with_progress(name: str, home: Path | None, out: Output) -> Path:
    """Find a model, or fetch it and show on stderr how far that is.

    Args:
        name: a known name, a Hugging Face id, or a path.
        home: where named models are kept; None for the default.
        out: the command's output.

    Returns:
        The model's directory or file.

    Raises:
        DownloadError: it is not here and cannot be fetched.
    """
    if out.flags.quiet:
        return pull(name, home=home, index=package_index())
    if not out.shows_progress:

        def report_line(what: str, n_bytes: int, total_bytes: int | None) -> None:
            out.waiting.report(f"fetching {what}", n_bytes, total_bytes)

        return pull(name, home=home, progress=report_line, index=package_index())

    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with ExitStack() as until_pulled:
        bar = Progress(*columns, console=out.stderr, transient=True)
        tasks: dict[str, TaskID] = {}

        def report(what: str, n_bytes: int, total_bytes: int | None) -> None:
            if not tasks:  # a model that is here already shows no bar
                until_pulled.enter_context(bar)
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None)
            bar.update(tasks[what], completed=n_bytes, total=total_bytes)

        return pull(name, home=home, progress=report, index=package_index())
