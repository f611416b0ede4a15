from xplm.backend import DeviceMemory
from xplm.memory_plan import LARGEST_HOLE, Moment, plan_peak

MOMENTS = [Moment("early", {"a": 10, "b": 5}), Moment("late", {"a": 1, "b": 20})]


def test_the_peak_is_the_moment_that_has_the_most():
    plan = plan_peak(DeviceMemory(100, 110, 1000), MOMENTS, largest=3)
    assert plan.peak.name == "late"
    assert plan.parts == {"a": 1, "b": 20, "holes": 3, "process": 100}
    assert plan.n_bytes == 124


def test_what_a_process_took_for_a_while_counts_where_it_was_more():
    assert plan_peak(DeviceMemory(100, 500, 1000), MOMENTS, largest=3).n_bytes == 500


def test_arrays_that_are_given_back_leave_no_larger_hole():
    assert plan_peak(DeviceMemory(0, 0, 0), MOMENTS, 2 * LARGEST_HOLE).holes == LARGEST_HOLE
