"""`xplm doctor`: what the array libraries here can do, and what xplm does where they cannot."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xplm.backend import DEVICE_KINDS, Backend, backend_names, load_backend
from xplm.blas import ProductRate
from xplm.cli.flags import BLAS_HELP, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.products import product_lines, products_json
from xplm.errors import BackendError
from xplm.numerics.doctor.examine import PROBES, DoctorRow, as_json, examine
from xplm.numerics.doctor.probe import ABSENT, FLOATS
from xplm.numerics.parity.certificate import versions
from xplm.runtime import make_runtime
from xplm.threads import MOST_THREADS

INDENT = 4
DTYPE_WIDTH = 9


class Patient(NamedTuple):
    """A backend, and what was found of it."""

    backend: Backend
    rows: list[DoctorRow]
    product_rates: Sequence[ProductRate]

    @property
    def gaps(self) -> list[list[DoctorRow]]:
        """The gaps, together where the same is known of them and the same is done about them."""
        groups: dict[Any, list[DoctorRow]] = {}
        for row in self.rows:
            if row.is_gap:
                what = row.probe.name if row.workaround is None else row.workaround.name
                groups.setdefault((what, row.failure, row.reference), []).append(row)
        return list(groups.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many probes hold, how many gaps there are, and how many of them are open."""
        n_gaps = sum(row.is_gap for row in self.rows)
        n_absent = sum(row.answer.verdict == ABSENT for row in self.rows)
        return {
            "n_hold": len(self.rows) - n_gaps - n_absent,
            "n_gaps": n_gaps,
            "n_open": sum(row.is_open for row in self.rows),
        }


class Missing(NamedTuple):
    """A backend that cannot be asked."""

    name: str
    why: str  # with what to do


@takes_flags
def doctor(
    output: OutputFlags,
    backend: Annotated[
        str | None, typer.Option(help="An array library; if not given, every one that is here.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda or cuda:N; if not given, cpu, or cuda for what has no cpu."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_THREADS, help="CPU threads; if not given, one a core."),
    ] = None,
    blas: Annotated[str | None, typer.Option(help=BLAS_HELP)] = None,
) -> None:
    """Ask array libraries for what a transformer needs of them, and show what is done about each gap.

    Where a library has a gap, xplm's way around it is proved on that very library, and its place in the source is
    named.

    Exit code 1 where a gap is open: xplm has no way around it, or the way does not hold.

    Example: xplm doctor --backend numpy
    """
    out = Output(output)
    there, missing = find(backend, device, threads, blas)
    console = Console(highlight=False)
    patients = []
    for found in there:
        with found.computing():
            patients.append(Patient(found, examined(out, found), found.blas.rates()))
        if not output.as_json:
            show(console, patients[-1])
    if not output.as_json:
        for name, why in missing:
            console.print(Text.assemble((f"{name}: ", "bold"), why), soft_wrap=True)
    is_open = any(patient.counts["n_open"] for patient in patients)
    out.result(
        {
            "is_healthy": not is_open,
            "backends": [patient_as_json(patient) for patient in patients],
            "missing": [m._asdict() for m in missing],
        }
    )
    if is_open:
        raise typer.Exit(1)


def find(
    name: str | None,
    device: str | None,
    threads: int | None = None,
    blas: str | None = None,
) -> tuple[list[Backend], list[Missing]]:
    """The backends to examine, and those that cannot be.

    Args:
        name: one of them; None: all.
        device: where; None: the first of the kinds of device that it computes on.
        threads: of the CPU; None: as many as each takes by itself.
        blas: what multiplies matrices; None: what each takes by itself.

    Raises:
        BackendError: the one that is named, or every one, is missing.
    """
    there, missing = [], []
    for one in backend_names() if name is None else [name]:
        try:
            there.append(_load(one, device, threads, blas))
        except BackendError as error:
            missing.append(Missing(one, str(error)))
    if not there:
        raise BackendError("; ".join(dict.fromkeys(m.why for m in missing)))
    return there, missing


def _load(name: str, device: str | None, threads: int | None, blas: str | None) -> Backend:
    if device is not None:
        return load_backend(name, device, threads, blas)
    *others, last = DEVICE_KINDS
    for kind in others:
        try:
            return load_backend(name, kind, threads, blas)
        except BackendError:
            continue
    return load_backend(name, last, threads, blas)


def examined(out: Output, backend: Backend) -> list[DoctorRow]:
    """Every row, counted in sight of the user."""
    rows = []
    for row in examine(backend):
        rows.append(row)
        out.waiting.report(f"examining {backend.name}", len(rows), len(PROBES))
    return rows


