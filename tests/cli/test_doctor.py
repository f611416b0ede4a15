"""`xplm doctor`: a table of capabilities, each gap with what is done, and exit code 1 where one is open."""

import re
from dataclasses import replace

import pytest

from tests.numerics.doctor.faults import inject, truncating
from xplm.backend import BackendError, backend_names, load_backend
from xplm.cli import doctor
from xplm.numerics.doctor.examine import PROBES, examine

QUICK = [probe for probe in PROBES if probe.theme in ("dtypes", "dtype of results", "casts")]


@pytest.fixture
def quick(monkeypatch):
    """A few of the probes, none of which measures time."""
    monkeypatch.setattr(doctor, "examine", lambda backend: examine(backend, QUICK))


@pytest.fixture
def one_probe(monkeypatch):
    """Who is asked does not depend on what: a product in float32, which no library lacks."""
    probes = [probe for probe in PROBES if probe.label == "float32 product, batched"]
    assert len(probes) == 1
    monkeypatch.setattr(doctor, "examine", lambda backend: examine(backend, probes))


@pytest.fixture
def broken(monkeypatch, quick):
    """NumPy, with casts that truncate."""
    load = load_backend
    monkeypatch.setattr(
        doctor,
        "load_backend",
        lambda *where: replace(inject(load(*where), {"astype": truncating}), name="broken"),
    )


def test_numpy_as_it_is(xplm):
    out = xplm("doctor", "--backend", "numpy", "--json")
    assert out.code == 0
    assert out.json["is_healthy"] is True
    assert out.json["missing"] == []
    (found,) = out.json["backends"]
    assert (found["backend"], found["device"]) == ("numpy", "cpu")
    assert {"numpy", "ml_dtypes"} <= set(found["versions"])
    verdicts = {f"{row['dtype']} {row['probe']}": row["verdict"] for row in found["rows"]}
    assert len(verdicts) == len(found["rows"]) == len(PROBES)
    assert verdicts["float16 product's speed, 2-D"] == "gap"
    assert verdicts["bfloat16 product's dtype"] == "gap"
    counts = [found[key] for key in ("n_hold", "n_gaps", "n_open")]
    absent = list(verdicts.values()).count("absent")
    assert counts == [
        len(PROBES) - found["n_gaps"] - absent,
        list(verdicts.values()).count("gap"),
        0,
    ]


def test_what_multiplies_matrices_is_shown_with_its_rate(xplm, quick):
    out = xplm("doctor", "--backend", "numpy", "--blas", "openblas")
    assert re.search(
        r"products: float32 on \d threads?: OpenBLAS [\d.]+ \w+ \d+ GFLOP/s", out.stdout
    )
    (found,) = xplm("doctor", "--backend", "numpy", "--blas", "numpy", "--json").json["backends"]
    (rate,) = found["products"]
    assert (rate["way"], rate["is_chosen"], rate["flushes_subnormals"]) == ("numpy", True, False)


def test_every_backend_is_asked_or_named(xplm, one_probe):
    out = xplm("doctor", "--json")
    asked = [found["backend"] for found in out.json["backends"]]
    named = [missing["name"] for missing in out.json["missing"]]
    assert {"numpy", "strict"} <= set(asked)
    assert sorted(asked + named) == backend_names()


def test_a_library_that_is_missing_is_named_with_what_installs_it(xplm, one_probe, monkeypatch):
    load = load_backend

    def without_strict(name, *where):
        if name == "strict":
            raise BackendError("it is missing; run: pip install array-api-strict")
        return load(name, *where)

    monkeypatch.setattr(doctor, "load_backend", without_strict)
    out = xplm("doctor")
    assert out.code == 0
    assert "strict: it is missing; run: pip install array-api-strict" in out.stdout.splitlines()
    assert "numpy on cpu" in out.stdout
    assert xplm("doctor", "--backend", "strict").error.endswith("pip install array-api-strict")


@pytest.mark.parametrize("columns", [80, 120])
def test_what_is_shown(xplm, quick, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = xplm("doctor", "--backend", "numpy").stdout.splitlines()
    assert lines[0] == "numpy on cpu"
    assert max(len(line) for line in lines) <= columns
    (row,) = [line for line in lines if "beside a Python number" in line and "✓" in line]
    assert re.search(r"beside a Python number +✓ +gap (\d) +✓", row)
    at = lines.index(" 1  beside a Python number  bfloat16")
    text = " ".join(line.strip() for line in lines[at + 1 : at + 6])
    assert "xplm: every kernel casts what it returns. Holds here." in text
    assert "xplm/precision.py:" in text
    assert "https://github.com/jax-ml/ml_dtypes/issues/189" in text
    assert lines[-2].endswith("hold; 2 gaps have a way around that holds; 0 are open.")


def test_an_open_gap_is_exit_code_1(xplm, broken):
    out = xplm("doctor", "--backend", "numpy")
    assert out.code == 1
    assert re.search(r"from float32 +OPEN \d", out.stdout)
    assert "xplm has no way around it." in out.stdout
    made = xplm("doctor", "--backend", "numpy", "--json")
    assert made.code == 1
    assert made.json["is_healthy"] is False


def test_a_way_around_that_does_not_hold_says_why(xplm, broken):
    assert "Does not hold: linear forward" in xplm("doctor", "--backend", "numpy").stdout


def test_a_device_is_asked_of_all_that_have_it(xplm, one_probe):
    out = xplm("doctor", "--device", "cuda", "--json")
    assert {"strict"} <= {found["backend"] for found in out.json["backends"]}
    assert "numpy" in {missing["name"] for missing in out.json["missing"]}


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--backend", "nonesuch"], 'no backend named "nonesuch"'),
        (["--backend", "numpy", "--device", "cuda"], "computes on the CPU"),
        (["--device", "tpu"], 'got "tpu"'),
    ],
)
def test_bad_usage(xplm, arguments, fragment):
    assert fragment in xplm("doctor", *arguments).error
