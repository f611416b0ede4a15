"""`grade` passes what is right, whoever wrote it, and names what is wrong."""

import re

import numpy as np
import pytest

from tests.numerics.slips import MISTAKEN, MISTAKEN_FORWARD
from tests.numerics.strangers import STRANGERS
from tests.numerics.students import RIGHT
from tests.numerics.textbooks import (
    KEPT_IN_A_GLOBAL,
    PLAIN_CROSS_ENTROPY,
    SINGLE_GELU,
    SINGLE_INSIDE,
    SINGLE_SOFTMAX,
    TEXTBOOKS,
    TWO_AXES_LINEAR,
)
from tests.numerics.usual import USUAL
from xplm.errors import RequestError
from xplm.numerics.grade import grade


@pytest.fixture
def graded(tmp_path):
    def run(op, text):
        path = tmp_path / f"my_{op}.py"
        path.write_text(text)
        return grade(path)

    return run


def spoilt(op, old, new):
    assert RIGHT[op].count(old) == 1, old
    return RIGHT[op].replace(old, new)


@pytest.mark.parametrize("op", RIGHT)
def test_what_is_right_passes(graded, op):
    result = graded(op, RIGHT[op])
    assert result.op == op
    assert result.passed, result
    assert max(result.errors.values()) <= 1e-8


@pytest.mark.parametrize(("op", "old", "new", "says"), MISTAKEN, ids=lambda v: v[:40])
def test_a_mistake_is_named(graded, op, old, new, says):
    result = graded(op, spoilt(op, old, new))
    assert not result.passed
    assert result.forward_is_right
    (finding,) = result.findings
    assert re.search(says, finding.says), finding.says


@pytest.mark.parametrize(("op", "old", "new", "says"), MISTAKEN_FORWARD, ids=lambda v: v[:40])
def test_a_mistake_in_the_forward_is_named(graded, op, old, new, says):
    result = graded(op, spoilt(op, old, new))
    assert not result.passed
    assert not result.forward_is_right
    assert re.search(says, result.findings[0].says), result.findings


@pytest.mark.parametrize(("op", "text", "says"), STRANGERS.values(), ids=STRANGERS)
def test_a_mistake_in_another_hand_is_named_or_placed(graded, op, text, says):
    result = graded(op, text)
    assert not result.passed
    (finding,) = result.findings
    assert re.search(says, finding.says), finding.says


@pytest.mark.parametrize(("op", "text", "forward", "untried"), TEXTBOOKS.values(), ids=TEXTBOOKS)
def test_what_is_right_for_less_than_every_case_passes(graded, op, text, forward, untried):
    result = graded(op, text)
    assert result.passed, result
    assert forward in result.forward
    assert any(untried in note for note in result.notes) == bool(untried), result.notes


@pytest.mark.parametrize(("op", "text", "says"), USUAL.values(), ids=USUAL)
def test_a_usual_slip_is_named_in_plain_words(graded, op, text, says):
    result = graded(op, text)
    assert not result.passed
    assert any(re.search(says, finding.says) for finding in result.findings), result.findings


@pytest.mark.parametrize(
    ("op", "text", "forward", "dtype"),
    [
        ("gelu", SINGLE_GELU, "in float32", "float32"),
        ("rms_norm", SINGLE_INSIDE, "float32", ""),
        ("softmax", SINGLE_SOFTMAX, "float32", ""),
    ],
)
def test_float32_is_named_and_is_no_mistake(graded, op, text, forward, dtype):
    result = graded(op, text)
    assert result.passed, result
    assert forward in result.forward
    assert set(result.dtypes.values()) == {dtype}


def test_a_mistake_in_float32_is_still_named(graded):
    (finding,) = graded("gelu", SINGLE_GELU.replace("(1 + 3 * f", "(1 + f")).findings
    assert "lacks the 3 of the cubic" in finding.says


def test_a_backward_that_does_not_run_leaves_the_forward_right(graded):
    result = graded("rms_norm", RIGHT["rms_norm"].replace("dout * gamma", "dout * gama"))
    assert (result.forward, result.backward) == ("is right", "does not run")
    (finding,) = result.findings
    assert "backward raises NameError in line 13: name 'gama'" in finding.says


def test_at_least_twenty_of_twenty_five():
    """Each of the lists above is asserted one by one; this is their number."""
    assert len({(op, old, new) for op, old, new, _ in MISTAKEN}) >= 25


