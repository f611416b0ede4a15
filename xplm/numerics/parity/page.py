"""A parity check as one HTML file that needs no other: the verdict, the picture, and every row."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from xplm.numerics.parity.picture import draw
from xplm.numerics.parity.report import Drifts, ParityRow

TITLES = {
    "ops": "Ops, each alone",
    "layers": "Layers, each alone",
    "model": "The whole model",
    "optimizers": "One step of every optimizer",
}

PASSES = {
    "logits": "Logits of a padded batch",
    "training": "A training pass: loss, then gradients",
    "cached": "Token by token, from the cache",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --dim: #667085; --paper: #fff; --line: #e4e7ec; --stripe: #f5f6f8;
  --good: #12805c; --bad: #c4320a; --forward: #175cd3; --backward: #7a3ec8; --band: #d1fadf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaf0; --dim: #98a2b3; --paper: #14171f; --line: #2b3140;
  --stripe: #1b202b; --good: #47cd9a; --bad: #ff8a65; --forward: #7cb0ff; --backward: #c4a0ff; --band: #133d2d; } }
body { margin: 2.5rem auto; max-width: 68rem; padding: 0 1.25rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 1.25rem 0 .25rem; }
p { margin: .25rem 0; } .dim { color: var(--dim); }
.verdict { border-left: 4px solid; padding: .6rem 1rem; margin: 1.25rem 0; background: var(--stripe); }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--dim); font-weight: 500; } th, td { padding: .22rem .75rem .22rem 0; }
tr + tr td { border-top: 1px solid var(--line); } td.n, th.n { text-align: right; }
.exact, .rounding { color: var(--good); } .BUG { color: var(--bad); font-weight: 700; }
.bar { display: inline-block; vertical-align: middle; width: 7rem; height: .5rem; background: var(--line); }
.bar i { display: block; height: 100%; background: var(--good); } .bar i.over { background: var(--bad); }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; } svg text { fill: var(--dim); }
svg .grid { stroke: var(--line); } svg .stripe { fill: var(--stripe); } svg .turn { stroke: var(--dim); }
svg .band { fill: var(--band); opacity: .6; } svg .edge { fill: none; stroke: var(--good); stroke-width: 1.5; }
svg .unit { stroke: var(--dim); stroke-dasharray: 4 4; }
svg text.unit { stroke: var(--paper); stroke-width: 3; stroke-dasharray: none; paint-order: stroke; }
svg .forward { fill: var(--forward); } svg .backward { fill: var(--backward); } svg .bug { fill: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .1rem 1.25rem; } dt { color: var(--dim); } dd { margin: 0; }
"""


def page(
    certificate: Mapping[str, Any], rows: Sequence[ParityRow], drifts: Sequence[Drifts], unit: float
) -> str:
    """The whole file.

    Args:
        certificate: of the check.
        rows: what was found.
        drifts: how errors grow through the model.
        unit: unit roundoff of the format that the test stores activations in.
    """
    test, reference = (_side(certificate[side]) for side in ("test", "reference"))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Parity: {escape(test)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(test)} against {escape(reference)}</h1>",
        f'<p class="dim">Model {escape(certificate["model"])}, seed {certificate["seed"]}, '
        f"{escape(certificate['kernels'])} kernels.</p>",
        _verdict(certificate, rows),
    ]
    drawn = [d for d in drifts if d.points]
    if drawn:
        parts.append("<h2>Error through the model</h2>")
        parts.append(
            '<p class="dim">Each dot is one op: the relative error of its output in the whole run. '
            "The green band is what rounding alone makes of it, measured. "
            '<span class="BUG">Orange</span> dots are ops at fault. Point at one for its name.</p>'
        )
        dtype = certificate["activations"]
        for d in drawn:
            parts.append(f"<h3>{escape(PASSES.get(d.name, d.name))}</h3>{draw(d, unit, dtype)}")
    for kind, title in TITLES.items():
        own = [row for row in rows if row.kind == kind]
        if own:
            parts.append(f"<h2>{title}</h2>{_table(own)}")
    parts.append("<h2>Where</h2><dl>")
    for key, value in {**certificate["hardware"], **certificate["versions"]}.items():
        parts.append(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>")
    parts.append(f"<dt>made</dt><dd>{escape(certificate['made'])}</dd></dl></body></html>")
    return "\n".join(parts) + "\n"


def _verdict(certificate: Mapping[str, Any], rows: Sequence[ParityRow]) -> str:
    fault = certificate["first_fault"]
    if fault is None:
        n_exact = sum(row.verdict.kind == "exact" for row in rows)
        return (
            f'<div class="verdict good"><p><b>Every difference is rounding.</b></p><p>'
            f"{certificate['n_tensors']} tensors judged; {n_exact} of {len(rows)} rows are exact to the last bit."
            f"</p></div>"
        )
    n_wrong = sum(row.is_bug for row in rows)
    return (
        f'<div class="verdict bad"><p><b>A bug, first in: {escape(fault["where"])}</b></p>'
        f"<p>{escape(fault['what'])}</p><p>{n_wrong} of {len(rows)} rows are wrong.</p></div>"
    )


def _table(rows: Sequence[ParityRow]) -> str:
    lines = [
        '<table><tr><th>what</th><th></th><th>verdict</th><th>share of its bound</th><th class="n"></th>'
        '<th class="n">relative error</th><th class="n">tensors</th></tr>'
    ]
    for row in rows:
        v = row.verdict
        kind = "BUG" if row.is_bug else v.kind
        width = 100.0 * min(v.share, 1.0)
        over = ' class="over"' if row.is_bug else ""
        lines.append(
            f"<tr><td>{escape(row.name)}</td><td>{escape(row.part)}</td><td class='{kind}'>{kind}</td>"
            f'<td><span class="bar"><i{over} style="width:{width:.0f}%"></i></span></td>'
            f'<td class="n">{share_text(v.share)}</td><td class="n">{v.error:.1e}</td>'
            f'<td class="n">{row.n_tensors}</td></tr>'
        )
        for fault in row.faults[:1]:
            lines.append(
                f'<tr><td></td><td colspan="6" class="BUG">{escape(fault.where)}: {escape(fault.what)}</td></tr>'
            )
    return "\n".join([*lines, "</table>"])


def share_text(share: float) -> str:
    """A share of a bound: "0", "12%", "37 x", "beyond"."""
    if share == 0.0:
        return "0"
    if share <= 1.0:
        return "<1%" if share < 0.01 else f"{100.0 * share:.0f}%"
    return f"{share:.3g} ×" if share < 1e9 else "beyond"


def _side(side: Mapping[str, str]) -> str:
    where = "" if side["device"] == "cpu" else f" on {side['device']}"
    return f"{side['backend']}:{side['policy']}{where}"
