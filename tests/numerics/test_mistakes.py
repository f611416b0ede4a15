"""The chains that mistakes are recognised by: right without a mistake, and wrong, visibly, with each."""

import numpy as np
import pytest

from xplm.kernels import PORTABLE
from xplm.numerics.gradient_check import OP_LIMIT, check_gradients, relative_errors
from xplm.numerics.grading.accuracy import MATCH
from xplm.numerics.grading.cases import grading_cases
from xplm.numerics.grading.diagnosis import diagnose
from xplm.numerics.grading.distortions import distortions
from xplm.numerics.grading.trial import Trial, wrong_gradients
from xplm.numerics.mistakes import CHAINS
from xplm.numerics.mistakes.chain import run_backward, run_forward
from xplm.numerics.op_cases import OPS, op_cases


def values_of(chain, case, **options):
    given = dict(zip(chain.arguments, case.args, strict=False))
    return {arg: given.get(arg) for arg in chain.arguments} | dict(case.options) | options


def draw_dy(y, seed=1):
    return np.asarray(np.random.default_rng(seed).standard_normal(y.shape))


def assert_gradients_are_right(chain, values):
    forward = run_forward(chain, values)
    dy = draw_dy(forward.y)
    gradients = run_backward(chain, forward, dy)
    arrays = {arg: values[arg].copy() for arg in gradients}

    def weighted_sum():
        return float(np.sum(run_forward(chain, values | arrays).y * dy))

    for error in check_gradients(weighted_sum, arrays, gradients):
        assert error.error <= OP_LIMIT, error


@pytest.mark.parametrize("op", CHAINS)
def test_a_chain_without_a_mistake_is_right(op):
    chain = CHAINS[op]
    for case in grading_cases(op):
        assert_gradients_are_right(chain, values_of(chain, case))


@pytest.mark.parametrize("op", [op for op, chain in CHAINS.items() if chain.forms])
def test_so_is_each_of_its_forms(op):
    chain = CHAINS[op]
    for form in chain.forms:
        for case in grading_cases(op)[:2]:
            assert_gradients_are_right(chain, values_of(chain, case, **form.changes))


@pytest.mark.parametrize("op", OPS)
def test_chain_and_kernel_agree(op):
    """Two derivations that share no line: within the rounding of sums of at most 300 numbers in float64."""
    chain = CHAINS[op]
    for case in [*grading_cases(op), *op_cases(op)]:
        y, saved = PORTABLE[f"{op}_fwd"](*case.args, **case.options)
        forward = run_forward(chain, values_of(chain, case))
        np.testing.assert_allclose(y, forward.y, rtol=1e-12, atol=1e-12)

        dy = draw_dy(y)
        kernel = dict(zip(chain.arguments, PORTABLE[f"{op}_bwd"](dy, saved), strict=True))
        expected = run_backward(chain, forward, dy)
        errors = relative_errors(kernel, expected)
        assert max(errors.values()) <= 1e-10, (case.label, errors)


@pytest.mark.parametrize("op", CHAINS)
def test_every_mistake_can_be_seen(op):
    chain = CHAINS[op]
    cases = [values_of(chain, case) for case in grading_cases(op)]
    for known in chain.mistakes:
        assert any(is_visible(chain, values, known) for values in cases), known.says
    for known in chain.forward_mistakes:
        assert any(changes_y(chain, values, known) for values in cases), known.says


def is_visible(chain, values, known):
    forward = run_forward(chain, values)
    dy = draw_dy(forward.y)
    right, wrong = (run_backward(chain, forward, dy, steps) for steps in ({}, known.steps))
    return not max(relative_errors(wrong, right).values()) <= MATCH


def changes_y(chain, values, known):
    right, wrong = (run_forward(chain, values, steps).y for steps in ({}, known.steps))
    return right.shape != wrong.shape or not np.allclose(right, wrong, rtol=MATCH)


@pytest.mark.parametrize("op", CHAINS)
def test_steps_of_mistakes_are_steps_of_the_chain(op):
    chain = CHAINS[op]
    for known in chain.mistakes:
        assert set(known.steps) <= {*chain.forward, *chain.backward}, known.says
    for known in chain.forward_mistakes:
        assert set(known.steps) <= set(chain.forward), known.says


def findings_of(op, known):
    """What is said of gradients with a mistake in them; None where no case shows it."""
    chain = CHAINS[op]
    trials = []
    for case in grading_cases(op):
        forward = run_forward(chain, values_of(chain, case))
        dy = draw_dy(forward.y)
        right, found = (run_backward(chain, forward, dy, steps) for steps in ({}, known.steps))
        trials.append(Trial(case.label, forward, dy, found, right))
    names = {arg: arg for arg in chain.arguments}
    wrong = wrong_gradients(trials)
    return diagnose(chain, trials, wrong, names) if wrong else None


@pytest.mark.parametrize("op", CHAINS)
def test_every_mistake_is_named_when_it_is_made(op):
    for known in CHAINS[op].mistakes:
        findings = findings_of(op, known)
        assert len(findings) == 1, (known.says, findings)
        assert known.says in findings[0].says, (known.says, findings)


@pytest.mark.parametrize("op", [op for op, chain in CHAINS.items() if chain.words])
def test_a_step_that_is_off_by_a_factor_is_named(op):
    """By its words, or as the known mistake that it is, or as a gradient off by that factor."""
    chain = CHAINS[op]
    values = run_forward(chain, values_of(chain, grading_cases(op)[0]))
    says = []
    for distortion in distortions(chain, values):
        for finding in findings_of(op, distortion) or ():
            assert " is wrong in " not in finding.says, (distortion.says, finding)
            says.append(finding.says)
    assert any(text.startswith(tuple(chain.words.values())) for text in says)