def test_everybodys_conventions(graded):
    """Several saved values, a dict with d in front of names, *args, options of their own with defaults."""
    result = graded(
        "rms_norm",
        """
import numpy as np

def forward(x, w, eps=1e-6, verbose=False):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * r * w, x, w, r

def backward(dy, x, w, r):
    n, dn = x * r, dy * w
    dx = r * (dn - n * (dn * n).mean(-1, keepdims=True))
    return {"dx": dx, "dw": (dy * n).reshape(-1, n.shape[-1]).sum(0)}
""",
    )
    assert result.passed, result
    assert list(result.errors) == ["dx", "dw"]


def test_eps_of_their_own_is_a_form_and_not_a_mistake(graded):
    text = RIGHT["rms_norm"].replace(", eps=1e-5", "").replace("+ eps", "+ 1e-6")
    result = graded("rms_norm", text)
    assert result.passed, result
    assert result.forward == "is right, with eps = 1e-06"


def test_matrices_of_the_other_layout_and_full_attention_are_forms(graded):
    text = RIGHT["self_attention"].replace(
        "    scores = np.where(np.tril(np.ones((T, T))) == 1, scores, -1e9)\n", ""
    )
    result = graded("self_attention", text)
    assert result.passed, result
    assert "without the causal mask" in result.forward
    assert "(inputs, outputs)" in result.forward


def test_cross_entropy_with_one_number_is_the_mean(graded):
    assert graded("cross_entropy", RIGHT["mean_cross_entropy"]).op == "mean_cross_entropy"


def test_two_mistakes_are_both_named(graded):
    text = spoilt("layer_norm", "+ dmu / D", "").replace("db = dy.sum(axes)", "db = dy.mean(axes)")
    says = " ".join(finding.says for finding in graded("layer_norm", text).findings)
    assert "path through the mean" in says
    assert "db is averaged" in says


def test_a_backward_that_is_right_where_the_forward_is_not(graded):
    result = graded("dropout", spoilt("dropout", "return x * keep / (1 - rate)", "return x * keep"))
    assert "mend the forward alone" in result.findings[1].says


def test_wrong_in_some_cases_only_says_in_which(graded):
    text = RIGHT["rms_norm"].replace(
        "return dx, dgamma", "return dx + (0.1 if x_is_deep(dout) else 0), dgamma"
    )
    text += "\n\ndef x_is_deep(a):\n    return a.ndim == 3\n"
    (finding,) = graded("rms_norm", text).findings
    assert 'in 1 of 4 cases ("three axes")' in finding.says


def test_single_precision_is_told_from_a_mistake(graded):
    text = spoilt("gelu", "return dy * (0.5", "return np.float32(1.0) * dy.astype('f4') * (0.5")
    result = graded("gelu", text)
    assert result.passed
    assert result.dtypes == {"dx": ""}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "def forward(x):\n    x += 1\n    return x\ndef backward(dy, x): return dy",
            "forward writes into its argument x: copy it first",
        ),
        (
            "def forward(x): return x\ndef backward(dy, x):\n    x *= dy\n    return dy",
            "backward writes into its argument x: copy it first",
        ),
        (
            "def forward(x): return x\ndef backward(dy, x):\n    dy *= x\n    return dy",
            "backward writes into its argument dy, which others read too: copy it first",
        ),
        (
            "import random\ndef forward(x): return x * random.random()\ndef backward(dy, x): return dy",
            "another y",
        ),
        (
            "def forward(x): return x\ndef backward(dy, x):\n    return dy / oops",
            "in line 3: name 'oops'",
        ),
        ("def forward(x): return None\ndef backward(dy, x): return dy", "forward returns None"),
        ("def forward(x): return x\ndef backward(dy, x): return dy, dy, dy", "returns 3 gradients"),
        ("def forward(x): return 'y'\ndef backward(dy, x): return dy", "str"),
    ],
)
def test_what_does_not_run_is_said_so(graded, text, says):
    assert says in graded("softmax", text).findings[-1].says


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("softmax.py", "def forward(x): return x", "lacks backward"),
        (
            "softmax.py",
            "def my_forward(x): return x\ndef my_backward(dy): return dy",
            "add forward = my_forward and backward = my_backward",
        ),
        ("softmax.py", "def forward(x: return x", "SyntaxError in line 1"),
        ("softmax.py", "forward = max\ndef backward(dy, x): return dy", "write def forward(...)"),
        ("softmax.py", "\n\n1 / 0", "ZeroDivisionError in line 3"),
        (
            "mine.py",
            "def forward(x): return x\ndef backward(dy, x): return dy",
            "an op to grade is one of",
        ),
        (
            "rope.py",
            "def forward(x): return x\ndef backward(dy, x): return dy",
            "arrays x, cos, sin",
        ),
        (
            "dropout.py",
            "def forward(x, keep): return x\ndef backward(dy, x, keep): return dy",
            "and by name rate",
        ),
    ],
)
def test_what_cannot_be_graded_is_refused_in_a_line(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RequestError, match=re.escape(says)):
        grade(path)


