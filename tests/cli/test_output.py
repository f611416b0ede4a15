"""What `--json` prints is JSON, which has no NaN and no infinity."""

import json

from xplm.cli.output import Output, OutputFlags


def refuse(name):
    raise AssertionError(name)


def test_numbers_that_are_not_finite_are_null(capsys):
    nan, inf = float("nan"), float("inf")
    values = {"a": nan, "b": [1.0, inf, {"c": -inf}], "d": (nan, "x", None, 3, True)}
    Output(OutputFlags(as_json=True)).result(values)
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"a": None, "b": [1.0, None, {"c": None}], "d": [None, "x", None, 3, True]}
