"""A peak of memory, measured and predicted, as commands print it."""

from xplm.memory_plan import MemoryPlan


def peak_json(plan: MemoryPlan, measured: int) -> dict[str, object]:
    """What --json says of a peak."""
    return {
        "peak_memory_bytes": measured,
        "predicted_peak_memory_bytes": plan.n_bytes,
        "predicted_peak_at": plan.peak.name,
        "predicted_memory_bytes": plan.parts,
    }


def peak_line(plan: MemoryPlan, measured: int) -> str:
    """What a benchmark says of a peak."""
    return f"memory   {measured / 1e6:10.0f} MB         at its peak, of {plan.n_bytes / 1e6:.0f} predicted"