def patient_as_json(patient: Patient) -> dict[str, Any]:
    """What was found of one backend, as JSON."""
    return {
        "backend": patient.backend.name,
        "device": patient.backend.device_name,
        "versions": _versions(patient.backend),
        **patient.counts,
        "products": products_json(patient.product_rates),
        "rows": [as_json(row) for row in patient.rows],
    }


def show(console: Console, patient: Patient) -> None:
    """Print what was found of one backend: a table of capabilities, and each gap."""
    backend, gaps, counts = patient.backend, patient.gaps, patient.counts
    console.print(Text(f"{backend.name} on {backend.device_name}", style="bold"))
    libraries = ", ".join(f"{name} {number}" for name, number in _versions(backend).items())
    console.print(Text(libraries, style="dim"))
    for line in product_lines(patient.product_rates):
        console.print(Text(f"products: {line}", style="dim"))
    console.print()
    console.print(_table(patient.rows, gaps))
    console.print()
    for number, rows in enumerate(gaps, 1):
        _show_gap(console, number, rows)
    is_open = counts["n_open"] > 0
    routed = counts["n_gaps"] - counts["n_open"]
    console.print(
        Text(
            f"{counts['n_hold']} hold; {routed} gaps have a way around that holds; "
            f"{counts['n_open']} are open.",
            style="bold red" if is_open else "bold green",
        )
    )
    console.print()


def _versions(backend: Backend) -> dict[str, str]:
    found = versions(make_runtime(backend, "fp32"))
    return {name: number for name, number in found.items() if name not in ("python", "xplm")}


def _table(rows: Sequence[DoctorRow], gaps: Sequence[Sequence[DoctorRow]]) -> Table:
    """A line a probe, a column a dtype; a gap has its number."""
    numbers = {row.probe.label: number for number, group in enumerate(gaps, 1) for row in group}
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    for dtype in FLOATS:
        table.add_column(dtype, width=DTYPE_WIDTH, no_wrap=True)
    before = ""
    for name, found in _by_name(rows):
        theme = next(iter(found.values())).probe.theme
        cells = [_cell(found.get(dtype), numbers) for dtype in FLOATS]
        table.add_row(Text("" if theme == before else theme, style="dim"), name, *cells)
        before = theme
    return table


def _by_name(rows: Iterable[DoctorRow]) -> Iterable[tuple[str, dict[str, DoctorRow]]]:
    """The rows of each probe by dtype."""
    names: dict[str, dict[str, DoctorRow]] = {}
    for row in rows:
        names.setdefault(row.probe.name, {})[row.probe.dtype] = row
    return names.items()


def _cell(row: DoctorRow | None, numbers: dict[str, int]) -> Text:
    if row is None:
        return Text()
    if row.is_gap:
        number = numbers[row.probe.label]
        return (
            Text(f"OPEN {number}", "bold red") if row.is_open else Text(f"gap {number}", "yellow")
        )
    return Text("·", "dim") if row.answer.verdict == ABSENT else Text("✓", "green")


def _show_gap(console: Console, number: int, rows: Sequence[DoctorRow]) -> None:
    """What was found, what is done about it and where, and where it is known from."""
    first = rows[0]
    names = "; ".join(dict.fromkeys(row.probe.name for row in rows))
    dtypes = ", ".join(dict.fromkeys(row.probe.dtype for row in rows))
    console.print(Text.assemble(f"{number:>2}  ", (names, "bold"), f"  {dtypes}"))
    differ = len({row.answer.found for row in rows}) > 1
    for row in rows if differ else rows[:1]:
        prefix = f"{row.probe.label}: " if differ else ""
        _indented(console, Text(prefix + row.answer.found))
    if first.workaround is None:
        _indented(console, Text("xplm has no way around it.", style="bold red"))
    else:
        style = "bold red" if first.failure else "green"
        holds = f"Does not hold: {first.failure}" if first.failure else "Holds here."
        _indented(console, Text(f"xplm: {first.workaround.says}. {holds}", style=style))
        _indented(console, Text("\n".join(first.workaround.sources), style="dim"))
    if first.reference:
        _indented(console, Text(first.reference, style="dim"))
    console.print()


def _indented(console: Console, text: Text) -> None:
    for line in text.wrap(console, console.width - INDENT):
        line.rstrip()
        console.print(Text(" " * INDENT) + line)
