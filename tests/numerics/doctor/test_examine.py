"""What the doctor says of the libraries that are here."""

import re

import pytest

from tests.numerics.doctor.asking import gaps
from tests.paths import ROOT
from xplm.backend import load_backend
from xplm.numerics.doctor.examine import PROBES, as_json, examine
from xplm.numerics.doctor.numbers import get, put
from xplm.numerics.doctor.probe import ABSENT, GAP, GOOD, ask
from xplm.numerics.doctor.references import REFERENCES, reference
from xplm.numerics.doctor.workarounds import WORKAROUNDS


@pytest.fixture(scope="module")
def numpys_rows():
    return {row.probe.label: row for row in examine(load_backend("numpy"))}


def test_numpys_gaps_are_found_and_none_is_open(numpys_rows):
    found = {label for label, row in numpys_rows.items() if row.is_gap}
    assert {
        "float16 product's speed, 2-D",
        "float16 product's speed, batched",
        "bfloat16 product's dtype",
        "bfloat16 beside a Python number",
        "bfloat16 sum of many",
    } <= found
    assert not [label for label, row in numpys_rows.items() if row.is_open]


def test_what_holds_on_numpy_is_found_to_hold(numpys_rows):
    held = (
        "float32 product, batched",
        "bfloat16 from float32",
        "float16 subnormals",
        "float32 sort",
    )
    for label in held:
        assert numpys_rows[label].answer.verdict == GOOD
        assert numpys_rows[label].workaround is None


def test_a_gap_says_what_is_known_and_done(numpys_rows):
    made = as_json(numpys_rows["bfloat16 product's dtype"])
    assert made["found"] == "bfloat16 @ bfloat16 gives float32"
    assert made["reference"] == "https://github.com/jax-ml/ml_dtypes/issues/235"
    assert made["workaround"] == "every kernel casts what it returns"
    assert made["holds"] is True
    assert made["is_open"] is False
    assert re.fullmatch(r"xplm/precision\.py:\d+ cast", made["sources"][0])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_strict_lacks_what_the_standard_lacks(device):
    strict = load_backend("strict", device)
    assert gaps(strict) == {
        "bfloat16 present",
        "float16 present",
        "float32 scatter-add",
        "float32 top-k",
    }
    verdicts = {probe.label: ask(probe, strict).verdict for probe in PROBES}
    assert verdicts["bfloat16 product, 2-D"] == ABSENT
    assert (verdicts["float32 take outside"] == ABSENT) is (device == "cuda")


def test_an_exception_of_any_type_is_a_gap(numpy_backend):
    class CompileError(Exception):
        pass

    def run(backend):
        raise CompileError("error: no bfloat16 here\nsecond line")

    answer = ask(PROBES[0]._replace(run=run), numpy_backend)
    assert answer.verdict == GAP
    assert answer.found == "raises CompileError: error: no bfloat16 here"


def test_numbers_are_rounded_on_the_host(numpy_backend):
    assert get(numpy_backend, put(numpy_backend, [1.0 + 2.0**-9], "bfloat16")) == [1.0]


@pytest.mark.parametrize("workaround", WORKAROUNDS.values(), ids=lambda w: w.name)
def test_a_way_around_names_places_that_are_there(workaround):
    for source in workaround.sources:
        path, line, name = re.fullmatch(r"(\S+):(\d+) (\w+)", source).groups()
        text = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert text.strip().startswith(f"def {name}(")


def test_references_are_of_probes_that_are_there():
    labels = [probe.label for probe in PROBES]
    for library, end, address in REFERENCES:
        assert any(label.endswith(end) for label in labels), end
        assert re.fullmatch(r"https://\S+", address)
        if library:
            assert reference(library, next(x for x in labels if x.endswith(end))) == address


def test_a_gap_that_nobody_told_of_has_no_reference():
    assert reference("numpy", "bfloat16 NaN") is None
    assert reference("mylib", "bfloat16 product, batched") is None
