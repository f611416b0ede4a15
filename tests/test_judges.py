"""scripts/judge_serve.py: what is not listed shows, and so does what is listed and passes."""

import json
from itertools import pairwise

import pytest
from judges import llama_server
from judges.listed import FAILED, NOT_RUN, PASSED, Entry, Outcome, as_text, compare, read_list
from judges.outcomes import last_line
from judges.suites import run_pytest

from tests.generate.tiny import tiny_tokenizer
from tests.paths import ROOT
from xplm.text.thoughts import Plain

LISTS = sorted((ROOT / "scripts" / "judges").glob("*.txt"))
ENTRIES = [Entry("a.py::one", "odd"), Entry("b.py", "not run: slow")]
FOUND = {
    "a.py::one[x]": Outcome(FAILED, "1 != 2"),
    "a.py::two": Outcome(PASSED),
    "b.py::three": Outcome(NOT_RUN),
}
LLAMA = ["--port", "80", "--host", "127.0.0.1", "--hf-repo", llama_server.TEXT_MODEL[0]]


def test_all_as_listed():
    verdict = compare(FOUND, ENTRIES)
    assert verdict.is_as_listed
    text = as_text(verdict)
    assert "odd (1)\n    a.py::one[x]\n" in text
    assert text.endswith("1 passed, 1 listed do not, 1 not run; 0 surprises")


@pytest.mark.parametrize(
    ("changed", "kind", "shown"),
    [
        ({"a.py::two": Outcome(FAILED, "3 != 4")}, "did not pass, and is not listed", "3 != 4"),
        ({"a.py::one[x]": Outcome(PASSED)}, "is listed, and passes", "a.py::one[x]"),
        ({"a.py::one[y]": Outcome(PASSED)}, "is listed, and passes", "a.py::one[y]"),
        ({"a.py::onerous": Outcome(FAILED)}, "did not pass, and is not listed", "onerous"),
    ],
)
def test_a_surprise_is_shown(changed, kind, shown):
    verdict = compare(FOUND | changed, ENTRIES)
    assert not verdict.is_as_listed
    assert f"!! {kind} (1)\n    " in as_text(verdict)
    assert shown in as_text(verdict)


def test_a_listed_test_that_is_not_there_is_a_surprise():
    verdict = compare(FOUND, [*ENTRIES, Entry("c.py", "odd")])
    assert verdict.surprises["is listed, and is no test"] == ["c.py"]


def test_the_longest_entry_speaks_for_a_test():
    verdict = compare(FOUND, [*ENTRIES, Entry("a.py::one[x]", "odder")])
    assert verdict.known["odder"] == ["a.py::one[x]"]
    assert verdict.is_as_listed


def test_a_list_is_read(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# about\n[odd]\na.py::one\n\n[not run: slow]\nb.py\n", encoding="utf-8")
    entries = read_list(path)
    assert entries == ENTRIES
    assert [entry.is_left_out for entry in entries] == [False, True]


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_lists_give_each_test_one_reason(path):
    entries = read_list(path)
    assert all(entry.reason for entry in entries)
    assert len({entry.beginning for entry in entries}) == len(entries)


def test_the_line_that_says_what_is_wrong():
    assert last_line("x\nE   assert 1 == 2\nE    +  where\n\na.py:3: AssertionError") == "+  where"
    assert last_line("a\nb\n") == "b"


def test_the_stand_in_takes_llama_servers_flags(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    flags = [*LLAMA, "--temp", "0.8", "--ctx-size", "512", "--parallel", "2", "--seed", "42"]
    flags += ["--alias", "tiny", "--api-key", "secret", "--chat-template", "Say {{ x }}"]
    given = llama_server.serve_flags(llama_server.read_flags(flags), tmp_path)
    (model,) = tmp_path.glob("tmp*/model")
    wanted = {"--model": str(model), "--port": "80", "--context": "256", "--served-name": "tiny"}
    assert set(pairwise(given)) >= wanted.items()
    (keys,) = tmp_path.glob("*/keys")
    assert keys.read_text(encoding="utf-8") == "secret\n"
    sampling = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))
    assert (sampling["do_sample"], sampling["temperature"]) == (True, 0.8)
    assert (model / "chat_template.jinja").read_text(encoding="utf-8") == "Say {{ x }}"
    assert (model / "config.json").is_symlink()


@pytest.mark.parametrize(
    "more",
    [
        ["--lora", "x"],
        ["--slots"],
        ["--alias", "a,b"],
        ["--chat-template", "llama3"],
        ["--hf-file", "other.gguf"],
        ["--pooling", "none"],
    ],
)
def test_the_stand_in_refuses_the_rest_by_name(more, capsys):
    with pytest.raises(SystemExit) as end:
        llama_server.read_flags([*LLAMA, *more])
    assert end.value.code == 2
    assert more[0] in capsys.readouterr().err


SUITE = """
import os

import pytest


def test_passes():
    assert os.environ["MARK"] == "here"


def test_fails():
    assert 1 == 2


@pytest.mark.skip(reason="why")
def test_skips():
    pass


def test_is_left_out():
    pass
"""


def test_a_suite_runs_in_a_process_of_its_own(tmp_path):
    (tmp_path / "test_x.py").write_text(SUITE, encoding="utf-8")
    arguments = ["--deselect", "test_x.py::test_is_left_out", "-c", "/dev/null"]
    found = run_pytest(tmp_path, arguments, {"MARK": "here"})
    assert {test.split("::")[1]: outcome.kind for test, outcome in found.items()} == {
        "test_passes": PASSED,
        "test_fails": FAILED,
        "test_skips": NOT_RUN,
        "test_is_left_out": NOT_RUN,
    }
    assert found["test_x.py::test_fails"].detail == "assert 1 == 2"


def test_a_file_that_cannot_be_read_is_a_test_that_fails(tmp_path):
    (tmp_path / "test_x.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    found = run_pytest(tmp_path, ["-c", "/dev/null"], {})
    assert found["test_x.py"].kind == FAILED
    assert "nothing_of_that_name" in found["test_x.py"].detail


def test_a_mask_is_held_against_instances():
    json_schema = pytest.importorskip("judges.json_schema", reason="the extra is not installed")
    grammars = json_schema.Grammars(tiny_tokenizer(), Plain(), [1])
    mask = json_schema.Mask(grammars, tiny_tokenizer(), [1])
    tests = [
        {"description": "right", "data": {"a": [1, "é"]}, "valid": True},
        {"description": "wrong", "data": {"a": 1}, "valid": False},
        {"description": "lax", "data": {"a": []}, "valid": False},
        {"description": "strict", "data": [], "valid": True},
    ]
    schema = {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]}
    found = dict(mask.try_group(schema, tests))
    assert {name: outcome.kind for name, outcome in found.items()} == {
        "right": PASSED,
        "wrong": PASSED,
        "lax": FAILED,
        "strict": FAILED,
    }
    assert (found["lax"].detail, found["strict"].detail) == ("too lax", "too strict")
    ((_, refused),) = mask.try_group({"type": "hiccup"}, tests[:1])
    assert refused.detail.startswith("refused: ")
