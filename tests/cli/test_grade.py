"""`xplm grade`: exit code 0 for what is right, and 1 with the likely mistake for what is not."""

from tests.numerics.students import RIGHT, SELF_ATTENTION


def test_right(xplm, tmp_path):
    path = tmp_path / "rope.py"
    path.write_text(RIGHT["rope"])
    out = xplm("grade", path)
    assert (out.code, out.stderr) == (0, "")
    assert out.stdout.startswith("rope.py: rope, on 7 cases\n")
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
