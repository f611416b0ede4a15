"""`xplm train --dry-run`: a run tried out in memory, and its peak predicted and measured."""

from xplm.cli.output import Output
from xplm.cli.peak import peak_json
from xplm.train.dry_run import STEPS, dry_run
from xplm.train.prepare import Material


def show_dry_run(material: Material, show: Output) -> None:
    """Take a run's first steps, and print what it would be.

    Raises:
        XplmError: the recipe is not fit for it, or the loss is not finite.
    """
    run = dry_run(material)
    show.line(f"parameters  {run.n_params:>16,}")
    show.line(f"steps       {run.steps:>16,}")
    show.line(f"tokens      {run.n_tokens:>16,}")
    show.line()
    for part, n_bytes in run.plan.parts.items():
        show.line(f"{part:12}{n_bytes / 1e6:13,.1f} MB")
    show.line(
        f"predicted   {run.plan.n_bytes / 1e6:13,.1f} MB  at the peak, in the step's {run.plan.peak.name}"
    )
    show.line(f"measured    {run.measured_peak / 1e6:13,.1f} MB  at the peak of {STEPS} steps")
    show.result(
        {
            "parameters": run.n_params,
            "steps": run.steps,
            "tokens": run.n_tokens,
            "losses": run.losses,
            **peak_json(run.plan, run.measured_peak),
        }
    )
