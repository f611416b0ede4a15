"""`xplm explain`: a page an op, out of what its module says and does."""

import re

import pytest

from tests.paths import ROOT
from xplm.numerics.op_cases import OPS


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_page(xplm, op):
    out = xplm("explain", op)
    assert (out.code, out.stderr) == (0, "")
    for heading in ("Shapes", "Gradient", "Example", "Gradient check", "Known mistakes"):
        assert re.search(rf"^{heading}", out.stdout, re.MULTILINE), heading
    assert f"def {op}_fwd(" in out.stdout
    assert f"def {op}_bwd(" in out.stdout
    assert f"xplm grade my_{op}.py" in out.stdout


def test_numbers_by_hand(xplm):
    found = xplm("explain", "rms_norm", "--json").json
    example = found["example"]
    # rms(2, -2) = 2 and rms(1, 7) = 5, the weight is (1, 3).
    assert example["y"] == [[1.0, -3.0], [0.2, pytest.approx(4.2)]]
    # dx of the first row: (dn - n mean(dn n)) / 2, with dn = (1, 0) and n = (1, -1).
    assert example["gradients"]["dx"][0] == [0.25, 0.25]
    assert example["gradients"]["dweight"] == [1.0, pytest.approx(1.4)]
    assert found["max_relative_error"] <= 1e-8


@pytest.mark.parametrize("op", OPS)
def test_code_lines_are_the_files(xplm, op):
    code = xplm("explain", op, "--json").json["code"]
    lines = (ROOT / code["path"]).read_text().splitlines()
    assert code["last_line"] == len(lines)
    shown = xplm("explain", op).stdout
    for number in range(code["first_line"], code["last_line"] + 1):
        width = len(str(code["last_line"]))
        assert f"  {number:{width}}  {lines[number - 1]}".rstrip() + "\n" in shown


def test_letters_of_shapes_are_explained(xplm):
    assert "where T query positions, B batch, H query heads" in xplm("explain", "attention").stdout


def test_an_op_that_is_not_there(xplm):
    error = xplm("explain", "nonesuch").error
    assert "rms_norm" in error
    assert '"nonesuch"' in error


@pytest.mark.parametrize("op", OPS)
def test_prose_keeps_to_the_terminals_width(xplm, op, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    prose = re.sub(r"\nCode: .*?\n\nExample\n", "", xplm("explain", op).stdout, flags=re.DOTALL)
    formulas = r"    .*"  # as the module writes them
    wide = [x for x in prose.splitlines() if len(x) > 80 and not re.fullmatch(formulas, x)]
    assert wide == []