def test_a_backward_that_takes_dy_alone_reads_what_forward_kept(graded):
    before = np.geterr()
    assert graded("softmax", KEPT_IN_A_GLOBAL).passed
    assert np.geterr() == before  # the file calls np.seterr
    (finding,) = graded("softmax", KEPT_IN_A_GLOBAL.replace("(dy)", "(x)")).findings
    assert "does not take what it is called with" in finding.says


def test_an_array_that_is_not_the_ops_is_left_at_its_default(graded):
    assert graded("softmax", RIGHT["softmax"].replace("forward(x)", "forward(x, dim=None)")).passed
    text = (
        "def forward(q, k, v, mask): return v\ndef backward(dy, q, k, v, mask): return dy, dy, dy\n"
    )
    with pytest.raises(RequestError, match=r"got forward\(q, k, v, mask\); give mask a default"):
        graded("attention", text)


def test_a_tuple_that_was_saved_is_unpacked_for_a_backward_of_any_number(graded):
    text = "def forward(g, u):\n    s = 1 / (1 + np.exp(-g))\n    return g * s * u, (g, u, s)\n"
    text += "def backward(dy, *saved):\n    g, u, s = saved\n"
    text += "    return dy * u * s * (1 + g * (1 - s)), dy * g * s\n"
    assert graded("swiglu", "import numpy as np\n" + text).passed


def test_a_matrix_backward_that_keeps_an_axis_of_its_bias_is_told_that_alone(graded):
    result = graded("linear", TWO_AXES_LINEAR.replace("axis=0", "axis=0, keepdims=True"))
    (finding,) = result.findings
    assert "its numbers are right, with axes of length 1 too many" in finding.says
    assert any("of more than 2 axes: backward raises" in note for note in result.notes)


def test_a_mean_loss_that_takes_its_targets_first_is_told_the_order(graded):
    text = PLAIN_CROSS_ENTROPY.replace("forward(z, y)", "forward(y, z)")
    result = graded("cross_entropy", text)
    assert result.op == "mean_cross_entropy"
    assert "takes its arrays in another order" in result.findings[0].says


def test_functions_without_a_name_of_their_own_are_graded(graded):
    text = RIGHT["gelu"] + "\nfrom functools import partial\nforward = partial(forward)\n"
    assert graded("gelu", text).passed
    (finding,) = graded("gelu", text + "backward = partial(lambda dy, x: x @ oops)\n").findings
    assert "backward raises NameError in line" in finding.says


def test_modules_beside_the_file_can_be_imported(tmp_path):
    (tmp_path / "beside_gelu.py").write_text(RIGHT["gelu"])
    path = tmp_path / "gelu.py"
    path.write_text("from beside_gelu import backward, forward")
    assert grade(path).passed


def test_the_op_can_be_named_in_the_file_or_beside_it(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("OP = 'gelu'\n" + RIGHT["gelu"])
    assert grade(path).op == "gelu"
    path.write_text(RIGHT["gelu"])
    assert grade(path, "gelu").passed
    with pytest.raises(RequestError, match="nonesuch"):
        grade(tmp_path / "nonesuch.py")


def test_a_folder_and_a_file_of_zeros_are_refused_in_a_line(tmp_path):
    with pytest.raises(RequestError, match="which is a folder"):
        grade(tmp_path, "gelu")
    path = tmp_path / "gelu.py"
    path.write_bytes(b"\0")
    with pytest.raises(RequestError, match="raises SyntaxError: ") as refused:
        grade(path)
    assert "None" not in str(refused.value)
