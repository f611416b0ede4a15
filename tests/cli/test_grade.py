"""`xplm grade`: exit code 0 for what is right, and 1 with the likely mistake for what is not."""

from tests.numerics.students import RIGHT, SELF_ATTENTION
from tests.numerics.textbooks import SINGLE_GELU, TWO_AXES_LINEAR


def test_right(xplm, tmp_path):
    path = tmp_path / "rope.py"
    path.write_text(RIGHT["rope"])
    out = xplm("grade", path)
    assert (out.code, out.stderr) == (0, "")
    assert out.stdout.startswith("rope.py: rope, on 8 cases\n")
    assert "Right: " in out.stdout


def test_the_mistake_is_named(xplm, tmp_path):
    path = tmp_path / "self_attention.py"
    path.write_text(SELF_ATTENTION.replace("    dS = dS / np.sqrt(d)\n", ""))
    out = xplm("grade", path)
    assert out.code == 1
    last = out.stdout.splitlines()[-1]
    assert last.startswith(
        "Likely mistake: dWq is 2.45 times too large = sqrt(6): the 1/sqrt(d) is missing"
    )
    assert last.endswith("This explains dx, dWq and dWk.")

    found = xplm("grade", path, "--json").json
    assert found["passed"] is False
    assert found["findings"][0]["arguments"] == ["dx", "dWq", "dWk"]
    assert {row["name"] for row in found["ops"]} == {"dx", "dWq", "dWk", "dWv"}


def test_a_missing_gradient_is_null_in_json(xplm, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def forward(x): return x\ndef backward(dy, x): return None\n")
    out = xplm("grade", path, "--op", "gelu", "--json")
    assert out.code == 1
    assert out.json["ops"] == [{"name": "dx", "max_relative_error": None}]


def test_bad_usage(xplm, tmp_path):
    assert "nonesuch.py" in xplm("grade", tmp_path / "nonesuch.py").error
    path = tmp_path / "mine.py"
    path.write_text("def forward(x): return x\ndef backward(dy, x): return dy\n")
    assert 'got "mine.py"' in xplm("grade", path).error
    assert 'got "magic"' in xplm("grade", path, "--op", "magic").error


def test_what_the_file_prints_goes_to_stderr_a_few_times(xplm, tmp_path):
    path = tmp_path / "rope.py"
    path.write_text(
        RIGHT["rope"].replace(
            "def forward(x, cos, sin):", "print('hi')\n\ndef forward(x, cos, sin):\n    print('ho')"
        )
    )
    out = xplm("grade", path, "--json")
    assert out.code == 0
    assert out.json["passed"] is True
    lines = out.stderr.splitlines()
    assert set(lines) == {"hi", "ho"}
    assert len(lines) < 100  # not once for every difference


def test_a_passing_file_says_what_it_was_not_tried_on(xplm, tmp_path):
    path = tmp_path / "gelu.py"
    path.write_text(SINGLE_GELU)
    out = xplm("grade", path)
    assert out.code == 0
    assert "dx        right, in float32   relative error " in out.stdout
    assert "It computes in float32; a smaller mistake would not show." in out.stdout
    path = tmp_path / "linear.py"
    path.write_text(TWO_AXES_LINEAR)
    assert (
        "Not tried: X of more than 2 axes: backward raises ValueError" in xplm("grade", path).stdout
    )


def test_a_backward_that_does_not_run_is_said_so(xplm, tmp_path):
    path = tmp_path / "gelu.py"
    path.write_text(RIGHT["gelu"].replace("def backward(dy, x):", "def backward(dy, x):\n    oops"))
    out = xplm("grade", path)
    assert out.code == 1
    assert "  forward   is right\n  backward  does not run\n" in out.stdout
